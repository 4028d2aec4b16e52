"""Trainings side by side: the table of `ume compare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configuration_ume.scores import LABELS, lower_is_better, names_in, written


def compare_table(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """
    The rows of `compare_runs` and the scores of simple baselines as lines of cells, the score that fits
    the data first, with its interval, and how far each row is ahead of the first.
    """
    rows = facts["comparison"]
    scored = names_in(rows[0])
    intervals = all("interval" in row for row in rows)
    header = ["", LABELS[scored[0]]]
    header += ["95 % interval", "minus the first"] if intervals else []
    header += [*(LABELS[score] for score in scored[1:]), "seconds", "parameters (trained)"]
    lines = [tuple(header)]
    for name, scores in facts["baselines"].items():
        cells = [name.replace("_", " "), written(scored[0], scores.get(scored[0])), *[""] * (2 * intervals)]
        lines.append((*cells, *(written(score, scores.get(score)) for score in scored[1:]), "", ""))
    for row in rows:
        cells = [row["name"].replace("_", " "), _mean(scored[0], row[scored[0]])]
        if intervals:
            cells += [_between(scored[0], row["interval"]), _ahead(scored[0], row.get("ahead"))]
        total, trained = row["parameters"]["total"], row["parameters"]["trainable"]
        cells += [*(_mean(score, row[score]) for score in scored[1:]), f"{row['train_seconds']:.0f}"]
        lines.append((*cells, f"{total:,} ({trained:,})"))
    return lines


def compare_notes(facts: Mapping[str, Any]) -> list[str]:
    """What a reader of the table should know, a sentence each."""
    notes = []
    for name, values in facts["differ"].items():
        notes.append(f"They differ in {name}: {', '.join(values)}.")
    if all("interval" in row for row in facts["comparison"]):
        notes.append(
            "Intervals are over images and count no seeds; ▲ and ▼: ahead of or behind the first beyond the 95 % "
            "interval of the paired difference."
        )
    else:
        notes.append("There are no intervals: not each run has its predictions.jsonl.")
    return notes


def _mean(score: str, summary: Mapping[str, Any]) -> str:
    mean = written(score, summary["mean"])
    if summary["sd"] is None:
        return mean
    return f"{mean} ± {written(score, summary['sd'])} ({len(summary['each'])} seeds)"


def _between(score: str, interval: list[float]) -> str:
    return f"{written(score, interval[0])} … {written(score, interval[1])}"


def _ahead(score: str, ahead: Mapping[str, Any] | None) -> str:
    if ahead is None:
        return ""
    low, high = ahead["interval"]
    better = -1 if lower_is_better(score) else 1
    sign = "▲" if min(better * low, better * high) > 0 else "▼" if max(better * low, better * high) < 0 else " "
    mean, low, high = (_signed(score, value) for value in (ahead["mean"], low, high))
    return f"{mean} ({low} … {high}) {sign}".rstrip()


def _signed(score: str, value: float) -> str:
    return f"{'-' if value < 0 else '+'}{written(score, abs(value))}"
