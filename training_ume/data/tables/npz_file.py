"""Tables in numpy's .npz: an array a column, whose first axis is the rows."""

from __future__ import annotations

import zipfile
from collections import Counter

import numpy as np

from training_ume.data.json_entries import VQADataError, check_count
from training_ume.data.tables.table import BATCH, Table


def from_npz(path: str) -> Table:
    """
    The arrays of a file as columns; of an array with further axes, a cell holds lists of numbers.

    Raises:
        VQADataError: for a file that cannot be read, holds objects, or no rows.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise VQADataError(
            f"{path} cannot be read as .npz ({error}): it may be cut off, or hold Python's objects. Save arrays of "
            "numbers and texts with numpy.savez."
        ) from error
    lengths = Counter(len(array) for array in arrays.values() if array.ndim)
    if not lengths or not max(lengths):
        raise VQADataError(f"{path} has no rows: it holds no array with a first axis.")
    # What most have is the rows; something of another length says something of all of them.
    count = max(lengths, key=lambda length: (lengths[length], length))
    check_count(count, path)
    columns = [name for name, array in arrays.items() if array.ndim and len(array) == count]
    others = sorted(arrays.keys() - set(columns))

    def batches():
        for start in range(0, count, BATCH):
            part = slice(start, start + BATCH)
            yield (
                (range(start, min(start + BATCH, count)), {name: arrays[name][part].tolist() for name in columns}),
                [],
            )

    table = Table(path, "arrays of numpy (.npz)", columns, batches, rows=count)
    if others:
        table.notes.append(f"Left out, as they have no row for each of {count:,}: {', '.join(others)}.")
    return table
