"""VQA v2: what many people asked and answered about COCO photographs."""

from __future__ import annotations

from training_ume.data.sources.base import Layout
from training_ume.data.sources.pairs import COCO_2014, COLUMNS, Pair

VQA_V2 = Pair(
    name="vqa_v2",
    title="VQA v2",
    layouts=(
        Layout({**COLUMNS, "image": "image"}, frozenset({"multiple_choice_answer"})),  # as on the Hub
        Layout(COLUMNS, tells=False),
    ),
    scores=("vqa_accuracy", "exact_match"),
    by=("answer_type", "question_type"),
    url="https://visualqa.org/download.html",
    licence="CC BY 4.0 (annotations)",
    size="1,105,904 questions, 204,721 images",
    references=(("bottom-up attention, test-dev", "VQA accuracy 65.32", "Anderson et al. 2018, arXiv:1707.07998"),),
    **COCO_2014,
    prefixes=("v2_openended_",),
)
