"""Turns rows of `load_vqa` into a batch for the model: each distinct image of the batch is read and processed once.

`pixel_values` [U, 3, H, W] holds the distinct images, `image_index` [B] says which one each question looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modeling_ume.padding_ume import padded, unpadded
from modeling_ume.processing_ume import process_images
from modeling_ume.tasks_ume import PROBLEM_TYPES
from modeling_ume.text_ume import tokenize
from training_ume.data.answers import ANSWER_SCORES
from training_ume.data.images import open_image
from training_ume.data.json_entries import VQADataError

__all__ = ["INPUTS", "PROBLEM_TYPES", "VQACollator", "VQADataError", "open_image"]
INPUTS = ("both", "question", "image")

TEXT_KEYS = ("input_ids", "attention_mask", "token_type_ids")
# A tokenizer without a limit of its own says 1e30.
NO_LENGTH_LIMIT = 10**20


class VQACollator:
    """Collates rows into what `UMEForVisualQuestionAnswering.forward` takes.

    A batch of B questions about U distinct images holds, where they apply:
    `input_ids`, `attention_mask`, `token_type_ids` [B, L] (padded to the longest question), `labels` (see below),
    `image_index` [B] (long, values 0 … U−1) and `pixel_values` [U, 3, H, W], with `pixel_mask` [U, H, W] where the
    image processor leaves images their own sizes and pads the smaller ones, in this order: Trainer and accelerate
    take the batch size from the first tensor, which must therefore never be `pixel_values`.

    Labels are there when a vocabulary is given and the rows have answers: [B] (long, −100 = not in the vocabulary)
    for `"single_label_classification"`, [B, C] (float soft scores) for `"multi_label_classification"` and with
    `soft_targets`.

    Args:
        processor: has a `tokenizer` and an `image_processor`, as `UMEProcessor` does.
        vocabulary (`AnswerVocabulary`, *optional*): makes the labels; without it there are none.
        problem_type (`str`, *optional*, defaults to `"single_label_classification"`): which kind of labels.
        soft_targets (`bool`, *optional*, defaults to `False`): soft scores for a softmax, too.
        answer_scores (`str`, *optional*, defaults to `"thirds"`): which soft scores, see
            `AnswerVocabulary.soft_targets`.
        inputs (`str`, *optional*, defaults to `"both"`):
            `"question"` leaves the images out (and never opens one), `"image"` the questions.
        max_question_length (`int`, *optional*): in tokens; defaults to the tokenizer's own limit.
        image_cache_bytes (`int`, *optional*, defaults to 0):
            Processed images are kept in memory up to this size, the first ones that come; worth it where all fit
            (easy-VQA at 64×64: 200 MB). Every data loader worker has a cache of its own.
        features (`dict[str, FeatureCache]`, *optional*):
            Features by modality (`"text"`, `"vision"`), read in place of tokens or pixels; of `"text"` the batch then
            holds `text_states`, `attention_mask`, `text_pooled`, of `"vision"` `vision_states`, `vision_pooled`,
            `vision_grid` (see `FeatureCache.batch`).

    Raises:
        ValueError: for an unknown option, a tokenizer without a padding token, or images that come out of the image
            processor with different sizes.
        VQADataError: for an image that cannot be read, naming its path and its questions.
    """

    def __init__(
        self,
        processor: Any,
        vocabulary: Any | None = None,
        problem_type: str = "single_label_classification",
        inputs: str = "both",
        max_question_length: int | None = None,
        image_cache_bytes: int = 0,
        features: dict[str, Any] | None = None,
        soft_targets: bool = False,
        answer_scores: str = "thirds",
    ):
        if inputs not in INPUTS:
            raise ValueError(f"inputs={inputs!r} must be one of {', '.join(INPUTS)}.")
        if problem_type not in PROBLEM_TYPES:
            raise ValueError(f"problem_type={problem_type!r} must be one of {', '.join(PROBLEM_TYPES)}.")
        if answer_scores not in ANSWER_SCORES:
            raise ValueError(f"answer_scores={answer_scores!r} must be one of {', '.join(ANSWER_SCORES)}.")
        if max_question_length is not None and max_question_length < 1:
            raise ValueError(f"max_question_length={max_question_length} must be at least 1 token.")
        if image_cache_bytes < 0:
            raise ValueError(f"image_cache_bytes={image_cache_bytes} must not be negative (0 keeps nothing).")
        if inputs != "image" and processor.tokenizer.pad_token is None:
            raise ValueError(
                f"{type(processor.tokenizer).__name__} has no padding token, so questions of different lengths cannot "
                "share a batch. Set tokenizer.pad_token, for a decoder usually to tokenizer.eos_token."
            )
        self.processor = processor
        self.vocabulary = vocabulary
        self.hard_targets = problem_type == "single_label_classification" and not soft_targets
        self.answer_scores = answer_scores
        self.inputs = inputs
        self.max_question_length = max_question_length
        self.image_cache_bytes = image_cache_bytes
        self.features = features or {}
        self._cache: dict[str, Tensor] = {}
        self._cached_bytes = 0

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        if self.inputs != "image":
            batch.update(self._encode_questions([row["question"] for row in rows]))
        labels = self._labels(rows)
        if labels is not None:
            batch["labels"] = labels
        if self.inputs != "question":
            position = {path: u for u, path in enumerate(dict.fromkeys(row["image"] for row in rows))}
            batch["image_index"] = torch.tensor([position[row["image"]] for row in rows])
            if "vision" in self.features:
                batch.update(self.features["vision"].batch(list(position)))
            else:
                batch.update(padded(self._encode_images(list(position), rows)))
        return batch

    @property
    def question_limit(self) -> int | None:
        """The longest question in tokens; None: any length."""
        if self.max_question_length is None and self.processor.tokenizer.model_max_length < NO_LENGTH_LIMIT:
            return self.processor.tokenizer.model_max_length
        return self.max_question_length

    def _encode_questions(self, questions: list[str]) -> dict[str, Tensor]:
        tokenizer, limit = self.processor.tokenizer, self.question_limit
        if "text" in self.features:
            return self.features["text"].batch(questions, tokenizer.padding_side)
        encoded = tokenize(
            tokenizer, questions, padding=True, truncation=limit is not None, max_length=limit, return_tensors="pt"
        )
        return {key: encoded[key] for key in TEXT_KEYS if key in encoded}

    def _labels(self, rows: Sequence[dict[str, Any]]) -> Tensor | None:
        if self.vocabulary is None:
            return None
        answers = [row.get("answers") for row in rows]
        if not any(answers):
            return None
        if not all(answers):
            without = [row["question_id"] for row in rows if not row.get("answers")]
            raise VQADataError(
                f"Some questions of a batch have answers and others have none: question_id {_listed(without)}. "
                "Load answered and unanswered questions as data sets of their own."
            )
        if self.hard_targets:
            return self.vocabulary.hard_targets(answers)
        return self.vocabulary.soft_targets(answers, self.answer_scores)

    def _encode_images(self, paths: list[str], rows: Sequence[dict[str, Any]]) -> list[Tensor]:
        """The processed images [3, H, W] of U distinct paths, without the padding that made them one batch."""
        new = [path for path in paths if path not in self._cache]
        processed = dict(zip(new, self._process(new, rows), strict=True)) if new else {}
        images = [processed[path] if path in processed else self._cache[path] for path in paths]
        for path, image in processed.items():
            if self._cached_bytes + image.nbytes <= self.image_cache_bytes:
                # A copy of its own: a view would keep the whole batch alive.
                self._cache[path] = image.clone()
                self._cached_bytes += image.nbytes
        return images

    def _process(self, paths: list[str], rows: Sequence[dict[str, Any]]) -> list[Tensor]:
        images = []
        contents = {row["image"]: row["image_bytes"] for row in rows if "image_bytes" in row}  # a stream's rows
        for path in paths:
            questions = [row["question_id"] for row in rows if row["image"] == path]
            if not path:
                raise VQADataError(
                    f"question_id {_listed(questions)}: the data was loaded without images. Give load_vqa the image "
                    "folder, or the collator inputs='question'."
                )
            try:
                images.append(open_image(path, contents.get(path)))
            except VQADataError as error:
                raise VQADataError(f"{error} Its questions here: question_id {_listed(questions)}.") from error
        image_processor = self.processor.image_processor
        try:
            processed = process_images(image_processor, images, return_tensors="pt")
        except (ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{type(image_processor).__name__} could not make one batch of the images {_listed(paths)}: {reason} "
                "The encoder needs images of one size: let the image processor resize or crop to one height and width."
            ) from error
        pixel_values = processed["pixel_values"]
        if not isinstance(pixel_values, Tensor) or pixel_values.ndim != 4:
            shape = tuple(pixel_values.shape) if isinstance(pixel_values, Tensor) else type(pixel_values).__name__
            raise ValueError(
                f"{type(image_processor).__name__} gives pixel_values of shape {shape}, but the model takes "
                "[images, 3, height, width]: let the image processor resize or crop to one height and width."
            )
        return unpadded(pixel_values, processed.get("pixel_mask"))


def _listed(values: Sequence) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return shown if len(values) <= 5 else f"{shown} and {len(values) - 5} more"
