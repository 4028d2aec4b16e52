"""A-OKVQA: questions that ask for knowledge, with ten direct answers and four choices each."""

from __future__ import annotations

from dataclasses import dataclass

from training_ume.data.sources.base import Layout, Source, expanded
from training_ume.data.tables.cells import as_list, plain
from training_ume.data.tables.table import Table


@dataclass(frozen=True)
class AOKVQA(Source):
    """Adds `correct_choice`, the text of the right one among `choices`."""

    def prepared(self, table: Table) -> Table:
        def make(entry: dict) -> list[dict]:
            # On the Hub, lists are written out as text.
            listed = {
                key: as_list(entry[key]) if isinstance(entry.get(key), str) else entry.get(key)
                for key in ("choices", "direct_answers", "rationales")
                if key in entry
            }
            if not listed["choices"]:
                raise ValueError("it has no choices")
            row, index = {**entry, **listed}, plain(entry.get("correct_choice_idx"))
            if index is not None:
                if not 0 <= int(index) < len(row["choices"]):
                    raise ValueError(f"correct_choice_idx is {index}, and there are {len(row['choices'])} choices")
                row["correct_choice"] = row["choices"][int(index)]
            return [row]

        return expanded(table, [*table.columns, "correct_choice"], make)


A_OKVQA = AOKVQA(
    name="aokvqa",
    title="A-OKVQA",
    layouts=(
        Layout(
            {"question_id": "question_id", "image": "image", "question": "question", "answers": "direct_answers"},
            frozenset({"choices", "difficult_direct_answer"}),
        ),
        Layout(
            {
                "question_id": "question_id",
                "image_id": "image_id",
                "image": "image_id",
                "question": "question",
                "answers": "direct_answers",
            },
            frozenset({"choices", "split"}),
        ),
    ),
    scores=("vqa_accuracy", "exact_match"),
    by=("difficult_direct_answer",),
    url="https://github.com/allenai/aokvqa",
    licence="Apache-2.0",
    size="24,903 questions, 23,692 images",
    pictures="COCO 2017, from https://cocodataset.org: give the folder train2017, val2017 or test2017 as images.",
    references=(("GPV-2, validation", "direct answers 48.6, choices 60.3", "Schwenk et al. 2022, arXiv:2206.01718"),),
    near=("train2017", "val2017", "test2017", "../train2017", "../val2017", "../test2017"),
    image_patterns=("{image_id:012d}.jpg",),
    split_column="split",
)
