"""What is found out about one answer: where the model looked, which words and which modality mattered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

PAIRS = "pairs"  # what a head's modality weights call the view of pairs, beside one a modality


@dataclass
class PairMaps:
    """The head's own weights of question token × image token, which sum to 1 over all pairs.

    Attributes:
        tokens: the question's tokens as the model reads them, T of them, special ones too.
        maps: [T, h, w], what each token gives to each cell of the image.
        off_grid: [T], what it gives to image tokens that are no place in the image, such as a class token.
    """

    tokens: list[str]
    maps: np.ndarray
    off_grid: np.ndarray


@dataclass
class Explanation:
    """What `explain` finds out about one question, one image and one answer.

    Attributes:
        question, answer, probability, logit: what is explained.
        candidates: the best answers, `{"answer", "score"}`, the first being the predicted one.
        image: [H, W, 3] in 0 … 1, the image as the model sees it: resized and cropped.
        grad_cam: [h, w]; what is above 0 speaks for the answer.
        layer: the layer of the image encoder that it was read at.
        integrated: [16, 16], what each part of the image adds to the logit, compared with its mean colour everywhere.
        integrated_error: by how much its sum differs from what all of the image adds: the error of the integral.
        pair_weights: of the heads that weigh pairs of tokens, else None.
        words: `{"word", "start", "end", "score"}` in the question's order; scores in units of the logit.
        baseline_logit: the logit with every word replaced by padding. What the scores sum to is `logit` minus this.
        completeness_error: by how much the words' scores fail to: the error of the numerical integral.
        modality_weights: the head's own, by view, where it has some; they sum to 1.
        values: the answer's probability by what the model is given, every subset of its modalities: `""`, `"text"`,
            `"image"`, `"text+image"`.
        shapley: of each modality by its name; they sum to the value of all minus `values[""]`.
    """

    question: str
    answer: str
    probability: float
    logit: float
    candidates: list[dict]
    image: np.ndarray
    grad_cam: np.ndarray
    layer: str
    integrated: np.ndarray
    integrated_error: float
    pair_weights: PairMaps | None
    words: list[dict]
    baseline_logit: float
    completeness_error: float
    modality_weights: dict[str, float] | None
    values: dict[str, float]
    shapley: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """All of it but the image, for `json.dumps`."""
        pairs = self.pair_weights
        return {
            "question": self.question,
            "answer": self.answer,
            "probability": self.probability,
            "logit": self.logit,
            "candidates": self.candidates,
            "grad_cam": {"layer": self.layer, "grid": list(self.grad_cam.shape), "map": self.grad_cam.tolist()},
            "integrated": {
                "grid": list(self.integrated.shape),
                "map": self.integrated.tolist(),
                "error": self.integrated_error,
            },
            "pair_weights": pairs
            and {"tokens": pairs.tokens, "maps": pairs.maps.tolist(), "off_grid": pairs.off_grid.tolist()},
            "words": self.words,
            "completeness": {
                "logit": self.logit,
                "baseline_logit": self.baseline_logit,
                "sum_of_words": sum(word["score"] for word in self.words),
                "error": self.completeness_error,
            },
            "modality_weights": self.modality_weights,
            "modality_values": self.values,
            "shapley": self.shapley,
        }
