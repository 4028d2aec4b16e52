"""Answers that are numbers: read from text, and standardised by those of the training rows.

Rows hold them in `answers`, as all answers are, as text. One column of answers is one number, of which several in a
row are what several people said, and their mean counts. Several columns are several numbers, one each by its place;
the table's feature then has that length, and `""` stands where a number is not known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)?(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
DIGIT = re.compile(r"\d", re.ASCII)


def parse_number(text: str) -> float:
    """
    The number that a text is: decimals with a point, perhaps commas between thousands, perhaps an exponent.

    Returns:
        `float`: nan of a text without a visible character, which is a number that nobody knows.

    Raises:
        ValueError: for any other text, with what to write instead.
    """
    text = text.strip()
    if not text:
        return math.nan
    if NUMBER.fullmatch(text) and DIGIT.search(text) and text[0] not in "eE":
        number = float(text.replace(",", ""))
        if math.isfinite(number):
            return number
    shown = text if len(text) <= 40 else f"{text[:39]}…"
    hint = "write it as 1234.5"
    if text.lower() in ("nan", "none", "null", "na", "n/a", "<na>", "-", "?", "unknown"):
        hint = "leave the cell empty where a number is not known"
    elif text.lower().lstrip("+-") in ("inf", "infinity"):
        hint = "write a finite number, or leave the cell empty"
    elif DIGIT.search(text) and re.search(r"[^\d\s.,+-eE]", text):
        hint = "write the number alone, without its unit"
    elif "," in text:
        hint = "write a point before decimals, and commas between groups of three digits at most"
    raise ValueError(f"{shown!r} is no number: {hint}")


def count_numbers(rows: Dataset) -> int:
    """How many numbers each row has an answer for, by the feature of its answers."""
    return max(1, getattr(rows.features["answers"], "length", -1))


def numbers_in(answers: Sequence[Sequence[str]], count: int, ids: Sequence[Any] | None = None) -> np.ndarray:
    """
    The numbers of rows.

    Args:
        answers: a row's answers each.
        count (`int`): how many numbers a row has.
        ids (*optional*): what the rows are called in messages; their places from 0 on where left out.

    Returns:
        `np.ndarray` [rows, count], float64; nan where a number is not known.

    Raises:
        ValueError: for an answer that is no number, or a row that has not one for each, naming the row.
    """
    numbers = np.full((len(answers), count), np.nan)
    for i, row in enumerate(answers):
        where = f"The row with question_id {ids[i]}" if ids is not None else f"The row at index {i}"
        if count > 1 and len(row) not in (0, count):
            raise ValueError(
                f"{where} has {len(row)} answers, and there are {count} numbers: give one each, by its place, and an "
                "empty text where one is not known."
            )
        try:
            given = [parse_number(str(answer)) for answer in row]
        except ValueError as error:
            raise ValueError(f"{where} has an answer that is no number ({error}).") from None
        if count > 1:
            numbers[i, : len(given)] = given
        elif given := [number for number in given if number == number]:
            numbers[i, 0] = sum(given) / len(given)
    return numbers


class NumberTargets:
    """
    The numbers that a model gives, in place of the answers of an `AnswerVocabulary`: their names, and what labels are.

    Args:
        names: what each number is called.
        mean, std: of the labels, after `transform`, one a number; None: 0 and 1.
        transform (`str`, *optional*): `"log"`, or nothing.
    """

    def __init__(
        self,
        names: Sequence[str],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        transform: str | None = None,
    ):
        self.id2label = dict(enumerate(names))
        self.mean, self.std, self.transform = mean, std, transform

    @classmethod
    def from_answers(
        cls, answers: Sequence[Sequence[str]], names: Sequence[str], transform: str | None = None
    ) -> NumberTargets:
        """
        Fits mean and standard deviation to the answers of the training rows.

        Raises:
            ValueError: for answers that are no numbers or have no logarithm, and for a number that nobody knows or
                that is always the same.
        """
        numbers = numbers_in(answers, len(names))  # [N, C]
        means, deviations = [], []
        for name, column in zip(names, numbers.T, strict=True):
            known = column[~np.isnan(column)]
            if not len(known):
                raise ValueError(f"No training row says a number for {name!r}: leave that column out.")
            if transform == "log" and known.min() <= 0:
                raise ValueError(
                    f"{name!r} is {known.min():g} in a training row, which has no logarithm: leave label_transform "
                    "out (`--label_transform null`), or give numbers above 0."
                )
            learned = np.log(known) if transform == "log" else known
            means.append(float(learned.mean()))
            deviations.append(float(learned.std()))
            if deviations[-1] <= 1e-12 * abs(means[-1]):
                raise ValueError(
                    f"{name!r} is {known[0]:g} in all {len(known):,} training rows that say it: there is nothing to "
                    "learn."
                )
        return cls(names, means, deviations, transform)

    def __len__(self) -> int:
        return len(self.id2label)

    @property
    def names(self) -> list[str]:
        return list(self.id2label.values())

    def numbers(self, answers: Sequence[Sequence[str]], ids: Sequence[Any] | None = None) -> np.ndarray:
        """See `numbers_in`."""
        return numbers_in(answers, len(self), ids)

    def targets(self, answers: Sequence[Sequence[str]], ids: Sequence[Any] | None = None) -> Tensor:
        """The labels of rows in their unit, [B, C] float32; nan where one is not known."""
        return torch.from_numpy(self.numbers(answers, ids)).float()

    @property
    def usual(self) -> list[float]:
        """What is right on average, in the unit: the mean, or the exponential of the logarithms' mean."""
        means = self.mean or [0.0] * len(self)
        return [math.exp(mean) for mean in means] if self.transform == "log" else list(means)

    def config_fields(self) -> dict[str, Any]:
        """What a config is told of them, beside their names."""
        return {"label_mean": self.mean, "label_std": self.std, "label_transform": self.transform}
