"""What a recipe says: the model, the data and the training, each a dataclass whose fields are the command line's too.

`check_together` refuses what only contradicts when the three are read side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from configuration_ume.data_arguments import DataArguments
from configuration_ume.encoder_arguments import (
    EncoderArguments,
    check_encoders,
    frozen_modalities,
    given_modalities,
)
from configuration_ume.training_arguments import UMETrainingArguments
from modeling_ume.fusion_pairs_ume import PAIR_SETS
from modeling_ume.own_heads_ume import known_head
from modeling_ume.streams_ume import check_modality_dropout
from modeling_ume.tasks_ume import DEFAULT_PROBLEM, PROBLEM_TYPES, TASKS


@dataclass
class ModelArguments(EncoderArguments):
    """The encoders and what joins them. Each encoder is either pretrained (a name) or new (a config)."""

    _argument_group_name = "model"

    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Tokenizer: a Hub name or a folder, or `words` for a word-level one made from the training "
            "questions. Left out, it is the text model's own."
        },
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Side in pixels to which images are resized; left out, a pretrained image encoder has its own."
        },
    )
    image_mean: list[float] | None = field(
        default=None, metadata={"help": "Mean of each colour, for a new image encoder (left out: 0.5 each)."}
    )
    image_std: list[float] | None = field(
        default=None, metadata={"help": "Deviation of each colour, as above (left out: 0.5 each)."}
    )
    fusion: str = field(
        default="ume", metadata={"help": "Fusion head, or a file of yours and its class: my_head.py:MyHead."}
    )
    fusion_hidden_size: int = field(
        default=512, metadata={"help": "Common width D to which the head brings each modality."}
    )
    fusion_num_heads: int | None = field(
        default=None, metadata={"help": "Attention heads of the fusion head (left out: the head's own default)."}
    )
    fusion_num_members: int = field(
        default=1,
        metadata={"help": "Heads side by side, each with a classifier; their probabilities are averaged."},
    )
    fusion_num_layers: int = field(
        default=1, metadata={"help": "Layers of the fusion head, for heads that have layers."}
    )
    fusion_rank: int | None = field(
        default=None, metadata={"help": "Rank of a bilinear fusion head (left out: the head's own default)."}
    )
    fusion_pairs: Literal[PAIR_SETS] = field(
        default=PAIR_SETS[0],
        metadata={
            "help": "Pairs of tokens of the heads ume, evc and pair. cross: of two modalities each. all: of one "
            "sequence of all modalities' tokens."
        },
    )
    fusion_dropout: float = field(default=0.1, metadata={"help": "Dropout inside the fusion head."})
    classifier_dropout: float = field(default=0.1, metadata={"help": "Dropout before the classifier."})
    modality_dropout: float | str | dict[str, float] = field(
        default=0.0,
        metadata={
            "help": "How often an example loses one of its modalities in training, in [0, 1); or how often each is "
            "lost, as a mapping, here as audio=0.3 table=0.1."
        },
    )
    feature_grid: int | None = field(
        default=None,
        metadata={"help": "Average the image's tokens over a grid of G×G (left out: the encoder's own grid)."},
    )
    feature_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder with the features of the frozen encoders, as `ume cache` makes it: they are "
            "read from there and the encoders never run."
        },
    )
    task: Literal[tuple(TASKS)] | None = field(
        default=None,
        metadata={
            "help": "What the model is for (left out: question_answering where rows have questions, and else "
            "classification, which stands for numbers, too): the class that it is saved as, and its scores."
        },
    )
    pairs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Of task=retrieval: the modalities that are compared, two by two, as in audio+vision vision+text "
            "(left out: every two)."
        },
    )
    problem_type: Literal[tuple(PROBLEM_TYPES)] = field(
        default=DEFAULT_PROBLEM,
        metadata={
            "help": "single_label_classification: cross-entropy on the most common answer. "
            "multi_label_classification: binary cross-entropy on the soft scores of all ten, or, of a "
            "classification, on all labels of a row. regression: the answers "
            "are numbers; several columns of answers are several numbers."
        },
    )
    label_transform: Literal["log"] | None = field(
        default=None,
        metadata={"help": "log: of numbers, learn the logarithms, as of prices; answers are in their own unit."},
    )
    regression_loss: Literal["mse", "huber"] | None = field(
        default=None, metadata={"help": "The loss of standardised numbers (left out: mse); huber minds outliers less."}
    )
    soft_targets: bool = field(
        default=False,
        metadata={
            "help": "Cross-entropy on the soft scores of all ten answers, as shares of their sum, instead of the most "
            "common one."
        },
    )
    answer_scores: Literal["thirds", "official"] = field(
        default="thirds",
        metadata={
            "help": "Soft score of an answer that n of N annotators gave. thirds: min(n / 3, 1). official: what VQA "
            "accuracy gives it, of ten annotators 0.3, 0.6, 0.9, 1. One of one annotator is 1 with both."
        },
    )
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "Start from all weights of an earlier run, a folder or a Hub name: the same encoders, head and "
            "answers, for example at another image_size."
        },
    )
    lora_r: int = field(
        default=0, metadata={"help": "Rank of LoRA on the encoders' linear layers; 0 trains without LoRA."}
    )
    lora_alpha: int | None = field(default=None, metadata={"help": "LoRA's scale (left out: twice the rank)."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before LoRA's matrices."})
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Attention of the encoders: eager, sdpa, flash_attention_2 … (left out: each encoder's own)."
        },
    )

    def __post_init__(self) -> None:
        check_encoders(self)
        check_modality_dropout(self.modality_dropout, self.modalities)
        if self.text_config is not None and self.tokenizer is None:
            raise ValueError(
                "text_config needs a tokenizer: give `words` (made from the training questions), a Hub name or a "
                "folder."
            )
        if self.text_model is not None and self.tokenizer is not None:
            raise ValueError(
                f"tokenizer={self.tokenizer!r} contradicts text_model={self.text_model!r}, which brings its own "
                "tokenizer: leave tokenizer out (`--tokenizer null`)."
            )
        if self.vision_config is not None and self.image_size is None:
            raise ValueError("vision_config needs image_size: the side in pixels to which images are resized.")
        if self.vision_model is not None:
            for name in ("image_mean", "image_std"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} contradicts vision_model={self.vision_model!r}, which brings its own image "
                        f"processor: leave it out (`--{name} null`)."
                    )
        self.fusion = known_head(self.fusion)
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size={self.image_size} is impossible: it is a number of pixels, 1 or more.")
        for name, least in (("image_mean", None), ("image_std", 0)):
            values = getattr(self, name)
            if values is not None and (
                len(values) != 3 or not all(math.isfinite(x) and (least is None or x > least) for x in values)
            ):
                more = "" if least is None else " above 0"
                raise ValueError(f"{name}={values} is impossible: give three numbers{more}, one a colour.")
        if self.pairs is not None and self.task != "retrieval":
            raise ValueError("pairs is about task=retrieval: give that task, or leave it out.")
        for pair in self.pairs or []:
            named = pair.split("+")
            if len(named) != 2 or named[0] == named[1] or any(name not in self.modalities for name in named):
                raise ValueError(
                    f"pairs has {pair!r}: write two different ones of the modalities that are given an encoder "
                    f"({', '.join(self.modalities)}), as in {'+'.join(self.modalities[:2])}."
                )
        problem = PROBLEM_TYPES[self.problem_type]
        if self.soft_targets and not problem.exclusive:
            raise ValueError(
                f"soft_targets is for a softmax, and problem_type={self.problem_type} has "
                f"{'soft scores anyway' if problem.chooses else 'numbers'}: leave one of them out."
            )
        for name in ("label_transform", "regression_loss"):
            if getattr(self, name) is not None and problem.chooses:
                raise ValueError(
                    f"{name} is about numbers, and problem_type={self.problem_type} chooses answers: leave it out, or "
                    "give problem_type=regression."
                )
        if self.lora_r < 0:
            raise ValueError(f"lora_r={self.lora_r} is impossible: give a rank of 1 or more, or 0 for no LoRA.")
        if self.lora_r and self.frozen == self.modalities:
            every = "both" if len(self.frozen) == 2 else "all"
            raise ValueError(f"lora_r is given while {every} encoders are frozen: LoRA would have nothing to adapt.")
        if self.feature_cache is not None and not self.frozen:
            ways = " or ".join(f"freeze_{name}" for name in self.modalities)
            raise ValueError(
                f"feature_cache={self.feature_cache!r} is given, but no encoder is frozen: features replace frozen "
                f"encoders only. Set {ways}, or leave feature_cache out."
            )
        if not self.lora_r and (self.lora_alpha is not None or self.lora_dropout):
            raise ValueError("lora_alpha and lora_dropout need lora_r: give the rank, or leave them out.")

    @property
    def frozen(self) -> list[str]:
        """The modalities whose encoders stay as they are."""
        return frozen_modalities(self)

    @property
    def modalities(self) -> list[str]:
        """The modalities that are given an encoder."""
        return given_modalities(self)


class _Parts(NamedTuple):
    name: str
    model: ModelArguments
    data: DataArguments
    training: UMETrainingArguments


class Recipe(_Parts):
    """
    What `parse_recipe` returns: the recipe's name and its three parts, with the command line's changes.

    Where fields were given several values, `sweep` has a recipe for each combination of them, whose `settings` are
    those values by field; the parts here are the first one's.
    """

    settings: Mapping[str, Any] = MappingProxyType({})
    sweep: tuple[Recipe, ...] = ()

    def _replace(self, **changes) -> Recipe:
        """The same with other parts."""
        other = super()._replace(**changes)
        vars(other).update(vars(self))
        return other


def check_numbers(recipe: Recipe) -> None:
    """Raises ValueError for what is about answers from a list, where the answers are numbers."""
    if PROBLEM_TYPES[recipe.model.problem_type].chooses:
        return
    said = f"problem_type={recipe.model.problem_type} gives numbers: leave it out (`--"
    for part, name, why in (
        (recipe.training, "class_weights", "weighs answers by how rare they are"),
        (recipe.training, "rubi_weight", "weighs an answer's probability by what the question alone says"),
        (recipe.data, "top_k_answers", "keeps the most frequent answers"),
        (recipe.data, "min_answer_count", "keeps answers that are given often enough"),
    ):
        if getattr(part, name):
            raise ValueError(f"{name} {why}, and {said}{name} {0 if name == 'rubi_weight' else 'null'}`).")
    if recipe.model.answer_scores != "thirds":
        raise ValueError(
            f"answer_scores is about answers that some of several people gave, and {said}answer_scores thirds`)."
        )
    if recipe.data.source == "stream":
        raise ValueError(
            "source=stream holds shards of answers from a list, and problem_type=regression needs numbers: train from "
            "the table itself (--data)."
        )


def check_together(recipe: Recipe) -> None:
    """Raises ValueError where fields of different parts of a recipe contradict each other."""
    if recipe.data.source == "stream" and recipe.model.feature_cache is not None:
        raise ValueError(
            "feature_cache contradicts source=stream: a cache stands beside image files. Empty one of them "
            "(`--feature_cache null`, or another --source)."
        )
    if recipe.training.label_smoothing_factor and not PROBLEM_TYPES[recipe.model.problem_type].exclusive:
        raise ValueError(
            "label_smoothing_factor is for a softmax: leave it out (`--label_smoothing_factor 0`), or train with "
            "problem_type=single_label_classification."
        )
    check_numbers(recipe)
    if recipe.training.class_weights and not PROBLEM_TYPES[recipe.model.problem_type].exclusive:
        raise ValueError(
            "class_weights weighs questions by their one right answer, and with problem_type="
            "multi_label_classification each answer is right or wrong by itself: leave it out "
            "(`--class_weights null`), or train with problem_type=single_label_classification."
        )
    if recipe.training.rubi_weight and recipe.data.inputs != "both":
        raise ValueError(
            f"rubi_weight weighs questions against images, but inputs={recipe.data.inputs!r}: leave it out "
            "(`--rubi_weight 0`)."
        )
