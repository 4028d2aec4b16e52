"""No loader runs code that came with the files, or asks at the keyboard whether to: it says which file names it."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from odd_inputs import saved_checkpoint
from PIL import Image
from vqa_files import write_tiny_recipe, write_vqa_files

from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.loading_ume import load_config, load_encoder
from modeling_ume.trust_ume import KERNELS, ForeignCodeError, check_fields
from training_ume.commands import main
from training_ume.data.json_entries import VQADataError
from training_ume.data.load import load_vqa
from training_ume.evaluation.load import load_checkpoint
from training_ume.serve.judges import load_judges

ROOT = Path(__file__).resolve().parent.parent
# Loaders of this package's own classes, which end in `load_trusted`. `PeftConfig` reads plain values.
OURS = ("UMEForVisualQuestionAnswering.from_pretrained", "UMEProcessor.from_pretrained", "UMEConfig.from_pretrained")
TOKENIZER, IMAGES = "tokenizer_config.json", "processor_config.json"


@pytest.fixture(autouse=True)
def keyboard(monkeypatch):
    """Nobody is asked; whoever sits there would say yes."""

    def asked(prompt=""):
        pytest.fail(f"somebody was asked: {prompt}")

    monkeypatch.setattr("builtins.input", asked)


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """(A checkpoint with a file evil.py that leaves a mark when it is run, the mark)."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(saved_checkpoint()[0], folder)
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass T: pass\n")
    return folder, mark


def change(folder: Path, file: str, **fields) -> None:
    path = folder / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **fields}))


def evil_tokenizer(folder: Path) -> None:
    change(folder, TOKENIZER, auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}, tokenizer_class="T")


def evil_image_processor(folder: Path) -> None:
    kind = {"image_processor_type": "T", "auto_map": {"AutoImageProcessor": "evil.T"}}
    change(folder, IMAGES, image_processor=kind, **kind)
    change(folder, "preprocessor_config.json", **kind)


def evil_audio_tokenizer(folder: Path) -> None:
    change(folder, "config.json", auto_map={"AutoModel": "evil.T", "AutoConfig": "evil.T"})
    kind = {"audio_tokenizer_class": "AutoModel", "audio_tokenizer_name_or_path": str(folder)}
    change(folder, IMAGES, audio_tokenizer=kind)


def evil_kernels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["attn_implementation"] = "someone/kernels"
    change(folder, "config.json", **config)


def evil_pickle(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["model_args"] = {"checkpoint_path": "evil.pth"}
    change(folder, "config.json", **config)


EVILS = [
    (evil_tokenizer, r"tokenizer_config\.json .*evil\.T"),
    (evil_image_processor, r"processor_config\.json .*evil\.T"),
    (evil_audio_tokenizer, r"processor_config\.json .*audio tokenizer"),
    (evil_kernels, r"config\.json .*someone/kernels"),
    (evil_pickle, r"config\.json .*evil\.pth"),
]


@pytest.mark.parametrize(("spoil", "said"), EVILS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_checkpoint_that_names_code_is_refused_with_the_file_and_nobody_is_asked(evil, spoil, said):
    folder, mark = evil
    spoil(folder)
    for load in (load_checkpoint, lambda name: load_judges([name])):
        with pytest.raises(ForeignCodeError, match=said):
            load(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize(
    "command",
    [
        ["ask", "MODEL", "IMAGE", "what?"],
        ["explain", "MODEL", "IMAGE", "what?"],
        ["evaluate", "MODEL", "--source", "vqa_v2"],
        ["export", "MODEL", "OUT"],
    ],
    ids=lambda command: command[0],
)
def test_no_command_asks_or_runs_it(evil, tmp_path, capsys, command):
    for package in {"explain": ["captum", "matplotlib"], "export": ["onnx"]}.get(command[0], []):
        pytest.importorskip(package)
    folder, mark = evil
    evil_tokenizer(folder)
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    if "--source" in command:
        files = write_vqa_files(tmp_path / "data")
        command = [*command]
        for name in ("questions", "annotations", "images"):
            command += [f"--{name}", str(files[f"train_{name}"])]
    places = {"MODEL": folder, "IMAGE": tmp_path / "image.png", "OUT": tmp_path / "out"}
    assert main([str(places.get(word, word)) for word in command]) == 2
    assert "tokenizer_config.json" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["tokenizer", "text_model", "vision_model", "init_from"])
def test_a_recipe_that_names_it_is_refused(evil, tmp_path, capsys, kind):
    folder, mark = evil
    evil_tokenizer(folder)
    evil_image_processor(folder)
    encoder = tmp_path / "encoder"
    shutil.copytree(folder, encoder)
    config = tiny_model().config
    if kind == "init_from":
        evil_kernels(folder)
        encoder = folder
    else:
        (config.vision_config if kind == "vision_model" else config.text_config).save_pretrained(encoder)
    own = {"text_model": {"text_config": None, "tokenizer": None}, "vision_model": {"vision_config": None}}
    changes = {kind: str(encoder), **own.get(kind, {})}
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", write_vqa_files(tmp_path / "data"), **changes)
    assert main(["train", str(recipe)]) == 2
    said = capsys.readouterr().err
    assert "evil.T" in said or "someone/kernels" in said, said
    assert not mark.exists()


def test_encoders_that_name_code_are_refused(evil):
    folder, mark = evil
    evil_tokenizer(folder)
    with pytest.raises(ForeignCodeError, match=r"tokenizer_config\.json"):
        UMEProcessor.from_encoders_pretrained(folder, folder)
    tiny_model().config.text_config.save_pretrained(folder)
    change(folder, "config.json", model_type="evil", auto_map={"AutoConfig": "evil.T", "AutoModel": "evil.T"})
    for load in (load_config, lambda name: load_encoder(name, "text", "auto")):
        with pytest.raises(ForeignCodeError, match=r"config\.json .*evil\.T"):
            load(str(folder))
    with pytest.raises(ForeignCodeError, match=r"config\.json .*evil\.T"):
        UMEForVisualQuestionAnswering.from_encoders_pretrained(str(folder), str(folder))
    assert not mark.exists()


def test_code_beside_files_that_transformers_can_load_itself_does_not_matter(evil):
    folder, mark = evil
    expected = load_checkpoint(str(saved_checkpoint()[0]))[0].state_dict()
    change(folder, TOKENIZER, auto_map={"AutoTokenizer": ["evil.T", None]})
    for place in ("config.json", IMAGES):
        change(folder, place, auto_map={"AutoModel": "evil.T", "AutoConfig": "evil.T", "AutoProcessor": "evil.T"})
    model, processor = load_checkpoint(str(folder))
    assert processor.tokenizer is not None
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    # What is asked of it explicitly as None, as the auto classes do, is no question either.
    UMEProcessor.from_pretrained(folder, trust_remote_code=None)
    UMEConfig.from_pretrained(folder)
    assert not mark.exists()


def test_who_says_so_has_the_code_run(evil):
    folder, mark = evil
    evil_tokenizer(folder)
    with pytest.raises(Exception):  # noqa: B017, PT011 (its class is no tokenizer)
        UMEProcessor.from_pretrained(folder, trust_remote_code=True)
    assert mark.exists()


def test_a_pickled_adapter_is_refused(tmp_path):
    pytest.importorskip("peft")
    from peft import LoraConfig

    LoraConfig(target_modules=["query"]).save_pretrained(tmp_path)
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(OSError, match=r"adapter_model\.safetensors"):
        tiny_model().load_adapter(str(tmp_path))


def test_a_data_set_with_a_script_is_refused_and_not_run(tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(VQADataError, match="cannot be loaded"):
        load_vqa(str(folder))
    assert not (tmp_path / "ran").exists()


def test_every_loader_that_could_ask_is_called_by_the_one_helper():
    found = []
    for folder in ("modeling_ume", "configuration_ume", "training_ume", "metrics"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                own = name in OURS or name in (
                    "type(self).from_pretrained",
                    "peft.PeftConfig.from_pretrained",
                    "_class_of(name).from_pretrained",
                )
                if (name.endswith(".from_pretrained") and not own) or name.split(".")[-1] in ("pipeline", "PeftModel"):
                    found.append(f"{place}, line {node.lineno}: {ast.unparse(node)[:80]}")
    # `self.pipeline(…)` of the page answers questions with a pipeline that is there.
    assert [entry for entry in found if "judge.pipeline" not in entry and "pipeline(picture" not in entry] == []


@pytest.mark.parametrize("field", KERNELS)
@pytest.mark.parametrize(
    "wrap", [lambda fields: fields, lambda fields: {"text_config": fields}, lambda fields: {"halves": [{}, [fields]]}]
)
def test_kernels_from_the_hub_are_found_wherever_a_config_asks_for_them(field, wrap):
    for fine in ("sdpa", None, {"": "eager", "text": "sdpa"}):
        check_fields(wrap({field: fine, "name": "someone/model"}), "The file")
    for asked in ("someone/kernels", {"": "sdpa", "vision": "someone/kernels"}):
        with pytest.raises(ForeignCodeError, match=f"The file asks with {field}='someone/kernels' for kernels"):
            check_fields(wrap({field: asked}), "The file")
    with pytest.raises(ForeignCodeError, match=r"The file names a file by checkpoint_path='a/b\.pt', which may be"):
        check_fields(wrap({"checkpoint_path": "a/b.pt"}), "The file")


def test_code_that_one_part_of_a_processor_names_is_told_by_its_name(evil):
    folder, mark = evil
    part = {"image_processor_type": "T", "auto_map": {"AutoImageProcessor": "evil.T"}}
    change(folder, IMAGES, image_processor=part)
    with pytest.raises(ForeignCodeError, match=r"processor_config\.json in .* names code of its own \(evil\.T\)"):
        UMEProcessor.from_pretrained(folder)
    assert not mark.exists()


def test_of_a_long_name_of_a_pickle_its_first_80_characters_are_shown():
    with pytest.raises(ForeignCodeError, match=f"by checkpoint_path='{'a' * 80}', which"):
        check_fields({"checkpoint_path": "a" * 90}, "config.json")
