"""What a cell holds, and what a column of them does."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from training_ume.data.images import IMAGE_SUFFIXES

NO_ANSWER_WORDS = {"nan", "none", "null", "na", "n/a", "<na>"}
HEAD = 1000  # rows that are looked at to tell what a column holds


# ---------------------------------------------------------------------------------------------------------- one cell


def plain(value: Any) -> Any:
    """A cell without numpy's and pandas' wrapping; None for whatever means that it is empty."""
    kind = type(value)
    if value is None or kind is str:
        return value if value and not value.isspace() else None
    if kind is int or kind is bool:
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value != value:
        return None
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    return value


def as_list(text: str) -> list | None:
    """The list that a string writes out, in JSON's or Python's way; None where it is none."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    if not isinstance(value, list) or not all(isinstance(part, (str, int, float, dict)) for part in value):
        return None
    return value


def is_number(text: str) -> bool:
    """Whether a cell of text is a decimal number as numbers are written: no 007, which is a name; no nan."""
    found = re.fullmatch(r"[+-]?((?:0|[1-9][0-9]*)?)(\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", text)
    # Of a whole number of more than 18 digits, which is an id, a float would keep the first 15.
    return found is not None and bool(found[1] or found[2]) and (len(found[1]) <= 18 or found[2] is not None)


def is_whole(text: str) -> bool:
    """Whether a cell of text is a whole number of at most 64 bits, written in the one usual way."""
    return re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text) is not None


# -------------------------------------------------------------------------------------------------------- one column


class Holding:
    """What a column holds, by the cells that were looked at."""

    def __init__(self, typed: bool):
        self.typed = typed  # strings are strings; else they are the cells of a text file, of which some are numbers
        self.kinds: set[str] = set()
        self.distinct: set[str] = set()
        self.parts: set[type] = set()  # of lists
        self.filled = self.empty = self.images = self.lists = self.sentences = self.none_words = 0
        self.example = ""

    def add(self, values: Sequence[Any]) -> None:
        for value in values:
            value = plain(value)
            if value is None:
                self.empty += 1
                continue
            self.filled += 1
            if not self.example:
                self.example = _example(value)
            kind = self._kind(value)
            self.kinds.add(kind)
            if len(self.distinct) <= HEAD and kind != "image":
                self.distinct.add(value if isinstance(value, str) else repr(value))
            if kind == "image" or (isinstance(value, str) and _names_image(value)):
                self.images += 1
            if isinstance(value, str):
                self.sentences += value.rstrip().endswith(("?", "？")) or len(value.split()) > 2
                self.none_words += value.strip().lower() in NO_ANSWER_WORDS
                if value.lstrip()[:1] == "[" and self.lists >= 0 and self.lists == self.filled - 1:
                    self.lists += as_list(value) is not None

    def _kind(self, value: Any) -> str:
        if isinstance(value, str):
            if self.typed:
                return "text"
            return "whole" if is_whole(value.strip()) else "number" if is_number(value.strip()) else "text"
        if isinstance(value, bool):
            return "bool"
        if isinstance(value, int):
            return "whole"
        if isinstance(value, float):
            return "number"
        if is_picture(value):
            return "image"
        if isinstance(value, (list, tuple)):
            if len(value) == 1 and is_picture(value[0]):
                return "image"
            self.parts.update(map(type, value))
            return "list"
        return "other"

    @property
    def is_image(self) -> bool:
        """Whether nine of ten cells are pictures or names of them."""
        return self.filled > 0 and self.images >= 0.9 * self.filled

    @property
    def is_number(self) -> bool:
        return bool(self.kinds) and self.kinds <= {"whole", "number"}

    @property
    def reads_as_list(self) -> bool:
        """Whether every cell is a list that was written out as text."""
        return self.filled > 0 and self.lists == self.filled

    @property
    def is_text(self) -> bool:
        """Whether it reads like questions or sentences."""
        return self.kinds == {"text"} and not self.is_image and self.sentences >= 0.6 * self.filled

    @property
    def is_class(self) -> bool:
        """Whether it may be an answer or a label: text or numbers, of which few differ."""
        if not self.filled or self.is_image or not self.kinds <= {"text", "whole", "number", "bool", "list"}:
            return False
        return self.is_number or "list" in self.kinds or len(self.distinct) <= max(20, self.filled // 2)

    def words_for(self) -> str:
        """What it holds, in words."""
        if not self.filled:
            return "nothing"
        empty = f", {self.empty:,} empty" if self.empty else ""
        if self.is_image:
            return ("pictures" if "image" in self.kinds else "names of pictures") + empty
        if self.reads_as_list or "list" in self.kinds:
            return "lists" + empty
        number = f"{len(self.distinct):,}" if len(self.distinct) <= HEAD else f"over {HEAD:,}"
        kind = "numbers" if self.is_number else "texts" if self.kinds <= {"text", "whole", "number"} else "values"
        return f"{number} different {kind}{empty}" if number != "1" else f"one {kind[:-1]}{empty}"


def is_picture(value: Any) -> bool:
    """Whether a cell is a picture itself: bytes, {"bytes", "path"}, a PIL image, an array of rows of pixels."""
    if isinstance(value, (bytes, bytearray)) or (isinstance(value, np.ndarray) and value.ndim in (2, 3)):
        return True
    if isinstance(value, dict):
        return set(value) <= {"bytes", "path"} and bool(value)
    return type(value).__module__.startswith("PIL.")


def _names_image(text: str) -> bool:
    end = text.split("?")[0] if "://" in text else text
    return end.strip().lower().endswith(tuple(IMAGE_SUFFIXES)) or text.startswith("data:image/")


def _example(value: Any) -> str:
    if is_picture(value):
        return f"({type(value).__name__})"
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:39]}…"


def class_name(value: Any, names: list[str]) -> str | None:
    """The name of a class by its number; -1 is what `datasets` writes for none."""
    if isinstance(value, str) or value is None:
        return value
    if value == -1:
        return None
    if not 0 <= value < len(names):
        return str(value)
    return names[value]


def written(value: bool | int | float) -> str:
    """A number as people write it: frames make 3.0 of 3 as soon as one cell is empty."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def comparable(value: Any) -> str:
    """A value of `where`, which may come as text from a command line, as it is compared."""
    return "" if value is None else written(value) if isinstance(value, (bool, int, float)) else str(value)
