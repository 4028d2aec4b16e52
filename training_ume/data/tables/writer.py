"""Rows in Arrow: in memory while they are few, in a file that is mapped when they are many."""

from __future__ import annotations

import os
import tempfile

import datasets
import pyarrow as pa

IN_MEMORY = 64 * 2**20  # bytes of rows; more are written to a file
_FOLDERS: list[tempfile.TemporaryDirectory] = []  # of such files, which go with the process


class RowWriter:
    """Rows in Arrow: in memory while they are few, in a file that is mapped when they are many."""

    def __init__(self, features: datasets.Features, cache_dir):
        self.features, self.schema, self.cache_dir = features, features.arrow_schema, cache_dir
        self.batches: list[pa.RecordBatch] = []
        self.size, self.path, self.stream = 0, None, None

    def write(self, batch: dict[str, list]) -> None:
        made = pa.RecordBatch.from_pydict(batch, schema=self.schema)
        if self.stream is not None:
            self.stream.write_batch(made)
            return
        self.batches.append(made)
        self.size += made.nbytes
        if self.size > IN_MEMORY:
            root = os.path.join(os.path.abspath(self.cache_dir or datasets.config.HF_DATASETS_CACHE), "ume_rows")
            os.makedirs(root, exist_ok=True)
            _FOLDERS.append(tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True))
            self.path = os.path.join(_FOLDERS[-1].name, "rows.arrow")
            self.stream = pa.ipc.new_stream(self.path, self.schema)
            for held in self.batches:
                self.stream.write_batch(held)
            self.batches = []

    def dataset(self) -> datasets.Dataset:
        if self.stream is None:
            return datasets.Dataset(pa.Table.from_batches(self.batches, schema=self.schema))
        self.stream.close()
        return datasets.Dataset.from_file(self.path)
