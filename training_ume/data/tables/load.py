"""Any table as rows: `load_rows` reads what a user has, says how it was understood, and drops nothing in silence.

Rows are written batch by batch, and from a few ten MB on to a file that is mapped: memory stays flat.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import datasets

from training_ume.data.sources.base import Source
from training_ume.data.tables.reading import Reading
from training_ume.data.tables.rows import Rows
from training_ume.data.tables.understood import Understood


def load_rows(
    data: Any = None,
    *,
    source: str | Source | None = None,
    images: str | os.PathLike | None = None,
    files: str | os.PathLike | None = None,
    columns: Mapping[str, Any] | None = None,
    where: Mapping[str, Any] | None = None,
    split: str | None = None,
    name: str | None = None,
    on_error: str = "raise",
    skipped_log: str | os.PathLike | None = None,
    check_images: bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    say: Callable[[str], Any] | None = None,
    numbers: bool = False,
) -> datasets.Dataset:
    """
    Loads a table of any kind as rows to train on, to score or to ask about.

    | column | type | what it holds |
    |---|---|---|
    | `question_id` | int64, or string where the ids are strings | unique; numbered from 0 where the table has none |
    | `image_id` | string | the table's own id; else the path, or a hash of a picture that the table holds itself |
    | `question` | string | as it was written; `""` where the row has none |
    | `image` | string | absolute path; `""` where the row has none |
    | `answers` | list of strings | one an annotator; a single answer is that of one annotator; `[]` in a test set |
    | `question_type`, `answer_type` | string | `""` where the table has none |

    A table that has more than questions and images has a column for each further modality of `MODALITIES`: the path
    of a file (`""` where the row has none), numbers in lists, or a struct of named columns (numbers as float64, others
    as strings, null where a cell is empty; null as a whole where all are).

    Every other column goes along under its own name, for `split_by` and for scores by its values.

    Args:
        data: what is read: a path of csv, tsv, jsonl, json (a list, or an object by id) or parquet, plain or `.gz`; a
            list of such paths; an address that fsspec opens; a folder with `metadata.csv` or `.jsonl`, one of
            `save_to_disk`, or one of pictures in folders named by their label; a Hub name; a `Dataset`,
            `IterableDataset`, pandas or polars frame; a list of dicts. Sources that are made need none.
        source (`str`, *optional*):
            The name of a data set (a key of `SOURCES`) whose layout the data has. Left out, it is recognised where
            just one fits, and else columns are found by name and content.
        images, files (path, *optional*): The folder of the pictures, sounds, films … for names that are not found
            beside the table; either word will do.
        columns (`dict`, *optional*):
            Which column is what: `{"image": …, "question": …, "answer": …, "question_id": …, "image_id": …}`, and of
            every further modality under its name: `{"audio": "wav", "series": ["ecg", "speed"], "table": ["area",
            "rooms", "zip:category"]}`, where `"*"` are all that are left, and `mfcc_*` those that fit. `None` says
            that there is none; several columns of answers are several annotators'; any other key is a new name for a
            column that goes along.
        where (`dict`, *optional*): Keeps the rows whose columns have these values (one, or a list of them).
        split (`str`, *optional*): The part of a folder, a Hub data set or a table with a column `split`.
        name (`str`, *optional*): The configuration of a Hub data set.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"raise"` or `"skip"`: leave out rows that cannot be used, count them, and list them in `skipped_log`.
        skipped_log (path, *optional*): Where they are listed, each with its reason. Required for skipping.
        check_images (`bool`, *optional*): Whether every picture, sound … is read now; by default when skipping.
        cache_dir (path, *optional*): Where what comes from the network, and pictures that a table holds, are kept.
        say (`callable`, *optional*): Is given the text of what was understood, before rows are read, e.g. `print`.
        numbers (`bool`): Answers are numbers, as for `problem_type="regression"`: each is read as one. Several columns
            of answers are then several numbers, by their places in `answers`, `""` where a cell is empty.

    Raises:
        VQADataError: for what cannot be read or is ambiguous, naming the file, the row and the column.
        ValueError: for arguments that contradict one another.
        TypeError: for data that is no table.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
    if on_error == "skip" and skipped_log is None:
        raise ValueError("on_error='skip' needs skipped_log, the file that will list what was left out and why.")
    reading = Rows(
        data,
        source,
        _folder(images, files),
        columns,
        where,
        split,
        name,
        cache_dir,
        stops=on_error == "raise",
        numbers=numbers,
    )
    if say is not None:
        say(reading.understood.table())
    return reading.rows(on_error, skipped_log, on_error == "skip" if check_images is None else check_images)


def understand(
    data: Any = None,
    *,
    source: str | Source | None = None,
    images: str | os.PathLike | None = None,
    files: str | os.PathLike | None = None,
    columns: Mapping[str, Any] | None = None,
    where: Mapping[str, Any] | None = None,
    split: str | None = None,
    name: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    numbers: bool = False,
) -> Understood:
    """
    What `load_rows` with these arguments takes a table for, without making rows.

    Raises:
        as `load_rows` does, but for what is wrong with single rows.
    """
    return Reading(
        data, source, _folder(images, files), columns, where, split, name, cache_dir, stops=False, numbers=numbers
    ).understood


def _folder(images, files):
    """The folder of the files that cells name, by either of its names."""
    if images is not None and files is not None and os.fspath(images) != os.fspath(files):
        raise ValueError(f"images={images!r} and files={files!r} are two names of one folder: give one of them.")
    return files if images is None else images
