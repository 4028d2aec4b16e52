"""Tables in JSON: a list of objects, an object of them by id, or one a line; read entry by entry."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from training_ume.data.json_entries import (
    MAX_ENTRY,
    AmbiguousEntry,
    VQADataError,
    _Document,
    check_count,
    unique_keys,
)
from training_ume.data.tables.table import BATCH, Batch
from training_ume.data.tables.text import encoding_of, open_bytes


class _Broken:
    """What stands where an entry cannot be read, and why."""

    def __init__(self, reason: str):
        self.reason = reason


class JsonLines:
    """A table of one JSON object a line; a line that is none is a row that cannot be read, said by its number."""

    label, container = "line {}", "JSON lines"

    def __init__(self, path: str):
        self.path, self.notes = path, []
        self.encoding = encoding_of(path)
        self.columns = _columns_of(self)

    def entries(self) -> Iterator[tuple[int, Any]]:
        """(number of its line, what stands there) of each line that is not blank."""
        with open_bytes(self.path) as file:
            text = io.TextIOWrapper(file, encoding=self.encoding)
            for number, line in enumerate(iter(lambda: text.readline(MAX_ENTRY + 1), ""), 1):
                if len(line) > MAX_ENTRY:
                    raise VQADataError(f"{self.path}, line {number} has more than {MAX_ENTRY:,} characters.")
                if line.strip():
                    yield number, self._value(line)
            text.detach()

    def _value(self, line: str) -> Any:
        try:
            return json.loads(line, object_pairs_hook=unique_keys)
        except AmbiguousEntry as error:
            return _Broken(f"{error}; leave one of them")
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            return _Broken(f"the line is no JSON ({reason}): {line.strip()[:60]!r}; mend or delete it")

    def batches(self) -> Iterator[tuple[Batch, list[tuple[int, str]]]]:
        return entry_batches(self)


class Json:
    """A table in one JSON document: a list of objects, one under a key, or an object by id."""

    def __init__(self, path: str, key: str | None = None):
        self.path, self.notes, self.key = path, [], key
        encoding_of(path)
        kind, self.key = self._shape()
        self.by_id = kind == "{"
        self.label = "id {!r}" if self.by_id else "entry number {}"
        self.container = "JSON by id" if self.by_id else "a JSON list" + (f" under {self.key!r}" if self.key else "")
        self.columns = _columns_of(self)

    def _shape(self) -> tuple[str, str | None]:
        with open_bytes(self.path) as file:
            return _Shape(file, self.path).shape(self.key)

    def entries(self) -> Iterator[tuple[Any, Any]]:
        """(its number from 0, or its id; what stands there) of each entry."""
        with open_bytes(self.path) as file:
            if self.key is not None:
                yield from enumerate(_Document(file, self.path, self.key, unique_keys))
            else:
                yield from _Whole(file, self.path, "", unique_keys)

    def batches(self) -> Iterator[tuple[Batch, list[tuple[int, str]]]]:
        return entry_batches(self)


class _Whole(_Document):
    """A document that is one list, or one object by id: each entry with its number or id."""

    def _top(self) -> Iterator[tuple[Any, Any]]:
        if self._next() == "[":
            for number, _ in enumerate(self._list()):
                yield number, self._value(self.scan_wanted)
        else:
            seen = set()
            for key in self._object():
                if key in seen:
                    raise AmbiguousEntry(f"the id {key[:60]!r} is there more than once")
                seen.add(key)
                yield key, self._value(self.scan_wanted)
        if self._next():
            raise ValueError(f"extra data follows: {self.text[self.at : self.at + 20]!r}")


class _Shape(_Document):
    """Where in a document its table stands, by what its first keys hold."""

    KEYS = 50

    def __init__(self, file, name: str):
        super().__init__(file, name, "", unique_keys)
        self.kinds: dict[str, str] = {}

    def shape(self, key: str | None) -> tuple[str, str | None]:
        """`("[" or "{", the key that the list stands under or None)`."""
        top = next(iter(self))
        if top != "{":
            if top != "[":
                what = "one value, and no list of rows" if top else "nothing"
                raise VQADataError(f"{self.name} holds {what}. Give a list of objects, one a row.")
            return "[", None
        lists = [name for name, kind in self.kinds.items() if kind == "["]
        if key is not None and key in lists:
            return "[", key
        if len(lists) == 1:
            return "[", lists[0]
        if lists:
            raise VQADataError(
                f"{self.name} holds several lists: {', '.join(lists)}. Which one is the table is not clear: write it "
                "to a file of its own, or say which data set it is with source."
            )
        if self.kinds and set(self.kinds.values()) == {"{"}:
            return "{", None
        if self.kinds and set(self.kinds.values()) == {"values"}:
            raise self.by_column(self.name)
        raise VQADataError(
            f"{self.name} is an object with the keys {', '.join(list(self.kinds)[:10]) or '(none)'}, and no list of "
            "rows stands in it. Give a list of objects, or an object of them by id."
        )

    @staticmethod
    def by_column(name: str) -> VQADataError:
        """What is said of columns where rows should be."""
        return VQADataError(
            f"{name} holds its table column by column. Write it row by row (pandas: to_json(…, orient='records'))."
        )

    def _top(self) -> Iterator[str]:
        first = self._next()
        if first == "{":
            for key in self._object():
                opening = self._next()
                kind = opening if opening in "[{" else "value"
                if opening == "[" and not self._list_of_objects():
                    kind = "values"
                self.kinds[key] = kind
                if len(self.kinds) >= self.KEYS:
                    break
                self._skip()
        yield first

    def _list_of_objects(self) -> bool:
        """Whether the list that begins here holds objects; reads on no further than to its first one."""
        while True:
            rest = self.text[self.at + 1 :].lstrip(" \t\r\n")
            if rest or not self._more():
                return rest[:1] in ("{", "]")


def _columns_of(table: JsonLines | Json) -> list[str]:
    """The keys of all entries, in the order that they first come in."""
    columns: dict[str, None] = {}
    count, broken = 0, None
    for label, entry in table.entries():
        count += 1
        if isinstance(entry, dict):
            columns.update(dict.fromkeys(entry))
        elif isinstance(entry, _Broken) and broken is None:
            broken = f"{table.path}, {table.label.format(label)}: {entry.reason}."
    if getattr(table, "by_id", False) and all(column.isdecimal() for column in columns):
        raise _Shape.by_column(table.path)
    if not columns:
        raise VQADataError(
            broken
            or f"{table.path} holds {count} entries, and none of them is an object with keys. Give a list of objects."
        )
    return list(columns)


def entry_batches(table) -> Iterator[tuple[Batch, list[tuple[Any, str]]]]:
    """Batches of what `table.entries()` yields, and with each the entries that are no objects."""
    entries, count = iter(table.entries()), 0
    while chunk := list(islice(entries, BATCH)):
        count += len(chunk)
        check_count(count, table.path)
        whole = [(label, entry) for label, entry in chunk if isinstance(entry, dict)]
        odd = [
            (
                label,
                entry.reason
                if isinstance(entry, _Broken)
                else f"an entry must be an object with the columns as keys, not {repr(entry)[:60]}",
            )
            for label, entry in chunk
            if not isinstance(entry, dict)
        ]
        columns = {column: [entry.get(column) for _, entry in whole] for column in table.columns}
        yield ([label for label, _ in whole], columns), odd


def is_json_lines(path: str) -> bool:
    """Whether a .json file is one object a line: the first line is a whole object, and another one follows."""
    with open_bytes(path) as file:
        first = file.readline(MAX_ENTRY)
        while first and not first.strip():
            first = file.readline(MAX_ENTRY)
        rest = file.read(4096).strip()
    try:
        return isinstance(json.loads(first), dict) and rest.startswith(b"{")
    except ValueError:
        return False
