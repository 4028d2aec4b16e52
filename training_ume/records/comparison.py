"""Runs side by side: a row a model, with mean and deviation over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from configuration_ume.scores import NAMES, in_order, measured_by


def comparison_rows(runs: Iterable[dict]) -> list[dict]:
    """
    Sums up the results of several runs: one row a name, over its seeds.

    Args:
        runs: the runs' results, each with `name`, `seed`, `scores`, `train_seconds`, `train_cpu_seconds`,
            `parameters`, `arguments`.

    Returns:
        `list[dict]` in the order of first appearance: `measured_by`, `vqa_accuracy` and `exact_match`, each as
        `{"each", "mean", "sd"}` (in percent; the sample standard deviation, None for a single seed), mean
        `train_seconds` and `train_cpu_seconds`, `parameters`.
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
            "vqa_accuracy": _summary([run["scores"]["vqa_accuracy"] for run in group]),
            "exact_match": _summary([run["scores"]["exact_match"] for run in group]),
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
        by_name.setdefault(run["name"], []).append((min if "loss" in score else max)(values))
    if len(scores) != 1:
        return None
    score = scores.pop()
    means = {name: statistics.mean(values) for name, values in by_name.items()}
    name = (min if "loss" in score else max)(means, key=means.get)
    return {"name": name, "score": score, "value": means[name]}


def _summary(values: list[float]) -> dict:
    return {
        "each": values,
        "mean": statistics.mean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }


def comparison_table(rows: list[dict], baselines: dict[str, dict]) -> list[tuple[str, ...]]:
    """The rows of `comparison_rows` and the scores of simple baselines as lines of cells, scores in percent, the one
    that fits the data first."""
    scored = in_order(measured_by(rows[0]) if rows else "vqa_accuracy")
    lines = [("", *(NAMES[score] for score in scored), "seconds", "parameters (trained)")]
    for name, scores in baselines.items():
        lines.append((name.replace("_", " "), *(f"{scores[score]:.2f}" for score in scored), "", ""))
    for row in rows:
        total, trained = row["parameters"]["total"], row["parameters"]["trainable"]
        lines.append(
            (
                row["name"] if ":" in row["name"] else row["name"].replace("_", " "),  # a file is called as it is
                *(_score_text(row[score]) for score in scored),
                f"{row['train_seconds']:.0f}",
                f"{total:,} ({trained:,})",
            )
        )
    return lines


def _score_text(summary: dict) -> str:
    if summary["sd"] is None:
        return f"{summary['mean']:.2f}"
    return f"{summary['mean']:.2f} ± {summary['sd']:.2f} ({len(summary['each'])} seeds)"
