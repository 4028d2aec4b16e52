"""CLEVR: drawn solids, and questions with the program that answers them."""

from __future__ import annotations

from dataclasses import dataclass

from training_ume.data.sources.base import Layout, Source, expanded
from training_ume.data.tables.table import Table

# The last function of a program, as the paper groups them.
TYPES = {
    "exist": "exist",
    "count": "count",
    "equal_integer": "compare integer",
    "less_than": "compare integer",
    "greater_than": "compare integer",
    **{f"query_{attribute}": "query attribute" for attribute in ("size", "color", "material", "shape")},
    **{f"equal_{attribute}": "compare attribute" for attribute in ("size", "color", "material", "shape")},
}


@dataclass(frozen=True)
class CLEVRSource(Source):
    """Adds `question_type`, by the last function of the question's program."""

    def prepared(self, table: Table) -> Table:
        def make(entry: dict) -> list[dict]:
            program = entry.get("program") or [{}]
            last = program[-1].get("function") or program[-1].get("type")  # files of before the release say type
            return [{**entry, "question_type": TYPES.get(last, last)}]

        return expanded(table, [*table.columns, "question_type"], make)


CLEVR = CLEVRSource(
    name="clevr",
    title="CLEVR",
    layouts=(
        Layout(
            {
                "question_id": "question_index",
                "image_id": "image_filename",
                "image": "image_filename",
                "question": "question",
                "answers": "answer",
                "question_type": "question_type",
            },
            frozenset({"image_index"}),
        ),
    ),
    scores=("exact_match",),
    by=("question_type",),
    url="https://cs.stanford.edu/people/jcjohns/clevr/",
    licence="CC BY 4.0",
    size="999,968 questions, 100,000 images",
    pictures="They are in CLEVR_v1.0.zip: give CLEVR_v1.0/images/train, val or test as images.",
    references=(
        ("CNN + LSTM + SA", "accuracy 68.5", "Johnson et al. 2017, arXiv:1612.06890"),
        ("people", "accuracy 92.6", "Johnson et al. 2017, arXiv:1612.06890"),
    ),
    near=("train", "val", "test", *(f"{up}images/{part}" for up in ("", "../") for part in ("train", "val", "test"))),
    split_column="split",
    key="questions",
    makes=("question_type",),
)
