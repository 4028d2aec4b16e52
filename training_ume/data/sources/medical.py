"""What medical data sets share: open and closed questions."""

from __future__ import annotations

from dataclasses import dataclass

from training_ume.data.sources.base import Source, expanded
from training_ume.data.tables.cells import plain
from training_ume.data.tables.table import Table

SAID = "answer_type is CLOSED where the answer is yes or no, and OPEN elsewhere: this layout does not say it itself."


@dataclass(frozen=True)
class Medical(Source):
    """`answer_type` is `OPEN` or `CLOSED`, as written; where a layout lacks it, by whether the answer is yes or no."""

    makes: tuple[str, ...] = ("answer_type",)

    def prepared(self, table: Table) -> Table:
        lacking = "answer_type" not in table.columns

        def make(entry: dict) -> list[dict]:
            kind = plain(entry.get("answer_type"))
            if lacking and (answer := plain(entry.get("answer"))) is not None:
                kind = "CLOSED" if str(answer).strip().lower() in ("yes", "no") else "OPEN"
            # Files have "CLOSED " with a space, too.
            return [{**self.row(entry), "answer_type": kind and str(kind).strip().upper()}]

        columns = dict.fromkeys([*table.columns, *self.added(table), "answer_type"])
        made = expanded(table, list(columns), make)
        if lacking:
            made.notes.append(SAID)
        return made

    def row(self, entry: dict) -> dict:
        """What else is put right of a row."""
        return entry

    def added(self, table: Table) -> list[str]:
        """The columns that `row` adds."""
        return []
