"""Why a model gives an answer: where it looked, which words mattered, and how much each modality did.

`explain` says it of one question about one image, `explain_dataset` of the modalities over many. Gradients are taken
in attribution.py, pictures drawn in report/explanation.py; whether a map is right is asked in faithfulness.py.
"""

from __future__ import annotations

import difflib
from importlib.util import find_spec

import torch
from PIL import Image

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modalities_ume import needs_usual
from modeling_ume.padding_ume import unpadded
from modeling_ume.tasks_ume import PROBLEM_TYPES
from training_ume.explain.attribution import grad_cam, integrated_map, token_scores
from training_ume.explain.shapley import named_weights, names_of, shapley_values, subset_probabilities, subsets_of
from training_ume.explain.words import merge_words, pair_maps, token_texts
from training_ume.records.explanation import Explanation


def need_captum() -> None:
    """Raises ImportError where captum is missing; asked before any work."""
    if find_spec("captum") is None:
        raise ImportError("Explanations need the package captum: `pip install captum` (or the extra `ume[explain]`).")


def explain(
    model: UMEForVisualQuestionAnswering,
    processor: UMEProcessor,
    image: Image.Image | str,
    question: str,
    answer: str | None = None,
) -> Explanation:
    """
    Explains one answer to one question about one image.

    Args:
        model: in eval mode, on any device.
        image: an image, its path or its URL.
        answer (`str`, *optional*): the answer to explain; default: the one that the model gives.

    Raises:
        ImportError: without captum.
        ValueError: for an image that cannot be read, an empty question, an answer that the model does not know, a
            tokenizer that cannot say where in the question a token stands, or an image encoder without a grid.
    """
    need_captum()
    needs_usual(model.config.modalities, "An explanation")
    if not PROBLEM_TYPES[model.config.problem_type].chooses:
        raise ValueError(
            "The model gives numbers, and an explanation is of an answer's probability: what each modality is worth "
            "to a number, `ume evaluate … --drop` says over a data set."
        )
    if not question.strip():
        raise ValueError("The question is empty: write what you want to know about the image.")
    if not processor.tokenizer.is_fast:
        raise ValueError(
            f"{type(processor.tokenizer).__name__} does not say where in the question a token stands, so words cannot "
            "be scored: use the model's fast tokenizer, the one with a tokenizer.json."
        )
    target = None if answer is None else answer_id(model, answer)
    wanted = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    inputs = processor(images=image, text=question, text_kwargs=wanted)
    offsets = inputs.pop("offset_mapping")[0].tolist()
    special = inputs.pop("special_tokens_mask")[0].bool()
    seen = processor(images=image, images_kwargs={"do_normalize": False})["pixel_values"][0]
    if "pixel_mask" in inputs:  # padded to a fixed size: the image is explained as it is read
        [own] = unpadded(inputs["pixel_values"], inputs.pop("pixel_mask"))
        inputs["pixel_values"], seen = own[None], seen[:, : own.shape[1], : own.shape[2]]
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    with torch.no_grad():
        output = model(**inputs)
        encoded = model.encode_images(inputs["pixel_values"])
    if "vision_grid" not in encoded:
        raise ValueError(
            f"The image encoder {model.config.vision_config.model_type!r} gives no grid of image tokens, so there is "
            "no map of where it looked: choose another encoder."
        )
    if target is None:
        target = output.logits[0].argmax().item()
    text = {name: value for name, value in inputs.items() if name != "pixel_values"}
    # Padding stands for every word; special tokens stay, and so score 0.
    blank = text["input_ids"].masked_fill(~special.to(model.device), processor.tokenizer.pad_token_id)
    scores, baseline_logit, _ = token_scores(model, text, blank, encoded, target)
    cam, layer = grad_cam(model, inputs, target)
    integrated, integrated_error = integrated_map(model, inputs, target)
    words = merge_words(question, offsets, special.tolist(), scores.tolist())
    logit = output.logits[0, target].item()
    names = names_of(model)
    values = subset_probabilities(model, {**text, **encoded}, torch.tensor([target]))[0]
    shapley = shapley_values(values)
    return Explanation(
        question=question,
        answer=model.config.id2label[target],
        probability=values[-1].item(),
        logit=logit,
        candidates=processor.decode_answers(output.logits, top_k=min(5, model.config.num_labels))[0],
        image=seen.clamp(0, 1).permute(1, 2, 0).numpy(),
        grad_cam=cam.cpu().numpy(),
        layer=layer,
        integrated=integrated.cpu().numpy(),
        integrated_error=integrated_error,
        pair_weights=pair_maps(
            output.fusion_weights, encoded["vision_grid"], token_texts(processor, text, question, offsets, special)
        ),
        words=words,
        baseline_logit=baseline_logit,
        completeness_error=abs(sum(word["score"] for word in words) - (logit - baseline_logit)),
        modality_weights=named_weights(names, output.fusion_weights),
        values={"+".join(subset): value for subset, value in zip(subsets_of(names), values.tolist(), strict=True)},
        shapley=dict(zip(names, shapley.tolist(), strict=True)),
    )


def answer_id(model: UMEForVisualQuestionAnswering, answer: str) -> int:
    """The id of an answer; ValueError, with the ones most like it, for one that the model does not know."""
    ids = {label: i for i, label in model.config.id2label.items()}
    if answer not in ids:
        near = difflib.get_close_matches(answer, ids, n=5, cutoff=0.0)
        raise ValueError(
            f"The model does not know the answer {answer!r}: choose one of its {len(ids)}, such as {', '.join(near)}."
        )
    return ids[answer]
