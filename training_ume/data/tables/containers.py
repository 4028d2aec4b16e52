"""Whatever a table comes in, opened as one thing.

pyarrow, pandas and `datasets` do the reading; what a column means is decided elsewhere.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import pyarrow as pa

from training_ume.data.json_entries import VQADataError
from training_ume.data.sources.hub import _open_named
from training_ume.data.tables.files import SUFFIXES, from_files
from training_ume.data.tables.folders import from_folder, part_of
from training_ume.data.tables.memory import (
    from_arrow,
    from_dataset,
    from_entries,
    from_lists,
    from_pandas,
    from_stream,
)
from training_ume.data.tables.table import Table
from training_ume.data.tables.text import suffix_of


def open_table(data: Any, split: str | None, name: str | None, cache_dir, key: str | None = None) -> Table:
    """
    Opens a table.

    Args:
        data: path(s) or address(es) of csv, tsv, jsonl, json or parquet; a folder; a Hub name; a `Dataset`,
            `IterableDataset`, pandas or polars frame; a list of dicts, or a dict of lists.
        split, name: the part, and the configuration of a Hub data set.
        cache_dir: where files from the network are kept.
        key: where in a JSON document the list of rows stands; left out, it is the only one.

    Raises:
        VQADataError: for what cannot be read as a table.
        TypeError: for something else altogether.
    """
    if isinstance(data, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        table = open_table(part_of(data, split, "the DatasetDict"), None, None, cache_dir)
        table.took_split = True
        return table
    if isinstance(data, datasets.Dataset):
        return from_dataset(data, "the Dataset")
    if isinstance(data, datasets.IterableDataset):
        return from_stream(data)
    module = type(data).__module__.partition(".")[0]
    if module == "pandas" and hasattr(data, "iloc") and hasattr(data, "columns"):
        return from_pandas(data)
    if module == "polars" and hasattr(data, "to_arrow"):
        return from_arrow(data.to_arrow(), "the polars frame", "a polars frame")
    if module == "polars" and hasattr(data, "collect"):
        return from_arrow(data.collect().to_arrow(), "the polars frame", "a polars frame")
    if isinstance(data, pa.Table):
        return from_arrow(data, "the Arrow table", "an Arrow table")
    if isinstance(data, Mapping):
        return from_lists(data)
    if isinstance(data, (str, os.PathLike)):
        return _from_path(os.path.expanduser(os.fspath(data)), split, name, cache_dir, key)
    if isinstance(data, Sequence) and data and all(isinstance(item, (str, os.PathLike)) for item in data):
        return from_files([os.path.expanduser(os.fspath(item)) for item in data], cache_dir, key)
    if isinstance(data, Sequence) and not isinstance(data, (bytes, bytearray)):
        return from_entries(data)
    raise TypeError(
        f"{type(data).__name__} is no table. Give a path (csv, tsv, jsonl, json, parquet, a folder), a Hub name, a "
        "Dataset, a pandas or polars frame, or a list of dicts."
    )


def _from_path(path: str, split: str | None, name: str | None, cache_dir, key: str | None) -> Table:
    if "://" in path:
        return from_files([path], cache_dir, key)
    if os.path.isdir(path):
        return from_folder(path, split, cache_dir)
    if os.path.isfile(path.partition("::")[0]):
        return from_files([path], cache_dir, key)
    if glob.has_magic(path):
        if found := sorted(glob.glob(path, recursive=True)):
            return from_files(found, cache_dir, key)
        raise VQADataError(f"No file fits {path}. Check the path.")
    looks_like_path = suffix_of(path) in SUFFIXES or path.startswith((".", "~", os.sep)) or path.count("/") > 1
    if looks_like_path or (os.altsep and os.altsep in path) or "\\" in path:
        raise VQADataError(f"{path} does not exist (sought from {os.getcwd()}). Check the path.")
    table = from_dataset(
        _open_named(path, name, split or "train", cache_dir),
        path,
        f"the Hub's {path}, split {split or 'train'}",
        False,
    )
    table.took_split = True
    return table
