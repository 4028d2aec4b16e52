"""Tables in lines of cells: csv and tsv of any separator. Every cell stays as it was written."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from training_ume.data.json_entries import VQADataError, check_count
from training_ume.data.tables.cells import is_number
from training_ume.data.tables.roles import known_names, normal
from training_ume.data.tables.table import BATCH, Batch, refuse_double_names
from training_ume.data.tables.text import encoding_of, open_bytes, suffix_of

# What Excel writes into the first line to say it.
SAID_SEPARATOR = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


class Csv:
    """
    A table in lines, whose first one names the columns.

    Attributes:
        columns: the names, in order.
        container (`str`): what it is, in words.
        notes: what was done to it, whole sentences.

    Raises:
        VQADataError: for a file without rows or without a header, two columns of one name, quotes that do not end,
            text that is no UTF-8.
    """

    label = "line {}"

    def __init__(self, path: str):
        self.path, self.notes = path, []
        self.encoding = encoding_of(path)
        start, self.skipped = self._start(), 0
        if said := SAID_SEPARATOR.match(start):
            self.separator, self.skipped = said[1], 1
        else:
            self.separator = "\t" if suffix_of(path) == ".tsv" else _separator(start)
        # "1.jpg, how many?, 2": a space after each separator is part of no cell.
        first = start.splitlines()[self.skipped].split(self.separator) if start.strip() else [""]
        self.spaced = len(first) > 1 and all(cell.startswith(" ") for cell in first[1:])
        records = list(islice(self._records(), 50))
        if not records:
            raise VQADataError(f"{path} is empty. Give a file with a line of column names and a line for each row.")
        (_, header), *rows = records
        self.columns = self._names(header, [row for _, row in rows])
        if not rows:
            raise VQADataError(f"{path} has a line of column names ({', '.join(self.columns)}) and no row below it.")
        code = {"utf-8": "", "utf-8-sig": " with Excel's mark"}.get(self.encoding, f", {self.encoding.upper()}")
        self.container = f"text with {SEPARATORS.get(self.separator, repr(self.separator))}{code}"

    def _start(self) -> str:
        with self._text() as text:
            return text.read(2**16)

    @contextmanager
    def _text(self) -> Iterator[io.TextIOWrapper]:
        with open_bytes(self.path) as file:
            text = io.TextIOWrapper(file, encoding=self.encoding, newline="")
            try:
                yield text
            finally:
                text.detach()

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """(number of its first line, cells) of each record; blank lines are none."""
        with self._text() as text:
            for _ in range(self.skipped):
                text.readline()
            reader = csv.reader(text, delimiter=self.separator, strict=True, skipinitialspace=self.spaced)
            while True:
                line = reader.line_num + self.skipped + 1
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    raise VQADataError(
                        f"{self.path}, line {line}: {error}. A quote may be missing or too many; within quotes, a "
                        'quote is written twice ("").'
                    ) from error
                if cells is None:
                    return
                if any(cell.strip() for cell in cells) or len(cells) > 1:
                    yield line, cells

    def _names(self, header: list[str], rows: list[list[str]]) -> list[str]:
        names = [name.strip() for name in header]
        if names[-1] == "" and len(names) > 1 and all(len(row) < len(names) or not row[-1].strip() for row in rows):
            names.pop()  # each line ends with a separator
        if reason := _looks_like_data(names, rows):
            raise VQADataError(
                f"{self.path} seems to have no line of column names: its first line is {', '.join(map(repr, names))}, "
                f"and {reason}. Put a line such as image{self.separator}question{self.separator}answer on top."
            )
        if names[0] == "" and all(row and row[0].strip().isdecimal() for row in rows):
            names[0] = "index"
            self.notes.append("The first column has no name and numbers the rows: it is called 'index'.")
        for position, name in enumerate(names):
            if not name:
                raise VQADataError(f"{self.path}, line 1: column {position + 1} has no name. Give it one.")
        refuse_double_names(self.path, names)
        return names

    def batches(self) -> Iterator[tuple[Batch, list[tuple[int, str]]]]:
        """Batches, and with each the lines that have too few or too many cells."""
        records = self._records()
        next(records)
        width, count = len(self.columns), 0
        while chunk := list(islice(records, BATCH)):
            count += len(chunk)
            check_count(count, self.path)
            odd, whole = [], []
            for line, cells in chunk:
                if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
                    cells = cells[:width]
                if len(cells) == width:
                    whole.append((line, cells))
                else:
                    odd.append((line, self._odd(cells)))
            columns = zip(*(cells for _, cells in whole), strict=True) if whole else [()] * width
            yield (
                ([line for line, _ in whole], dict(zip(self.columns, map(list, columns), strict=True))),
                odd,
            )

    def _odd(self, cells: list[str]) -> str:
        return (
            f"there are {len(cells)} cells ({', '.join(map(repr, cells))[:80]}) and {len(self.columns)} columns: put "
            f"cells that hold a {self.separator!r} in quotes, or fill the row"
        )


def _separator(start: str) -> str:
    """The separator that parts all of the first records alike; of several the one whose header has the known names."""
    best = (0, 0, 0, ",")
    for order, separator in enumerate(SEPARATORS):
        try:
            # The last record may be cut off.
            records = [cells for cells in csv.reader(io.StringIO(start, newline=""), delimiter=separator) if cells][
                :50
            ]
        except csv.Error:
            continue
        records = records[:-1] if len(records) > 2 else records
        if not records or len(records[0]) < 2:
            continue
        width = len(records[0])
        even = sum(len(cells) == width for cells in records) / len(records)
        named = sum(normal(name.strip('"')) in known_names() for name in records[0])
        best = max(best, (named, even, -order, separator))
    return best[3]


def _looks_like_data(names: list[str], rows: list[list[str]]) -> str:
    """Why a first line is no header but a row; "" where it may be one."""
    if any(normal(name) in known_names() for name in names):
        return ""
    for position, name in enumerate(names):
        lower = name.lower()
        below = [row[position].strip() for row in rows if len(row) > position]
        if name and name in below:
            return f"{name!r} stands in its own column again"
        if lower.endswith((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")):
            return f"{name!r} is the name of a picture"
        if "://" in name:
            return f"{name!r} is an address"
        if name.endswith("?") and " " in name:
            return f"{name!r} is a question"
        if is_number(name) and below and all(is_number(cell) for cell in below if cell):
            return f"{name!r} is a number, like those below it"
    return ""
