"""TextVQA: questions about the words that stand in a picture."""

from __future__ import annotations

from training_ume.data.sources.base import Layout, Source

COLUMNS = {"question_id": "question_id", "image_id": "image_id", "question": "question", "answers": "answers"}
MARKS = frozenset({"flickr_original_url", "set_name"})

TEXTVQA = Source(
    name="textvqa",
    title="TextVQA",
    layouts=(Layout({**COLUMNS, "image": "image"}, MARKS), Layout({**COLUMNS, "image": "image_id"}, MARKS)),
    scores=("vqa_accuracy", "exact_match"),
    url="https://textvqa.org/dataset/",
    licence="CC BY 4.0",
    size="45,336 questions, 28,408 images",
    pictures="Open Images, from https://textvqa.org/dataset/: give the unpacked folder train_images or test_images as "
    "images.",
    references=(("LoRRA, validation", "VQA accuracy 26.56", "Singh et al. 2019, arXiv:1904.08920"),),
    near=("train_images", "test_images", "train_val_images/train_images"),
    split_column="set_name",
    key="data",
)
