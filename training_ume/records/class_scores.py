"""Scores of classes, one a row or several, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from configuration_ume.scores import CLASSES, LABEL_SETS
from training_ume.records.measured import Measured


class ClassScores(Measured):
    """
    One class a row.

    Args:
        given, expected: what the model said and what is right, by the names of the classes.
        image_ids (*optional*): see `Measured`.
        others (*optional*): what has a `score` of other names, such as AUROC.
    """

    scored = tuple(CLASSES)

    def __init__(
        self,
        given: Sequence[str],
        expected: Sequence[str],
        image_ids: Sequence | None = None,
        others: Any = None,
    ):
        super().__init__(len(given), image_ids)
        self.others = others
        self.names = sorted({*given, *expected})
        place = {name: i for i, name in enumerate(self.names)}
        self.given = np.array([place[name] for name in given], dtype=np.int64)
        self.expected = np.array([place[name] for name in expected], dtype=np.int64)

    def score(self, name: str, rows: np.ndarray) -> float | None:
        if name not in CLASS_MEASURES:
            return self.others.score(name, rows)
        if not len(rows):
            return None
        counts = [np.bincount(of, minlength=len(self.names)) for of in self._counted(rows)]
        return float(100 * CLASS_MEASURES[name](*counts))

    def _counted(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        given, expected = self.given[rows], self.expected[rows]
        return expected[given == expected], given, expected

    def confusion(self) -> np.ndarray:
        """How often each class [expected, given] of `names` was."""
        table = np.zeros((len(self.names), len(self.names)), dtype=np.int64)
        np.add.at(table, (self.expected, self.given), 1)
        return table


def accuracy(hits: np.ndarray, given: np.ndarray, expected: np.ndarray) -> float:
    """The share of rows whose class is right, of the counts by class."""
    return hits.sum() / expected.sum()


def balanced_accuracy(hits: np.ndarray, given: np.ndarray, expected: np.ndarray) -> float:
    """The mean over the classes that are right somewhere of the share of their rows that were given them."""
    there = expected > 0
    return (hits[there] / expected[there]).mean()


def macro_f1(hits: np.ndarray, given: np.ndarray, expected: np.ndarray) -> float:
    """The mean over all classes that were given or right of F1 = 2 · hits / (given + right)."""
    there = given + expected > 0
    return (2 * hits[there] / (given + expected)[there]).mean() if there.any() else 0.0


CLASS_MEASURES = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1}


class LabelScores(Measured):
    """
    Several labels a row, or none.

    Args:
        given, expected: what the model said and what is right, by the names of the labels, a list a row.
        image_ids (*optional*): see `Measured`.
    """

    scored = tuple(LABEL_SETS)

    def __init__(
        self, given: Sequence[Sequence[str]], expected: Sequence[Sequence[str]], image_ids: Sequence | None = None
    ):
        super().__init__(len(given), image_ids)
        self.names = sorted({name for rows in (given, expected) for row in rows for name in row})
        self.given, self.expected = (self._multi_hot(rows) for rows in (given, expected))  # [rows, labels] bool

    def _multi_hot(self, rows: Sequence[Sequence[str]]) -> np.ndarray:
        place = {name: i for i, name in enumerate(self.names)}
        table = np.zeros((len(rows), len(self.names)), dtype=bool)
        for i, row in enumerate(rows):
            table[i, [place[name] for name in row]] = True
        return table

    def score(self, name: str, rows: np.ndarray) -> float | None:
        if not len(rows):
            return None
        given, expected = self.given[rows], self.expected[rows]
        if name == "subset_accuracy":
            return float(100 * (given == expected).all(1).mean())
        counts = [(given & expected).sum(0), given.sum(0), expected.sum(0)]
        if name == "micro_f1":
            hits, said, right = (count.sum() for count in counts)
            return float(100 * 2 * hits / (said + right)) if said + right else 100.0
        return float(100 * macro_f1(*counts))
