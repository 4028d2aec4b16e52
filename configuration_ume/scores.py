"""The names that scores go by, wherever one is asked for, chosen by or shown."""

from __future__ import annotations

NAMES = {"vqa_accuracy": "VQA accuracy", "exact_match": "exact match"}
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
    return sorted(NAMES, key=lambda name: name != first)
