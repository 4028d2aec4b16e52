"""Why a model gives an answer: which parts of each input mattered, and how much each modality did.

`explain` says it of one row, `explain_dataset` of the modalities over many. What each part adds is computed in
attribution.py and parts.py, pictures are drawn in report/explanation.py; whether it is right is asked in
faithfulness.py.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality
from modeling_ume.padding_ume import unpadded
from modeling_ume.tasks_ume import PROBLEM_TYPES
from training_ume.explain.attribution import grad_cam, integrated_map, token_scores
from training_ume.explain.faithfulness import against_chance, patch_order
from training_ume.explain.parts import part_order, part_scores
from training_ume.explain.shapley import named_weights, names_of, shapley_values, subset_probabilities, subsets_of
from training_ume.explain.words import merge_words, pair_maps, token_texts
from training_ume.records.explanation import Explanation, PartScores


def need_captum() -> None:
    """Raises ImportError where captum is missing; asked before any work."""
    if find_spec("captum") is None:
        raise ImportError("Explanations need the package captum: `pip install captum` (or the extra `ume[explain]`).")


@dataclass
class Asked:
    """One row and what was made of it.

    Attributes:
        cells: by modality, what the row holds of it.
        own: by modality, the model's inputs, [1, …].
        said: by modality, what its encoder says of them, in their place; of a text these inputs.
        target: id of the answer.
        output: of the model.
        known: what else belongs to a modality, by its name.
    """

    model: UMEForVisualQuestionAnswering
    processor: UMEProcessor
    cells: dict[str, Any]
    faithfulness: bool
    own: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    said: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    target: int = -1
    output: Any = None
    known: dict[str, Any] = field(default_factory=dict)

    def around(self, kind: Modality) -> dict[str, Tensor]:
        """The model's inputs, of which those of one modality are as the processor made them, and of all others as
        their encoders have read them."""
        others = (said for name, said in self.said.items() if name != kind.name)
        return {name: value for own in (*others, self.own[kind.name]) for name, value in own.items()}


def explain(
    model: UMEForVisualQuestionAnswering,
    processor: UMEProcessor,
    image: Image.Image | str | None = None,
    question: str | None = None,
    answer: str | None = None,
    faithfulness: bool = False,
    **others: Any,
) -> Explanation:
    """
    Explains one answer to one row of a table: a question about an image, a sound, or whatever a model reads.

    Args:
        model: in eval mode, on any device.
        image (*optional*): an image, its path or its URL.
        question (`str`, *optional*): the question, or another text.
        answer (`str`, *optional*): the answer to explain, of numbers the name of one; default: the one that the model
            gives, or the first number.
        faithfulness (`bool`): ask, too, what becomes of the answer without the parts that are said to matter.
        others: what there is of other modalities, by the column that holds it: `audio=`, `video=`, `series=`,
            `table=`.

    Raises:
        ImportError: without captum.
        ValueError: for nothing at all, an input that cannot be read or that is none of this model's, an empty
            question, an answer that the model does not know, a tokenizer that cannot say where in the question a token
            stands, or an image encoder without a grid.
    """
    need_captum()
    kinds = [MODALITIES[name] for name in model.config.modalities]
    given = {MODALITIES["vision"].column: image, MODALITIES["text"].column: question, **others}
    given = {column: cell for column, cell in given.items() if cell is not None}
    columns = {kind.column: kind for kind in kinds}
    for column in given:
        if column not in columns:
            raise ValueError(f"{column} was given, but this model reads {', '.join(columns)}: leave it out.")
    if not given:
        raise ValueError(f"There is nothing to explain: give {' or '.join(columns)}.")
    asked = Asked(model, processor, {k.name: given[k.column] for k in kinds if k.column in given}, faithfulness)
    kinds = [kind for kind in kinds if kind.name in asked.cells]
    for kind in kinds:
        if kind.ordered:
            check_text(asked.cells[kind.name], processor)
    asked.target = -1 if answer is None else answer_id(model, answer)
    for kind in kinds:
        READERS[kind.explained](asked, kind)
    everything = {name: value for own in asked.own.values() for name, value in own.items()}
    with torch.no_grad():
        asked.output = model(**everything)
        for kind in kinds:
            own = asked.own[kind.name]
            # A head that reads inside of the text encoder wants the text itself.
            asked.said[kind.name] = own if kind.ordered else model.encode(kind.name, **own)
    logits = asked.output.logits
    if answer is None:
        asked.target = logits[0].argmax().item() if PROBLEM_TYPES[model.config.problem_type].chooses else 0
    names = names_of(model)
    said = {name: value for own in asked.said.values() for name, value in own.items()}
    values = subset_probabilities(model, said, torch.tensor([asked.target]))[0]
    explanation = Explanation(
        answer=model.config.id2label[asked.target],
        probability=values[-1].item(),
        logit=logits[0, asked.target].item(),
        candidates=processor.decode_answers(logits, top_k=min(5, model.config.num_labels))[0],
        modality_weights=named_weights(names, asked.output.fusion_weights),
        values={"+".join(subset): value for subset, value in zip(subsets_of(names), values.tolist(), strict=True)},
        shapley=dict(zip(names, shapley_values(values).tolist(), strict=True)),
        chooses=PROBLEM_TYPES[model.config.problem_type].chooses,
    )
    for kind in kinds:
        EXPLAINED[kind.explained](asked, kind, explanation)
    return explanation


# --------------------------------------------------------------------------------------------------- in whatever parts


def read_parts(asked: Asked, kind: Modality) -> None:
    part = asked.processor.part(kind)
    opened = asked.known[kind.name] = kind.open(asked.cells[kind.name])
    if kind.lacks(opened):
        raise ValueError(f"The {kind.noun} holds nothing: leave it out, or give one value at least.")
    batch = kind.collate(part, [opened])
    asked.own[kind.name] = {name: value.to(asked.model.device) for name, value in batch.items()}


def explain_parts(asked: Asked, kind: Modality, explanation: Explanation) -> None:
    model = asked.model
    config = getattr(model.config, kind.config_field)
    parts = kind.parts(asked.processor.part(kind), config, asked.known[kind.name], asked.own[kind.name])
    inputs = asked.around(kind)
    scores, begins_at, error, method = part_scores(model, inputs, parts, asked.target)
    explanation.parts[kind.short] = PartScores(
        kind.noun, parts.axes, scores.view(parts.shape).numpy(), method, begins_at, error, parts.picture, parts.shown
    )
    if asked.faithfulness:
        order = part_order(scores, torch.Generator().manual_seed(0))
        explanation.faithfulness[kind.short] = against_chance(model, inputs, parts, asked.target, order)


# -------------------------------------------------------------------------------------------------------------- images


def read_image_of(asked: Asked, kind: Modality) -> None:
    image = asked.cells[kind.name]
    inputs = asked.processor(images=image)
    seen = asked.processor(images=image, images_kwargs={"do_normalize": False})["pixel_values"][0]
    if "pixel_mask" in inputs:  # padded to a fixed size: the image is explained as it is read
        [own] = unpadded(inputs["pixel_values"], inputs.pop("pixel_mask"))
        inputs["pixel_values"], seen = own[None], seen[:, : own.shape[1], : own.shape[2]]
    asked.own[kind.name] = {name: value.to(asked.model.device) for name, value in inputs.items()}
    asked.known[kind.name] = seen.clamp(0, 1).permute(1, 2, 0).numpy()


def explain_image(asked: Asked, kind: Modality, explanation: Explanation) -> None:
    model, inputs = asked.model, asked.around(kind)
    if kind.grid not in asked.said[kind.name]:
        raise ValueError(
            f"The image encoder {getattr(model.config, kind.config_field).model_type!r} gives no grid of image "
            "tokens, so there is no map of where it looked: choose another encoder."
        )
    cam, explanation.layer = grad_cam(model, inputs, asked.target)
    cells, explanation.integrated_error = integrated_map(model, inputs, asked.target)
    explanation.image, explanation.grad_cam = asked.known[kind.name], cam.cpu().numpy()
    explanation.integrated = cells.cpu().numpy()
    if asked.faithfulness:
        order = patch_order(explanation.integrated, torch.Generator().manual_seed(0))
        parts = kind.parts(None, None, None, asked.own[kind.name])
        explanation.faithfulness[kind.short] = against_chance(model, inputs, parts, asked.target, order)


# --------------------------------------------------------------------------------------------------------------- words


def check_text(question: Any, processor: UMEProcessor) -> None:
    """Raises ValueError for an empty text, or a tokenizer that does not say where in it a token stands."""
    if isinstance(question, str) and not question.strip():
        raise ValueError("The question is empty: write what you want to know about the image.")
    if not processor.tokenizer.is_fast:
        raise ValueError(
            f"{type(processor.tokenizer).__name__} does not say where in the question a token stands, so words cannot "
            "be scored: use the model's fast tokenizer, the one with a tokenizer.json."
        )


def read_words(asked: Asked, kind: Modality) -> None:
    wanted = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    inputs = asked.processor(text=asked.cells[kind.name], text_kwargs=wanted)
    offsets = inputs.pop("offset_mapping")[0].tolist()
    asked.known[kind.name] = offsets, inputs.pop("special_tokens_mask")[0].bool()
    asked.own[kind.name] = {name: value.to(asked.model.device) for name, value in inputs.items()}


def explain_words(asked: Asked, kind: Modality, explanation: Explanation) -> None:
    model, processor, question = asked.model, asked.processor, asked.cells[kind.name]
    text, (offsets, special) = asked.own[kind.name], asked.known[kind.name]
    others = {k: v for name, said in asked.said.items() if name != kind.name for k, v in said.items()}
    # Padding stands for every word; special tokens stay, and so score 0.
    blank = text["input_ids"].masked_fill(~special.to(model.device), processor.tokenizer.pad_token_id)
    scores, begins_at, _ = token_scores(model, text, blank, others, asked.target)
    words = merge_words(question, offsets, special.tolist(), scores.tolist())
    explanation.question, explanation.words, explanation.baseline_logit = question, words, begins_at
    explanation.completeness_error = abs(sum(word["score"] for word in words) - (explanation.logit - begins_at))
    grids = [said[MODALITIES[name].grid] for name, said in asked.said.items() if MODALITIES[name].grid in said]
    if grids and len(model.config.modalities) == 2:
        texts = token_texts(processor, text, question, offsets, special)
        explanation.pair_weights = pair_maps(asked.output.fusion_weights, grids[0], texts)
    if asked.faithfulness and words:
        parts = kind.parts(processor.tokenizer, None, question, text)
        places = {word["start"]: word["score"] for word in words}
        of_parts = torch.tensor([places.get(start, 0.0) for start in parts.axes[0].edges[:-1]])
        order = part_order(of_parts, torch.Generator().manual_seed(0))
        explanation.faithfulness[kind.short] = against_chance(model, asked.around(kind), parts, asked.target, order)


# By the attribute `explained` of a modality: what makes model inputs of its cell, and what explains them.
READERS = {"parts": read_parts, "image": read_image_of, "words": read_words}
EXPLAINED = {"parts": explain_parts, "image": explain_image, "words": explain_words}


def answer_id(model: UMEForVisualQuestionAnswering, answer: str) -> int:
    """The id of an answer; ValueError, with the ones most like it, for one that the model does not know."""
    ids = {label: i for i, label in model.config.id2label.items()}
    if answer not in ids:
        near = difflib.get_close_matches(answer, ids, n=5, cutoff=0.0)
        raise ValueError(
            f"The model does not know the answer {answer!r}: choose one of its {len(ids)}, such as {', '.join(near)}."
        )
    return ids[answer]
