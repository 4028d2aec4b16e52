"""Comparing runs that were trained apart: scored on the same questions, named by what they differ in, each once."""

import json
from pathlib import Path

import pytest
from PIL import Image

from training_ume.commands import main
from training_ume.evidence.compare import finished_runs
from training_ume.records.files import write_json
from training_ume.records.predictions import PREDICTIONS, write_predictions


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


def test_a_field_that_an_older_version_did_not_know_has_its_default(tmp_path):
    write_run(tmp_path / "a", "ume")
    for rank, named in ((None, "concat"), (8, "concat, fusion_rank=8")):
        newer = write_run(tmp_path / f"rank{rank}", "concat")
        results = json.loads((newer / "results.json").read_text())
        results["arguments"]["model"]["fusion_rank"] = rank
        write_json(newer / "results.json", results)
        assert finished_runs([tmp_path / "a", newer])[0][1].label == named


def test_the_same_run_twice_is_refused_and_a_folder_named_twice_is_one(tmp_path):
    write_run(tmp_path / "a", "ume")
    write_run(tmp_path / "b", "ume")
    with pytest.raises(ValueError, match=r"b holds ume with seed 0, which .*a holds, too"):
        finished_runs([tmp_path / "a", tmp_path / "b"])
    assert len(finished_runs([tmp_path / "a", tmp_path / "a"])[0]) == 1


def predictions(folder: Path, scores: list[float]) -> None:
    rows = [
        {
            **dict.fromkeys(("image", "question", "question_type", "answer_type", "expected", "answer"), ""),
            "question_id": i, "image_id": str(i // 2), "vqa_accuracy": score, "exact_match": score,
        }
        for i, score in enumerate(scores)
    ]  # fmt: skip
    write_predictions(folder / PREDICTIONS, rows)


def test_runs_that_differ_are_named_by_it_and_compared_with_the_first_with_intervals(tmp_path, capsys):
    rates = {"slow": (1e-4, [0.0, 0.0, 100.0, 100.0] * 8), "fast": (1e-3, [100.0] * 32)}
    for name, (rate, scores) in rates.items():
        write_run(tmp_path / name, "ume", score=sum(scores) / 32, learning_rate=rate)
        predictions(tmp_path / name, scores)
    assert compare(tmp_path / "slow", tmp_path / "fast", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    slow, fast = facts["comparison"]
    assert (slow["name"], fast["name"]) == ("ume, learning_rate=0.0001", "ume, learning_rate=0.001")
    assert facts["differ"] == {"learning_rate": ["0.0001", "0.001"]}
    assert slow["interval"][0] < 50 < slow["interval"][1]
    assert fast["interval"] == [100.0, 100.0]
    assert fast["ahead"]["mean"] == 50.0
    assert fast["ahead"]["interval"] == [100 - slow["interval"][1], 100 - slow["interval"][0]]
    assert compare(tmp_path / "slow", tmp_path / "fast") == 0
    printed = capsys.readouterr().out
    assert "They differ in learning_rate: 0.0001, 0.001." in printed
    assert "▲" in printed
    predictions(tmp_path / "fast", [100.0] * 30)
    assert compare(tmp_path / "slow", tmp_path / "fast") == 2
    assert "answers other questions" in capsys.readouterr().err
    (tmp_path / "fast" / PREDICTIONS).unlink()
    assert compare(tmp_path / "slow", tmp_path / "fast") == 0
    assert "There are no intervals" in capsys.readouterr().out


def test_runs_that_were_scored_on_other_questions_are_refused(tmp_path, capsys):
    write_run(tmp_path / "a", "ume")
    results = json.loads((write_run(tmp_path / "b", "concat") / "results.json").read_text())
    write_json(tmp_path / "b" / "results.json", {**results, "scored_on": "validation"})
    assert compare(tmp_path / "a", tmp_path / "b") == 2
    assert "are scored on other questions (scored on validation; scored on test)" in capsys.readouterr().err


def test_the_curves_of_all_runs_are_drawn(tmp_path, capsys):
    for name in ("ume", "concat"):
        results = json.loads((write_run(tmp_path / name, name) / "results.json").read_text())
        epochs = [
            {"epoch": i, "vqa_accuracy": 10 * i, "train_loss": 1 / i, "validation_loss": 1 / i} for i in (1, 2, 3)
        ]
        epochs[0]["train_loss"] = None  # no loss was logged before
        write_json(tmp_path / name / "results.json", {**results, "epochs": epochs})
    assert compare(tmp_path, "--plot", tmp_path / "curves.png") == 0
    assert Image.open(tmp_path / "curves.png").size[0] > 500
    assert compare(tmp_path, "--plot", tmp_path / "curves.png") == 2
    assert "exists: add --overwrite" in capsys.readouterr().err


def test_a_folder_without_a_finished_run_and_an_existing_file_are_told(tmp_path, capsys):
    assert compare(tmp_path, "--out", tmp_path / "all.json") == 2
    assert "holds no results.json of a finished run" in capsys.readouterr().err
    write_run(tmp_path / "a", "ume")
    (tmp_path / "all.json").write_text("mine")
    assert compare(tmp_path / "a", "--out", tmp_path / "all.json") == 2
    assert (tmp_path / "all.json").read_text() == "mine"
