"""What each modality is worth: the scores of a model that is given every subset of them, and their Shapley values.

Nothing is trained anew: what is not in a subset is absent, as in a row that lacks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm

from configuration_ume.scores import measured_by
from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.modality_base_ume import Modality
from training_ume.data.inputs import there
from training_ume.evaluation.answering import batches_of
from training_ume.evaluation.measures import intervals
from training_ume.evaluation.scoring import AnswerScoring, scoring_of_model
from training_ume.records.shares import shapley_values, subsets_of


def score_subsets(
    model: UMEForVisualQuestionAnswering,
    collator: Callable,
    dataset: Dataset,
    batch_size: int = 64,
    num_workers: int = 0,
) -> dict[str, Any]:
    """
    The scores of a model that is given every non-empty subset of its modalities.

    A row that has none of a subset's modalities gets the answer of no modality at all, so that a subset is worth what
    its modalities do for the rows that have them.

    Args:
        collator (`VQACollator`): makes the batches; with `features`, stored states are read.
        dataset (`Dataset`): rows of `load_vqa`, with answers. Modalities that no row has are left out.

    Returns:
        `dict`: `measured_by`, the name of the score that fits the data; `rows`, how many have each modality, by name;
        `nothing`, the scores of the usual answer (`answer`, and `what` it is, see `AnswerScoring.usual`); `subsets`,
        the smaller first: `modalities` (their names), `rows` (how many have one of them), `interval` (95 %, of the
        score that fits, where it has one) and the scores; `shapley`, by name, in the unit of that score, the sum of
        which is the score of all minus that of nothing; `share`, what part of this sum is each one's, None where the
        score of all is that of nothing.

    Raises:
        ValueError: for rows without answers, or without any of the model's modalities.
    """
    if not any(dataset["answers"][:]):
        raise ValueError("The questions have no answers, so subsets of modalities have no score: leave --subsets out.")
    kinds = [kind for kind in there(dataset) if kind.name in model.config.modalities]
    if not kinds:
        own = ", ".join(model.config.modalities)
        raise ValueError(f"The rows have none of the model's modalities ({own}): there is nothing to take away.")
    scoring = scoring_of_model(model)
    usual, what = scoring.usual(model.config)
    names = [kind.short for kind in kinds]
    answers, has = subset_answers(model, scoring, kinds, collator, dataset, batch_size, num_workers)
    nothing = scoring.score([usual] * len(dataset), dataset)
    name, found = measured_by(nothing), []
    for subset in subsets_of(range(len(kinds)))[1:]:
        given = [usual if answer is None else answer for answer in answers[subset]]
        between = intervals(scoring.measured(given, dataset), np.arange(len(dataset)), [name]).get(name)
        found.append(
            {
                "modalities": [names[m] for m in subset],
                "rows": int(has[:, list(subset)].any(1).sum()),
                "interval": between,
                **scoring.score(given, dataset),
            }
        )
    values = torch.tensor([nothing[name], *(entry[name] for entry in found)], dtype=torch.float64)
    worth = shapley_values(values)
    total = float(values[-1] - values[0])
    return {
        "measured_by": name,
        "rows": dict(zip(names, has.sum(0).tolist(), strict=True)),
        "nothing": {"answer": usual, "what": what, **nothing},
        "subsets": found,
        "shapley": dict(zip(names, worth.tolist(), strict=True)),
        "share": None if total == 0 else dict(zip(names, (worth / total).tolist(), strict=True)),
    }


@torch.no_grad()
def subset_answers(
    model: UMEForVisualQuestionAnswering,
    scoring: AnswerScoring,
    kinds: Sequence[Modality],
    collator: Callable,
    dataset: Dataset,
    batch_size: int,
    num_workers: int = 0,
) -> tuple[dict[tuple[int, ...], list], Tensor]:
    """
    Answers to every row from every non-empty subset of K modalities; each is encoded once.

    Returns:
        By the subset (numbers of `kinds`) an answer a row, None for a row that has none of it; and which row has which
        modality, [rows, K] bool.
    """
    loader, order = batches_of(collator, dataset, batch_size, num_workers)
    subsets = subsets_of(range(len(kinds)))[1:]
    answers = {subset: [None] * len(order) for subset in subsets}
    has = torch.zeros(len(order), len(kinds), dtype=torch.bool)
    positions, was_training = iter(order), model.training
    model.eval()
    for batch in tqdm(loader, desc="answering from every subset", leave=False):
        inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
        rows = list(islice(positions, batch_size))
        here = torch.stack([present_in(inputs, kind, len(rows)) for kind in kinds], dim=1)  # [B, K]
        has[rows] = here
        inputs = encoded(model, inputs, kinds)
        for subset in subsets:
            given = {
                name: inputs[name] for m in subset for name in kinds[m].all_inputs if name in inputs
            }  # of the others, nothing
            if not here[:, list(subset)].any():
                continue
            kept = scoring.kept(model(**given, return_dict=True).logits).tolist()
            some = here[:, list(subset)].any(1).tolist()
            for row, answer, is_here in zip(rows, scoring.answers(kept), some, strict=True):
                answers[subset][row] = answer if is_here else None
    model.train(was_training)
    return answers, has


def present_in(inputs: dict[str, Tensor], kind: Modality, size: int) -> Tensor:
    """Which of a batch's examples have a modality, [B] bool, on the CPU."""
    if not kind.given(inputs):
        return torch.zeros(size, dtype=torch.bool)
    return inputs[kind.present].bool().cpu() if kind.present in inputs else torch.ones(size, dtype=torch.bool)


def encoded(
    model: UMEForVisualQuestionAnswering, inputs: dict[str, Tensor], kinds: Sequence[Modality]
) -> dict[str, Tensor]:
    """The inputs with what the encoders say in their place, unless the head reads inside of one."""
    if model.ume.fusion.reads_in_encoder:
        return inputs
    inputs = dict(inputs)
    for kind in kinds:
        if kind.given(inputs) and kind.states not in inputs:
            kept = {name: inputs[name] for name in (kind.index, kind.present) if name in inputs}
            given = {name: inputs.pop(name) for name in kind.all_inputs if name in inputs}
            inputs |= model.encode(kind.name, **{name: x for name, x in given.items() if name not in kept}) | kept
    return inputs
