"""The rows of a table that is understood, each checked; every problem is named."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from training_ume.data.json_entries import VQADataError
from training_ume.data.load import broken_files
from training_ume.data.numbers import parse_number
from training_ume.data.rows import FEATURES, KEPT_PROBLEMS, MAX_ANSWERS, _BadEntry, _is_text, _short
from training_ume.data.tables.cells import as_list, class_name, comparable, plain, written
from training_ume.data.tables.reading import Reading
from training_ume.data.tables.roles import modality_roles
from training_ume.data.tables.writer import RowWriter

INT64 = pa.int64()
MANY = 100_000


class Rows(Reading):
    """A table that is understood, and its rows."""

    # ---------------------------------------------------------------------------------------------------------- rows

    def rows(self, on_error: str, skipped_log, check_images: bool) -> datasets.Dataset:
        """The rows, with every problem raised or listed."""
        problems, writer = self.problems, RowWriter(self._features(), self.cache_dir)
        self.written, self.without_answers, self.any_answers = 0, array("q"), False
        self.last_id: int | None = -(2**63) - 1 if self.id_type == INT64 else None  # None: ids do not rise
        self.unanswered: list[str] = []
        for batch in self._converted():
            writer.write(batch)
        if on_error == "raise":
            problems.raise_if_any()
        rows = writer.dataset()
        drop = self._same_ids(rows) | self._lacking_answers()
        if on_error == "raise":
            problems.raise_if_any()
        if check_images and len(rows):
            drop |= self._broken(rows)
            if on_error == "raise":
                problems.raise_if_any()
        if drop:
            rows = rows.select(np.setdiff1d(np.arange(len(rows)), np.fromiter(drop, np.int64)))
        if on_error == "skip":
            problems.write(skipped_log, kept=len(rows))
        if not len(rows):
            raise VQADataError(self._nothing_left(skipped_log))
        return rows

    def _nothing_left(self, skipped_log) -> str:
        if self.problems.entries:
            return f"No row of {self.table.name} can be used. See {skipped_log} for the reasons."
        conditions = []
        for column, values in self.where.items():
            holding = self.held[column]
            seen = ", ".join(sorted(holding.distinct)[:10])
            conditions.append(f"{column} = {' or '.join(sorted(map(str, values)))} (it has {seen or 'nothing'})")
        return f"No row of {self.table.name} fits {' and '.join(conditions)}. Write a value that is there."

    def _features(self) -> datasets.Features:
        kinds = {name: datasets.features.features.generate_from_arrow_type(kind) for name, _, kind in self.extras}
        ids = datasets.Value("int64" if self.id_type == pa.int64() else "string")
        cells = {
            role: datasets.features.features.generate_from_arrow_type(cell.arrow) for role, cell in self.cells.items()
        }
        features = {**FEATURES, "question_id": ids, **cells, **kinds}
        if self.numbers and len(self._answer_columns()) > 1:  # each has its place
            features["answers"] = datasets.List(datasets.Value("string"), length=len(self._answer_columns()))
        return datasets.Features(features)

    def _converted(self) -> Iterator[dict[str, list]]:
        """Batches of rows, column by column."""
        table, problems = self.table, self.problems
        names = [*FEATURES, *self.cells, *(name for name, _, _ in self.extras)]
        position = 0
        with tqdm(total=self.count, desc="rows", unit="row", disable=None, leave=False) as progress:
            for (labels, cells), odd in table.batches():
                for label, reason in odd:
                    problems.add("malformed_entry", table.name, table.label.format(label), reason)
                kept = self._fitting(cells, len(labels))
                for role, finder in self.finders.items():
                    files = cells.get(self.column[role]) if isinstance(self.column.get(role), str) else None
                    if files is not None and finder.kind.suffixes:
                        finder.prefetch(files[i] for i in kept)
                batch: dict[str, list] = {name: [] for name in names}
                used = []
                for i in kept:
                    try:
                        row = self._row(cells, i, position + i, labels[i])
                    except _BadEntry as bad:
                        problems.add(bad.kind, table.name, self._said(labels[i], bad), bad.reason)
                        continue
                    used.append(labels[i])
                    for name, value in zip(names, row, strict=True):
                        batch[name].append(value)
                self._remember(batch, used)
                position += len(labels)
                progress.update(len(labels))
                yield batch

    def _said(self, label: Any, bad: _BadEntry) -> str:
        column = getattr(bad, "column", None)
        return self.table.label.format(label) + (f", column {column!r}" if column else "")

    def _fitting(self, cells: Mapping[str, list], count: int) -> list[int]:
        kept = list(range(count))
        for column, wanted in self.where.items():
            values, names = cells[column], self.table.classes.get(column)
            if names is not None:
                values = [class_name(value, names) for value in values]
            kept = [i for i in kept if comparable(plain(values[i])) in wanted]
        return kept

    def _row(self, cells: Mapping[str, list], i: int, position: int, label: Any) -> list:
        column, name = self.column, None
        try:
            name = column.get("question_id")
            if name is not None:
                question_id = self._id(cells[name][i])
            else:
                question_id = str(label) if self.table.ids_are_labels else position
            name = column.get("question")
            question = "" if name is None else self._text(cells[name][i], "question")
            name = column.get("image")
            value = None if name is None else _only(plain(cells[name][i]))
            path, image_id = ("", "") if value is None else self.finder.find(value)
            further = []
            for cell in self.cells.values():
                name = cell.columns[0] if len(cell.columns) == 1 else None
                further.append(cell(cells, i))
            if not path and not question and all(map(self._lacks, self.cells, further)):
                raise _BadEntry("malformed_entry", self._empty_row())
            name = column.get("image_id")
            if name is not None and (own := plain(cells[name][i])) is not None:
                image_id = self._text(own, "image_id")
            answers = []
            for name in self._answer_columns():
                answers += (
                    self._said_numbers(cells[name][i], name) if self.numbers else self._answers(cells[name][i], name)
                )
            if len(answers) > MAX_ANSWERS:
                raise _BadEntry("malformed_entry", f"there are {len(answers)} answers, and {MAX_ANSWERS} are the most")
            types = []
            for role in ("question_type", "answer_type"):
                name = column.get(role)
                types.append("" if name is None else self._text(cells[name][i], role))
            row = [question_id, image_id, question, path, answers, *types, *further]
            for _, name, kind in self.extras:
                row.append(self._extra(cells[name][i], name, kind))
        except _BadEntry as bad:
            bad.column = getattr(bad, "column", name)
            raise
        return row

    def _lacks(self, role: str, cell: Any) -> bool:
        return self.cells[role].kind.lacks(cell)

    def _empty_row(self) -> str:
        if not self.cells:
            return "the row has neither a question nor a picture; fill one of them"
        kinds = [kind for role, kind in modality_roles().items() if role in self.column]
        return f"the row has nothing to be read ({' or '.join(kind.noun for kind in kinds)}); fill one of its cells"

    def _id(self, value: Any) -> int | str:
        if type(value) is int and self.id_type == INT64 and -(2**63) <= value < 2**63:
            return value
        value = plain(value)
        if value is None:
            raise _BadEntry("malformed_entry", "the row has no id; give it one, or say columns={'question_id': None}")
        if self.id_type == pa.string():
            return self._text(value, "question_id")
        try:
            number = int(value)
        except (ValueError, OverflowError, TypeError):
            number = None
        if number is None or (isinstance(value, float) and value != number) or not -(2**63) <= number < 2**63:
            raise _BadEntry(
                "malformed_entry", f"an id must be a 64-bit whole number, like the others, not {_short(value)}"
            )
        return number

    def _text(self, value: Any, what: str) -> str:
        value = plain(value)
        if value is None:
            return ""
        if isinstance(value, (bool, int, float)):
            value = written(value)
        if not _is_text(value):
            raise _BadEntry("malformed_entry", f"{what} must be a text, not {_short(value)}")
        return value

    def _answers(self, value: Any, column: str) -> list[str]:
        if (names := self.table.classes.get(column)) is not None:
            value = class_name(value, names)
        value = plain(value)
        if value is None:
            return []
        if column in self.listed and isinstance(value, str):
            value = as_list(value)
            if value is None:
                raise _BadEntry(
                    "malformed_entry", "the other answers are lists that are written out, and this is none"
                )
        if isinstance(value, dict):
            value = value.get("answer")
        if not isinstance(value, (list, tuple)):
            value = [value]
        answers = []
        for answer in value:
            answer = plain(answer.get("answer") if isinstance(answer, dict) else answer)
            if isinstance(answer, (bool, int, float)):
                answer = written(answer)
            if not _is_text(answer):
                raise _BadEntry("malformed_entry", f"each answer must be a text or a number, not {_short(answer)}")
            answers.append(answer)
        return answers

    def _said_numbers(self, value: Any, column: str) -> list[str]:
        """A cell of numbers: of a single column what several people said, of several the one that stands there."""
        answers = self._answers(value, column)
        for answer in answers:
            try:
                parse_number(answer)
            except ValueError as error:
                raise _BadEntry("malformed_entry", str(error)) from None
        if len(self._answer_columns()) == 1:
            return answers
        if len(answers) > 1:
            raise _BadEntry(
                "malformed_entry", f"the cell has {len(answers)} numbers, and of several columns each has one a row"
            )
        return answers or [""]

    def _extra(self, value: Any, column: str, kind: pa.DataType) -> Any:
        if type(value) is int and kind == INT64 and column not in self.table.classes:
            return value
        if (names := self.table.classes.get(column)) is not None:
            return class_name(value, names)
        if pa.types.is_string(kind) and isinstance(value, str):
            return self._text(value, column)
        value = plain(value)
        if value is None:
            return "" if pa.types.is_string(kind) and self.table.cells_are_text else None
        if isinstance(value, str):
            return int(value) if pa.types.is_integer(kind) else float(value) if pa.types.is_floating(kind) else value
        if pa.types.is_string(kind):
            if isinstance(value, (list, tuple, dict)):
                return json.dumps(value, ensure_ascii=False, default=str)
            return written(value) if isinstance(value, (bool, int, float)) else str(value)
        return float(value) if pa.types.is_floating(kind) else value

    def _remember(self, batch: dict[str, list], labels: list) -> None:
        """What can be judged at the end only: ids, and which rows have no answers."""
        start, ids = self.written, batch["question_id"]
        self.written += len(ids)
        if self.last_id is not None and ids:
            rises = self.last_id < ids[0] and all(one < other for one, other in pairwise(ids))
            self.last_id = ids[-1] if rises else None
        if not self._answer_columns():
            return
        for number, answers in enumerate(batch["answers"], start):
            if any(answers):
                self.any_answers = True
            else:
                self.without_answers.append(number)
                if len(self.unanswered) < KEPT_PROBLEMS:
                    self.unanswered.append(self.table.label.format(labels[number - start]))

    def _lacking_answers(self) -> set[int]:
        """Single rows without answers are an accident; a test set has no answers at all."""
        if not self.any_answers:
            return set()
        column = ", ".join(map(repr, self._answer_columns()))
        for i, _ in enumerate(self.without_answers):
            said = self.unanswered[i] if i < len(self.unanswered) else "a row"
            reason = "the row has no answer although others have; fill the cell, or leave the row out"
            self.problems.add("question_without_annotation", self.table.name, f"{said}, column {column}", reason)
        return set(self.without_answers)

    def _same_ids(self, rows: datasets.Dataset) -> set[int]:
        """Rows whose id came before. Ids that rise differ; others are compared as numbers, and read to be sure."""
        if self.column.get("question_id") is None or self.last_id is not None or not len(rows):
            return set()
        ids = np.empty(len(rows), np.int64)
        for start in range(0, len(rows), MANY):
            part = rows[start : start + MANY]["question_id"]
            ids[start : start + len(part)] = part if self.id_type == INT64 else [hash(text) for text in part]
        order = np.argsort(ids, kind="stable")
        alike = ids[order][1:] == ids[order][:-1]
        suspects = np.unique(np.concatenate([order[1:][alike], order[:-1][alike]]))
        seen, later, said = set(), set(), {}
        for position in suspects.tolist():
            question_id = rows[position]["question_id"]
            if question_id in seen:
                later.add(position)
                said[question_id] = []
            seen.add(question_id)
        if later:
            self._find_rows(said)
        column = self.column["question_id"]
        for question_id, places in said.items():
            for place in places[1:]:
                reason = f"the id {question_id!r} stands in {places[0]}, too; the first row counts. Make ids differ"
                self.problems.add("duplicate_question_id", self.table.name, f"{place}, column {column!r}", reason)
        return later

    def _find_rows(self, places: dict[int | str, list[str]]) -> None:
        """Which rows have these ids: the table is read once more rather than each row's place kept."""
        for (labels, cells), _ in self.table.batches():
            for i in self._fitting(cells, len(labels)):
                try:
                    question_id = self._id(cells[self.column["question_id"]][i])
                except _BadEntry:
                    continue
                if question_id in places:
                    places[question_id].append(self.table.label.format(labels[i]))

    def _broken(self, rows: datasets.Dataset) -> set[int]:
        dropped: set[int] = set()
        for role, kind in modality_roles().items():
            cells = rows[role][:] if role in rows.column_names and kind.suffixes else []
            paths = [cell if cell and kind.names_file(cell) else "" for cell in cells]
            broken = broken_files(kind, (path for path in dict.fromkeys(paths) if path))
            drop = {i for i, path in enumerate(paths) if path in broken} - dropped if broken else set()
            for i in sorted(drop):
                said = f"question_id {rows[i]['question_id']}"
                self.problems.add(f"broken_{kind.noun}", paths[i], said, broken[paths[i]])
            dropped |= drop
        return dropped


def _only(value: Any) -> Any:
    """The picture of a row, which may stand in a list."""
    if not isinstance(value, (list, tuple)):
        return value
    if len(value) > 1:
        raise _BadEntry("malformed_entry", f"there are {len(value)} pictures in the row, and a row has one")
    return plain(value[0]) if value else None
