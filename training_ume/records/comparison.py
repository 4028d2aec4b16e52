"""Runs side by side: a row a model, with mean and deviation over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from configuration_ume.scores import LABELS, in_order, lower_is_better, measured_by, names_in, written


def comparison_rows(runs: Iterable[dict]) -> list[dict]:
    """
    Sums up the results of several runs: one row a name, over its seeds.

    Args:
        runs: the runs' results, each with `name`, `seed`, `scores`, `train_seconds`, `train_cpu_seconds`,
            `parameters`, `arguments`.

    Returns:
        `list[dict]` in the order of first appearance: `measured_by`, and the scores, each as
        `{"each", "mean", "sd"}` (in percent, of numbers in their unit; the sample standard deviation, None for a
        single seed), mean `train_seconds` and `train_cpu_seconds`, `parameters`.
    """
    by_name: dict[str, list[dict]] = {}
    for run in runs:
        by_name.setdefault(run["name"], []).append(run)
    return [
        {
            "name": name,
            "fusion": group[0]["arguments"]["model"]["fusion"],
            "inputs": group[0]["arguments"]["data"]["inputs"],
            "seeds": [run["seed"] for run in group],
            "measured_by": measured_by(group[0]["scores"]),
            **{name: _summary([run["scores"][name] for run in group]) for name in _of_all(group)},
            "train_seconds": statistics.mean(run["train_seconds"] for run in group),
            "train_cpu_seconds": statistics.mean(run["train_cpu_seconds"] for run in group),
            "parameters": group[0]["parameters"],
        }
        for name, group in by_name.items()
    ]


def best_on_validation(runs: Iterable[dict]) -> dict | None:
    """
    Which of several runs was the best on the questions that chose its epoch; test questions have no say in it.

    Returns:
        `dict` of `name`, `score` (which one) and `value`, its mean over the seeds; None where the runs chose by
        different scores, or did not validate.
    """
    by_name: dict[str, list[float]] = {}
    scores = set()
    for run in runs:
        score = run["selected_by"]["score"]
        key = "validation_loss" if score == "loss" else score
        values = [epoch[key] for epoch in run["epochs"] if epoch.get(key) is not None]
        if not values:
            return None
        scores.add(score)
        by_name.setdefault(run["name"], []).append(_best_of(score)(values))
    if len(scores) != 1:
        return None
    score = scores.pop()
    means = {name: statistics.mean(values) for name, values in by_name.items()}
    name = _best_of(score)(means, key=means.get)
    return {"name": name, "score": score, "value": means[name]}


def _best_of(score: str) -> Callable:
    return min if lower_is_better(score) else max


def _of_all(runs: list[dict]) -> list[str]:
    """The scores that all these runs have, in the order of the table."""
    held = [set(names_in(run["scores"])) for run in runs]
    return [name for name in LABELS if all(name in names for names in held)]


def _summary(values: list[float]) -> dict:
    return {
        "each": values,
        "mean": statistics.mean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }


def comparison_table(rows: list[dict], baselines: dict[str, dict]) -> list[tuple[str, ...]]:
    """The rows of `comparison_rows` and the scores of simple baselines as lines of cells, scores in percent, the one
    that fits the data first."""
    scored = names_in(rows[0]) if rows else in_order("vqa_accuracy")
    lines = [("", *(LABELS[score] for score in scored), "seconds", "parameters (trained)")]
    for name, scores in baselines.items():
        lines.append((name.replace("_", " "), *(written(score, scores.get(score)) for score in scored), "", ""))
    for row in rows:
        total, trained = row["parameters"]["total"], row["parameters"]["trainable"]
        lines.append(
            (
                row["name"] if ":" in row["name"] else row["name"].replace("_", " "),  # a file is called as it is
                *(_score_text(score, row[score]) for score in scored),
                f"{row['train_seconds']:.0f}",
                f"{total:,} ({trained:,})",
            )
        )
    return lines


def _score_text(score: str, summary: dict) -> str:
    mean = written(score, summary["mean"])
    if summary["sd"] is None:
        return mean
    return f"{mean} ± {written(score, summary['sd'])} ({len(summary['each'])} seeds)"
