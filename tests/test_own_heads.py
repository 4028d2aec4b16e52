"""Fusion heads from outside: known by a name or a file, saved with their file, loaded elsewhere, never run unasked."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_batch, tiny_model
from odd_inputs import saved_checkpoint
from PIL import Image
from transformers import AutoConfig, AutoModelForVisualQuestionAnswering, AutoProcessor, pipeline
from vqa_files import write_tiny_recipe, write_vqa_files

import modeling_ume
import ume
from configuration_ume.parsing import parse_recipe
from modeling_ume import FUSIONS, FusionHead, UMEConfig, UMEForVisualQuestionAnswering, register_fusion
from modeling_ume.own_heads_ume import OWN, heads_to_know, know_heads
from modeling_ume.travelling_ume import ABOVE_HEADS
from modeling_ume.trust_ume import ForeignCodeError
from training_ume.commands import main

HEAD = '''"""The head of somebody: from the docstring nothing is copied."""

import math

import torch
from torch import nn
from ume import (
    FusionHead,
    FusionOutput as Output,
)
from modeling_ume.fusion_base_ume import Projections  # brings all to one width


class MyHead(FusionHead):
    default_num_heads = 3
    default_rank = 5

    @classmethod
    def check_config(cls, config):
        if config.fusion_num_layers > 2:
            raise ValueError("MyHead has one layer or two.")

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, pooled_widths=self.pooled_widths)
        self.out = nn.Linear(self.hidden_size, self.hidden_size)

    def forward(self, streams):
        return Output(self.out(self.project.pooled(streams).mean(1)).tanh()[:, None])


if __name__ == "__main__":
    import training_ume
'''
NAMED = HEAD.replace("import (", "import (\n    register_fusion,").replace(
    "class", '@register_fusion("mean")\nclass', 1
)


@pytest.fixture(autouse=True)
def no_heads_stay(monkeypatch, tmp_path):
    before, heads, modules = dict(FUSIONS), dict(OWN), set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda prompt="": pytest.fail(f"somebody was asked: {prompt}"))
    yield
    for table, old in ((FUSIONS, before), (OWN, heads)):
        table.clear()
        table.update(old)
    for name in set(sys.modules) - modules:
        if "head" in name:
            del sys.modules[name]


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(**batch).logits


def forget() -> None:
    """As in a process of its own, which knows nothing of the heads here."""
    for name in list(OWN):
        del OWN[name], FUSIONS[name]


def write(path, text=HEAD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def saved(folder, text=HEAD):
    """(A checkpoint with a head of its own, what it answers); the head's file is gone, and the head forgotten."""
    file = write(folder.parent / "src" / "my_head.py", text)
    model = tiny_model(fusion=f"{file}:MyHead", id2label=tiny_labels())
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(saved_checkpoint()[0]).save_pretrained(folder)
    file.unlink()
    forget()
    return logits(model, tiny_batch())


def tiny_labels():
    return json.loads((saved_checkpoint()[0] / "config.json").read_text())["id2label"]


def test_a_head_is_named_by_its_file_and_what_it_says_of_itself_counts(tmp_path):
    write(tmp_path / "src" / "my_head.py")
    model = tiny_model(fusion="src/my_head.py:MyHead")
    head = model.ume.fusion
    assert model.config.fusion == model.config.fusion_file == "my_head.py:MyHead"
    assert (head.num_heads, head.rank) == (3, 5)
    assert "MyHead" in model._no_split_modules
    with pytest.raises(ValueError, match="MyHead has one layer or two"):
        tiny_model(fusion="src/my_head.py:MyHead", fusion_num_layers=3)
    assert type(tiny_model(fusion="src/my_head.py:MyHead").ume.fusion) is type(head)
    members = tiny_model(fusion="my_head.py:MyHead", fusion_num_members=2)  # known by now, wherever one stands
    assert members(**tiny_batch()).logits.shape == (3, 7)
    members.config.fusion = "sum"
    members.config.save_pretrained(tmp_path / "sum")
    assert "fusion_file" not in json.loads((tmp_path / "sum" / "config.json").read_text())


CLEAN = """
import sys, torch
for name in ("modeling_ume", "configuration_ume", "training_ume", "ume"):
    sys.modules[name] = None
from transformers import AutoConfig, AutoModel, AutoModelForVisualQuestionAnswering
for folder in sys.argv[1:]:
    batch = torch.load(folder + "/batch.pt", weights_only=True)
    expected = batch.pop("expected")
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForVisualQuestionAnswering.from_pretrained(folder, trust_remote_code=True)
    base = AutoModel.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        assert (model(**batch).logits - expected).abs().max() < 1e-6
        assert (base(**batch).fused - model(**batch).fused).abs().max() < 1e-6
    model.save_pretrained(folder + "_again")
"""


def test_a_checkpoint_with_its_head_loads_where_nothing_of_this_is_installed_and_again(tmp_path, monkeypatch):
    batch = tiny_batch()
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    for name, text in (("my_head", HEAD), ("named_head", NAMED)):
        file = write(tmp_path / "src" / f"{name}.py", text)
        if name == "named_head":
            __import__(name)
        model = tiny_model(fusion="mean" if name == "named_head" else f"{file}:MyHead")
        model.save_pretrained(tmp_path / "there" / name)
        torch.save({**batch, "expected": logits(model, batch)}, tmp_path / "there" / name / "batch.pt")
    shutil.rmtree(tmp_path / "src")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-I", "-c", CLEAN, "my_head", "named_head"]
    done = subprocess.run(command, env=environment, cwd=tmp_path / "there", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("my_head", "named_head"):
        again, first = tmp_path / "there" / f"{name}_again", tmp_path / "there" / name
        for file in (*first.glob("*.py"), first / "model.safetensors"):
            assert (again / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_head_of_a_checkpoint_is_run_by_nobody_who_did_not_say_so(tmp_path, capsys):
    mark = tmp_path / "ran"
    folder = tmp_path / "model"
    expected = saved(folder, f"open({str(mark)!r}, 'a').close()\n{HEAD}")
    mark.unlink()
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    config = UMEConfig.from_pretrained(folder)  # which can be read without
    assert (config.fusion, config.fusion_file) == ("my_head.py:MyHead", "my_head.py:MyHead")
    AutoConfig.from_pretrained(folder)
    UMEConfig.from_dict(json.loads((folder / "config.json").read_text()) | {"fusion_file": None})
    for load in (
        lambda: UMEForVisualQuestionAnswering.from_pretrained(folder),
        lambda: UMEForVisualQuestionAnswering.from_pretrained(folder, config=config),
        lambda: AutoModelForVisualQuestionAnswering.from_pretrained(folder),
        lambda: UMEForVisualQuestionAnswering(config),
        lambda: config.save_pretrained(tmp_path / "config"),
    ):
        with pytest.raises(ForeignCodeError, match=r"my_head\.py:MyHead.*trust_remote_code=True"):
            load()
    assert main(["ask", str(folder), "image.png", "what?"]) == 2
    assert "--trust_remote_code" in capsys.readouterr().err
    assert not mark.exists()
    assert main(["ask", str(folder), "image.png", "what?", "--trust_remote_code"]) == 0
    assert "%" in capsys.readouterr().out
    assert mark.exists()
    forget()
    for load in (
        lambda: AutoModelForVisualQuestionAnswering.from_pretrained(folder, trust_remote_code=True),
        lambda: UMEForVisualQuestionAnswering(UMEConfig.from_pretrained(folder, trust_remote_code=True)),
        lambda: pipeline("visual-question-answering", str(folder), trust_remote_code=True).model,
    ):
        assert type(load().ume.fusion).__name__ == "MyHead"
        forget()
    model = UMEForVisualQuestionAnswering.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(logits(model, tiny_batch()), expected)
    (folder / "my_head.py").write_text(HEAD.replace("tanh", "relu"))
    with pytest.raises(ValueError, match=r"its my_head\.py differs from"):
        UMEForVisualQuestionAnswering.from_pretrained(folder, trust_remote_code=True)
    forget()
    (folder / "my_head.py").unlink()
    with pytest.raises(ForeignCodeError, match=r"its file .* is not there"):
        UMEForVisualQuestionAnswering.from_pretrained(folder, trust_remote_code=True)


def test_a_config_cannot_name_a_file_elsewhere(tmp_path):
    folder = tmp_path / "model"
    saved(folder)
    write(tmp_path / "evil.py", f"open({str(tmp_path / 'ran')!r}, 'a')\n{HEAD}")
    config = json.loads((folder / "config.json").read_text())
    for fusion, place in (
        ("../evil.py:MyHead", None),
        (str(tmp_path / "evil.py:MyHead"), ""),
        ("x", "../evil.py:MyHead"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, "fusion": fusion, "fusion_file": place}))
        with pytest.raises(ValueError, match=r"config\.json in|is not known"):
            UMEForVisualQuestionAnswering.from_pretrained(folder, trust_remote_code=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("import math", "import helper"), "imports helper, which lies beside it"),
        (("import math", "from helper import x"), "imports helper, which lies beside it"),
        (("import math", "import math, training_ume.data"), "training_ume does not travel"),
        (("import math", "import modeling_ume.streams_ume"), "needs this package to be installed: write"),
        (("import math", "from ume import UMEModel"), "imports UMEModel from ume, which a head cannot"),
        (("import math", "from modeling_ume import streams_ume"), r"import its names from modeling_ume\.streams_ume"),
        (("import math", "import math; from ume import Stream"), "line 3 holds more than the import"),
        (("from the docstring nothing is copied", "\nfrom .ghost import it"), r"like an import of \.ghost"),
        (("import math", "import elsewhere_mine"), "elsewhere_mine .* is no installed package"),
    ],
)
def test_a_file_that_cannot_travel_is_refused_when_it_is_saved(tmp_path, monkeypatch, change, said):
    write(tmp_path / "helper.py", "x = 1\n")
    write(tmp_path / "lib" / "elsewhere_mine.py", "")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    write(tmp_path / "my_head.py", HEAD.replace(*change))
    model = tiny_model(fusion="my_head.py:MyHead")  # here it works
    assert torch.isfinite(model(**tiny_batch()).logits).all()
    for thing in (model, model.config):
        with pytest.raises(ValueError, match=f"cannot travel with a checkpoint.*{said}"):
            thing.save_pretrained(tmp_path / "out")
    assert not list(tmp_path.glob("out/*.safetensors"))
    sys.modules.pop("helper", None)
    sys.modules.pop("elsewhere_mine", None)


def test_a_head_of_a_notebook_and_one_within_a_function_are_refused_when_saved(tmp_path):
    @register_fusion("inner")
    class Inner(FUSIONS["sum"]):
        pass

    with pytest.raises(ValueError, match=r"cannot travel.*defined inside of"):
        tiny_model(fusion="inner").save_pretrained(tmp_path)
    for again in range(2):  # a cell that is run again
        cell = type("Cell", (FUSIONS["sum"],), {"__module__": "__main__", "again": again})
        register_fusion("cell")(cell)
    assert FUSIONS["cell"] is cell
    with pytest.raises(ValueError, match=r"cannot travel.*a notebook, or the script"):
        tiny_model(fusion="cell").save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "spec", "said"),
    [
        (HEAD, "my_head.py:Other", "my_head.py has no class Other: its heads are MyHead"),
        ("x = 1\n", "my_head.py:MyHead", "write one there that inherits from FusionHead"),
        ("class MyHead: pass\n", "my_head.py:MyHead", "MyHead of .* is no fusion head"),
        ("1 / 0\n", "my_head.py:MyHead", "cannot be run.*ZeroDivisionError"),
        ("def (\n", "my_head.py:MyHead", "cannot be read as Python"),
        ("from .gone import x\n", "my_head.py:MyHead", "cannot be run.*imports from .gone, which does not travel"),
        (HEAD, "gone.py:MyHead", r"no file 'gone\.py'"),
        (HEAD, "my_head.py", "is not known: choose one of .* or name a file of yours with its class"),
        (HEAD, "my-head.py:MyHead", "is called my-head.py, and a module's name has letters"),
        (HEAD, "fusion_ume.py:MyHead", "a file of this package or of Python is called so"),
        (HEAD, "json.py:MyHead", "a file of this package or of Python is called so"),
    ],
)
def test_what_is_no_head_is_said_in_a_sentence(tmp_path, capsys, text, spec, said):
    write(tmp_path / ("my_head.py" if spec.startswith(("gone", "my_head")) else spec.split(":")[0]), text)
    with pytest.raises(ValueError, match=said):
        UMEConfig(fusion=spec)
    assert main(["train", "easy_vqa", "--fusion", spec]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_two_heads_of_one_name_are_refused_and_a_file_that_is_mended_counts_anew(tmp_path):
    for folder in "ab":
        write(tmp_path / folder / "my_head.py", HEAD.replace("tanh", "relu") if folder == "a" else HEAD)
    first = FUSIONS[UMEConfig(fusion="a/my_head.py:MyHead").fusion]
    with pytest.raises(ValueError, match=r"Two fusion heads are called 'my_head\.py:MyHead'"):
        UMEConfig(fusion="b/my_head.py:MyHead")
    write(tmp_path / "a" / "my_head.py", HEAD)
    assert FUSIONS[UMEConfig(fusion="a/my_head.py:MyHead").fusion] is not first
    UMEConfig(fusion="b/my_head.py:MyHead")  # the very same by now
    with pytest.raises(ValueError, match="'sum' is one of this package"):
        register_fusion("sum")(FUSIONS["product"])
    for wrong in (FUSIONS["sum"], 3, "a b", "a/b"):
        with pytest.raises(ValueError, match="takes the head's name"):
            register_fusion(wrong)
    with pytest.raises(ValueError, match="dict is no FusionHead"):
        register_fusion("mine")(dict)
    assert ume.register_fusion is register_fusion
    assert issubclass(first, FusionHead)


def test_a_recipe_trains_it_and_goes_on_with_no_other(tmp_path, capsys):
    write(tmp_path / "heads" / "my_head.py")
    files = write_vqa_files(tmp_path / "data", num_images=4)
    fields = {"fusion": "my_head.py:MyHead", "num_train_epochs": 1, "beside": ["question_only"]}
    recipe = write_tiny_recipe(tmp_path / "heads" / "tiny.yaml", files, **fields)
    run = tmp_path / "heads" / "run"
    assert parse_recipe([str(recipe)]).model.fusion == "my_head.py:MyHead"  # found beside the recipe
    assert main(["train", str(recipe)]) == 0
    assert "\nmy_head.py:MyHead " in capsys.readouterr().out
    assert (run / "my_head.py").is_file()
    assert (run / "beside/question_only/my_head.py").is_file()
    write(tmp_path / "heads" / "my_head.py", HEAD.replace("tanh", "relu"))
    assert main(["train", str(recipe), "--resume_from_checkpoint"]) == 2
    assert "fusion_sha256 was" in capsys.readouterr().err
    write(tmp_path / "heads" / "my_head.py", HEAD.replace("import math", "import training_ume"))
    assert main(["train", str(recipe), "--overwrite_output"]) == 2
    assert "cannot travel" in capsys.readouterr().err
    assert (run / "results.json").is_file()


def test_a_head_may_import_whatever_does_not_import_heads_itself():
    files = {path.stem: path.read_text() for path in Path(modeling_ume.__file__).parent.glob("*_ume.py")}
    imported = {name: set(re.findall(r"^from \.(\w+) import", text, re.MULTILINE)) for name, text in files.items()}
    above, before = {"configuration_ume"}, set()
    while above != before:
        before = set(above)
        above |= {name for name, others in imported.items() if others & above}
    assert set(ABOVE_HEADS) == above - {"configuration_ume"}


def test_another_process_is_told_of_heads(tmp_path):
    write(tmp_path / "my_head.py", NAMED)
    UMEConfig(fusion="my_head.py:MyHead")
    told = heads_to_know()
    assert {name for name, *_ in told} == {"mean", "my_head.py:MyHead"}
    forget()
    know_heads(told)
    assert FUSIONS["mean"] is FUSIONS["my_head.py:MyHead"]
