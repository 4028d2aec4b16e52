"""What has to hold on every release of transformers, tried on the installed one; and the matrix of releases."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from conftest import tiny_batch, tiny_model
from safetensors.torch import load_file, save_file

from modeling_ume import UMEForVisualQuestionAnswering
from training_ume.report.releases import COMPARED, KNOWN, TOLERANCE, failures, matrix, releases_table

spec = importlib.util.spec_from_file_location("releases", Path(__file__).parent.parent / "scripts" / "releases.py")
releases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(releases)

ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def adapter(tmp_path):
    """(A folder with a LoRA adapter beside its base, what the adapted model answers to `tiny_batch()`)."""
    peft = pytest.importorskip("peft")
    base = tiny_model()
    base.save_pretrained(tmp_path)
    base.name_or_path = str(tmp_path)
    config = peft.LoraConfig(
        target_modules=["text_model.encoder.layer.0.intermediate.dense"], modules_to_save=["fusion", "classifier"]
    )
    adapted = peft.get_peft_model(base, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path)
    return tmp_path, adapted.eval()(**tiny_batch()).logits


def test_an_adapter_and_the_head_trained_beside_it_are_loaded_whole(adapter):
    folder, expected = adapter
    model, found = UMEForVisualQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    torch.testing.assert_close(model(**tiny_batch()).logits, expected, atol=1e-5, rtol=0)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]


@pytest.mark.parametrize("lost", [".lora_A.", "classifier.weight"])
def test_an_adapter_whose_weights_have_other_names_is_refused(adapter, lost):
    folder, _ = adapter
    weights = load_file(folder / ADAPTER)
    assert any(lost in name for name in weights)
    save_file({name.replace(lost, f"{lost}other."): value for name, value in weights.items()}, folder / ADAPTER)
    with pytest.raises(ValueError, match=r"does not fit this model: .* load the merged model"):
        UMEForVisualQuestionAnswering.from_pretrained(folder)


RELEASES = ["5.0.0", "5.24.0"]


def all_well() -> dict:
    """The results of a run in which everything held."""
    row = {"error": None, "logits": 1e-7, "fused": 0.0, "processor": 0.0, "pipeline": 2e-7}
    pairs = [(one, other) for one in RELEASES for other in RELEASES]
    return {
        "releases": RELEASES,
        "newest": "5.24.0",
        "cases": releases.CASES,
        "versions": {release: {"python": "3.11.7"} for release in RELEASES},
        "training": {release: {"error": None, "resumed": 0.0, "best": 0.0, "moved": 0.1} for release in RELEASES},
        "loads": [
            {"case": case, "saved_by": saved_by, "loaded_by": loaded_by, **row}
            for case in releases.CASES
            for saved_by, loaded_by in pairs
        ],
        "environment": {"hardware": {"cpu": "a processor", "cores": 2}, "versions": {"torch": "2.13.0"}},
    }


def row_of(results: dict, case: str, saved_by: str, loaded_by: str) -> dict:
    wanted = {"case": case, "saved_by": saved_by, "loaded_by": loaded_by}
    return next(row for row in results["loads"] if wanted.items() <= row.items())


def test_where_everything_held_no_failure_is_reported():
    assert failures(all_well()) == []


@pytest.mark.parametrize("value", [2e-5, math.nan, math.inf])
@pytest.mark.parametrize("name", COMPARED)
def test_a_difference_beyond_the_tolerance_is_a_failure(name, value):
    results = all_well()
    row_of(results, "lstm_vgg_ume", "5.0.0", "5.24.0")[name] = value
    assert failures(results) == [f"lstm_vgg_ume, saved by 5.0.0, loaded by 5.24.0: {name} differ by {value:.1e}"]


def test_what_was_not_tried_is_a_failure():
    results = all_well()
    results["loads"].remove(row_of(results, "trained", "5.24.0", "5.0.0"))
    del results["training"]["5.0.0"]
    assert failures(results) == [
        "trained: saved by 5.24.0, never loaded by 5.0.0",
        "5.0.0: nothing was trained",
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("resumed", 1e-9, "resumed weights differ"),
        ("best", 1e-3, "is not the best checkpoint's"),
        ("moved", 0.0, "the weights did not move"),
        ("error", "ValueError: no", "ValueError: no"),
    ],
)
def test_a_training_that_went_wrong_is_a_failure(name, value, message):
    results = all_well()
    results["training"]["5.0.0"][name] = value
    (failure,) = failures(results)
    assert message in failure


def test_a_known_refusal_is_no_failure_and_its_reason_stands_under_the_table():
    results = all_well()
    row_of(results, "adapter", "5.24.0", "5.0.0")["error"] = "ValueError: It does not fit this model: 12 weights"
    row_of(results, "adapter, moved", "5.0.0", "5.0.0")["error"] = "OSError: not there"
    assert failures(results) == []
    table = releases_table(results)
    assert table.count("| refused |") >= 1
    for reason in KNOWN.values():
        assert reason in table
    # The same within one release, or another sentence, is not known.
    row_of(results, "adapter", "5.24.0", "5.24.0")["error"] = "ValueError: It does not fit this model: 12 weights"
    row_of(results, "adapter", "5.0.0", "5.24.0")["error"] = "KeyError: 'x'"
    assert len(failures(results)) == 2
    assert "**failed**" in releases_table(results)


def test_the_table_shows_the_largest_difference_of_a_row():
    results = all_well()
    row_of(results, "bert_vit_ume", "5.24.0", "5.0.0")["logits"] = 3e-6
    _, rows = matrix(results)
    assert [row[:3] for row in rows] == [["5.0.0", "3e-06", "1e-07"], ["5.24.0", "1e-07", "1e-07"]]


def test_the_last_patch_of_a_line_and_the_newest_release_are_found():
    offered = ["5.24.0", "5.24.0rc1", "5.10.10", "5.10.9", "5.1.3", "5.0.0", "4.57.6"]
    assert releases.latest(["5.0", "5.1", "5.10"], offered) == ["5.0.0", "5.1.3", "5.10.10", "5.24.0"]
    assert releases.latest(["5.24"], offered) == ["5.24.0"]
    with pytest.raises(ValueError, match=r"no transformers 5\.2\."):
        releases.latest(["5.2"], offered)


def test_a_checkpoint_that_lost_a_weight_or_an_answer_differs(tmp_path, monkeypatch):
    name = "bert_vit_ume"
    monkeypatch.setattr(releases, "MODELS", {name: releases.MODELS[name]})
    releases.save_models(tmp_path)
    expected = json.loads((tmp_path / name / "expected.json").read_text())
    again = releases.answers_of(tmp_path / name, releases.UMEClasses())
    assert max(releases.compare(expected, again).values()) == 0
    weights = load_file(tmp_path / name / "model.safetensors")
    bias = next(key for key in weights if "vision_model" in key and key.endswith("query.bias"))
    save_file(
        weights | {bias: torch.zeros_like(weights[bias])}, tmp_path / name / "model.safetensors", {"format": "pt"}
    )
    changed = releases.compare(expected, releases.answers_of(tmp_path / name, releases.UMEClasses()))
    assert changed["processor"] == 0
    assert min(changed["logits"], changed["fused"]) > TOLERANCE
    assert releases.difference({"a": [1.0]}, {"a": [1.0, 2.0]}) == math.inf
    assert releases.difference([["red", 0.5]], [["green", 0.5]]) == math.inf
