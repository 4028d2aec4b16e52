"""The parts of one input that an explanation scores: what they are, and what stands there once a part is taken away.

A modality says it of its own inputs (`Modality.parts`); whoever takes parts away needs to know nothing more of it.
"""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


class Axis(NamedTuple):
    """
    What parts are counted by, along one axis.

    Attributes:
        name: "time", "frequency", "channel", "column" …
        labels: one a part.
        edges: where each part begins, and the last one ends, in `unit`; None where there is nothing between parts.
        unit: of the edges.
    """

    name: str
    labels: list[str]
    edges: list[float] | None = None
    unit: str = ""


@dataclass
class Parts:
    """
    How one input is divided.

    Attributes:
        axes: the parts are all combinations of what stands along each, the last axis running fastest.
        of: by the input's name, the number of the part that each of its values belongs to, shaped like a row of it;
            −1 of what belongs to none, and always stays.
        blank: by the input's name, what stands in the place of each value where its part is taken away, alike.
        picture: how it is drawn: "map" (over `shown` [height, width], its first row the lowest), "curves" (beside
            `shown` [steps, channels]), "frames" (over `shown` [frames, height, width, 3] in 0 … 1), "bars" (one a
            part).
        shown: see there; None: nothing but the scores.
    """

    axes: tuple[Axis, ...]
    of: dict[str, Tensor]
    blank: dict[str, Tensor]
    picture: str = "bars"
    shown: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis.labels) for axis in self.axes)

    def __len__(self) -> int:
        return math.prod(self.shape)

    def names(self) -> list[str]:
        """What each part is called, in their order."""
        found = [""]
        for axis in self.axes:
            found = [f"{before}, {label}" if before else label for before in found for label in axis.labels]
        return found

    def without(self, inputs: dict[str, Tensor], hidden: Tensor) -> dict[str, Tensor]:
        """
        Inputs of one row with some parts taken away, in several ways.

        Args:
            inputs: those of `of`, [1, …].
            hidden: [M, P] bool, which parts are taken away.

        Returns:
            The same inputs, [M, …].
        """
        found = {}
        for name, of in self.of.items():
            value, of = inputs[name][0], of.to(inputs[name].device)
            # What belongs to none looks at a part that is never taken away.
            stays = hidden.new_zeros(len(hidden), 1)
            gone = torch.cat([hidden, stays], dim=1).to(value.device)[:, of]  # [M, …]
            found[name] = torch.where(gone, self.blank[name].to(value), value)
        return found

    def summed(self, name: str, scores: Tensor) -> Tensor:
        """Scores shaped like a row of an input → their sum over each part, [P], in float64."""
        of = self.of[name].to(scores.device).expand(scores.shape)
        sums = scores.new_zeros(len(self) + 1, dtype=torch.float64)
        sums.index_add_(0, torch.where(of < 0, len(self), of).flatten(), scores.double().flatten())
        return sums[:-1]


def cells_of(length: int, most: int) -> Tensor:
    """[length]: which of up to `most` stretches, as equal as may be, each of so many places lies in."""
    return torch.arange(length) * min(length, most) // max(length, 1)


def stretches(name: str, cells: Tensor, step: float = 1.0, unit: str = "") -> Axis:
    """The axis of `cells_of`, where one place is `step` of the unit long."""
    count = int(cells[-1]) + 1
    starts = [int((cells == cell).nonzero()[0]) for cell in range(count)]
    edges = [step * start for start in (*starts, len(cells))]
    return Axis(name, between(edges, unit), edges, unit)


def between(edges: list[float], unit: str) -> list[str]:
    """Labels of what lies between edges."""
    return [f"{low:.4g}–{high:.4g}{unit and ' '}{unit}" for low, high in pairwise(edges)]


def numbered(name: str, count: int) -> Axis:
    return Axis(name, [f"{name} {number}" for number in range(1, count + 1)])


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end; a mark is a word, too."""
    return [match.span() for match in WORD.finditer(text)]


def word_of(spans: list[tuple[int, int]], start: int, end: int) -> int:
    """The word that a token from `start` to `end` shares most with; of one that is a space only, that behind it."""
    return max(range(len(spans)), key=lambda i: (min(spans[i][1], end) - max(spans[i][0], start), spans[i][0]))
