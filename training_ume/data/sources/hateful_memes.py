"""Hateful Memes: a picture, the words on it, and whether both together are hateful."""

from __future__ import annotations

import re
from dataclasses import dataclass

from training_ume.data.sources.base import Layout, Source
from training_ume.data.tables.table import Table

IMAGE = re.compile(r"img/[0-9]{5}\.png")


@dataclass(frozen=True)
class HatefulMemesSource(Source):
    """Its columns are anybody's, the names of its pictures are not."""

    def recognises(self, table: Table) -> bool:
        if not self.layouts[0].fits(table.columns):
            return False
        (_, cells), _ = next(table.batches())
        return all(isinstance(name, str) and IMAGE.fullmatch(name) for name in cells["img"])


HATEFUL_MEMES = HatefulMemesSource(
    name="hateful_memes",
    title="Hateful Memes",
    layouts=(
        Layout({"question_id": "id", "image": "img", "question": "text", "answers": "label"}),
        Layout({"question_id": "id", "image": "image", "question": "text", "answers": "label"}, tells=False),
    ),
    scores=("exact_match", "auroc", "macro_f1"),
    url="https://hatefulmemeschallenge.com",
    licence="Facebook's licence for research (the archive holds it)",
    size="10,000 memes",
    pictures="They are in the same archive, in img, where they are found beside train.jsonl.",
    references=(
        ("VisualBERT COCO, test", "accuracy 69.47, AUROC 75.44", "Kiela et al. 2020, arXiv:2005.04790"),
        ("people", "accuracy 84.70", "Kiela et al. 2020, arXiv:2005.04790"),
    ),
)
