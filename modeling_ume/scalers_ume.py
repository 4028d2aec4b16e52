"""What is kept of the training rows to read others: means and deviations, and of tables the categories.

Small objects that a processor holds as parts, and its processor_config.json as dicts.
"""

import math
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, fields
from statistics import NormalDist

import numpy as np

from .cells_ume import as_number, missing
from .stored_ume import nearest


class _Kept:
    """As a dict of what JSON knows, and back."""

    def to_dict(self) -> dict:
        return {own.name: getattr(self, own.name) for own in fields(self)}

    @classmethod
    def from_dict(cls, said: dict):
        """
        Raises:
            ValueError: for fields that are not its own, or contradict one another.
        """
        known = {own.name for own in fields(cls)}
        for name in said:
            if name not in known:
                raise ValueError(f"{cls.__name__} has no field {name!r}.{nearest(name, known)}")
        return cls(**said)


def mean_and_deviation(count: float, total: float, squares: float) -> tuple[float, float]:
    """Of numbers by their sums; 1 where they do not differ, which then become 0."""
    if not count:
        return 0.0, 1.0
    mean = total / count
    deviation = math.sqrt(max(squares / count - mean * mean, 0.0))
    # Sums of equal numbers leave a rest of rounding.
    return mean, deviation if deviation > 1e-6 * max(abs(mean), 1e-30) else 1.0


@dataclass
class SeriesScaler(_Kept):
    """
    Means and deviations of the channels of series, over all steps of all training rows.

    Args:
        means, deviations (`list[float]`): one a channel, in the data's own unit.
        length (`int`, *optional*): the most steps that are read of a series, from its beginning; None: all.
    """

    means: list[float]
    deviations: list[float]
    length: int | None = None

    def __post_init__(self):
        self.means, self.deviations = _floats("means", self.means), _floats("deviations", self.deviations, above=0)
        if len(self.means) != len(self.deviations) or not self.means:
            raise ValueError(
                f"{len(self.means)} means and {len(self.deviations)} deviations are no scaler: give one of each a "
                "channel."
            )
        if self.length is not None and (not isinstance(self.length, int) or self.length < 1):
            raise ValueError(f"length={self.length!r} is impossible: it is a number of steps, 1 or more.")

    @property
    def channels(self) -> int:
        return len(self.means)

    @classmethod
    def fit(cls, series, length: int | None = None) -> "SeriesScaler":
        """
        Args:
            series: iterable of arrays or lists [steps, channels], of one channel [steps], with NaN (in lists None)
                where a value is missing; None for none.

        Raises:
            ValueError: where there is none, or one has another number of channels or is no numbers.
        """
        sums, first = None, None
        for number, array in enumerate(series):
            if array is None or not len(array):
                continue
            try:
                array = np.asarray(array, dtype=float)
            except (TypeError, ValueError) as error:
                raise ValueError(f"The series of row {number} is no array of numbers ({error}).") from error
            array = array[:, None] if array.ndim == 1 else array
            if array.ndim != 2:
                raise ValueError(f"The series of row {number} has shape {list(array.shape)}: give [steps, channels].")
            # Numbers far from 0 that hardly differ: their squares alone would hold no deviation.
            if sums is None:
                sums = np.zeros((3, array.shape[1]))
                first = np.nan_to_num(array[0])
            if array.shape[1] != sums.shape[1]:
                raise ValueError(
                    f"The series of row {number} has {array.shape[1]} channels, and those before it {sums.shape[1]}: "
                    "give each row the same, with NaN (empty) where one was not measured."
                )
            there = ~np.isnan(array)
            moved = np.where(there, array - first, 0.0)
            sums += np.stack([there.sum(0), moved.sum(0), (moved**2).sum(0)])
        if sums is None:
            raise ValueError("No training row has a series: nothing is known of its channels.")
        found = [mean_and_deviation(*column) for column in sums.T]
        means = [mean + float(start) for (mean, _), start in zip(found, first, strict=True)]
        return cls(means, [deviation for _, deviation in found], length)

    def __call__(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        [steps, channels] → the same in deviations from the mean, 0 where one is missing, and which are there.

        Raises:
            ValueError: for another number of channels.
        """
        if array.shape[1] != self.channels:
            turned = ", steps first (this one seems to lie on its side)" if len(array) == self.channels else ""
            raise ValueError(
                f"The series has {array.shape[1]} channels, and the model was trained with {self.channels}: give "
                f"[steps, {self.channels}]{turned}."
            )
        there = ~np.isnan(array)
        scaled = (array - np.asarray(self.means)) / np.asarray(self.deviations)
        return np.where(there, scaled, 0.0), there


def _floats(name: str, values, above: float | None = None) -> list[float]:
    found = [float(value) for value in values]
    if not all(math.isfinite(value) and (above is None or value > above) for value in found):
        more = "" if above is None else f" above {above:g}"
        raise ValueError(f"{name}={str(values)[:60]} is impossible: give finite numbers{more}.")
    return found


MISSING_ID, UNKNOWN_ID = 0, 1  # of every column of categories; the known ones follow
QUANTILES = 101


@dataclass
class TableScaler(_Kept):
    """
    What the columns of a table hold: means and deviations of numbers, and the categories of all others.

    Args:
        numbers (`list[str]`): columns of numbers, in the order of `table_numbers`.
        means, deviations (`list[float]`): one of each.
        categories (`dict[str, list[str]]`): by column, in the order of `table_categories`, the categories that are
            known; the first has the id 2. Id 0 is a missing one, and 1 one that no training row had.
        quantiles (`dict[str, list[float]]`, *optional*): by column of numbers, values at even shares of the training
            rows: a number is then what a normal distribution has at its share, instead of deviations from the mean.
    """

    numbers: list[str]
    means: list[float]
    deviations: list[float]
    categories: dict[str, list[str]]
    quantiles: dict[str, list[float]] | None = field(default=None)

    def __post_init__(self):
        self.means, self.deviations = _floats("means", self.means), _floats("deviations", self.deviations, above=0)
        if not len(self.numbers) == len(self.means) == len(self.deviations):
            raise ValueError(
                f"{len(self.numbers)} columns of numbers have {len(self.means)} means and {len(self.deviations)} "
                "deviations: give one of each a column."
            )
        if len({*self.columns}) < len(self.columns) or not self.columns:
            raise ValueError(f"The columns {', '.join(self.columns) or '(none)'} are no table: name each once.")
        self._ids = {
            name: {category: number for number, category in enumerate(known, UNKNOWN_ID + 1)}
            for name, known in self.categories.items()
        }

    @property
    def columns(self) -> list[str]:
        """The names of all columns, numbers first: the order of an encoder's tokens."""
        return [*self.numbers, *self.categories]

    @property
    def category_sizes(self) -> list[int]:
        """How many ids each column of categories has, the missing and the unknown one among them."""
        return [len(known) + UNKNOWN_ID + 1 for known in self.categories.values()]

    @classmethod
    def fit(cls, rows, quantiles: bool = False, min_count: int = 1) -> "TableScaler":
        """
        Args:
            rows: iterable of dicts, column: number, text, or None where it is missing; None for a row without any.
            quantiles: whether numbers go by their rank.
            min_count: categories of fewer rows are one, the unknown.

        Raises:
            ValueError: where no row has any.
        """
        values: dict[str, list[float]] = {}
        counts: dict[str, Counter] = {}
        for row in rows:
            for name, value in (row or {}).items():
                if isinstance(value, str) and not missing(value):
                    counts.setdefault(name, Counter())[value] += 1
                else:
                    # Of a column that is empty so far it is not known yet what it holds.
                    held = values.setdefault(name, [])
                    if value is not None and (found := as_number(value)) is not None:
                        held.append(found)
        names = [name for name in values if name not in counts]
        if not names and not counts:
            raise ValueError("No training row has a table: nothing is known of its columns.")
        means, deviations, ranks = [], [], {}
        for name in names:
            array = np.asarray(values[name], dtype=np.float64)
            first = array[0] if len(array) else 0.0
            moved = array - first
            mean, deviation = mean_and_deviation(len(array), moved.sum(), (moved**2).sum())
            means.append(mean + float(first))
            deviations.append(deviation)
            if quantiles and len(array):
                ranks[name] = np.quantile(array, np.linspace(0, 1, min(QUANTILES, len(array)))).tolist()
        categories = {
            name: sorted(category for category, count in known.items() if count >= min_count)
            for name, known in counts.items()
        }
        return cls(names, means, deviations, categories, ranks if quantiles else None)

    def __call__(self, row: dict) -> tuple[list[float], list[int]]:
        """
        One row → its numbers, in deviations or by rank, NaN where one is missing, and the ids of its categories.

        Raises:
            ValueError: for a column that the training rows had not, or what is no number in one of numbers.
        """
        for name in row:
            if name not in self.columns:
                raise ValueError(
                    f"The table has a column {name!r}, with which the model was not trained: it knows "
                    f"{', '.join(map(repr, self.columns[:20]))}.{nearest(str(name), self.columns)}"
                )
        numbers = []
        for name, mean, deviation in zip(self.numbers, self.means, self.deviations, strict=True):
            try:
                value = as_number(row.get(name))
            except ValueError as error:
                raise ValueError(f"The column {name!r} of the table holds numbers: {error}.") from error
            if value is not None:
                value = (value - mean) / deviation if not self.quantiles else self._by_rank(name, value)
            numbers.append(math.nan if value is None else value)
        return numbers, [self._id(name, row.get(name)) for name in self.categories]

    def _by_rank(self, name: str, value: float) -> float:
        known = self.quantiles.get(name) or [0.0]
        # Between two equal values, the middle of their ranks.
        low = bisect_left(known, value)
        high = len(known) - bisect_left([-one for one in reversed(known)], -value)
        share = (low + high) / 2 / len(known)
        if 0 < low == high < len(known):  # between two values that are known
            part = (value - known[low - 1]) / (known[low] - known[low - 1])
            share = (low - 0.5 + part) / len(known)
        edge = 0.5 / len(known)
        return NormalDist().inv_cdf(min(max(share, edge), 1 - edge))

    def _id(self, name: str, value) -> int:
        if missing(value):
            return MISSING_ID
        if not isinstance(value, str):
            value = str(int(value)) if float(value).is_integer() else str(value)
        return self._ids[name].get(value, UNKNOWN_ID)
