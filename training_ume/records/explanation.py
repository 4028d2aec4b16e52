"""What is found out about one answer: which parts of each input mattered, such as words, and which modality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modeling_ume.parts_ume import Axis

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
class PartScores:
    """
    What each part of one input adds to the answer's logit (of a number: to the number).

    Attributes:
        noun: what the input is called in a sentence.
        axes: what the parts are counted by; all combinations are parts.
        scores: one a part, shaped by the axes; they lead from `baseline_logit` to the logit.
        method: how they were found.
        baseline_logit: with all parts taken away.
        error: by how much the scores miss the difference.
        picture, shown: how they are drawn, see `modeling_ume.parts_ume.Parts`.
    """

    noun: str
    axes: tuple[Axis, ...]
    scores: np.ndarray
    method: str
    baseline_logit: float
    error: float
    picture: str
    shown: np.ndarray | None = None

    def best(self, count: int) -> list[tuple[str, float]]:
        """The parts with the greatest scores, whatever their sign, by name."""
        places = np.argsort(-np.abs(self.scores), axis=None, kind="stable")[:count]
        found = []
        for place in places.tolist():
            indices = np.unravel_index(place, self.scores.shape)
            name = ", ".join(axis.labels[i] for axis, i in zip(self.axes, indices, strict=True))
            found.append((name, float(self.scores[indices])))
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "axes": [
                {name: value for name, value in axis._asdict().items() if value not in (None, "")}
                for axis in self.axes
            ],
            "scores": self.scores.tolist(),
            "baseline_logit": self.baseline_logit,
            "error": self.error,
        }


@dataclass
class Explanation:
    """What `explain` finds out about one answer. What belongs to an input that was not given is None, or empty.

    Attributes:
        answer, probability, logit: what is explained; of a number its name, and the number twice.
        candidates: the best answers, `{"answer", "score"}`, the first being the predicted one; of numbers all, as
            `{"answer", "name"}`.
        modality_weights: the head's own, by view, where it has some; they sum to 1.
        values: the answer's probability by what the model is given, every subset of its modalities: `""`, `"text"`,
            `"image"`, `"text+image"`.
        shapley: of each modality by its name; they sum to the value of all minus `values[""]`.
        chooses: whether the answer is one of a list; otherwise it is a number.
        question: the text.
        words: `{"word", "start", "end", "score"}` in the question's order; scores in units of the logit.
        baseline_logit: the logit with every word replaced by padding. What the scores sum to is `logit` minus this.
        completeness_error: by how much the words' scores fail to: the error of the numerical integral.
        image: [H, W, 3] in 0 … 1, the image as the model sees it: resized and cropped.
        grad_cam: [h, w]; what is above 0 speaks for the answer.
        layer: the layer of the image encoder that it was read at.
        integrated: [16, 16], what each part of the image adds to the logit, compared with its mean colour everywhere.
        integrated_error: by how much its sum differs from what all of the image adds: the error of the integral.
        pair_weights: of the heads that weigh pairs of tokens, where there are a text and an image and nothing else.
        parts: of all other inputs, by the name of the modality.
        faithfulness: by the name of the modality, where it was asked for: `deletion` and `insertion`, areas under the
            curves of the probability, and the mean of those of random orders, `random_deletion`, `random_insertion`.
    """

    answer: str
    probability: float
    logit: float
    candidates: list[dict]
    modality_weights: dict[str, float] | None
    values: dict[str, float]
    shapley: dict[str, float]
    chooses: bool = True
    question: str = ""
    words: list[dict] = field(default_factory=list)
    baseline_logit: float | None = None
    completeness_error: float | None = None
    image: np.ndarray | None = None
    grad_cam: np.ndarray | None = None
    layer: str | None = None
    integrated: np.ndarray | None = None
    integrated_error: float | None = None
    pair_weights: PairMaps | None = None
    parts: dict[str, PartScores] = field(default_factory=dict)
    faithfulness: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All of it but what was given, for `json.dumps`."""
        pairs = self.pair_weights
        found: dict[str, Any] = {
            "question": self.question,
            "answer": self.answer,
            **({"probability": self.probability} if self.chooses else {"number": self.probability}),
            "logit": self.logit,
            "candidates": self.candidates,
        }
        if self.grad_cam is not None:
            found["grad_cam"] = {
                "layer": self.layer, "grid": list(self.grad_cam.shape), "map": self.grad_cam.tolist(),
            }  # fmt: skip
            found["integrated"] = {
                "grid": list(self.integrated.shape), "map": self.integrated.tolist(), "error": self.integrated_error,
            }  # fmt: skip
            found["pair_weights"] = pairs and {
                "tokens": pairs.tokens, "maps": pairs.maps.tolist(), "off_grid": pairs.off_grid.tolist(),
            }  # fmt: skip
        if self.baseline_logit is not None:
            found["words"] = self.words
            found["completeness"] = {
                "logit": self.logit,
                "baseline_logit": self.baseline_logit,
                "sum_of_words": sum(word["score"] for word in self.words),
                "error": self.completeness_error,
            }
        if self.parts:
            found["parts"] = {name: scores.as_json() for name, scores in self.parts.items()}
        if self.faithfulness:
            found["faithfulness"] = self.faithfulness
        return {
            **found,
            "modality_weights": self.modality_weights,
            "modality_values": self.values,
            "shapley": self.shapley,
        }
