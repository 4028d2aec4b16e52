"""Tables that are in memory: of `datasets`, pandas, polars, Arrow, or Python's own lists and dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import datasets
import pyarrow as pa

from training_ume.data.json_entries import VQADataError, check_count
from training_ume.data.tables.table import BATCH, SMALL_BATCH, Table, classes_of, holds_bytes, refuse_double_names

# Columns whose cells stand for files, which are not opened before they are needed.
IN_FILES = tuple(getattr(datasets, name) for name in ("Image", "Audio", "Video") if hasattr(datasets, name))


def from_dataset(data: datasets.Dataset, name: str, container: str = "a Dataset", own: bool = True) -> Table:
    refuse_double_names(name, data.column_names)
    if not len(data):
        raise VQADataError(f"{name} has no rows.")
    for column, feature in data.features.items():
        if isinstance(feature, IN_FILES):
            data = data.cast_column(column, type(feature)(decode=False))
    plain = data.with_format("arrow")
    size = SMALL_BATCH if holds_bytes(data.features.arrow_schema) else BATCH

    def batches():
        start = 0
        for batch in plain.iter(batch_size=size):
            yield (range(start, start + batch.num_rows), batch.to_pydict()), []
            start += batch.num_rows

    types = dict(zip(data.features.arrow_schema.names, data.features.arrow_schema.types, strict=True))
    return Table(
        name, container, data.column_names, batches, types=types, classes=classes_of(data.features), own=own,
        rows=len(data),
    )  # fmt: skip


def from_stream(data: datasets.IterableDataset) -> Table:
    name = "the IterableDataset"
    features = data.features
    for column, feature in (features or {}).items():
        if isinstance(feature, IN_FILES):
            data = data.cast_column(column, type(feature)(decode=False))
    first = next(iter(data), None)
    if first is None:
        raise VQADataError(f"{name} has no rows.")
    columns = list(features or first)

    def batches():
        start = 0
        for batch in data.iter(batch_size=SMALL_BATCH):
            count = len(next(iter(batch.values())))
            check_count(start + count, name)
            yield (range(start, start + count), {column: _listed(batch, column, count) for column in columns}), []
            start += count

    return Table(name, "an IterableDataset", columns, batches, classes=classes_of(features or {}))


def _listed(batch: Mapping, column: str, count: int) -> list:
    return list(batch[column]) if column in batch else [None] * count


def from_pandas(frame) -> Table:
    name = "the pandas frame"
    columns = [str(column) for column in frame.columns]
    refuse_double_names(name, columns)
    if not len(frame):
        raise VQADataError(f"{name} has no rows.")

    def batches():
        for start in range(0, len(frame), BATCH):
            part = frame.iloc[start : start + BATCH]
            cells = {column: part.iloc[:, position].tolist() for position, column in enumerate(columns)}
            yield (range(start, start + len(part)), cells), []

    return Table(name, "a pandas frame", columns, batches, rows=len(frame))


def from_arrow(table: pa.Table, name: str, container: str) -> Table:
    refuse_double_names(name, table.column_names)
    if not table.num_rows:
        raise VQADataError(f"{name} has no rows.")

    def batches():
        start = 0
        for batch in table.to_batches(max_chunksize=SMALL_BATCH if holds_bytes(table.schema) else BATCH):
            yield (range(start, start + batch.num_rows), batch.to_pydict()), []
            start += batch.num_rows

    types = dict(zip(table.schema.names, table.schema.types, strict=True))
    return Table(name, container, table.column_names, batches, types=types, rows=table.num_rows)


def from_lists(data: Mapping) -> Table:
    name = "the dict of columns"
    lengths = {str(column): len(cells) for column, cells in data.items() if isinstance(cells, Sequence)}
    if len(lengths) != len(data) or len(set(lengths.values())) != 1 or not next(iter(lengths.values()), 0):
        raise VQADataError(f"{name} must hold lists of one length, and hold rows; it has {lengths}.")

    def batches():
        count = next(iter(lengths.values()))
        for start in range(0, count, BATCH):
            cells = {str(column): list(values[start : start + BATCH]) for column, values in data.items()}
            yield (range(start, min(start + BATCH, count)), cells), []

    return Table(name, "a dict of lists", list(lengths), batches, rows=next(iter(lengths.values())))


def from_entries(data: Sequence) -> Table:
    name = "the list of rows"
    columns = list(dict.fromkeys(str(column) for entry in data if isinstance(entry, Mapping) for column in entry))
    if not columns:
        raise VQADataError(f"{name} is empty, or holds no dicts. Give a list of dicts, one a row.")

    def batches():
        for start in range(0, len(data), BATCH):
            part = list(enumerate(data[start : start + BATCH], start))
            whole = [(number, entry) for number, entry in part if isinstance(entry, Mapping)]
            odd = [(n, f"a row must be a dict, not {repr(e)[:60]}") for n, e in part if not isinstance(e, Mapping)]
            cells = {column: [entry.get(column) for _, entry in whole] for column in columns}
            yield ([number for number, _ in whole], cells), odd

    return Table(name, "a list of dicts", columns, batches, rows=len(data))
