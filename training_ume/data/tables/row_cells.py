"""What a row holds of a modality beyond the question and the image: a file's path, numbers in lists, named columns."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from modeling_ume.cells_ume import MISSING, as_number, decimal_sign, missing, numbers_in
from modeling_ume.modality_base_ume import Modality
from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import _BadEntry
from training_ume.data.tables.cells import Holding, class_name, plain, written
from training_ume.data.tables.images import RowFiles
from training_ume.data.tables.roles import column_kind, columns_of, normal
from training_ume.data.tables.table import Table

# Whole numbers that are names: no one is between two others.
CODES = re.compile(r"(.*_)?(zip|zip_?code|post_?code|postal_?code|plz)")

# Of so many different texts that more than this share are numbers, the others are slips.
FEW, MOSTLY = 10, 0.8


class Files:
    """A column of files: rows hold the path of each, `""` where there is none."""

    arrow = pa.string()

    def __init__(self, kind: Modality, column: str, finder: RowFiles):
        self.kind, self.columns, self.finder = kind, [column], finder

    def __call__(self, cells: Mapping[str, list], i: int) -> str:
        value = plain(cells[self.columns[0]][i])
        if isinstance(value, (list, tuple)):
            if len(value) > 1:
                reason = f"there are {len(value)} {self.kind.nouns} in the row, and a row has one"
                raise _BadEntry("malformed_entry", reason)
            value = plain(value[0]) if value else None
        return "" if value is None else self.finder.find(value)[0]

    def described(self) -> list[str]:
        return []


class Numbers:
    """Columns of numbers: rows hold lists of them, as the modality makes them of the cells."""

    def __init__(self, kind: Modality, columns: list[str], depth: int, steps: Collection[str] = ()):
        self.kind, self.columns, self.steps = kind, columns, steps
        self.arrow = pa.float64()
        for _ in range(depth):
            self.arrow = pa.list_(self.arrow)

    def __call__(self, cells: Mapping[str, list], i: int) -> list | None:
        try:
            return self.kind.cell({column: self._cell(column, cells[column][i]) for column in self.columns})
        except ValueError as error:
            raise _BadEntry(f"malformed_{self.kind.noun}", str(error).rstrip(".")) from error

    def _cell(self, column: str, value: Any) -> Any:
        """What stands in a column, a list that is said to be one step as such."""
        return [found] if column in self.steps and (found := numbers_in(value)) is not None else value

    def described(self) -> list[str]:
        if len(self.columns) < 2:
            return []
        return [f"{len(self.columns)} columns make one {self.kind.noun}: {_named(self.columns)}."]


@dataclass
class Value:
    """One column of a table in a row: whether its cells are categories, and which sign stands before decimals."""

    name: str
    category: bool
    sign: str | None = None
    classes: Sequence[str] | None = None

    def of(self, cells: Mapping[str, list], i: int) -> Any:
        return cells[self.name][i]

    def __call__(self, value: Any) -> float | str | None:
        if self.classes is not None:
            value = class_name(value, self.classes)
        value = plain(value)
        if not self.category:
            return as_number(value, self.sign)
        if missing(value, MISSING):
            return None
        return written(value) if isinstance(value, (bool, int, float)) else str(value)


@dataclass
class Entry(Value):
    """One number of a column whose cells are lists of so many numbers each."""

    column: str = ""
    place: int = 0

    def of(self, cells: Mapping[str, list], i: int) -> Any:
        value = numbers_in(cells[self.column][i])
        return None if value is None or self.place >= len(value) else value[self.place]


@dataclass
class Named:
    """Columns that stay apart: rows hold each under its name, numbers as numbers, all others as texts."""

    kind: Modality
    columns: list[str]
    values: list[Value]
    inside: bool = False  # whether one column holds them all, a dict in each cell
    notes: list[str] = field(default_factory=list)

    @property
    def spread(self) -> set[str]:
        """The columns whose lists stand in several of its own."""
        return {value.column for value in self.values if isinstance(value, Entry)}

    @property
    def arrow(self) -> pa.DataType:
        return pa.struct([(value.name, pa.string() if value.category else pa.float64()) for value in self.values])

    def __call__(self, cells: Mapping[str, list], i: int) -> dict | None:
        given = (plain(cells[self.columns[0]][i]) or {}) if self.inside else cells
        found = {}
        for value in self.values:
            held = given.get(value.name) if self.inside else value.of(given, i)
            try:
                found[value.name] = value(held)
            except ValueError as error:
                bad = _BadEntry(f"malformed_{self.kind.noun}", f"{error}, as the others of the column are numbers")
                bad.column = value.name
                raise bad from error
        return None if all(value is None for value in found.values()) else found

    def described(self) -> list[str]:
        lines = []
        for category, what in ((False, "numbers"), (True, "categories")):
            names = [value.name for value in self.values if value.category is category]
            if names:
                lines.append(f"Of the {self.kind.noun}, {what}: {_named(names)}.")
        return [*lines, *self.notes]


RowCell = Files | Numbers | Named


def _named(columns: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(map(repr, columns[:most]))
    return shown if len(columns) <= most else f"{shown} and {len(columns) - most} more"


def row_cell(kind: Modality, column: Any, table: Table, held: Mapping[str, Holding], finder: RowFiles) -> RowCell:
    """
    What rows hold of a modality.

    Args:
        kind: the modality.
        column: the column, or the columns, that are of it, see `given_columns`.
        held: what each column holds.
        finder: finds the files that its cells name.

    Raises:
        VQADataError: for columns that can be none of it.
    """
    names = columns_of(column)
    if kind.by_name:
        return _named_columns(kind, names, table, held)
    said_of = dict(column_kind(name, table.columns) for name in names)
    names = list(said_of)
    for name in names:
        if not held[name].filled:
            raise VQADataError(
                f"{table.name}: the column {name!r}, which is given for {kind.column!r}, holds nothing. Leave it out."
            )
    files = kind.in_files or held[names[0]].is_file_of(kind)
    if files and len(names) > 1:
        raise VQADataError(
            f"{table.name}: {_named(names)} are given for {kind.column!r} and hold names of files, of which a row has "
            "one: give one column."
        )
    if files:
        return Files(kind, names[0], finder)
    steps = {name for name, said in said_of.items() if said == "step"}
    return Numbers(kind, names, kind.depth or held[names[0]].depth + bool(steps), steps)


def _named_columns(kind: Modality, names: list[str], table: Table, held: Mapping[str, Holding]) -> Named:
    if len(names) == 1 and held[names[0]].fields:
        fields = held[names[0]].fields
        values = [_value(name, None, fields[name], None, None, kind, table) for name in fields]
        return Named(kind, names, [value for value in values if value is not None], inside=True)
    values, notes = [], []
    for named in names:
        name, said = column_kind(named, table.columns)
        if held[name].width:
            values += [Entry(f"{name}[{place}]", False, None, None, name, place) for place in range(held[name].width)]
            continue
        value = _value(name, said, held[name], table.types.get(name), table.classes.get(name), kind, table)
        if said is None and value.category and held[name].kinds <= {"whole", "number"} and value.classes is None:
            notes.append(f"The numbers of {name!r} are taken as names, not as amounts; {name}:number says otherwise.")
        values.append(value)
    return Named(kind, [column_kind(named, table.columns)[0] for named in names], values, notes=notes)


def _value(name, said, holding: Holding, arrow, classes, kind: Modality, table: Table) -> Value:
    where = f"{table.name}: the column {name!r}, which is given for {kind.column!r},"
    if arrow is not None and (pa.types.is_floating(arrow) or pa.types.is_boolean(arrow) or pa.types.is_decimal(arrow)):
        return Value(name, said == "category")
    if not holding.kinds <= {"text", "whole", "number", "bool"}:
        raise VQADataError(
            f"{where} holds {holding.words_for()}, for example {holding.example!r}: a {kind.noun} takes numbers and "
            "words. Leave it out."
        )
    if classes is not None or said == "category":
        return Value(name, True, classes=classes)
    if said is None and CODES.fullmatch(normal(name)):
        return Value(name, True)
    if holding.is_number or not holding.filled or holding.kinds <= {"whole", "number", "bool"}:
        return Value(name, False, ".")
    sign = holding.number_sign()
    if sign is not None:
        return Value(name, False, sign)
    texts = [text for text in holding.distinct if not missing(text, MISSING)]
    if texts and decimal_sign(texts) is None and said is None and all(map(_may_be_number, texts)):
        raise VQADataError(
            f"{where} holds {texts[0]!r} and the like, where the comma may stand before thousands or before decimals: "
            f"write the numbers without it, or say {name}:category if they are names."
        )
    numbers = [text for text in texts if _may_be_number(text)]
    if said is None and len(numbers) >= MOSTLY * len(texts) > MOSTLY * FEW:
        odd = next(text for text in texts if text not in numbers)
        raise VQADataError(
            f"{where} holds numbers, and {odd!r} among them: mend or empty such cells, or say {name}:number, which "
            f"counts them as unusable, or {name}:category."
        )
    return Value(name, said != "number", ".")


def _may_be_number(text: str) -> bool:
    try:
        as_number(text, ".")
    except ValueError:
        return False
    return True
