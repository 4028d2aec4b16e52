"""What earlier versions saved loads for good and answers as it did: tests/released holds a folder a version."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from modeling_ume import UMEForVisualQuestionAnswering

sys.path.append(str(Path(__file__).parent / "released"))
from save import CLASSES, MODELS, answers, head_shapes, outputs

VERSIONS = sorted(folder for folder in (Path(__file__).parent / "released").iterdir() if (folder / "adapter").is_dir())
CHECKPOINTS = [pytest.param(v, name, id=f"{v.name}-{name}") for v in VERSIONS for name in MODELS]


def assert_equal(said: dict[str, list], expected: dict[str, list]) -> None:
    assert said.keys() == expected.keys() - {"answers"}
    for name, values in said.items():
        torch.testing.assert_close(torch.tensor(values), torch.tensor(expected[name]), atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize(("version", "name"), CHECKPOINTS)
def test_a_saved_checkpoint_says_what_it_said_and_goes_on_doing_so_when_saved_again(version, name, tmp_path):
    expected = json.loads((version / name / "expected.json").read_text(encoding="utf-8"))
    kind = CLASSES[MODELS[name][0]]
    model, found = kind.from_pretrained(version / name, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert_equal(outputs(model), expected)
    model.save_pretrained(tmp_path)
    assert_equal(outputs(kind.from_pretrained(tmp_path)), expected)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_saved_processor_asks_as_it_did(version):
    folder = version / "bert_vit_ume"
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["answers"]
    found = answers(folder, UMEForVisualQuestionAnswering.from_pretrained(folder))
    assert [row["answer"] for row in found] == [row["answer"] for row in expected]
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in expected], abs=1e-5)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_saved_adapter_finds_its_base_and_says_what_it_said(version, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    for name in ("adapter", "bert_vit_ume"):
        shutil.copytree(version / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)  # its base is named relative to it
    expected = json.loads(Path("adapter/expected.json").read_text(encoding="utf-8"))
    assert_equal(outputs(UMEForVisualQuestionAnswering.from_pretrained("adapter")), expected)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_the_weights_of_every_head_have_the_names_and_shapes_that_they_had(version):
    expected = json.loads((version / "heads.json").read_text(encoding="utf-8"))
    assert {fusion: head_shapes(fusion) for fusion in expected} == expected
