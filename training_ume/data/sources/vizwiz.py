"""VizWiz: what blind people asked about their own photographs, some of which cannot be answered."""

from __future__ import annotations

from training_ume.data.sources.base import Layout, Source

VIZWIZ = Source(
    name="vizwiz",
    title="VizWiz-VQA",
    layouts=(
        Layout(
            {"image": "image", "question": "question", "answers": "answers", "answer_type": "answer_type"},
            frozenset({"answerable"}),
        ),
        Layout(  # on the Hub
            {
                "question_id": "question_id",
                "image": "image",
                "question": "question",
                "answers": "answers",
                "answer_type": "category",
            },
            tells=False,
        ),
        Layout({"image": "image", "question": "question", "answers": None}, tells=False),  # the official test part
    ),
    scores=("vqa_accuracy", "exact_match"),
    by=("answer_type", "answerable"),
    url="https://vizwiz.org/tasks-and-datasets/vqa/",
    licence="CC BY 4.0",
    size="32,842 questions, one an image",
    pictures="From the same page: give the unpacked folder train, val or test as images.",
    near=("train", "val", "test", "../train", "../val", "../test", "../Images"),
)
