"""OK-VQA: questions about COCO photographs that ask for knowledge, in VQA's layout."""

from __future__ import annotations

from training_ume.data.sources.base import Layout
from training_ume.data.sources.pairs import COCO_2014, COLUMNS, Pair

# On the Hub, without the ids of its images.
HUB = {role: column for role, column in COLUMNS.items() if role != "image_id"} | {"image": "image"}
OK_VQA = Pair(
    name="okvqa",
    title="OK-VQA",
    layouts=(
        Layout(COLUMNS, tells=False),
        Layout({**COLUMNS, "image": "image"}, tells=False),
        Layout(HUB, tells=False),
    ),
    scores=("vqa_accuracy", "exact_match"),
    by=("question_type",),
    url="https://okvqa.allenai.org/download.html",
    licence="not stated",
    size="14,055 questions, 14,031 images",
    references=(("MUTAN with articles", "VQA accuracy 27.84", "Marino et al. 2019, arXiv:1906.00067"),),
    **COCO_2014,
    prefixes=("openended_mscoco_",),
)
