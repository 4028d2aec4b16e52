"""VQA-RAD: clinicians' questions about radiology images; one JSON file of both parts."""

from __future__ import annotations

from dataclasses import dataclass

from training_ume.data.sources.base import Layout
from training_ume.data.sources.medical import Medical
from training_ume.data.tables.table import Table


@dataclass(frozen=True)
class VQARadSource(Medical):
    """Adds `split`: `test` where `phrase_type` says so, and else `train`."""

    def row(self, entry: dict) -> dict:
        if "phrase_type" not in entry:
            return entry
        return {**entry, "split": "test" if str(entry["phrase_type"]).startswith("test") else "train"}

    def added(self, table: Table) -> list[str]:
        return ["split"] if "phrase_type" in table.columns else []


TYPES = {"question_type": "question_type", "answer_type": "answer_type"}
VQA_RAD = VQARadSource(
    name="vqa_rad",
    title="VQA-RAD",
    layouts=(
        Layout(
            {"question_id": "qid", "image": "image_name", "question": "question", "answers": "answer", **TYPES},
            frozenset({"phrase_type", "image_organ"}),
        ),
        Layout(
            {"image": "image", "question": "question", "answers": "answer", "answer_type": "answer_type"}, tells=False
        ),  # on the Hub
    ),
    scores=("exact_match",),
    by=("answer_type", "question_type"),
    url="https://osf.io/89kps/",
    licence="CC0 1.0",
    size="2,248 questions, 315 images",
    pictures="The folder VQA_RAD Image Folder of the same page: give it as images.",
    references=(("MEVF + BAN", "open 43.9, closed 75.1", "Nguyen et al. 2019, arXiv:1909.11867"),),
    near=("VQA_RAD Image Folder", "VQA_RAD_Image_Folder", "../VQA_RAD Image Folder"),
    split_column="split",
)
