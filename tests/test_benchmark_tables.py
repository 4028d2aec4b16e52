"""The table of benchmark figures: what is missing or not reached says so."""

import json
from pathlib import Path

import pytest

from training_ume.report import benchmarks as benchmark_tables
from training_ume.report.benchmarks import BENCHMARKS, benchmarks_table

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
MACHINE = {"hardware": {"cpu": "Z80", "cores": 1}, "versions": {"torch": "2"}}


def test_without_results_every_benchmark_is_named_as_not_measured(tmp_path):
    table = benchmarks_table(tmp_path)
    assert table.count("not measured yet") == len(BENCHMARKS)
    assert "no machine yet" in table


def grouping(grouped: float, random: float) -> dict:
    def way(mean: float, order: int) -> dict:
        each = [mean - 0.1, mean, mean + 0.1][::order]
        return {"score": {"mean": mean, "sd": 0.1, "each": each}, "train_cpu_seconds": 10.0}

    ways = {"grouped": way(grouped, 1), "random": way(random, -1)}
    facts = {"recipe": "easy_vqa", "metric": "vqa_accuracy", "questions": 10_000}
    return {**facts, "ways": ways, "environment": MACHINE}


@pytest.mark.parametrize(("random", "verdict"), [(99.7, "reached"), (100.8, "not reached: in so few steps")])
def test_scores_are_equal_within_the_spread_or_not(tmp_path, random, verdict):
    (tmp_path / "grouping.json").write_text(json.dumps(grouping(99.8, random)))
    [row] = [line for line in benchmarks_table(tmp_path).splitlines() if "grouped by image" in line]
    assert f"99.80 ± 0.10 ({random:.2f} ± 0.10)" in row
    assert row.split("|")[4].strip().startswith(verdict)
    assert "Z80" in benchmarks_table(tmp_path)


def test_every_figure_that_was_not_reached_has_its_reason():
    for name, figures in BENCHMARKS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            for figure in figures(json.loads(path.read_text())):
                assert figure.reached is not False or figure.why_not, figure.what


def test_large_ratios_are_not_given_to_a_tenth():
    assert [benchmark_tables.ratio(value) for value in (2.04, 19.96, 33.6)] == ["2.0×", "20.0×", "34×"]
