"""The names that scores go by, wherever one is asked for, chosen by or shown."""

from __future__ import annotations

import math

NAMES = {"vqa_accuracy": "VQA accuracy", "exact_match": "exact match"}
# Those of numbers, all in the numbers' own unit or in none.
NUMBERS = {
    "r2": "R²",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
    "pearson": "Pearson's r",
    "spearman": "Spearman's ρ",
    "r2_log": "R² of the logarithms",
}
# Those of classes, one a row, and of several labels a row.
CLASSES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}
LABEL_SETS = {"micro_f1": "micro F1", "macro_f1": "macro F1", "subset_accuracy": "all labels right"}
# Of retrieval, means over pairs and directions.
RETRIEVAL = {
    "recall@1": "recall@1",
    "recall@5": "recall@5",
    "recall@10": "recall@10",
    "median_rank": "median rank",
}
GROUPS = (NAMES, NUMBERS, CLASSES, LABEL_SETS, RETRIEVAL)
LOWER_IS_BETTER = ("loss", "mae", "rmse", "median_rank")
# Those that are asked for, or that a data set by name is judged by.
FURTHER = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "wups_0.9": "WUPS@0.9",
    "wups_0.0": "WUPS@0.0",
}
# The value of `metric_for_best_model` that leaves the choice to the data.
AUTO = "auto"
# Scores that all rows with answers get, and the loss; others depend on the rows.
ALWAYS_SCORED = ("loss", "vqa_accuracy", "exact_match")


def measured_by(scores: dict) -> str:
    """The score that comes first among these; results of earlier versions do not say it."""
    return scores.get("measured_by", "vqa_accuracy")


def in_order(first: str) -> list[str]:
    """The names of the scores, that which fits first."""
    group = next((group for group in GROUPS if first in group), NAMES)
    return sorted(group, key=lambda name: name != first)


def names_in(scores: dict) -> list[str]:
    """The scores that these hold, that which fits first; of one that there is not, none."""
    return [name for name in in_order(measured_by(scores)) if scores.get(name) is not None]


def lower_is_better(name: str) -> bool:
    """Whether less of a score is better, by its name or that of a part of it, as `mae_price` or `test_loss`."""
    return any(name == low or name.startswith(f"{low}_") or name.endswith(f"_{low}") for low in LOWER_IS_BETTER)


def written(name: str, value: float | None) -> str:
    """A score as it is shown: in percent, or of numbers as these are."""
    if value is None:
        return ""
    if name not in NUMBERS:
        return f"{value:.2f}"
    return quantity(value) if name in LOWER_IS_BETTER else f"{value:.3f}"


def in_words(name: str, value: float) -> str:
    """A score with its name, as within a sentence."""
    return f"{written(name, value)} {'' if name in NUMBERS else '% '}{LABELS[name]}"


def axis_label(name: str) -> str:
    """A score as the axis of a picture names it."""
    return LABELS[name] + ("" if name in NUMBERS else " (%)")


def quantity(value: float) -> str:
    """A number in its unit, with four digits that count, or all before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}" if abs(value) >= 1e-4 else f"{value:.3e}"


LABELS = {**NAMES, **NUMBERS, **CLASSES, **LABEL_SETS, **RETRIEVAL, **FURTHER}
