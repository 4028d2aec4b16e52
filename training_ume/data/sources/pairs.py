"""Data sets in VQA v2's layout: a file of questions and one of annotations, joined by their ids."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import _Problems
from training_ume.data.sources.base import Source
from training_ume.data.sources.official import _official_rows
from training_ume.data.tables.memory import from_lists
from training_ume.data.tables.table import Table

# What every data set about these photographs says of them.
COCO_2014 = {
    "pictures": "COCO 2014, from https://cocodataset.org: give the folder train2014 or val2014 as images.",
    "near": ("train2014", "val2014", "../train2014", "../val2014"),
    "image_patterns": ("COCO_train2014_{image_id:012d}.jpg", "COCO_val2014_{image_id:012d}.jpg"),
}
COLUMNS = {
    "question_id": "question_id",
    "image_id": "image_id",
    "image": "image_id",
    "question": "question",
    "answers": "answers",
    "question_type": "question_type",
    "answer_type": "answer_type",
}


@dataclass(frozen=True)
class Pair(Source):
    """A data set of two files. `data` is both paths, `{"questions": …, "annotations": …}`, a folder that holds them,
    or the questions alone, whose annotations then are sought beside them.

    Attributes:
        prefixes: how the names of its files of questions begin, in small letters.
    """

    prefixes: tuple[str, ...] = ()

    def open(self, data: Any, split: str | None, name: str | None, cache_dir, problems: _Problems) -> Table:
        questions, annotations = self.files(data, split)
        if questions is None:  # a table already, as on the Hub
            return super().open(data, split, name, cache_dir, problems)
        rows = _official_rows(questions, annotations, None, None, problems)
        if not rows["question_id"]:
            problems.raise_if_any()
            raise VQADataError(f"{questions} holds no questions.")
        table = from_lists({column: rows[column] for column in dict.fromkeys(COLUMNS.values())})
        table.name, table.container, table.took_split = (
            os.fspath(questions),
            "files of questions and annotations",
            True,
        )
        table.folder = os.path.dirname(os.path.abspath(questions))
        table.notes.append(f"Annotations: {annotations or 'none, as of a test set'}.")
        return table

    def files(self, data: Any, split: str | None) -> tuple[str | None, str | None]:
        """The paths of the questions and, where there are any, of the annotations."""
        if isinstance(data, Mapping) and "questions" in data:
            return os.fspath(data["questions"]), data.get("annotations")
        if isinstance(data, (str, os.PathLike)) and os.path.isdir(data):
            names = sorted(os.listdir(data))
            found = [
                [os.path.join(data, n) for n in names if word in n.lower()] for word in ("question", "annotation")
            ]
            found = [[f for f in files if not split or split in os.path.basename(f)] for files in found]
            if not found[0]:
                return None, None
            if len(found[0]) > 1 or len(found[1]) > 1:
                raise VQADataError(
                    f"{data} holds several files: {', '.join(map(os.path.basename, found[0] + found[1]))}. Name a "
                    "split, or give the path of the questions and that of the annotations."
                )
            return found[0][0], found[1][0] if found[1] else None
        paths = [data] if isinstance(data, (str, os.PathLike)) else data if isinstance(data, (list, tuple)) else []
        if not paths or not all(isinstance(path, (str, os.PathLike)) for path in paths):
            return None, None
        paths = [os.fspath(path) for path in paths]
        if not all(path.partition("::")[0].lower().endswith((".json", ".gz", ".zip")) for path in paths):
            return None, None
        if len(paths) == 1:
            return paths[0], _beside(paths[0])
        if len(paths) > 2:
            raise VQADataError(f"{self.title} is a file of questions and one of annotations, not {len(paths)} files.")
        return tuple(sorted(paths, key=lambda path: "annotation" in os.path.basename(path).lower()))

    def recognises_path(self, path: str) -> bool:
        """By the name of the questions that it publishes."""
        name = os.path.basename(path).lower()
        return os.path.isfile(path) and "questions" in name and name.startswith(self.prefixes)


def pair_of(data: Any) -> tuple[str, str] | None:
    """A file of questions and one of annotations that plainly belong together: two paths, or a folder that holds no
    other JSON; None for anything else."""
    if isinstance(data, (str, os.PathLike)) and os.path.isdir(data):
        data = [os.path.join(data, name) for name in os.listdir(data) if ".json" in name.lower()]
    if not isinstance(data, (list, tuple)) or len(data) != 2:
        return None
    if not all(isinstance(path, (str, os.PathLike)) and ".json" in os.fspath(path).lower() for path in data):
        return None
    named = {}
    for word in ("question", "annotation"):
        named[word] = [os.fspath(path) for path in data if word in os.path.basename(path).lower()]
    if [len(paths) for paths in named.values()] != [1, 1] or named["question"] == named["annotation"]:
        return None
    return named["question"][0], named["annotation"][0]


def _beside(questions: str) -> str | None:
    """The annotations that lie beside a file of questions, by the names that both have."""
    folder, name = os.path.split(questions)
    plain = name.replace("OpenEnded_", "").replace("MultipleChoice_", "")
    for candidate in (plain, name):
        for old, new in (("questions", "annotations"), ("Questions", "Annotations")):
            path = os.path.join(folder, candidate.replace(old, new))
            if path != questions and os.path.isfile(path):
                return path
    return None
