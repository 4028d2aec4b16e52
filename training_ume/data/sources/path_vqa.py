"""PathVQA: pathology images, in pickled lists; these are read as plain data, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from typing import Any

from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import _Problems
from training_ume.data.sources.base import Layout
from training_ume.data.sources.medical import Medical
from training_ume.data.tables.memory import from_entries
from training_ume.data.tables.table import Table


class _PlainData(pickle.Unpickler):
    """Lists, dicts, strings and numbers: a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise VQADataError(f"the pickle wants to run {module}.{name}, and only plain data is read")


@dataclass(frozen=True)
class PathVQASource(Medical):
    """`data` is `train_qa.pkl` (or `train_vqa.pkl`), or the folder `pvqa` with a split."""

    def open(self, data: Any, split: str | None, name: str | None, cache_dir, problems: _Problems) -> Table:
        path = os.fspath(data) if isinstance(data, (str, os.PathLike)) else ""
        if os.path.isdir(path):
            part = {"validation": "val"}.get(split or "train", split or "train")
            found = [os.path.join(path, "qas", part, f"{part}_qa.pkl"), os.path.join(path, part, f"{part}_qa.pkl")]
            path = next(filter(os.path.isfile, found), path)
        if not path.endswith(".pkl"):
            return super().open(data, split, name, cache_dir, problems)
        try:
            with open(path, "rb") as file:
                entries = _PlainData(file).load()
            table = from_entries(entries)
        except (OSError, EOFError, TypeError, ValueError, IndexError, KeyError, pickle.UnpicklingError) as error:
            raise VQADataError(f"{path} is no pickled list of questions ({error}). Download it again.") from error
        table.name, table.container, table.took_split = path, "PathVQA's pickled list", True
        table.folder = os.path.dirname(os.path.abspath(path))
        return self.prepared(table)

    def row(self, entry: dict) -> dict:
        """Of `train_vqa.pkl`, the answers are the keys of `label`."""
        label = entry.get("label")
        return {**entry, "answer": next(iter(label), None)} if isinstance(label, dict) else entry

    def added(self, table: Table) -> list[str]:
        return ["answer"] if "label" in table.columns else []

    def recognises_path(self, path: str) -> bool:
        return path.endswith(("_qa.pkl", "_vqa.pkl")) or os.path.isdir(os.path.join(path, "qas", "train"))


PARTS = ("train", "val", "test")
PATH_VQA = PathVQASource(
    name="path_vqa",
    title="PathVQA",
    layouts=(
        Layout(
            {
                "question_id": "question_id",
                "image": "img_id",
                "question": "sent",
                "answers": "answer",
                "answer_type": "answer_type",
            },
            tells=False,
        ),
        Layout(
            {"image": "image", "question": "question", "answers": "answer", "answer_type": "answer_type"}, tells=False
        ),
    ),
    scores=("exact_match",),
    by=("answer_type",),
    url="https://github.com/UCSD-AI4H/PathVQA",
    licence="MIT (the pictures are from textbooks and a library)",
    size="32,632 questions, 4,998 images",
    pictures="They are in the same archive: give pvqa/images as images.",
    near=(
        "train",
        "val",
        "test",
        *(f"{up}/images/{part}" for up in ("..", "../..", ".") for part in ("train", "val", "test")),
    ),
)
