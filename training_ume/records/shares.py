"""What each of several modalities is worth: Shapley values over all subsets of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling_ume.modalities_ume import MODALITIES


def names_of(model: PreTrainedModel) -> list[str]:
    """What people call each of a model's modalities, in the order of its streams."""
    return [MODALITIES[modality].short for modality in model.config.modalities]


def subsets_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All subsets of the modalities, the smaller first, which Shapley values are made of."""
    return [subset for size in range(len(names) + 1) for subset in combinations(names, size)]


def shapley_values(values: Tensor) -> Tensor:
    """
    Values of all subsets of K modalities [..., 2^K], in the order of `subsets_of` → Shapley values [..., K].

    Each is the mean, over the orders in which modalities may come, of what this one adds to those before it (Shapley
    1953); their sum is the value of all minus that of none.
    """
    players = values.shape[-1].bit_length() - 1
    subsets = subsets_of(range(players))
    place = {subset: number for number, subset in enumerate(subsets)}
    shapley = []
    for player in range(players):
        added = 0.0
        for subset in subsets:
            if player not in subset:
                orders = math.factorial(len(subset)) * math.factorial(players - len(subset) - 1)
                more = place[tuple(sorted((*subset, player)))]
                added = added + orders / math.factorial(players) * (values[..., more] - values[..., place[subset]])
        shapley.append(added)
    return torch.stack(shapley, dim=-1)
