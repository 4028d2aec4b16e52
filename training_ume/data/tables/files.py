"""Tables in files, also in several that belong together, and behind addresses."""

from __future__ import annotations

import hashlib
import os
import shutil

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as parquet

from training_ume.data.json_entries import VQADataError, check_count
from training_ume.data.tables.csv_file import Csv
from training_ume.data.tables.json_file import Json, JsonLines, is_json_lines
from training_ume.data.tables.npz_file import from_npz
from training_ume.data.tables.table import BATCH, SMALL_BATCH, Table, classes_of, holds_bytes, refuse_double_names
from training_ume.data.tables.text import suffix_of

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".npz")


def from_files(paths: list[str], cache_dir, key: str | None = None) -> Table:
    local = [_fetched(path, cache_dir) if "://" in path else path for path in paths]
    suffixes = {suffix_of(path) for path in paths}
    for path in local:
        if not os.path.isfile(path.partition("::")[0]):
            raise VQADataError(f"The file {path} does not exist. Check the path.")
    if suffixes <= {".parquet", ".pq"}:
        table = _from_parquet(local)
    elif suffixes == {".npz"}:
        table = _joined([from_npz(path) for path in local])
    else:
        table = _joined([_from_text(path, key) for path in local])
    first = paths[0]
    if "://" in first:
        table.name, table.folder, table.own = first, first.rpartition("/")[0], False
    else:
        table.folder = os.path.dirname(os.path.abspath(first.partition("::")[0]))
    if len({os.path.dirname(path) for path in paths}) > 1:
        table.notes.append(f"Pictures are sought beside the first file, {first}.")
    return table


def _fetched(url: str, cache_dir) -> str:
    """A file from the network, through fsspec, in the cache."""
    folder = os.path.join(os.path.abspath(cache_dir or datasets.config.HF_DATASETS_CACHE), "ume_tables")
    base = url.split("?")[0].rstrip("/").rpartition("/")[2]
    path = os.path.join(folder, f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{base}")
    os.makedirs(folder, exist_ok=True)
    try:
        with fsspec.open(url, "rb") as remote, open(f"{path}.{os.getpid()}", "wb") as file:
            shutil.copyfileobj(remote, file, 2**20)
    # Whatever lies behind an address raises what it likes.
    except Exception as error:
        raise VQADataError(
            f"{url} cannot be read ({type(error).__name__}: {error}). Check the address and the network, or fetch the "
            "file yourself and give its path."
        ) from error
    os.replace(f"{path}.{os.getpid()}", path)
    return path


def _from_parquet(paths: list[str]) -> Table:
    files = []
    for path in paths:
        try:
            files.append(parquet.ParquetFile(path, memory_map=True))
        except (OSError, pa.ArrowInvalid) as error:
            raise VQADataError(
                f"{path} is no parquet file ({error}): it may be cut off, or text under a wrong name. Write it again, "
                "or give it the suffix of what it is."
            ) from error
    schema = files[0].schema_arrow
    for path, file in zip(paths, files, strict=True):
        refuse_double_names(path, file.schema_arrow.names)
        if set(file.schema_arrow.names) != set(schema.names):
            others = set(file.schema_arrow.names) ^ set(schema.names)
            raise VQADataError(
                f"{path} and {paths[0]} are no parts of one table: only one of them has {', '.join(sorted(others))}. "
                "Give them one after the other."
            )
        differing = [n for n in schema.names if file.schema_arrow.field(n).type != schema.field(n).type]
        if differing:
            raise VQADataError(
                f"{path} and {paths[0]} are no parts of one table: the column {differing[0]!r} is "
                f"{file.schema_arrow.field(differing[0]).type} in one and {schema.field(differing[0]).type} in the "
                "other. Write them with one type."
            )
    count = sum(file.metadata.num_rows for file in files)
    if not count:
        raise VQADataError(f"{paths[0]} has no rows.")
    check_count(count, paths[0])

    def batches():
        start = 0
        for path, file in zip(paths, files, strict=True):
            try:
                for batch in file.iter_batches(SMALL_BATCH if holds_bytes(schema) else BATCH, columns=schema.names):
                    yield (range(start, start + batch.num_rows), batch.to_pydict()), []
                    start += batch.num_rows
            except (OSError, pa.ArrowInvalid) as error:
                raise VQADataError(f"{path} cannot be read on from row {start} ({error}). Write it again.") from error

    try:
        classes = classes_of(datasets.Features.from_arrow_schema(schema))
    except (ValueError, TypeError, KeyError):  # what stands in a file's notes is anybody's
        classes = {}
    name = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    types = dict(zip(schema.names, schema.types, strict=True))
    return Table(name, "parquet", list(schema.names), batches, types=types, classes=classes, rows=count)


def _from_text(path: str, key: str | None) -> Table:
    suffix = suffix_of(path)
    if suffix in (".jsonl", ".ndjson"):
        reader = JsonLines(path)
    elif suffix == ".json":
        reader = JsonLines(path) if is_json_lines(path) else Json(path, key)
    elif suffix in (".csv", ".tsv", ".tab", ".txt"):
        reader = Csv(path)
    else:
        raise VQADataError(
            f"{path} has the suffix {suffix or '(none)'!r}, and tables are read from .csv, .tsv, .jsonl, .json, "
            ".parquet and .npz. Rename it, or save it as one of these"
            + (" (Excel: 'CSV UTF-8')." if suffix in (".xlsx", ".xls", ".ods") else ".")
        )
    table = Table(path, reader.container, reader.columns, reader.batches, label=reader.label, notes=reader.notes)
    table.cells_are_text, table.ids_are_labels = isinstance(reader, Csv), getattr(reader, "by_id", False)
    return table


def _joined(tables: list[Table]) -> Table:
    if len(tables) == 1:
        return tables[0]
    first = tables[0]
    for table in tables[1:]:
        if set(table.columns) != set(first.columns) and table.cells_are_text:
            others = ", ".join(sorted(set(table.columns) ^ set(first.columns)))
            raise VQADataError(
                f"{table.name} and {first.name} are no parts of one table: only one of them has {others}."
            )
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))

    def batches():
        for table in tables:
            for (labels, cells), odd in table.batches():
                named = [f"{table.name}: {table.label.format(label)}" for label in labels]
                cells = {column: cells.get(column, [None] * len(named)) for column in columns}
                yield (named, cells), [(f"{table.name}: {table.label.format(label)}", reason) for label, reason in odd]

    name = f"{first.name} and {len(tables) - 1} more"
    joined = Table(name, first.container, columns, batches, label="{}", notes=[n for t in tables for n in t.notes])
    joined.cells_are_text = all(table.cells_are_text for table in tables)
    return joined
