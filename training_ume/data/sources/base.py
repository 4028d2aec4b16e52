"""What a named data set is: the layout of its files, its scores, and where it is to be had."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import _Problems
from training_ume.data.tables.containers import open_table
from training_ume.data.tables.roles import columns_of, roles
from training_ume.data.tables.table import Table


@dataclass(frozen=True)
class Layout:
    """
    One way in which a data set is written.

    Attributes:
        columns: by role, the column (`None`: there is none), or several of a modality that joins them.
        marks: further columns that it has; all of them together tell it from other layouts.
        tells (`bool`): whether its columns alone tell it from any other table.
    """

    columns: Mapping[str, str | Sequence[str] | None]
    marks: frozenset[str] = frozenset()
    tells: bool = True

    def fits(self, there: Iterable[str], optional: Iterable[str] = ("answers",)) -> bool:
        """Whether a table with these columns has the layout; parts without answers have it, too."""
        return self.needed(optional) <= set(there)

    def needed(self, optional: Iterable[str] = ()) -> set[str]:
        """The columns that a table in this layout has."""
        roles = [column for role, column in self.columns.items() if column and role not in optional]
        return {name for column in roles for name in columns_of(column)} | self.marks


@dataclass(frozen=True)
class Source:
    """
    A data set by name. Adding one is a file with one of these, and a line in `SOURCES`.

    Attributes:
        name (`str`): how it is asked for.
        title (`str`): how people call it.
        layouts: the ways in which it is written, the official one first.
        scores: the scores that it is judged by, the first of them the one that chooses.
        by: columns by whose values scores are broken down.
        url, licence, size (`str`): where it is to be had, under what licence, and how much it is.
        pictures (`str`): where its pictures are from, and what to give as `images`.
        references: (who or what, score, where it is published).
        near: folders beside its files that hold its pictures.
        split_column (`str`, *optional*): the column that says of a row which part it belongs to.
        key (`str`, *optional*): where in its JSON document the list of rows stands.
        image_patterns: file names of its pictures by their ids.
        makes: columns that `prepared` adds.
        needs_data (`bool`): whether it is files of the user's; else it is a package, or drawn.
    """

    name: str
    title: str
    layouts: Sequence[Layout]
    scores: tuple[str, ...]
    url: str
    licence: str
    size: str
    by: tuple[str, ...] = ()
    pictures: str = ""
    references: tuple[tuple[str, str, str], ...] = ()
    near: tuple[str, ...] = ()
    split_column: str | None = None
    key: str | None = None
    image_patterns: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    needs_data: bool = True

    def open(self, data: Any, split: str | None, name: str | None, cache_dir, problems: _Problems) -> Table:
        """Its table; what is wrong with a row that it joins is added to `problems`."""
        return self.prepared(open_table(data, split, name, cache_dir, self.key))

    def prepared(self, table: Table) -> Table:
        """The table with what is peculiar to the data set put right; the table itself where nothing is."""
        return table

    def recognises(self, table: Table) -> bool:
        """Whether a table that was opened without a name is plainly this data set."""
        there = {*table.columns, *self.makes}
        return any(layout.tells and layout.fits(there) for layout in self.layouts)

    def recognises_path(self, path: str) -> bool:
        """Whether a file or folder that is no table by itself is plainly this data set."""
        return False

    def roles(self, table: Table) -> dict[str, str | None]:
        """By role, the column of the table, None for none: nothing is left to be guessed.

        Raises:
            VQADataError: for a table in none of its layouts.
        """
        for layout in self.layouts:
            if layout.fits(table.columns):
                found = {role: c for role, c in layout.columns.items() if {*columns_of(c)} <= {*table.columns}}
                return {**dict.fromkeys(roles()), **found}
        there = [column for column in table.columns if column not in self.makes]
        lacking = [", ".join(sorted(layout.needed())) for layout in self.layouts]
        raise VQADataError(
            f"{table.name} is not in a layout of {self.title}: it has the columns {', '.join(there)}, where "
            f"{' or else '.join(lacking)} are needed. Leave source out to have its columns found by name."
        )


def expanded(table: Table, columns: Sequence[str], make: Callable[[dict], Iterable[dict]]) -> Table:
    """A table of which each row is made into others.

    Args:
        table: what is read.
        columns: what the new rows have.
        make: the new rows of one; a ValueError that it raises names what is wrong with the row.
    """

    def batches():
        for (labels, cells), odd in table.batches():
            odd, new_labels, new = list(odd), [], []
            for position, label in enumerate(labels):
                try:
                    rows = list(make({column: values[position] for column, values in cells.items()}))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    odd.append(
                        (label, str(error) if isinstance(error, ValueError) else f"it cannot be read ({error!r})")
                    )
                    continue
                new += rows
                new_labels += [label] * len(rows)
            yield (new_labels, {column: [row.get(column) for row in new] for column in columns}), odd

    return Table(
        table.name, table.container, list(columns), batches, label=table.label, folder=table.folder, own=table.own,
        notes=table.notes, ids_are_labels=table.ids_are_labels, took_split=table.took_split,
        cells_are_text=table.cells_are_text,
    )  # fmt: skip
