"""Which modality mattered: shares over all subsets of modalities."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from training_ume.data.collator import VQACollator
from training_ume.data.order import in_image_order
from training_ume.records.explanation import VIEWS

SUBSETS = ((), ("text",), ("image",), ("text", "image"))  # what the Shapley values are made of


# ---------------------------------------------------------------------------------------------------- which modality


def named_weights(weights: dict[str, Tensor]) -> dict[str, float] | None:
    """The first example's "modality_weights" by the name of the view; None where the head has none."""
    if "modality_weights" not in weights:
        return None
    return dict(zip(VIEWS, weights["modality_weights"][0].tolist(), strict=False))


@torch.no_grad()
def subset_probabilities(
    model: UMEForVisualQuestionAnswering, inputs: dict[str, Tensor], targets: Tensor | None = None
) -> Tensor:
    """
    The probability of an answer with nothing, the text, the image, and both given, [B, 4] in the order of `SUBSETS`.

    Args:
        inputs: B questions and the states of their images, as `encode_images` gives them.
        targets: [B], ids of the answers; default: those that the model gives with both.
    """
    size, subsets = len(inputs["input_ids"]), len(SUBSETS)
    rows = {k: v.repeat_interleave(subsets, 0) for k, v in inputs.items() if not k.startswith("vision_")}
    rows |= {name: value for name, value in inputs.items() if name.startswith("vision_")}
    device = rows["input_ids"].device
    rows.setdefault("image_index", torch.arange(size, device=device).repeat_interleave(subsets))
    for modality in ("text", "image"):
        given = torch.tensor([modality in subset for subset in SUBSETS], device=device)
        rows[f"{modality}_present"] = given.repeat(size)
    logits = model(**rows).logits.float().unflatten(0, (size, subsets)).cpu()  # [B, 4, C]
    single = model.config.problem_type == "single_label_classification"
    probabilities = logits.softmax(-1) if single else logits.sigmoid()
    if targets is None:
        targets = logits[:, -1].argmax(-1)
    return probabilities[torch.arange(size), :, targets]


def shapley_values(values: Tensor) -> Tensor:
    """
    Values of the `SUBSETS` [..., 4] → Shapley values of text and image [..., 2].

    With two players each is the mean of what it adds to nothing and of what it adds to the other; their sum is the
    value of both minus that of neither.
    """
    nothing, text, image, both = values.unbind(-1)
    return torch.stack([(text - nothing + both - image) / 2, (image - nothing + both - text) / 2], dim=-1)


@torch.no_grad()
def explain_dataset(
    model: UMEForVisualQuestionAnswering, processor: UMEProcessor, dataset: Dataset, batch_size: int = 64
) -> dict[str, Any]:
    """
    How much each modality does for the answers that the model gives to a data set's questions.

    Args:
        dataset (`Dataset`): rows of `load_vqa`.
        batch_size (`int`): questions a batch.

    Returns:
        `dict`: `questions`, `images`, and `kinds`: for `all` questions and for each type of answer `modality_means`.

    Raises:
        ValueError: when there is no question.
    """
    if not len(dataset):
        raise ValueError("There is no question to explain: the data set is empty.")
    ordered, order = in_image_order(dataset)
    values, weights = [], []
    for batch in tqdm(
        DataLoader(ordered, batch_size, collate_fn=VQACollator(processor)), desc="explaining", leave=False
    ):
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        inputs |= model.encode_images(inputs.pop("pixel_values"), inputs.pop("pixel_mask", None))
        values.append(subset_probabilities(model, inputs))
        given = model(**inputs).fusion_weights
        if "modality_weights" in given:
            weights.append(given["modality_weights"].float().cpu())
    values = torch.cat(values)
    weights = torch.cat(weights) if weights else None
    types = [dataset["answer_type"][i] for i in order]
    kinds = {"all": torch.ones(len(order), dtype=torch.bool)}
    for kind in sorted({kind for kind in types if kind}):
        kinds[kind] = torch.tensor([given == kind for given in types])
    return {
        "questions": len(dataset),
        "images": len(set(dataset["image"][:])),
        "kinds": {
            kind: modality_means(values[rows], None if weights is None else weights[rows])
            for kind, rows in kinds.items()
        },
    }


def modality_means(values: Tensor, weights: Tensor | None) -> dict[str, Any]:
    """
    Means over questions.

    Args:
        values: [Q, 4], see `subset_probabilities`.
        weights: the head's own modality weights [Q, views], if it has some.

    Returns:
        `dict`: `questions`; `values`, the mean probability by what the model is given; `shapley`, the mean Shapley
        values; `share`, what part each modality has in the sum of their magnitudes over all questions, which is 1 for
        both together (None where nothing moves any answer); `modality_weights`, by view, or None.
    """
    shapley = shapley_values(values)
    moved = shapley.abs().sum(0)  # [2]
    names = ("text", "image")
    share = dict(zip(names, (moved / moved.sum()).tolist(), strict=True)) if moved.sum() > 0 else None
    return {
        "questions": len(values),
        "values": {"+".join(s): value for s, value in zip(SUBSETS, values.mean(0).tolist(), strict=True)},
        "shapley": dict(zip(names, shapley.mean(0).tolist(), strict=True)),
        "share": share,
        "modality_weights": None if weights is None else dict(zip(VIEWS, weights.mean(0).tolist(), strict=False)),
    }
