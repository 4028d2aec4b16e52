"""DAQUAR's raw text file: a line with a question that names its image, then one with its answer."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import _Problems
from training_ume.data.sources.base import Layout, Source
from training_ume.data.tables.memory import from_entries
from training_ume.data.tables.table import Table
from training_ume.data.tables.text import encoding_of

# "… in the image3 ?": which image it is about is no part of what is asked.
IMAGE = re.compile(r"\s*\b(?:(?:in|on|of|at|from|inside)\s+)?(?:(?:the|this)\s+)?(image\d+)\b\s*(?=\?*\s*$|\s)", re.I)


@dataclass(frozen=True)
class DaquarSource(Source):
    """`question` is without the name of the image, `raw_question` with it."""

    def open(self, data: Any, split: str | None, name: str | None, cache_dir, problems: _Problems) -> Table:
        path = os.fspath(data)
        if not path.lower().endswith(".txt"):
            return super().open(data, split, name, cache_dir, problems)
        with open(path, encoding=encoding_of(path)) as text:
            lines = [(number, line.strip()) for number, line in enumerate(text, 1) if line.strip()]
        if len(lines) % 2:
            raise VQADataError(f"{path} has {len(lines)} lines: a question and its answer stand in two lines each.")
        rows = []
        for (number, question), (_, answer) in zip(lines[::2], lines[1::2], strict=True):
            found = IMAGE.findall(question)
            if not found:
                reason = f"a question must name its image, like '… in the image3 ?', and this is {question[:60]!r}"
                problems.add("malformed_entry", path, f"line {number}", reason)
                continue
            asked = IMAGE.sub(" ", question, count=1).replace("  ", " ").strip()
            rows.append({"image": found[-1].lower(), "question": asked, "answer": answer, "raw_question": question})
        if not rows:
            problems.raise_if_any()
        table = from_entries(rows)
        table.name, table.container = path, "DAQUAR's raw text"
        table.folder = os.path.dirname(os.path.abspath(path))
        return table

    def recognises_path(self, path: str) -> bool:
        if not path.lower().endswith(".txt") or not os.path.isfile(path):
            return False
        with open(path, encoding="utf-8", errors="replace") as text:
            first, second = text.readline(), text.readline()
        return bool(IMAGE.search(first)) and first.rstrip().endswith("?") and not second.rstrip().endswith("?")


DAQUAR = DaquarSource(
    name="daquar",
    title="DAQUAR",
    layouts=(
        Layout({"image": "image", "question": "question", "answers": "answer"}, tells=False),
        Layout(  # as a csv that goes round
            {"image": "image_id", "image_id": "image_id", "question": "question", "answers": "answer"}, tells=False
        ),
    ),
    scores=("exact_match", "wups_0.9", "wups_0.0"),
    url="https://www.mpi-inf.mpg.de/departments/computer-vision-and-machine-learning/research/vision-and-language/"
    "visual-turing-challenge",
    licence="not stated",
    size="12,468 questions, 1,449 images",
    pictures="nyu_depth_images.tar of the same page: give its folder as images.",
    references=(
        ("multi-world, all words", "accuracy 7.86", "Malinowski and Fritz 2014, arXiv:1410.0210"),
        ("people, all words", "accuracy 50.20", "Malinowski and Fritz 2014, arXiv:1410.0210"),
    ),
    near=("nyu_depth_images",),
)
