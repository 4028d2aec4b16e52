"""The thesis' rows, its own figures and published references."""

from __future__ import annotations

from typing import NamedTuple

NAMES = {
    "lstm": "LSTM", "vgg": "VGG", "bert": "BERT", "roberta": "RoBERTa", "deberta_v3": "DeBERTa-v3", "vit": "ViT",
    "beit": "BEiT",
}  # fmt: skip


class Row(NamedTuple):
    """A row of the thesis: the encoders' names, which are the recipe's, and the head by the thesis' name and ours."""

    text: str
    vision: str
    head: str
    fusion: str

    @property
    def pair(self) -> str:
        return f"{self.text}_{self.vision}"

    @property
    def name(self) -> str:
        return f"{self.pair}/{self.head}"

    @property
    def recipe(self) -> str:
        return f"thesis/{self.pair}"

    @property
    def title(self) -> str:
        head = "UME" if self.head == "ume" else f"`{self.head}`" if self.head == self.fusion else self.head
        return f"{NAMES[self.text]} × {NAMES[self.vision]}, {head}"


ROWS = {
    row.name: row
    for row in (
        *(Row("lstm", "vgg", head, head) for head in ("concat", "product", "cross_attention", "evc", "ume")),
        *(
            Row(text, vision, head, fusion)
            for text in ("bert", "roberta", "deberta_v3")
            for vision in ("vit", "beit")
            for head, fusion in (("baseline", "concat"), ("ume", "ume"))
        ),
    )
}

# The thesis' own figures in percent with the ± that it prints: min(n / 3, 1) for n of ten people who gave the answer.
# The six rows that are not here it only plans.
THESIS = {
    "lstm_vgg/concat": (35.895, 1.83),
    "lstm_vgg/product": (36.382, 1.57),
    "lstm_vgg/cross_attention": (39.814, 1.02),
    "lstm_vgg/evc": (47.285, 0.92),
    "lstm_vgg/ume": (50.481, 1.94),
    "bert_vit/baseline": (47.186, 0.93),
    "bert_vit/ume": (55.331, 1.32),
    "roberta_vit/baseline": (49.412, 1.05),
    "roberta_vit/ume": (57.921, 1.48),
    "deberta_v3_beit/baseline": (58.251, 0.89),
    "deberta_v3_beit/ume": (67.917, 1.21),
}


class Reference(NamedTuple):
    """A published VQA accuracy on VQA v2, in percent."""

    model: str
    vqa_accuracy: float
    scored_on: str
    source: str


REFERENCES = {
    "language_only": Reference(
        "language only", 43.0, "val", "Goyal et al. 2017, Making the V in VQA Matter, arXiv:1612.00837"
    ),
    "deeper_lstm": Reference("deeper LSTM Q + norm I", 51.6, "val", "Goyal et al. 2017, as above"),
    "bottom_up": Reference(
        "bottom-up attention",
        63.2,
        "val",
        "Anderson et al. 2018, arXiv:1707.07998; Teney et al. 2018, arXiv:1708.02711",
    ),
    "meter": Reference(
        "METER without vision-language pretraining", 72.4, "test-dev", "Dou et al. 2022, arXiv:2111.02387"
    ),
}

OFFICIAL = "VQA v2"
