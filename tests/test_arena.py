"""The arena: matched widths, one JSON a run, what is finished is not run again, intervals over whole images."""

import json

import numpy as np
import pytest
from conftest import tiny_config
from vqa_files import write_tiny_recipe, write_vqa_files

from modeling_ume import FUSIONS, UMEForVisualQuestionAnswering
from training_ume.commands.arena import main
from training_ume.evidence import arena
from training_ume.evidence.contenders import contenders, matched_width, stream_widths
from training_ume.evidence.statistics import draw_images, interval, summarise
from training_ume.report.arena import PLOTS, arena_overview, arena_page, arena_plot, arena_table, kind_rows


def test_widths_bring_every_head_near_the_budget():
    config = tiny_config(fusion_num_heads=None, num_labels=50)
    for name, head in FUSIONS.items():
        if head.reads_in_encoder:
            continue
        width, parameters = matched_width(config, stream_widths(config), name, 150_000)
        config.fusion, config.fusion_hidden_size = name, width
        assert abs(parameters - 150_000) < 20_000, (name, width, parameters)
        model = UMEForVisualQuestionAnswering(config)
        assert parameters == sum(p.numel() for part in ("fusion", "classifier") for p in model.parts()[part])


def test_members_share_the_budget():
    config = tiny_config(fusion_num_members=4, num_labels=50)
    width, parameters = matched_width(config, stream_widths(config), "ume", 150_000)
    assert abs(parameters - 150_000) < 20_000
    config.fusion_hidden_size = width
    model = UMEForVisualQuestionAnswering(config)
    assert parameters == sum(p.numel() for part in ("fusion", "classifier") for p in model.parts()[part])


def test_a_head_without_stored_features_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"early_input.*leave it out"):
        contenders(["early_input"], tiny_config(), 10_000)
    with pytest.raises(ValueError, match="'emu' is not known"):
        contenders(["emu"], tiny_config(), 10_000)


def test_intervals_draw_whole_images():
    # Two images, one all right and one all wrong: the mean of a draw is 0, 50 or 100.
    draws = draw_images(["a"] * 5 + ["b"] * 5, resamples=500)
    assert set(np.round(draws @ np.array([100.0] * 5 + [0.0] * 5) / draws.sum(1))) == {0, 50, 100}
    assert interval(draws, np.full(10, 40.0)) == pytest.approx((40, 40))


def result(name: str, scores: list[float], seed: int, rate: float = 1e-3, selection: float = 50.0) -> dict:
    scored = {"vqa_accuracy": float(np.mean(scores)), "exact_match": float(np.mean(scores))}
    return {
        "name": name, "fusion": name, "inputs": "both", "hidden_size": 24, "parameters": 1000, "learning_rate": rate,
        "seed": seed, "train_seconds": 2.0, "train_cpu_seconds": 3.0, "test": scored,
        "selection": {"vqa_accuracy": selection, "exact_match": selection},
        "per_question": {"vqa_accuracy": scores, "exact_match": scores},
    }  # fmt: skip


def test_the_summary_compares_with_ume_question_by_question():
    better, worse = [100.0, 0.0, 100.0, 100.0], [0.0, 0.0, 100.0, 100.0]
    results = [result("ume", better, seed) for seed in (0, 1)] + [result("concat", worse, seed) for seed in (0, 1)]
    rows = summarise(results, {"ume": 1e-3, "concat": 1e-3}, "exact_match", ["a", "b", "c", "d"])
    assert [row["name"] for row in rows] == ["ume", "concat"]
    assert rows[1]["behind"]["mean"] == 25.0
    assert rows[1]["behind"]["interval"][0] == 0.0  # no draw in which concat is ahead
    assert rows[0]["exact_match"]["sd"] == 0.0


@pytest.fixture(scope="module")
def tiny_arena(tmp_path_factory):
    """The summary of a small arena over made-up data, and the command's arguments."""
    folder = tmp_path_factory.mktemp("arena")
    recipe = write_tiny_recipe(folder / "tiny.yaml", write_vqa_files(folder))
    arguments = [
        str(recipe), "--output_dir", str(folder / "runs"), "--out", str(folder / "arena.json"), "--heads", "concat",
        "ume", "question_only", "--seeds", "0", "1", "--learning_rates", "1e-3", "1e-2", "--budget", "20000",
    ]  # fmt: skip
    assert main(arguments) == 0
    return folder, arguments, json.loads((folder / "arena.json").read_text())


def test_each_head_is_tried_at_every_rate_and_scored_with_every_seed(tiny_arena):
    folder, _, summary = tiny_arena
    assert {row["name"] for row in summary["rows"]} == {"concat", "ume", "question_only"}
    for row in summary["rows"]:
        assert set(row["tried"]) == {"0.001", "0.01"}
        assert row["learning_rate"] == float(max(row["tried"], key=row["tried"].get))
        assert row["seeds"] == [0, 1]
        assert ("image_shuffled" in row) == (row["name"] != "question_only")
    assert len(list((folder / "runs").glob("*-seed*.json"))) == 3 * 3  # two rates, and the better one once more


def test_what_is_finished_is_not_run_again(tiny_arena, monkeypatch):
    folder, arguments, summary = tiny_arena
    monkeypatch.setattr(arena, "ProcessPoolExecutor", None)  # no training could start
    (folder / "arena.json").unlink()
    assert main(arguments) == 0
    assert json.loads((folder / "arena.json").read_text())["rows"] == summary["rows"]


def test_other_terms_in_the_same_folder_and_an_existing_summary_are_refused(tiny_arena, capsys):
    _, arguments, _ = tiny_arena
    assert main(arguments) == 2
    assert "arena.json exists: add --overwrite" in capsys.readouterr().err
    arguments = [*arguments, "--overwrite"]
    assert main([*arguments, "--budget", "30000"]) == 2
    assert "budget differ" in capsys.readouterr().err
    assert main([*arguments, "--split_seed", "7", "--validation_fraction", "0.5"]) == 2
    assert "data differ" in capsys.readouterr().err
    assert main([*arguments, "--label_smoothing_factor", "0.1"]) == 2
    assert "training differ" in capsys.readouterr().err


def test_the_report_holds_every_row_and_nothing_from_elsewhere(tiny_arena):
    *_, summary = tiny_arena
    table, page = arena_table(summary), arena_page({"Tiny": summary})
    for row in summary["rows"]:
        assert row["name"].replace("_", " ") in table
        assert row["name"].replace("_", " ") in page
    assert page.count("<img") == len(PLOTS)
    assert "http" not in page
    assert arena_plot(summary, "scores").startswith(b"\x89PNG")


def test_the_overview_sets_arenas_side_by_side_and_marks_what_is_behind_ume_beyond_chance():
    def arena(**scores: list[float]) -> dict:
        results = [result(name, values, seed) for name, values in scores.items() for seed in (0, 1)]
        rows = summarise(results, dict.fromkeys(scores, 1e-3), "exact_match", [str(i) for i in range(40)])
        return {"metric": "exact_match", "rows": rows}

    good, bad = [100.0] * 40, [0.0] * 40
    nearly = [100.0] * 39 + [0.0]
    overview = arena_overview({"One": arena(ume=nearly, concat=good, sum=bad), "Two": arena(ume=bad, concat=good)})
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in overview.splitlines()]
    assert lines[0] == ["", "One (exact match)", "Two (exact match)"]
    assert lines[2:] == [  # those that took part in both first; concat is not ahead beyond chance in the first
        ["concat", "**100.00 ± 0.00**", "**100.00 ± 0.00** ▲"],
        ["ume", "97.50 ± 0.00", "0.00 ± 0.00"],
        ["sum", "0.00 ± 0.00 ▼", ""],
    ]


def test_scores_by_type_of_answer_have_a_cell_for_every_type(tiny_arena):
    *_, summary = tiny_arena
    header, rows = kind_rows(summary)
    assert [len(row) for row in rows] == [len(header)] * 3
    by_name = {row[0]: row for row in rows}
    assert by_name["question only"][-1] == "" != by_name["ume"][-1]
    for row in summary["rows"]:
        for kind, score in row["per_answer_type"].items():
            assert by_name[row["name"].replace("_", " ")][header.index(f"{kind}, VQA accuracy")] == f"{score:.2f}"
