"""Trainings side by side: the table of `ume compare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configuration_ume.scores import NAMES, in_order, measured_by


def compare_table(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """
    The rows of `compare_runs` and the scores of simple baselines as lines of cells, in percent, the score that fits
    the data first, with its interval, and how far each row is ahead of the first.
    """
    rows = facts["comparison"]
    scored = in_order(measured_by(rows[0]))
    intervals = all("interval" in row for row in rows)
    header = ["", NAMES[scored[0]]]
    header += ["95 % interval", "minus the first"] if intervals else []
    header += [*(NAMES[score] for score in scored[1:]), "seconds", "parameters (trained)"]
    lines = [tuple(header)]
    for name, scores in facts["baselines"].items():
        cells = [name.replace("_", " "), f"{scores[scored[0]]:.2f}", *[""] * (2 * intervals)]
        lines.append((*cells, *(f"{scores[score]:.2f}" for score in scored[1:]), "", ""))
    for row in rows:
        cells = [row["name"].replace("_", " "), _mean(row[scored[0]])]
        if intervals:
            cells += [_between(row["interval"]), _ahead(row.get("ahead"))]
        total, trained = row["parameters"]["total"], row["parameters"]["trainable"]
        cells += [*(_mean(row[score]) for score in scored[1:]), f"{row['train_seconds']:.0f}"]
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


def _mean(summary: Mapping[str, Any]) -> str:
    if summary["sd"] is None:
        return f"{summary['mean']:.2f}"
    return f"{summary['mean']:.2f} ± {summary['sd']:.2f} ({len(summary['each'])} seeds)"


def _between(interval: list[float]) -> str:
    return f"{interval[0]:.2f} … {interval[1]:.2f}"


def _ahead(ahead: Mapping[str, Any] | None) -> str:
    if ahead is None:
        return ""
    low, high = ahead["interval"]
    sign = "▲" if low > 0 else "▼" if high < 0 else " "
    return f"{ahead['mean']:+.2f} ({low:+.2f} … {high:+.2f}) {sign}".rstrip()
