"""Comparing runs that were trained apart: only on equal terms, each once."""

import json
from pathlib import Path

import pytest

from training_ume.commands import main
from training_ume.records.comparison import merge_runs
from training_ume.records.files import write_json


def write_run(folder: Path, name: str, seed: int = 0, score: float = 50.0, **training) -> Path:
    arguments = {
        "model": {"fusion": name, "fusion_hidden_size": 16},
        "data": {"inputs": "both"},
        "training": {"seed": seed, "learning_rate": 1e-3, **training},
    }
    results = {
        "name": name,
        "seed": seed,
        "recipe": "tiny",
        "scored_on": "test",
        "scores": {"vqa_accuracy": score, "exact_match": score},
        "train_seconds": 2.0,
        "train_cpu_seconds": 3.0,
        "parameters": {"total": 10, "trainable": 10},
        "baselines": {"question_lookup": {"vqa_accuracy": 30.0, "exact_match": 30.0}},
        "data": {"train_questions": 8},
        "arguments": arguments,
        "environment": {"versions": {}},
    }
    write_json(folder / "results.json", results)
    return folder


def compare(*argv: object) -> int:
    return main(["compare", *map(str, argv)])


def test_runs_of_several_folders_become_one_table(tmp_path, capsys):
    write_run(tmp_path / "a", "ume", seed=0, score=60.0)
    write_run(tmp_path / "a" / "beside" / "concat", "concat", score=40.0)
    write_run(tmp_path / "b", "ume", seed=1, score=62.0)
    write_json(tmp_path / "c" / "results.json", {"comparison": []})  # a summary of runs is not one itself
    write_run(tmp_path / "c" / "seed0", "pair")
    assert compare(tmp_path / "a", tmp_path / "b", tmp_path / "c", "--out", tmp_path / "all.json") == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "all.json").read_text())["comparison"]}
    assert rows["ume"]["vqa_accuracy"]["mean"] == 61.0
    assert rows["ume"]["seeds"] == [0, 1]
    assert set(rows) == {"ume", "concat", "pair"}
    assert "question lookup" in capsys.readouterr().out


def test_runs_on_unequal_terms_are_refused(tmp_path):
    write_run(tmp_path / "a", "ume")
    write_run(tmp_path / "b", "concat", learning_rate=1e-4)
    with pytest.raises(ValueError, match=r"differ in their training \(learning_rate\)"):
        merge_runs([tmp_path / "a", tmp_path / "b"])


def test_a_field_that_an_older_version_did_not_know_has_its_default(tmp_path):
    write_run(tmp_path / "a", "ume")
    for rank, agrees in ((None, True), (8, False)):
        newer = write_run(tmp_path / f"rank{rank}", "concat")
        results = json.loads((newer / "results.json").read_text())
        results["arguments"]["model"]["fusion_rank"] = rank
        write_json(newer / "results.json", results)
        if agrees:
            assert len(merge_runs([tmp_path / "a", newer])[1]) == 2
        else:
            with pytest.raises(ValueError, match="fusion_rank"):
                merge_runs([tmp_path / "a", newer])


def test_the_same_run_twice_is_refused(tmp_path):
    write_run(tmp_path / "a", "ume")
    write_run(tmp_path / "b", "ume")
    with pytest.raises(ValueError, match="ume with seed 0, which another folder holds"):
        merge_runs([tmp_path / "a", tmp_path / "b"])


def test_a_folder_without_a_finished_run_and_an_existing_file_are_told(tmp_path, capsys):
    assert compare(tmp_path, "--out", tmp_path / "all.json") == 2
    assert "holds no results.json of a finished run" in capsys.readouterr().err
    write_run(tmp_path / "a", "ume")
    (tmp_path / "all.json").write_text("mine")
    assert compare(tmp_path / "a", "--out", tmp_path / "all.json") == 2
    assert (tmp_path / "all.json").read_text() == "mine"
