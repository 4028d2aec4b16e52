"""Scores of numbers against those that were known, overall and of some rows, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from configuration_ume.scores import NUMBERS
from training_ume.records.measured import Measured


class NumberScores(Measured):
    """
    Given and known numbers, and scores of any of their rows.

    Args:
        given (`np.ndarray` of shape [rows, numbers]): what the model said.
        known (`np.ndarray` of shape [rows, numbers]): what is right, nan where nobody knows.
        names: of the numbers.
        image_ids (*optional*): rows that intervals draw together; each by itself where left out.
        logs (`bool`): also R² of the logarithms.
    """

    def __init__(
        self,
        given: np.ndarray,
        known: np.ndarray,
        names: Sequence[str],
        image_ids: Sequence | None = None,
        logs: bool = False,
    ):
        self.given = np.asarray(given, dtype=np.float64).reshape(-1, len(names))
        self.known = np.asarray(known, dtype=np.float64).reshape(-1, len(names))
        if self.given.shape != self.known.shape:
            raise ValueError(f"{len(self.given)} numbers were given for {len(self.known)} rows.")
        super().__init__(len(self.given), image_ids)
        self.names = list(names)
        self.scored = [name for name in NUMBERS if logs or name != "r2_log"]

    def score(self, name: str, rows: np.ndarray) -> float | None:
        """
        A score of some rows, by their places, which may come several times.

        Of several numbers it is the mean of theirs. None where no row has a number that is known, and of R² and the
        correlations where all that is known is the same.
        """
        each = [self._of(name, rows, i) for i in range(len(self.names))]
        each = [value for value in each if value is not None]
        return float(np.mean(each)) if each else None

    def _of(self, name: str, rows: np.ndarray, column: int) -> float | None:
        given, known = self.given[rows, column], self.known[rows, column]
        there = ~np.isnan(known)
        given, known = given[there], known[there]
        return None if not len(known) else MEASURES[name](given, known)

    def scores(self) -> dict:
        """All scores of all rows, and of several numbers each one's (`per_number`)."""
        found, rows = super().scores(), np.arange(self.count)
        if len(self.names) > 1:
            found["per_number"] = {
                of: {name: self._of(name, rows, i) for name in self.scored} for i, of in enumerate(self.names)
            }
        return found


def r2(given: np.ndarray, known: np.ndarray) -> float | None:
    """The coefficient of determination, 1 − Σ (y − ŷ)² / Σ (y − ȳ)²; None where all y are the same."""
    spread = np.square(known - known.mean()).sum()
    return float(1 - np.square(known - given).sum() / spread) if spread > 0 and known.min() < known.max() else None


def _r2_of_logs(given: np.ndarray, known: np.ndarray) -> float | None:
    if known.min() <= 0 or given.min() <= 0:
        return None
    return r2(np.log(given), np.log(known))


def pearson(given: np.ndarray, known: np.ndarray) -> float | None:
    """Pearson's correlation; None where one of both is always the same."""
    if given.min() == given.max() or known.min() == known.max():
        return None
    given, known = given - given.mean(), known - known.mean()
    scale = np.sqrt(np.square(given).sum() * np.square(known).sum())
    return float((given * known).sum() / scale) if scale > 0 else None


def ranks(values: np.ndarray) -> np.ndarray:
    """Places in ascending order; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


MEASURES = {
    "r2": r2,
    "mae": lambda given, known: float(np.abs(known - given).mean()),
    "rmse": lambda given, known: float(np.sqrt(np.square(known - given).mean())),
    "pearson": pearson,
    "spearman": lambda given, known: pearson(ranks(given), ranks(known)),
    "r2_log": _r2_of_logs,
}
