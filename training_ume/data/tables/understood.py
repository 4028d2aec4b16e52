"""What a table was understood to be, said before anything is trained on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field


@dataclass
class ColumnUse:
    """A column, what it is taken for (`""`: it goes along under its own name), and why."""

    name: str
    role: str
    why: str
    holds: str
    example: str


@dataclass
class Understood:
    """
    What a table was understood to be, before anything is trained on it.

    Attributes:
        name, container: the table and what it comes in.
        source: the data set whose layout it has, or None.
        rows: how many rows it has, or None where they were not counted.
        columns: each column and what it is taken for.
        made: what was not there and is made, whole sentences.
        remarks: what else a reader should know, whole sentences.
    """

    name: str
    container: str
    source: str | None = None
    rows: int | None = None
    columns: list[ColumnUse] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def column(self, role: str) -> str | None:
        """The name of the column that is taken for a role."""
        return next((use.name for use in self.columns if use.role == role), None)

    def as_dict(self) -> dict:
        """The same as numbers, strings, lists and dicts."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """The text that is printed: a line of what it is, a line a column, and a sentence for what is made."""
        counted = "" if self.rows is None else f", {self.rows:,} rows"
        layout = f", in the layout of {self.source}" if self.source else ""
        lines = [f"{self.name}: {self.container}{layout}{counted}."]
        cells = [("column", "is", "because", "holds", "for example")]
        cells += [(use.name, use.role or "kept as it is", use.why, use.holds, use.example) for use in self.columns]
        widths = [max(len(row[i]) for row in cells) for i in range(5)]
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]  # noqa: B905
        return "\n".join([*lines, *self.made, *self.remarks])
