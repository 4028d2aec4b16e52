"""Visual7W, telling: what, where, when, who, why and how, with three wrong choices each."""

from __future__ import annotations

import os
from dataclasses import dataclass

from training_ume.data.sources.base import Layout, Source, expanded
from training_ume.data.tables.table import Table

OWN = ("qa_id", "question", "answer", "multiple_choices", "type")


@dataclass(frozen=True)
class Visual7WSource(Source):
    """A row for each question of each image; `choices` are the right answer and the wrong ones, alphabetically."""

    def prepared(self, table: Table) -> Table:
        if "qa_pairs" not in table.columns:
            return table

        def make(entry: dict) -> list[dict]:
            image = {key: entry.get(key) for key in ("image_id", "filename", "split")}
            rows = []
            for pair in entry["qa_pairs"] or []:
                row = {**image, **{key: pair.get(key) for key in OWN}}
                if isinstance(row["answer"], int):
                    raise ValueError("answers are boxes: this is the pointing part, and only the telling part is read")
                if row["multiple_choices"]:
                    row["choices"] = sorted([row["answer"], *row["multiple_choices"]])
                rows.append(row)
            return rows

        made = expanded(table, [*OWN, "image_id", "filename", "split", "choices"], make)
        made.label = "image number {}"
        return made

    def recognises(self, table: Table) -> bool:
        return {"qa_pairs", "filename", "split"} <= set(table.columns)

    def recognises_path(self, path: str) -> bool:
        """By what the file says first: it may hold other lists beside the images."""
        if not path.endswith(".json") or not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return b'"v7w_telling"' in file.read(4096)


VISUAL7W = Visual7WSource(
    name="visual7w",
    title="Visual7W (telling)",
    layouts=(
        Layout(
            {
                "question_id": "qa_id",
                "image_id": "image_id",
                "image": "filename",
                "question": "question",
                "answers": "answer",
                "question_type": "type",
            }
        ),
    ),
    scores=("exact_match",),
    by=("question_type",),
    url="https://ai.stanford.edu/~yukez/visual7w/",
    licence="not stated (MIT for the toolkit)",
    size="139,868 telling questions, 28,653 images",
    pictures="visual7w_images.zip of the same page: give its folder images as images.",
    references=(
        ("LSTM with attention, of four choices", "accuracy 55.6", "Zhu et al. 2016, arXiv:1511.03416"),
        ("people, of four choices", "accuracy 96.6", "Zhu et al. 2016, arXiv:1511.03416"),
    ),
    near=("images", "../images"),
    split_column="split",
    key="images",
)
