"""One table on its way to rows: opened, understood, and what each of its columns becomes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import pyarrow as pa

from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import FEATURES, _Problems
from training_ume.data.sources.table import SOURCES, find_source, source_of_path
from training_ume.data.tables.cells import HEAD, Holding, class_name, comparable
from training_ume.data.tables.columns import find_columns
from training_ume.data.tables.containers import open_table
from training_ume.data.tables.images import RowFiles
from training_ume.data.tables.roles import (
    columns_of,
    further,
    given_columns,
    known_names,
    modality_roles,
    normal,
)
from training_ume.data.tables.row_cells import Named, RowCell, row_cell
from training_ume.data.tables.table import PART_NAMES
from training_ume.data.tables.understood import ColumnUse, Understood


class Reading:
    """One table on its way to rows."""

    def __init__(self, data, source, images, columns, where, split, name, cache_dir, stops: bool, numbers=False):
        self.numbers = numbers
        self.problems, self.cache_dir = _Problems(stops=stops), cache_dir
        self.source, recognised = find_source(source), False
        if isinstance(data, str) and self.source is None and data in SOURCES and not SOURCES[data].needs_data:
            self.source, data = SOURCES[data], None
        if data is None and (self.source is None or self.source.needs_data):
            raise ValueError(
                "load_rows needs data: a path, a folder, a Hub name, a frame, a Dataset or a list of dicts."
            )
        if self.source is None and (found := source_of_path(data)) is not None:
            self.source, recognised = found, True
        if self.source is not None:
            self.table = self.source.open(data, split, name, cache_dir, self.problems)
        else:
            self.table = open_table(data, split, name, cache_dir)
            seen = [known for known in SOURCES.values() if known.recognises(self.table)]
            if len(seen) == 1:
                self.source, recognised = seen[0], True
                self.table = self.source.prepared(self.table)
        table = self.table
        roles, renamed = given_columns(columns, table.columns, table.name)
        given = {**(self.source.roles(table) if self.source else {}), **roles}
        self.where = self._conditions(where, split)
        self.finders: dict[str, RowFiles] = {}
        for role, kind in modality_roles().items():
            # What a data set by name says of its files is said of pictures.
            own = self.source if role == "image" else None
            near, patterns = (own.near, own.image_patterns) if own else ((), ())
            self.finders[role] = RowFiles(kind, table.folder, images, table.own, cache_dir, near, patterns)
        self.finder = self.finders["image"]
        if self.source:
            self.finder.source = f". {self.source.title}'s pictures: {self.source.pictures.rstrip('.')}"
        named = any(normal(column) in known_names() for column in table.columns)
        if table.cells_are_text and not named and (shown := next(filter(self.finder.is_there, table.columns), None)):
            raise VQADataError(
                f"{table.name} seems to have no line of column names: {shown!r} in its first line is the name of a "
                "picture that is there. Put a line such as image,question,answer on top."
            )
        self.held, self.count = self._look()
        found = find_columns(table.columns, self.held, given, table.name, self.finder.is_there)
        if self.source:
            found = {
                role: (column, why if role in roles or role not in given else f"the layout of {self.source.title}")
                for role, (column, why) in found.items()
            }
        self.column = {role: column for role, (column, _) in found.items()}
        self.cells: dict[str, RowCell] = {
            role: row_cell(kind, self.column[role], table, self.held, self.finders[role])
            for role, kind in further().items()
            if role in self.column
        }
        self._plan_ids()
        self.extras = self._extras(renamed)
        if picture := self.column.get("image"):
            self.finder.ids = [text for text in self.held[picture].distinct if text.isascii() and text.isdecimal()]
        self.listed = {
            name for name in self._answer_columns() if self.held[name].reads_as_list and self.held[name].lists
        }
        self.understood = self._understood(found, recognised)

    # ------------------------------------------------------------------------------------------------- understanding

    def _conditions(self, where: Mapping | None, split: str | None) -> dict[str, set]:
        table, conditions = self.table, dict(where or {})
        for column in conditions:
            if column not in table.columns:
                near = difflib.get_close_matches(str(column), table.columns, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise VQADataError(
                    f"{table.name} has no column {column!r} for where: it has "
                    f"{', '.join(map(repr, table.columns))}.{hint}"
                )
        if split is not None and not table.took_split:
            named = self.source.split_column if self.source else None
            column = named or next((name for name in table.columns if normal(name) == "split"), None)
            if column in table.columns:
                part = self._only_part(column) if split == "train" and column not in conditions else None
                if part is None or part == split:
                    conditions.setdefault(column, next((names for names in PART_NAMES if split in names), split))
                else:  # `train` is what is asked for where nothing is said
                    table.notes.append(
                        f"All rows are of the part {part!r}, by the column {column!r}: they are what there is."
                    )
            elif split != "train":  # a table alone is the training part, as it is to `datasets`
                raise ValueError(
                    f"{table.name} is one table without a column 'split', so it has no split {split!r}. Give the file "
                    "of that part, or leave split out."
                )
        listed = {c: v if isinstance(v, (list, tuple, set)) else [v] for c, v in conditions.items()}
        return {column: {comparable(value) for value in values} for column, values in listed.items()}

    def _only_part(self, column: str) -> str | None:
        """The part that all rows are of; None where there are several, or some of none."""
        parts = set()
        for (_, cells), _ in self.table.batches():
            names = self.table.classes.get(column)
            parts.update(comparable(value if names is None else class_name(value, names)) for value in cells[column])
            if len(parts) > 1:
                return None
        return parts.pop() if parts else None

    def _look(self) -> tuple[dict[str, Holding], int | None]:
        """What each column holds: all of a table without types, the beginning of one with them."""
        table = self.table
        whole = not table.types
        held = {column: Holding(typed=not table.cells_are_text) for column in table.columns}
        count = 0
        for (labels, cells), odd in table.batches():
            for column, values in cells.items():
                names = table.classes.get(column)
                held[column].add(values if names is None else [class_name(value, names) for value in values])
            count += len(labels) + len(odd)
            if not whole and count >= HEAD:
                break
        if not count:
            raise VQADataError(f"{table.name} has no rows.")
        return held, table.rows if table.rows is not None else count if whole else None

    def _answer_columns(self) -> list[str]:
        column = self.column.get("answers")
        return list(column) if isinstance(column, (list, tuple)) else [column] if column is not None else []

    def _plan_ids(self) -> None:
        column = self.column.get("question_id")
        if column is None:
            self.id_type = pa.string() if self.table.ids_are_labels else pa.int64()
        else:
            kind = self.table.types.get(column)
            number = (
                self.held[column].is_number
                if kind is None
                else pa.types.is_integer(kind) or pa.types.is_floating(kind)
            )
            self.id_type = pa.int64() if number else pa.string()

    def _extras(self, renamed: Mapping[str, str]) -> list[tuple[str, str, pa.DataType]]:
        """(its name in the rows, column, Arrow type) of every column that goes along."""
        used = {self.column[role] for role in self.column if role != "answers" and role not in self.cells}
        used |= set(self._answer_columns())
        for cell in self.cells.values():
            # Rows may be split by what is in them: by columns that stay apart under their names.
            used |= cell.spread if isinstance(cell, Named) and not cell.inside else set(cell.columns)
        names = {column: new for new, column in renamed.items()}
        extras = []
        self.left_out = []
        for column in self.table.columns:
            if column in used and column not in names:
                continue
            kind = self._type(column)
            if kind is None:
                self.left_out.append(column)
                continue
            name = names.get(column, column)
            while name in FEATURES or name in self.cells or name in [other for other, _, _ in extras]:
                name = f"source_{name}"
            extras.append((name, column, kind))
        return extras

    def _type(self, column: str) -> pa.DataType | None:
        """The Arrow type that a column goes along in; None for bytes and pictures, which do not."""
        kind, held = self.table.types.get(column), self.held[column]
        if column in self.table.classes:
            return pa.string()
        if kind is not None and not pa.types.is_null(kind):
            if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
                return kind
            if pa.types.is_decimal(kind):
                return pa.float64()
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or "image" in held.kinds:
                return None
            if pa.types.is_list(kind) or pa.types.is_large_list(kind):
                part = kind.value_type
                if pa.types.is_integer(part) or pa.types.is_floating(part) or pa.types.is_boolean(part):
                    return pa.list_(part)
                return (
                    pa.list_(pa.string())
                    if pa.types.is_string(part) or pa.types.is_large_string(part)
                    else pa.string()
                )
            return pa.string()
        if "image" in held.kinds:
            return None
        if held.kinds == {"list"} and held.parts <= {str}:
            return pa.list_(pa.string())
        if held.kinds == {"list"} and held.parts <= {int, float}:
            return pa.list_(pa.float64() if float in held.parts else pa.int64())
        if held.kinds == {"whole"}:
            return pa.int64()
        if held.is_number:
            return pa.float64()
        return pa.bool_() if held.kinds == {"bool"} else pa.string()

    def _understood(self, found: dict, recognised: bool) -> Understood:
        table, role_of = self.table, {}
        for role, (column, why) in found.items():
            for name in self.cells[role].columns if role in self.cells else columns_of(column):
                other = role_of.get(name)
                role_of[name] = (f"{other[0]}, {role}" if other else role, why)
        uses = []
        for name in table.columns:
            role, why = role_of.get(name, ("", ""))
            holding = self.held[name]
            uses.append(ColumnUse(name, role, why, holding.words_for(), holding.example))
        title = self.source.title if self.source else None
        understood = Understood(table.name, table.container, title, self.count, uses, remarks=list(table.notes))
        made, remarks = understood.made, understood.remarks
        if recognised:
            made.append(f"It is read as {title}, the only layout that fits; another one is said by source.")
        if "question_id" not in self.column:
            where = "the keys that the rows stand under" if table.ids_are_labels else "numbers, counted from 0"
            made.append(f"Ids of questions: {where}.")
        answers = self._answer_columns()
        if not answers:
            made.append("There are no answers: rows can be answered, but neither trained on nor scored.")
        elif self.numbers:
            made.append(f"{' and '.join(answers)}: numbers, each learned and told as one.")
        elif len(answers) == 1 and not self.listed and not {"list", "other"} & self.held[answers[0]].kinds:
            made.append("Each row has one answer, which counts as that of one annotator.")
        if self.listed:
            made.append("Answers are lists that are written out as text: each is read as a list.")
        for cell in self.cells.values():
            made += cell.described()
        for role, word in (("image", "a picture"), ("question", "a question")):
            column = self.column.get(role)
            if column is None:
                made.append(f"No column is {word}: rows have none.")
            elif self.held[column].empty and self.held[column].filled:
                made.append(f"{self.held[column].empty:,} of the rows looked at have no {role}: they go without one.")
        for role, cell in self.cells.items():
            held = self.held[cell.columns[0]]
            if len(cell.columns) == 1 and held.empty and held.filled:
                noun = modality_roles()[role].noun
                made.append(f"{held.empty:,} of the rows looked at have no {noun}: they go without one.")
        for column in [*answers, *([self.column["question"]] if "question" in self.column else [])]:
            if words := self.held[column].none_words:
                remarks.append(
                    f"{words:,} cells of {column!r} say nan, none or null: they count as these words. If they mean "
                    "that there is nothing, empty them."
                )
        if self.left_out:
            remarks.append(f"Left out, as they hold bytes: {', '.join(self.left_out)}.")
        clashing = [f"{column!r} as {name!r}" for name, column, _ in self.extras if name == f"source_{column}"]
        if clashing:
            remarks.append(f"Kept under another name, as theirs is a column of the rows: {', '.join(clashing)}.")
        return understood
