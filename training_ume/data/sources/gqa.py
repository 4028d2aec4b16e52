"""GQA: questions made from scene graphs, by id; the balanced files are the ones that are scored."""

from __future__ import annotations

from dataclasses import dataclass

from training_ume.data.sources.base import Layout, Source, expanded
from training_ume.data.tables.table import Table


@dataclass(frozen=True)
class GQASource(Source):
    """Takes the types of a question out of `types`: the structural one is its `question_type`."""

    def prepared(self, table: Table) -> Table:
        def make(entry: dict) -> list[dict]:
            types = entry.get("types") or {}
            named = {"structural": types.get("structural"), "semantic_type": types.get("semantic")}
            return [{**entry, **named, "detailed": types.get("detailed")}]

        return expanded(table, [*table.columns, "structural", "semantic_type", "detailed"], make)


COLUMNS = {"image_id": "imageId", "image": "imageId", "question": "question", "answers": "answer"}
COLUMNS["question_type"] = "structural"
MARKS = frozenset({"isBalanced"})

GQA = GQASource(
    name="gqa",
    title="GQA",
    layouts=(
        Layout({"question_id": "id", **COLUMNS}, MARKS),  # on the Hub
        Layout(COLUMNS, MARKS),
        Layout(COLUMNS, tells=False),  # what is submitted to the challenge
    ),
    scores=("exact_match",),
    by=("question_type", "semantic_type"),
    url="https://cs.stanford.edu/people/dorarad/gqa/download.html",
    licence="CC BY 4.0",
    size="22,669,678 questions, 113,018 images",
    pictures="images.zip of the same page: give its folder as images.",
    references=(
        ("MAC", "accuracy 54.06", "Hudson and Manning 2019, arXiv:1902.09506"),
        ("people", "accuracy 89.3", "Hudson and Manning 2019, arXiv:1902.09506"),
    ),
    near=("images", "../images"),
    makes=("structural", "semantic_type", "detailed"),
)
