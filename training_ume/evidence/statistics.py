"""Means, deviations and paired intervals over images, for comparisons of heads."""

from __future__ import annotations

import statistics

import numpy as np

from configuration_ume.scores import NAMES, measured_by

RESAMPLES = 2000
METRICS = tuple(NAMES)


def summarise(
    results: list[dict], chosen: dict[str, float], metric: str, image_ids: list[str], reference: str = "ume"
) -> list[dict]:
    """
    One row a contender, the best first.

    Args:
        results: of `play`, all learning rates and seeds.
        chosen: each contender's learning rate.
        metric (`str`): what rows are sorted by and differences are taken of.
        image_ids: of the test questions, in their order.
        reference (`str`): the contender that others are compared with, where it took part.

    Returns:
        `list[dict]`: `name`, `parameters`, `hidden_size`, `learning_rate` and the selection scores of all `tried`; of
        each metric `each`, `mean`, `sd` over seeds and the 95 % `interval` over images; `per_answer_type`,
        `train_seconds`, `train_cpu_seconds`, scores with an input missing or other images, and `behind`: how far the
        reference is ahead in `metric`, `mean` and `interval` of the paired bootstrap.
    """
    draws = draw_images(image_ids)
    finals = {
        name: [r for r in results if r["name"] == name and r["learning_rate"] == rate] for name, rate in chosen.items()
    }
    questions = {  # a question's score, the mean over seeds: [N]
        name: {m: np.mean([run["per_question"][m] for run in runs], axis=0) for m in METRICS}
        for name, runs in finals.items()
    }
    rows = []
    for name, runs in finals.items():
        first = runs[0]
        row = {
            **{key: first[key] for key in ("name", "fusion", "inputs", "hidden_size", "parameters", "learning_rate")},
            "tried": {
                f"{r['learning_rate']:g}": r["selection"][metric]
                for r in results
                if r["name"] == name and r["seed"] == first["seed"]
            },
            "seeds": [run["seed"] for run in runs],
            "train_seconds": statistics.mean(run["train_seconds"] for run in runs),
            "train_cpu_seconds": statistics.mean(run["train_cpu_seconds"] for run in runs),
        }
        for m in METRICS:
            each = [run["test"][m] for run in runs]
            low, high = interval(draws, questions[name][m])
            sd = statistics.stdev(each) if len(each) > 1 else None
            row[m] = {"each": each, "mean": statistics.mean(each), "sd": sd, "interval": [low, high]}
        row["measured_by"] = measured_by(runs[0]["test"])
        kinds = runs[0]["test"].get("per_answer_type", {})
        row["per_answer_type"] = {
            kind: statistics.mean(run["test"]["per_answer_type"][kind] for run in runs) for kind in kinds
        }
        for condition in ("image_missing", "text_missing", "image_shuffled"):
            if condition in first:
                row[condition] = {m: statistics.mean(run[condition][m] for run in runs) for m in METRICS}
        if reference in questions and name != reference:
            ahead = questions[reference][metric] - questions[name][metric]
            row["behind"] = {"mean": float(ahead.mean()), "interval": list(interval(draws, ahead))}
        rows.append(row)
    return sorted(rows, key=lambda row: -row[metric]["mean"])


def draw_images(image_ids: list[str], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each question is drawn when whole images are drawn with replacement, [resamples, N]."""
    _, image_of = np.unique(image_ids, return_inverse=True)
    count = image_of.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, image_of].astype(np.float32)


def interval(draws: np.ndarray, values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` [N] over `draws` [resamples, N]."""
    means = draws @ values / draws.sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
