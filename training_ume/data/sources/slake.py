"""SLAKE: radiology images with questions in English and Chinese, open and closed."""

from __future__ import annotations

from training_ume.data.sources.base import Layout
from training_ume.data.sources.medical import Medical

SLAKE = Medical(
    name="slake",
    title="SLAKE",
    layouts=(
        Layout(
            {
                "question_id": "qid",
                "image_id": "img_id",
                "image": "img_name",
                "question": "question",
                "answers": "answer",
                "question_type": "content_type",
                "answer_type": "answer_type",
            },
            frozenset({"q_lang"}),
        ),
        Layout(
            {"image": "image", "question": "question", "answers": "answer", "answer_type": "answer_type"}, tells=False
        ),  # on the Hub, of the English part
    ),
    scores=("exact_match",),
    by=("answer_type", "q_lang", "question_type"),
    url="https://www.med-vqa.com/slake/",
    licence="CC BY 4.0",
    size="14,028 questions, 642 images",
    pictures="They are in Slake1.0.zip, in imgs, where they are found beside train.json.",
    near=("imgs",),
)
