"""Sort-of-CLEVR, drawn here: six coloured shapes, and questions about one of them or about two."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from training_ume.data.drawing import ASKED, asked, draw, scene
from training_ume.data.rows import _Problems
from training_ume.data.sources.base import Layout, Source
from training_ume.data.tables.memory import from_entries
from training_ume.data.tables.table import Table

IMAGES = {"train": 9800, "test": 200}


@dataclass(frozen=True)
class SortOfClevrSource(Source):
    """Needs no files. `split` is train (9,800 images) or test (200); `name` is another number of images."""

    def open(self, data: Any, split: str | None, name: str | None, cache_dir, problems: _Problems) -> Table:
        split = split or "train"
        if split not in IMAGES or (name is not None and not str(name).isdecimal()):
            raise ValueError(
                f"Sort-of-CLEVR has the splits train and test, and name is a number of images: not {name!r}."
            )
        folder = os.path.join(os.path.abspath(cache_dir or datasets.config.HF_DATASETS_CACHE), "sort_of_clevr", split)
        os.makedirs(folder, exist_ok=True)
        rows = []
        for number in range(int(name or IMAGES[split])):
            random = np.random.default_rng((list(IMAGES).index(split), number))
            objects, path = scene(random), os.path.join(folder, f"{number}.png")
            if not os.path.isfile(path):
                draw(objects, path)
            for kind, questions in ASKED.items():
                for question, colour, answer in asked(objects, questions, random):
                    told = {"image": path, "image_id": f"{split}-{number}", "question": question, "answer": answer}
                    rows.append({**told, "question_type": kind, "colour": colour})
        table = from_entries(rows)
        table.name, table.container, table.took_split = f"Sort-of-CLEVR, {split}", "drawn here", True
        return table


SORT_OF_CLEVR = SortOfClevrSource(
    name="sort_of_clevr",
    title="Sort-of-CLEVR",
    layouts=(
        Layout(
            {
                "image": "image",
                "image_id": "image_id",
                "question": "question",
                "answers": "answer",
                "question_type": "question_type",
            },
            tells=False,
        ),
    ),
    scores=("exact_match",),
    by=("question_type",),
    url="drawn by this package, after the paper",
    licence="none needed",
    size="200,000 questions, 10,000 images",
    pictures="They are drawn into the cache when they are asked for.",
    references=(
        ("relation network, relational", "accuracy above 94", "Santoro et al. 2017, arXiv:1706.01427"),
        ("CNN + MLP, relational", "accuracy 63", "Santoro et al. 2017, arXiv:1706.01427"),
    ),
    needs_data=False,
)
