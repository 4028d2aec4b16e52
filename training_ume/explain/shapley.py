"""Which modality mattered: shares over all subsets of modalities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modalities_ume import MODALITIES, usual
from modeling_ume.tasks_ume import PROBLEM_TYPES
from training_ume.data.collator import VQACollator, allow_lacks
from training_ume.data.inputs import lacked_by_all
from training_ume.data.order import in_image_order
from training_ume.records.explanation import PAIRS
from training_ume.records.shares import names_of, shapley_values, subsets_of

# ---------------------------------------------------------------------------------------------------- which modality


def named_weights(names: Sequence[str], weights: dict[str, Tensor]) -> dict[str, float] | None:
    """The first example's "modality_weights" by the name of the view; None where the head has none."""
    if "modality_weights" not in weights:
        return None
    return dict(zip((*names, PAIRS), weights["modality_weights"][0].tolist(), strict=False))


@torch.no_grad()
def subset_probabilities(
    model: UMEForVisualQuestionAnswering, inputs: dict[str, Tensor], targets: Tensor | None = None
) -> Tensor:
    """
    The probability of an answer by what the model is given, [B, 2^K] in the order of `subsets_of`.

    Args:
        inputs: of B examples; of what several share, the states, as `encode` gives them.
        targets: [B], ids of the answers; default: those that the model gives with all modalities.
    """
    kinds = [MODALITIES[modality] for modality in model.config.modalities]
    subsets = subsets_of(names_of(model))
    device = model.device
    counts = [len(inputs[kind.index if kind.index in inputs else kind.given(inputs)[0]]) for kind in kinds
              if kind.given(inputs)]  # fmt: skip
    size = max(counts)
    rows = {}
    for kind in kinds:
        given = {name: inputs[name] for name in kind.all_inputs if name in inputs}
        if kind.states in given or kind.index in given:  # the distinct ones stay once
            index = given.pop(kind.index, torch.arange(size, device=device))
            rows |= {name: value for name, value in given.items() if name != kind.present}
            rows[kind.index] = index.repeat_interleave(len(subsets), 0)
        else:
            rows |= {name: value.repeat_interleave(len(subsets), 0) for name, value in given.items()}
        chosen = torch.tensor([kind.short in subset for subset in subsets], device=device).repeat(size)
        if kind.present in given:
            chosen = chosen & given[kind.present].bool().repeat_interleave(len(subsets), 0)
        rows[kind.present] = chosen
    logits = model(**rows).logits.float().unflatten(0, (size, len(subsets))).cpu()  # [B, 2^K, C]
    probabilities = PROBLEM_TYPES[model.config.problem_type].probabilities(logits)
    if targets is None:
        targets = logits[:, -1].argmax(-1)
    return probabilities[torch.arange(size), :, targets]


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
        `dict`: `questions`, `images` (how many different ones, as of all that stands in files), and `kinds`: for
        `all` questions and for each type of answer `modality_means`.

    Raises:
        ValueError: when there is no question.
    """
    if not len(dataset):
        raise ValueError("There is no question to explain: the data set is empty.")
    ordered, order = in_image_order(dataset)
    values, weights = [], []
    collator = VQACollator(processor, may_lack=lacked_by_all(dataset))
    allow_lacks(collator, ordered)
    for batch in tqdm(DataLoader(ordered, batch_size, collate_fn=collator), desc="explaining", leave=False):
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        inputs = encoded_once(model, inputs)
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
        **{
            kind.nouns: len(set(dataset[kind.column][:]))
            for kind in map(MODALITIES.get, model.config.modalities)
            if kind.in_files and kind.column in dataset.column_names
        },
        "kinds": {
            kind: modality_means(values[rows], None if weights is None else weights[rows], names_of(model))
            for kind, rows in kinds.items()
        },
    }


def encoded_once(model: UMEForVisualQuestionAnswering, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs with what its encoder says in the place of everything that examples may share, such as images."""
    inputs = dict(inputs)
    for modality in model.config.modalities:
        kind = MODALITIES[modality]
        if kind.in_files and kind.given(inputs) and kind.states not in inputs:
            given = {name: inputs.pop(name) for name in (*kind.inputs, *kind.later_inputs) if name in inputs}
            inputs |= model.encode(modality, **given)
    return inputs


def modality_means(
    values: Tensor, weights: Tensor | None, names: Sequence[str] = tuple(kind.short for kind in usual())
) -> dict[str, Any]:
    """
    Means over questions.

    Args:
        values: [Q, 2^K], see `subset_probabilities`.
        weights: the head's own modality weights [Q, views], if it has some.
        names: what the modalities are called.

    Returns:
        `dict`: `questions`; `values`, the mean probability by what the model is given; `shapley`, the mean Shapley
        values; `share`, what part each modality has in the sum of their magnitudes over all questions, which is 1 for
        all together (None where nothing moves any answer); `modality_weights`, by view, or None.
    """
    shapley = shapley_values(values)
    moved = shapley.abs().sum(0)  # [K]
    share = dict(zip(names, (moved / moved.sum()).tolist(), strict=True)) if moved.sum() > 0 else None
    own = None if weights is None else dict(zip((*names, PAIRS), weights.mean(0).tolist(), strict=False))
    return {
        "questions": len(values),
        "values": {"+".join(s): value for s, value in zip(subsets_of(names), values.mean(0).tolist(), strict=True)},
        "shapley": dict(zip(names, shapley.mean(0).tolist(), strict=True)),
        "share": share,
        "modality_weights": own,
    }
