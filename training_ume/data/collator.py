"""Turns rows of `load_vqa` into a batch for the model: each distinct image of the batch is read and processed once.

`pixel_values` [U, 3, H, W] holds the distinct images, `image_index` [B] says which one each question looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modeling_ume.modalities_ume import ALL, MODALITIES, seen_by
from modeling_ume.modality_base_ume import Modality
from modeling_ume.tasks_ume import DEFAULT_PROBLEM, PROBLEM_TYPES
from modeling_ume.text_ume import UNLIMITED
from training_ume.data.answers import ANSWER_SCORES
from training_ume.data.json_entries import VQADataError


class VQACollator:
    """Collates rows into what `UMEForVisualQuestionAnswering.forward` takes.

    A batch of B questions about U distinct images holds, where they apply:
    `input_ids`, `attention_mask`, `token_type_ids` [B, L] (padded to the longest question), `labels` (see below),
    `image_index` [B] (long, values 0 … U−1) and `pixel_values` [U, 3, H, W], with `pixel_mask` [U, H, W] where the
    image processor leaves images their own sizes and pads the smaller ones, in this order: Trainer and accelerate
    take the batch size from the first tensor, which must therefore never be `pixel_values`.

    Labels are there when a vocabulary is given and the rows have answers: [B] (long, −100 = not in the vocabulary)
    for `"single_label_classification"`, [B, C] (float soft scores) for `"multi_label_classification"` and with
    `soft_targets`, [B, C] (numbers in their unit, nan = not known) for `"regression"`.

    Args:
        processor: has the parts that prepare what is taken of the rows, as `UMEProcessor` does.
        vocabulary (`AnswerVocabulary`, of numbers `NumberTargets`, *optional*): makes the labels; without it there
            are none.
        problem_type (`str`, *optional*, defaults to `"single_label_classification"`): which kind of labels.
        soft_targets (`bool`, *optional*, defaults to `False`): soft scores for a softmax, too.
        answer_scores (`str`, *optional*, defaults to `"thirds"`): which soft scores, see
            `AnswerVocabulary.soft_targets`.
        inputs (`str`, *optional*, defaults to `"both"`):
            What of the rows is taken: with `"both"` all that the processor and the rows have; with the column of one
            modality that alone: `"question"` leaves the images out (and never opens one), `"image"` the questions.
        max_question_length (`int`, *optional*): in tokens; defaults to the tokenizer's own limit.
        image_cache_bytes (`int`, *optional*, defaults to 0):
            Processed images are kept in memory up to this size, the first ones that come; worth it where all fit
            (easy-VQA at 64×64: 200 MB). Every data loader worker has a cache of its own.
        features (`dict[str, FeatureCache]`, *optional*):
            Features by modality (`"text"`, `"vision"`, …), read in place of tokens or pixels; of `"text"` the batch
            then holds `text_states`, `attention_mask`, `text_pooled`, of `"vision"` `vision_states`, `vision_pooled`,
            `vision_grid` (see `FeatureCache.batch`).
        may_lack (`Sequence[str]`, *optional*):
            Modalities that no row of a batch needs to have, and of which an empty cell is none. Where some rows of a
            batch lack one, the batch says by `text_present`, `image_present` … which have it; where all do, it is
            taken for data that was loaded without it, unless it stands here. Without `"text"`, an empty question is
            read as one.

    Raises:
        ValueError: for an unknown option, a tokenizer without a padding token, or images that come out of the image
            processor with different sizes.
        VQADataError: for an image that cannot be read, naming its path and its questions.
    """

    def __init__(
        self,
        processor: Any,
        vocabulary: Any | None = None,
        problem_type: str = DEFAULT_PROBLEM,
        inputs: str = ALL,
        max_question_length: int | None = None,
        image_cache_bytes: int = 0,
        features: dict[str, Any] | None = None,
        soft_targets: bool = False,
        answer_scores: str = "thirds",
        may_lack: Sequence[str] = (),
    ):
        seen = seen_by(inputs)
        if problem_type not in PROBLEM_TYPES:
            raise ValueError(f"problem_type={problem_type!r} must be one of {', '.join(PROBLEM_TYPES)}.")
        if answer_scores not in ANSWER_SCORES:
            raise ValueError(f"answer_scores={answer_scores!r} must be one of {', '.join(ANSWER_SCORES)}.")
        if max_question_length is not None and max_question_length < 1:
            raise ValueError(f"max_question_length={max_question_length} must be at least 1 token.")
        if image_cache_bytes < 0:
            raise ValueError(f"image_cache_bytes={image_cache_bytes} must not be negative (0 keeps nothing).")
        if "text" in seen and (getattr(processor, "tokenizer", None) and not processor.tokenizer.pad_token):
            raise ValueError(
                f"{type(processor.tokenizer).__name__} has no padding token, so questions of different lengths cannot "
                "share a batch. Set tokenizer.pad_token, for a decoder usually to tokenizer.eos_token."
            )
        chooses = PROBLEM_TYPES[problem_type].chooses
        if vocabulary is not None and chooses == hasattr(vocabulary, "targets"):
            raise ValueError(
                f"problem_type={problem_type!r} makes labels of {'answers' if chooses else 'numbers'}, and the "
                f"vocabulary is {type(vocabulary).__name__}: give "
                f"{'AnswerVocabulary' if chooses else 'NumberTargets'}."
            )
        self.processor = processor
        self.vocabulary = vocabulary
        self.problem_type = problem_type
        self.hard_targets = PROBLEM_TYPES[problem_type].exclusive and not soft_targets
        self.answer_scores = answer_scores
        self.inputs = inputs
        self.max_question_length = max_question_length
        self.image_cache_bytes = image_cache_bytes
        self.features = features or {}
        self.may_lack = tuple(may_lack)
        self._cache: dict[tuple[str, Any], dict[str, Tensor]] = {}
        self._cached_bytes = 0

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        kinds = [kind for kind in map(MODALITIES.get, seen_by(self.inputs)) if self._reads(kind, rows[0])]
        batch: dict[str, Tensor] = {}
        for kind in kinds:
            if not kind.in_files:
                batch.update(self._a_row_each(kind, rows))
        labels = self._labels(rows)
        if labels is not None:
            batch["labels"] = labels
        for kind in kinds:
            if kind.in_files:
                batch.update(self._shared(kind, rows))
        return batch

    def _reads(self, kind: Modality, row: dict[str, Any]) -> bool:
        there = kind.part is None or getattr(self.processor, kind.part, None) is not None
        return there and kind.column in row

    def _here(self, kind: Modality, rows: Sequence[dict[str, Any]]) -> list[bool]:
        """Which rows have the modality; VQADataError where none has and that is not known to be meant."""
        # Of the table as a whole, never of the batch: an empty question is one, unless rows are known to have none.
        lacked = kind.name in self.may_lack
        here = [
            (not kind.lacks(cell)) if lacked else kind.readable(cell) for cell in (row[kind.column] for row in rows)
        ]
        if not any(here) and not lacked:
            ids = [row["question_id"] for row in rows]
            others = " or ".join(repr(k.column) for k in MODALITIES.values() if k is not kind and k.column in rows[0])
            raise VQADataError(
                f"question_id {_listed(ids)}: the data was loaded without {kind.nouns}. Load it with them, or give "
                f"the collator inputs={others}; if rows are meant to lack them, may_lack=[{kind.name!r}]."
            )
        return here

    def _a_row_each(self, kind: Modality, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """What the model reads of a modality of which every row has its own; zeros stand for what a row lacks."""
        here = self._here(kind, rows)
        if not any(here):
            return {}
        cells = [row[kind.column] for row, is_here in zip(rows, here, strict=True) if is_here]
        part = None if kind.part is None else getattr(self.processor, kind.part)
        if kind.name in self.features:
            side = [part.padding_side] if hasattr(part, "padding_side") else []
            batch = self.features[kind.name].batch(cells, *side)
        else:
            limit = {"max_length": self.question_limit} if kind.name == "text" else {}
            batch = kind.collate(part, [kind.open(cell) for cell in cells], **limit)
        if all(here):
            return batch
        present = torch.tensor(here)
        spread = {name: value.new_zeros(len(rows), *value.shape[1:]) for name, value in batch.items()}
        for name, value in batch.items():
            spread[name][present] = value
        return {**spread, kind.present: present}

    def _shared(self, kind: Modality, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """What the model reads of a modality that stands in files, each distinct one once, and whose it is."""
        here = self._here(kind, rows)
        if not any(here):
            return {}
        cells = [row[kind.column] for row in rows]
        distinct = dict.fromkeys(cell for cell, is_here in zip(cells, here, strict=True) if is_here)
        position = {cell: u for u, cell in enumerate(distinct)}
        # A row that has none is given the first, which the model is told to pass over.
        batch = {kind.index: torch.tensor([position.get(cell, 0) for cell in cells])}
        if not all(here):
            batch[kind.present] = torch.tensor(here)
        if kind.name in self.features:
            return batch | self.features[kind.name].batch(list(position))
        return batch | kind.together(self._read(kind, list(position), rows))

    @property
    def question_limit(self) -> int | None:
        """The longest question in tokens; None: any length."""
        if self.max_question_length is None and self.processor.tokenizer.model_max_length < UNLIMITED:
            return self.processor.tokenizer.model_max_length
        return self.max_question_length

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
        if not PROBLEM_TYPES[self.problem_type].chooses:
            return self.vocabulary.targets(answers, [row["question_id"] for row in rows])
        if self.hard_targets:
            return self.vocabulary.hard_targets(answers)
        return self.vocabulary.soft_targets(answers, self.answer_scores)

    def _read(self, kind: Modality, cells: list[str], rows: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """What the model reads of U distinct files, each without the padding that made them one batch."""
        new = [cell for cell in cells if (kind.name, cell) not in self._cache]
        processed = dict(zip(new, self._process(kind, new, rows), strict=True)) if new else {}
        found = [processed[cell] if cell in processed else self._cache[kind.name, cell] for cell in cells]
        for cell, value in processed.items():
            size = sum(tensor.nbytes for tensor in value.values())
            if self._cached_bytes + size <= self.image_cache_bytes:
                # A copy of its own: a view would keep the whole batch alive.
                self._cache[kind.name, cell] = {name: tensor.clone() for name, tensor in value.items()}
                self._cached_bytes += size
        return found

    def _process(self, kind: Modality, cells: list[str], rows: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        opened, held = [], f"{kind.column}_bytes"
        contents = {row[kind.column]: row[held] for row in rows if held in row}  # a stream's rows
        for cell in cells:
            try:
                opened.append(kind.open(cell, contents.get(cell)))
            except ValueError as error:
                ids = [row["question_id"] for row in rows if row[kind.column] == cell]
                reason = str(error.__cause__ or error).rstrip(".")
                raise VQADataError(
                    f"The {kind.noun} {cell} cannot be read ({reason}). Replace it, or leave its questions out with "
                    f"load_rows(…, on_error='skip', skipped_log=<a file>). Its questions here: question_id "
                    f"{_listed(ids)}."
                ) from error
        part = None if kind.part is None else getattr(self.processor, kind.part)
        try:
            return kind.apart(kind.collate(part, opened))
        except (ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{type(part).__name__} could not make one batch of {_listed(cells)}: {reason}"
            ) from error


def _listed(values: Sequence) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return shown if len(values) <= 5 else f"{shown} and {len(values) - 5} more"


def allow_lacks(collator: Any, rows: Any) -> None:
    """Tells a `VQACollator` which modalities some rows of a data set have and others lack: a whole batch may, too."""
    columns = getattr(rows, "column_names", None)
    if not isinstance(collator, VQACollator) or columns is None:
        return
    for kind in MODALITIES.values():
        if kind.column in columns and kind.name not in collator.may_lack:
            lacking = sum(map(kind.lacks, rows[kind.column][:]))
            if 0 < lacking < len(rows):
                collator.may_lack += (kind.name,)
