"""Scores of all rows together, of any part of them, and of draws of them: what intervals are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

RESAMPLES = 1000


class Measured:
    """
    What was given and what is right, row by row.

    Args:
        count (`int`): how many rows there are.
        image_ids (*optional*): rows that are drawn together; each by itself where left out.

    Attributes:
        scored: the names of the scores.
    """

    scored: Sequence[str] = ()

    def __init__(self, count: int, image_ids: Sequence | None = None):
        self.count = count
        self.image_ids = list(range(count)) if image_ids is None else list(image_ids)

    def each(self, name: str) -> None:
        """No score of these is a mean over the rows; see `Answered.each`."""
        return None

    def score(self, name: str, rows: np.ndarray) -> float | None:
        """A score of some rows, by their places, which may come several times; None: they have none."""
        raise NotImplementedError

    def scores(self) -> dict:
        """All scores of all rows."""
        rows = np.arange(self.count)
        return {name: self.score(name, rows) for name in self.scored}

    def draws(self, seed: int = 0) -> Iterator[np.ndarray]:
        """The rows of as many images as there are, drawn with replacement, again and again."""
        groups: dict = defaultdict(list)
        for row, image in enumerate(self.image_ids):
            groups[image].append(row)
        groups = [np.array(group) for group in groups.values()]
        generator = np.random.default_rng(seed)
        for _ in range(RESAMPLES):
            chosen = generator.integers(len(groups), size=len(groups))
            yield np.concatenate([groups[i] for i in chosen])

    def interval(self, name: str, level: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
        """Percentile bootstrap interval of a score over images; None where no draw has one."""
        draws = [value for rows in self.draws(seed) if (value := self.score(name, rows)) is not None]
        if not draws:
            return None
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)
