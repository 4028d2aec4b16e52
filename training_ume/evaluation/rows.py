"""The rows that an evaluation is given: what counts as rows, what they have to hold, and the scores of the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from torch.utils.data import DataLoader

from modeling_ume.modalities_ume import ALL, seen_by, usual
from training_ume.data.streaming import BatchStream, StreamedQuestions

# What may be missing, and what stands in its place.
OPTIONAL = {"answers": [], "answer_type": "", "question_type": ""}


def is_named_sets(rows: Any) -> bool:
    """Whether these are data sets by name: a slice of a `Dataset` is a dict too, of its columns."""
    return isinstance(rows, Mapping) and not _are_columns(rows)


def _are_columns(rows: Mapping) -> bool:
    columns = [rows[name] for name in ("question", "image") if name in rows]
    return bool(columns) and all(
        isinstance(column, Sequence | np.ndarray) and (len(column) == 0 or isinstance(column[0], str))
        for column in columns
    )


def as_rows(rows: Any) -> Dataset | StreamedQuestions:
    """
    Rows as a table: a `Dataset` or a stream as they are, a slice of one (a dict of columns) or dicts made into one.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(rows, StreamedQuestions):
        return rows
    if isinstance(rows, Dataset):
        rows = rows.with_format(None) if rows.format["type"] is not None else rows  # paths and answers are no arrays
    else:
        try:
            if isinstance(rows, pd.DataFrame):
                rows = Dataset.from_pandas(rows, preserve_index=False)
            elif isinstance(rows, Mapping) and _are_columns(rows):
                rows = Dataset.from_dict(dict(rows))
            elif isinstance(rows, str | Mapping) or not (isinstance(rows, Iterable) or hasattr(rows, "__getitem__")):
                raise TypeError(f"a {type(rows).__name__}")
            else:
                each = rows if isinstance(rows, Iterable) else (rows[i] for i in range(len(rows)))
                rows = Dataset.from_list([dict(row) for row in each])
        except (TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"These are no rows to evaluate ({reason}): give a Dataset of load_vqa, a part of one, or a list of "
                "dicts with question, image and answers."
            ) from error
    if "question_id" not in rows.column_names and len(rows):
        rows = rows.add_column("question_id", list(range(len(rows))))
    for name, absent in OPTIONAL.items():
        if name not in rows.column_names and len(rows):
            rows = rows.add_column(name, [absent] * len(rows))
    return rows


def check_rows(rows: Dataset | StreamedQuestions, inputs: str = ALL) -> None:
    """
    Raises ValueError for rows that cannot be evaluated.

    Args:
        inputs (`str`): what the model sees, see `inputs_known`.
    """
    if len(rows) == 0:
        raise ValueError("There are no rows to evaluate: the data set that was given is empty.")
    if isinstance(rows, StreamedQuestions):
        return
    needed = [kind.column for kind in usual() if kind.name in seen_by(inputs)]
    missing = [name for name in needed if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"The rows to evaluate have no column {' and no column '.join(missing)}, but "
            f"{', '.join(rows.column_names)}: give rows as load_vqa makes them."
        )
    answers = rows["answers"][:]
    if any(isinstance(of_one, str) for of_one in answers):
        raise ValueError("The answers of a row are a list of strings, one an annotator, not a string: write [answer].")
    if any(answers) and not all(answers):
        without = sum(not of_one for of_one in answers)
        raise ValueError(
            f"{without} of {len(rows)} rows to evaluate have no answers: evaluate answered and unanswered questions "
            "as data sets of their own."
        )


class Scorer:
    """
    Scores what was predicted for the rows of one loader.

    Args:
        loader: makes the batches, of all rows.
        id2label (`dict[int, str]`, *optional*): the answers that ids stand for; None: what is gathered is scored
            as it is.
        width (`int`): rows in a batch of a stream, padding included.
        score: makes numbers out of one answer a row and the rows.
    """

    def __init__(
        self,
        loader: DataLoader,
        id2label: dict[int, str] | None,
        width: int,
        score: Callable[[list, Dataset | StreamedQuestions], dict[str, float]],
    ):
        self.loader, self.rows = loader, loader.dataset
        self.id2label, self.width, self.score = id2label, width, score
        self.streamed = isinstance(self.rows, StreamedQuestions)
        self.ids: list[int] = []
        self.calls = 0

    def __call__(self, predictions, last: bool = True) -> dict[str, float]:
        """
        Args:
            predictions: ids of answers, of all rows or of some in a list of arrays, or with `last=False` of the next
                batch.
            last (`bool`): whether these are the last ones. Of a stream only the number of its batches tells.
        """
        self.calls += 1
        for some in predictions if isinstance(predictions, list) else [predictions]:
            self.ids += some.tolist()
        if not (last or self.calls == len(self.loader)):
            return {}
        ids = in_table_order(self.ids, self.loader.batch_sampler, self.width) if self.streamed else self.ids
        if len(ids) != len(self.rows):
            raise ValueError(f"{len(ids)} answers were gathered for {len(self.rows)} rows, which cannot be scored.")
        return self.score(ids if self.id2label is None else [self.id2label[i] for i in ids], self.rows)


def in_table_order(gathered: Sequence, batches: BatchStream, width: int) -> list:
    """What the processes gathered step by step, each batch padded to `width`, in the order of the part's table."""
    ordered = [None] * len(batches.part)
    joined = iter(gathered[start : start + width] for start in range(0, len(gathered), width))
    for step in batches.positions():
        for positions in step:
            for position, value in zip(positions, next(joined), strict=False):  # without the padding
                ordered[position] = value
    return ordered
