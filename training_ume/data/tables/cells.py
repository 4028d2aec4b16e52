"""What a cell holds, and what a column of them does."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from modeling_ume.cells_ume import NO_NUMBER, as_number, decimal_sign, missing, numbers_in
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality

NO_ANSWER_WORDS = {"nan", "none", "null", "na", "n/a", "<na>"}
HEAD = 1000  # rows that are looked at to tell what a column holds
LOOKED_INTO = 20  # of texts that may be lists
LONG = 50  # entries of lists, which nobody compares with others


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
        self.widths: set[int] = set()  # of lists of numbers; 0 of anything else
        self.files: Counter[str] = Counter()  # names of files, by the modality that reads such
        self.fields: dict[str, Holding] = {}  # of cells that are columns themselves, by name
        self.filled = self.empty = self.lists = self.sentences = self.none_words = 0
        self.example, self.first = "", None

    def add(self, values: Sequence[Any]) -> None:
        for value in values:
            value = plain(value)
            if value is None:
                self.empty += 1
                continue
            self.filled += 1
            if not self.example:
                self.example, self.first = _example(value), value
            kind = self._kind(value)
            self.kinds.add(kind)
            numbers = kind == "list" and all(isinstance(one, (int, float)) for one in value)
            self.widths.add(len(value) if numbers else 0)
            long = kind in ("image", "array") or (kind == "list" and len(value) > LONG)
            if len(self.distinct) <= HEAD and not long:
                self.distinct.add(value if isinstance(value, str) else repr(value))
            if isinstance(value, str) or kind == "image":
                self.files.update(files_of(value))
            if isinstance(value, dict) and kind == "other":
                for name, inner in value.items():
                    self.fields.setdefault(str(name), Holding(self.typed)).add([inner])
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
        if isinstance(value, (float, Decimal)):
            return "number"
        if isinstance(value, np.ndarray) and value.dtype != np.uint8 and value.dtype.kind in "iuf":
            return "array"
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
        return self.is_file_of(MODALITIES["vision"])

    def is_file_of(self, kind: Modality) -> bool:
        """Whether nine of ten cells are files that a modality reads, or names of them."""
        return self.filled > 0 and self.files[kind.name] >= 0.9 * self.filled

    @property
    def is_numbers(self) -> bool:
        """Whether every cell is an array of numbers, or numbers in lists."""
        if self.kinds == {"text"} and all(text.lstrip().startswith("[") for text in self.distinct):
            return all(map(_reads_as_numbers, list(self.distinct)[:LOOKED_INTO]))
        return bool(self.kinds) and self.kinds <= {"list", "array"} and self.parts <= {int, float, list, np.ndarray}

    @property
    def depth(self) -> int:
        """How deep the lists of numbers are that its cells hold, by the first; 1 for numbers alone."""
        value, found = self.first, 0
        if isinstance(value, str):
            value = numbers_in(value)
        while isinstance(value, (list, tuple)) or (hasattr(value, "__array__") and getattr(value, "ndim", 0)):
            value, found = (value[0] if len(value) else None), found + 1
        return max(found, 1)

    @property
    def width(self) -> int:
        """How many numbers each cell holds, where all are lists of as many numbers; else 0."""
        return max(self.widths) if len(self.widths) == 1 else 0

    @property
    def is_value(self) -> bool:
        """Whether cells are numbers, truth values, or words of which few differ."""
        if not self.filled or not self.kinds <= {"text", "whole", "number", "bool"} or self.lists > 0:
            return False
        if any(self.is_file_of(kind) for kind in MODALITIES.values()):
            return False
        return (
            self.kinds <= {"whole", "number", "bool"}
            or self.number_sign() is not None
            or (len(self.distinct) <= max(20, self.filled // 2) and not self.is_text)
        )

    def number_sign(self) -> str | None:
        """Which sign stands before the decimals of a column of texts that are all numbers; None for one of words, or
        where the numbers leave it open."""
        texts = [text for text in self.distinct if not missing(text, NO_NUMBER)]
        sign = decimal_sign(texts)
        try:
            return sign if texts and all(as_number(text, sign) is not None for text in texts) else None
        except ValueError:
            return None

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
        for kind in MODALITIES.values():
            if self.is_file_of(kind):
                return (kind.file_nouns if "image" in self.kinds else f"names of {kind.file_nouns}") + empty
        if self.fields:
            return f"{len(self.fields)} columns by name{empty}"
        if self.kinds == {"array"}:
            return f"arrays{empty}"
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


def _reads_as_numbers(text: str) -> bool:
    try:
        return numbers_in(text) is not None
    except ValueError:
        return False


def files_of(value: Any) -> list[str]:
    """The modalities that read a cell's file, which stands in it or is named: by its ending, or by its first bytes;
    what neither tells is a picture."""
    text = value
    if isinstance(value, dict):
        text = value.get("path")
    if not isinstance(text, str) or not text:
        return _told_by_content(value)
    if text.startswith("data:"):
        return ["vision"] if text.startswith("data:image/") else []
    end = (text.split("?")[0] if "://" in text else text).strip().lower()
    found = [kind.name for kind in MODALITIES.values() if kind.suffixes and end.endswith(kind.suffixes)]
    return found or (_told_by_content(value) or ["vision"] if isinstance(value, dict) else [])


def _told_by_content(value: Any) -> list[str]:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not content if isinstance(value, dict) else isinstance(value, str):
        return []
    first = bytes(content[:16]) if isinstance(content, (bytes, bytearray, memoryview)) else b""
    return [k.name for k in MODALITIES.values() if k.begins and re.match(k.begins, first, re.DOTALL)] or ["vision"]


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
