"""easy-VQA from its package: drawn shapes, questions about them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from training_ume.data.rows import FEATURES, _add_row, _empty_rows, _Problems
from training_ume.data.sources.base import Layout, Source
from training_ume.data.tables.memory import from_lists
from training_ume.data.tables.table import Table

# ------------------------------------------------------------------------------------------------------ other sources


def _easy_vqa_rows(split: str, problems: _Problems) -> dict[str, list]:
    try:
        import easy_vqa
    except ImportError as error:
        raise ImportError(
            "source='easy_vqa' needs the package easy-vqa, which holds the data. Install it with: pip install easy-vqa"
        ) from error
    readers = {
        "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
        "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
    }
    if split not in readers:
        raise ValueError(f"easy-VQA has the splits 'train' and 'test', not {split!r}.")
    read_questions, read_images = readers[split]
    images = {number: os.path.abspath(path) for number, path in read_images().items()}
    rows = _empty_rows()
    for question_id, (question, answer, number) in enumerate(zip(*read_questions(), strict=True)):
        # Both splits count their images from 0; the id must not join different images.
        image_id = f"{split}-{number}"
        if number not in images:
            problems.add("missing_image", easy_vqa.__file__, f"question_id {question_id}", f"no image {image_id}")
            continue
        question_type = " ".join(question.split()[:2])
        answer_type = "yes/no" if answer in ("yes", "no") else "other"
        _add_row(rows, question_id, image_id, question, images[number], [answer] * 10, question_type, answer_type)
    return rows


@dataclass(frozen=True)
class EasyVQASource(Source):
    """Needs no files: the package holds it, in the splits train and test."""

    def open(self, data: Any, split: str | None, name: str | None, cache_dir, problems: _Problems) -> Table:
        table = from_lists(_easy_vqa_rows(split or "train", problems))
        table.name, table.container, table.took_split = f"easy-VQA, {split or 'train'}", "the package easy-vqa", True
        return table


EASY_VQA = EasyVQASource(
    name="easy_vqa",
    title="easy-VQA",
    layouts=(Layout({column: column for column in FEATURES}, tells=False),),
    scores=("vqa_accuracy", "exact_match"),
    by=("answer_type",),
    url="https://github.com/vzhou842/easy-VQA",
    licence="MIT",
    size="48,248 questions, 5,000 images",
    pictures="They are in the package: pip install easy-vqa.",
    needs_data=False,
)
