"""COCO-QA: four text files of a part, a line a question: questions, answers, COCO ids and types."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import _Problems
from training_ume.data.sources.base import Layout, Source
from training_ume.data.sources.pairs import COCO_2014
from training_ume.data.tables.memory import from_lists
from training_ume.data.tables.table import Table
from training_ume.data.tables.text import encoding_of

FILES = {"question": "questions.txt", "answer": "answers.txt", "image_id": "img_ids.txt", "type": "types.txt"}
TYPES = {"0": "object", "1": "number", "2": "color", "3": "location"}


@dataclass(frozen=True)
class CocoQASource(Source):
    """`data` is the folder of a part, or the one that holds `train` and `test`."""

    def open(self, data: Any, split: str | None, name: str | None, cache_dir, problems: _Problems) -> Table:
        folder = self._folder(os.fspath(data), split)
        lines = {}
        for column, file in FILES.items():
            path = os.path.join(folder, file)
            if not os.path.isfile(path):
                raise VQADataError(f"{folder} has no {file}. COCO-QA's parts have {', '.join(FILES.values())}.")
            with open(path, encoding=encoding_of(path)) as text:
                lines[column] = text.read().splitlines()
        counts = {FILES[column]: len(of) for column, of in lines.items()}
        if len(set(counts.values())) > 1:
            raise VQADataError(f"The files of {folder} are no part of one another: their lines are {counts}.")
        lines["type"] = [TYPES.get(kind.strip(), kind.strip()) for kind in lines["type"]]
        lines = {column: [line.strip() for line in of] for column, of in lines.items()}
        table = from_lists(lines)
        table.name, table.container, table.folder = folder, "COCO-QA's text files", os.path.abspath(folder)
        table.label, table.took_split = "line {} (the first is 0)", True
        return table

    @staticmethod
    def _folder(path: str, split: str | None) -> str:
        path = os.path.dirname(path) if os.path.isfile(path) else path
        if os.path.isfile(os.path.join(path, FILES["question"])):
            return path
        return os.path.join(path, split or "train")

    def recognises_path(self, path: str) -> bool:
        folder = path if os.path.isdir(path) else os.path.dirname(path)
        inner = [folder, os.path.join(folder, "train"), os.path.join(folder, "test")]
        here = inner if os.path.isdir(path) else inner[: os.path.basename(path) in FILES.values()]
        return any(os.path.isfile(os.path.join(part, name)) for part in here for name in ("img_ids.txt",))


COCO_QA = CocoQASource(
    name="coco_qa",
    title="COCO-QA",
    layouts=(
        Layout(
            {
                "image_id": "image_id",
                "image": "image_id",
                "question": "question",
                "answers": "answer",
                "question_type": "type",
            },
            tells=False,
        ),
    ),
    scores=("exact_match", "wups_0.9", "wups_0.0"),
    by=("question_type",),
    url="https://www.cs.toronto.edu/~mren/research/imageqa/data/cocoqa/",
    licence="not stated",
    size="117,684 questions, 69,172 images",
    pictures="COCO 2014, from https://cocodataset.org: give the folder train2014, or for the test part "
    "val2014, as images.",
    references=(("FULL", "accuracy 57.84, WUPS@0.9 67.90", "Ren et al. 2015, arXiv:1505.02074"),),
    near=tuple(f"{up}{part}" for up in ("", "../", "../../") for part in ("train2014", "val2014")),
    image_patterns=COCO_2014["image_patterns"],
)
