"""The notebook, as it stands but for its first cell: tiny encoders, tiny data, and a Hub on this machine."""

import ast
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from test_pipeline import make_model, make_processor
from vqa_files import write_vqa_files

nbformat = pytest.importorskip("nbformat")
ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "ten_cells.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def write_encoders(folder: Path) -> tuple[Path, Path]:
    """A tiny text and a tiny image encoder, each a folder with its tokenizer or image processor."""
    model = make_model()
    processor = make_processor(model)
    model.ume.text_model.save_pretrained(folder / "text")
    processor.tokenizer.save_pretrained(folder / "text")
    model.ume.vision_model.save_pretrained(folder / "image")
    processor.image_processor.save_pretrained(folder / "image")
    return folder / "text", folder / "image"


def test_the_notebook_has_ten_cells_and_no_output():
    cells = code_cells(nbformat.read(NOTEBOOK, as_version=4))
    assert len(cells) == 10
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
def test_the_notebook_goes_from_two_encoder_names_to_a_published_model(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("captum")
    pytest.importorskip("matplotlib")
    text, image = write_encoders(tmp_path / "encoders")
    values = {
        "text_encoder": str(text),
        "image_encoder": str(image),
        "data": {"source": "vqa_v2", **write_vqa_files(tmp_path / "data", num_images=12)},
        "epochs": 1,
        "folder": "runs/ten_cells",
        "repo": "me/ume-ten-cells",
        "about": "license: apache-2.0\ndata: easy_vqa",
    }
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first, *others = code_cells(notebook)
    assert {node.targets[0].id for node in ast.parse(first.source).body} == values.keys()
    first.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    with LoopbackHub() as hub:
        environment = hub.environment(tmp_path / "home", PYTHONPATH=str(ROOT), TOKENIZERS_PARALLELISM="false")
        client = nbclient.NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute(env=environment)
    files = hub.repos["me/ume-ten-cells"]
    assert hub.private["me/ume-ten-cells"]
    assert (tmp_path / "runs" / "ten_cells" / "model.safetensors").read_bytes() == files["model.safetensors"]
    loaded, published = others[4], others[8]
    # The last of ten cells answers from the Hub what the sixth answers from the folder.
    assert answers(published) == answers(loaded)
    assert len(answers(loaded)) == 3


def answers(cell) -> list[str]:
    """The answers in what a cell shows last."""
    shown = [output.data["text/plain"] for output in cell.outputs if output.output_type == "execute_result"]
    return [answer["answer"] for answer in ast.literal_eval(shown[-1])]
