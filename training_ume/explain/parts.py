"""What each part of an input adds to an answer's logit, and what becomes of the answer without it, in any modality.

What the parts are, and what stands in the stead of one, the modality says (`Modality.parts`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.parts_ume import Parts
from modeling_ume.tasks_ume import PROBLEM_TYPES
from training_ume.explain.shapley import shapley_values, subsets_of

STEPS, FINER_STEPS = 50, 200  # of an integral, and of one that is to be more exact
ROWS = 10  # of these together
BATCH = 64  # rows that are only read
SUBSETS = 1024  # of parts that are taken away, at most so many
INCOMPLETE = 0.05  # of the difference that an integral may miss
INTEGRATED, SAMPLED, EXACT = "integrated gradients", "Shapley values, by sampling", "Shapley values"
MASKING_STEPS = 16  # from the whole input to none of it


def repeated(model: PreTrainedModel, inputs: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The inputs of one example as those of `count` alike; what an encoder once said of it stays there once."""
    rows = {}
    for kind in map(MODALITIES.get, model.config.modalities):
        own = {name: inputs[name] for name in kind.all_inputs if name in inputs}
        if kind.states in own:
            rows |= {**own, kind.index: torch.zeros(count, dtype=torch.long, device=own[kind.states].device)}
        else:
            rows |= {name: value.expand(count, *value.shape[1:]) for name, value in own.items()}
    return rows


def integrated(
    model: PreTrainedModel, inputs: dict[str, Tensor], name: str, blank: Tensor, target: int, steps: int = STEPS
) -> tuple[Tensor, float, float]:
    """
    Integrated gradients (Sundararajan et al., 2017) of an answer's logit over one of the model's inputs.

    Args:
        inputs: of one example.
        name: of the input, which is of floating-point numbers.
        blank: where the path begins, shaped like that input, [1, …].
        steps: of the integral.

    Returns:
        What each number adds, shaped like a row of it; the logits where the path begins and where it ends.
    """
    from captum.attr import IntegratedGradients

    value = inputs[name].detach()
    others = {other: x for other, x in inputs.items() if other != name}

    def logit(values: Tensor) -> Tensor:
        return model(**repeated(model, others, len(values)), **{name: values}).logits[:, target].float()

    # cuDNN gives recurrent networks no gradients in eval mode.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        scores = IntegratedGradients(logit).attribute(value, blank, n_steps=steps, internal_batch_size=ROWS)
    with torch.no_grad():
        return scores[0].detach(), logit(blank).item(), logit(value).item()


@torch.no_grad()
def logits_without(
    model: PreTrainedModel, inputs: dict[str, Tensor], parts: Parts, hidden: Tensor, target: int
) -> Tensor:
    """An answer's logit with some parts taken away, in several ways: hidden [M, P] bool → [M]."""
    return _outputs_without(model, inputs, parts, hidden)[:, target]


def _outputs_without(model, inputs: dict[str, Tensor], parts: Parts, hidden: Tensor) -> Tensor:
    others = {name: value for name, value in inputs.items() if name not in parts.of}
    found = []
    for rows in hidden.split(BATCH):
        changed = parts.without(inputs, rows)
        found.append(model(**repeated(model, others, len(rows)), **changed).logits.float().cpu())
    return torch.cat(found)


def part_scores(
    model: PreTrainedModel, inputs: dict[str, Tensor], parts: Parts, target: int
) -> tuple[Tensor, float, float, str]:
    """
    What each part adds to an answer's logit.

    By integrated gradients where the parts are of numbers that may change little by little, and where these add up
    to what they should. They do not where an encoder brings each input to one mean and one deviation by itself, so
    that all but the very beginning of the path looks the same to it. There, and where a part is there or is not (a
    column of a table), Shapley values over the parts say it: of all subsets, or where these are more than 1,024, the
    mean over orders that are drawn by chance, each together with its reverse (Štrumbelj and Kononenko, 2014).

    Args:
        inputs: of one example.
        target: id of the answer.

    Returns:
        The scores [P]; the logit with all parts taken away, from which they lead to that of the whole; by how much
        they fail to; and how they were found.
    """
    differences = [name for name, blank in parts.blank.items() if blank.is_floating_point() and blank.isfinite().all()]
    if len(parts.of) == len(differences) == 1 and inputs[differences[0]].isfinite().all():
        (name,) = differences
        blank = parts.without(inputs, torch.ones(1, len(parts), dtype=torch.bool))[name]
        for steps in (STEPS, FINER_STEPS):
            scores, begins_at, ends_at = integrated(model, inputs, name, blank, target, steps)
            scores = parts.summed(name, scores).cpu()
            error = abs(scores.sum().item() - (ends_at - begins_at))
            if error <= INCOMPLETE * abs(ends_at - begins_at) + 1e-4:
                return scores.float(), begins_at, error, INTEGRATED
    if 2 ** len(parts) <= SUBSETS:
        subsets = subsets_of(range(len(parts)))
        hidden = torch.tensor([[part not in subset for part in range(len(parts))] for subset in subsets])
        values = logits_without(model, inputs, parts, hidden, target)
        scores, method = shapley_values(values.double()), EXACT
        begins_at, ends_at = values[0].item(), values[-1].item()
    else:
        scores, begins_at, ends_at = _sampled(model, inputs, parts, target)
        method = SAMPLED
    return scores.float(), begins_at, abs(scores.sum().item() - (ends_at - begins_at)), method


def _sampled(model, inputs: dict[str, Tensor], parts: Parts, target: int) -> tuple[Tensor, float, float]:
    """Shapley values [P] as the mean over orders in which the parts come, and the logits of none and of all."""
    count = len(parts)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(count, generator=generator) for _ in range(max(1, SUBSETS // (2 * (count + 1))))]
    total = torch.zeros(count, dtype=torch.float64)
    orders = [one for order in orders for one in (order, order.flip(0))]
    for order in orders:
        hidden = order.argsort() >= torch.arange(count + 1)[:, None]  # row n: all but the first n
        values = logits_without(model, inputs, parts, hidden, target).double()
        total[order] += values.diff()
    return total / len(orders), values[0].item(), values[-1].item()


def part_order(scores: Tensor, generator: torch.Generator) -> Tensor:
    """The parts, [P], those with the highest score first; equals in random order."""
    shuffled = torch.randperm(len(scores), generator=generator)
    return shuffled[scores[shuffled].argsort(descending=True, stable=True)]


@torch.no_grad()
def masking_areas(
    model: PreTrainedModel, inputs: dict[str, Tensor], parts: Parts, target: int, orders: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """
    The area under the deletion and the insertion curve (Petsiuk et al., 2018) of each order of the parts.

    A curve is the answer's probability while parts are taken away, in this order (deletion), or put back, in this
    order, where all have been taken away (insertion).

    Args:
        inputs: of one example.
        target: id of the answer.
        orders: O orders of the parts, [P] each.

    Returns:
        Deletion and insertion, [O] each, in 0 … 1. An order that begins with what the answer hangs on has a low
        deletion and a high insertion.
    """
    # A row that hides nothing, one that hides the first parts of the order …
    steps = min(MASKING_STEPS, len(parts))
    reached = torch.cat(
        [order.argsort() < torch.arange(steps + 1)[:, None] * len(parts) / steps for order in orders]
    )  # [O · (steps + 1), P]
    probabilities = PROBLEM_TYPES[model.config.problem_type].probabilities
    areas = []
    for hidden in (reached, ~reached):
        curve = probabilities(_outputs_without(model, inputs, parts, hidden))[:, target]
        areas.append(torch.trapezoid(curve.view(len(orders), steps + 1), dx=1 / steps))
    return areas[0], areas[1]
