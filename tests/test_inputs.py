"""Odd inputs by the dozen here, by the thousand in the slow tests: the right result or one clear exception."""

import json
import logging
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from odd_inputs import KINDS, cached_features, outcome, saved_checkpoint

from training_ume.evaluation.load import load_checkpoint
from training_ume.features.store import FeatureCache
from training_ume.report.reliability import inputs_table

settings.register_profile(
    "odd inputs", deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def try_cases(name: str, count: int) -> None:
    kind = KINDS[name]

    @settings(settings.get_profile("odd inputs"), max_examples=count)
    @given(kind.cases)
    def each(case):
        outcome(kind, case)

    logging.disable(logging.WARNING)  # of each skipped entry
    try:
        each()
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", KINDS)
def test_odd_inputs_give_the_right_result_or_a_clear_exception(name):
    try_cases(name, max(5, KINDS[name].count // 20))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_thousands_of_odd_inputs_give_the_right_result_or_a_clear_exception(name):
    try_cases(name, KINDS[name].count)


def test_two_thousand_cases_are_tried():
    assert sum(kind.count for kind in KINDS.values()) >= 2000


def test_a_checkpoint_whose_weights_are_not_those_of_its_config_is_refused(tmp_path):
    place, _ = saved_checkpoint()
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1  # transformers would fill the layer with random weights
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"lacks weights .* ume\.text_model\.encoder\.layer\.2.* would be random"):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[1]", b'"text"', b'{"model_type": "ume", "version": 5'])
def test_a_damaged_file_of_a_checkpoint_is_one_sentence(name, content, tmp_path):
    place, _ = saved_checkpoint()
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"give a folder that `ume train` wrote|config\.json is not valid JSON"):
        load_checkpoint(str(tmp_path))


def damage_manifest(place, change) -> None:
    manifest = json.loads((place / "manifest.json").read_text())
    change(manifest)
    (place / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda manifest: manifest["shards"][0].update(file="../outside.bin"), "'../outside.bin' is no shard's name"),
        (lambda manifest: manifest.update(shards=None), "TypeError"),
        (lambda manifest: manifest.pop("width"), "KeyError: 'width'"),
        (lambda manifest: manifest.update(width=8), "do not fill shard-00000.bin"),
        (lambda manifest: manifest.update(grid=[9, 9]), "the grid .* is not that of its rows"),
        (lambda manifest: manifest["key"].update(modality="sound"), "the modality 'sound' is none of text and vision"),
    ],
)
def test_a_manifest_that_was_changed_is_refused_and_leads_to_no_other_file(change, reason, tmp_path):
    shutil.copytree(cached_features()[0], tmp_path / "text")
    damage_manifest(tmp_path / "text", change)
    with pytest.raises(ValueError, match=rf"manifest\.json is not as it was written \(.*{reason}.*Delete that file"):
        FeatureCache(tmp_path / "text")


def test_the_table_of_inputs_adds_up():
    counts = {"right result": 2, "clear exception": 1, "anything else": 0}
    environment = {
        "hardware": {"cpu": "a CPU"},
        "versions": dict.fromkeys(["torch", "transformers", "pillow", "python"], "1.0"),
    }
    results = {"seed": 0, "hypothesis": "6", "kinds": {"a": counts, "b": counts}, "environment": environment}
    assert "| **all** | 6 | 4 | 2 | 0 |" in inputs_table(results)
