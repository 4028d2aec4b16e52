"""How well a `UMEForRetrieval` finds what belongs together: recall@k and the median rank, by pair and direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader

from modeling_ume import UMEForRetrieval
from modeling_ume.contrast_ume import pair_name
from modeling_ume.modalities_ume import MODALITIES

KS = (1, 5, 10)


def items_of(rows: Dataset, modality: str) -> tuple[list[int], Tensor]:
    """
    The distinct items of a modality: the rows in which each comes first, and which of them every row has ([rows], −1:
    none).
    """
    kind, first, item = MODALITIES[modality], {}, []
    for row, cell in enumerate(rows[kind.column][:]):
        if kind.lacks(cell):
            item.append(-1)
            continue
        key = cell if isinstance(cell, str) else repr(cell)
        item.append(first.setdefault(key, (len(first), row))[0])
    return [row for _, row in first.values()], torch.tensor(item, dtype=torch.long)


@torch.no_grad()
def features_of(
    model: UMEForRetrieval, collate: Callable[[str], Callable], rows: Dataset, modality: str, batch_size: int
) -> Tensor:
    """The features of a modality's items in all of the rows, which each have one of their own: [U, D] float32."""
    kind, found = MODALITIES[modality], []
    loader = DataLoader(rows, batch_size, collate_fn=collate(kind.column))
    for batch in loader:
        inputs = {
            name: value.to(model.device)
            for name, value in batch.items()
            if name in kind.all_inputs and name not in (kind.index, kind.present)
        }
        found.append(model.get_features(modality, **inputs, return_dict=True).pooler_output.float().cpu())
    return torch.cat(found)


def score_retrieval(
    model: UMEForRetrieval, collate: Callable[[str], Callable], rows: Dataset, batch_size: int = 64
) -> dict:
    """
    Scores over all distinct items of the rows, each encoded once.

    Args:
        model: in eval mode or not, on any one device.
        collate: makes a collator of the column of one modality.
        rows (`Dataset`): of `load_rows`; what one row holds belongs together.

    Returns:
        `dict`: `measured_by`; `recall@1`, `recall@5`, `recall@10` in percent and `median_rank`, each the mean over
        pairs and directions, and in `pairs` those of each (`audio_to_vision`).

    Raises:
        ValueError: where no row has both modalities of any pair.
    """
    was_training = model.training
    model.eval()
    features, items = {}, {}
    for modality in dict.fromkeys(name for pair in model.pairs for name in pair):
        if MODALITIES[modality].column not in rows.column_names:
            continue
        first, items[modality] = items_of(rows, modality)
        if first:
            features[modality] = features_of(model, collate, rows.select(first), modality, batch_size)
    model.train(was_training)
    found = {}
    for one, other in model.pairs:
        if one not in features or other not in features:
            continue
        both = (items[one] >= 0) & (items[other] >= 0)
        if not both.any():
            continue
        own = torch.zeros(len(features[one]), len(features[other]), dtype=torch.bool)
        own[items[one][both], items[other][both]] = True
        similarity = features[one] @ features[other].T
        found[f"{one}_to_{other}"] = _scores(similarity, own)
        found[f"{other}_to_{one}"] = _scores(similarity.T, own.T)
    if not found:
        wanted = ", ".join(pair_name(pair).replace("_", " and ") for pair in model.pairs)
        raise ValueError(f"No row has both modalities of a pair ({wanted}): there is nothing to find.")
    names = next(iter(found.values())).keys() - {"items", "chance"}
    means = {name: sum(scores[name] for scores in found.values()) / len(found) for name in sorted(names)}
    return {"measured_by": "recall@1", **means, "pairs": found}


def chance(scores: dict) -> dict:
    """The recall@1 that a random order has on average."""
    each = [found["chance"] for found in scores["pairs"].values()]
    return {"measured_by": "recall@1", "recall@1": sum(each) / len(each)}


def _scores(similarity: Tensor, own: Tensor, ks: Sequence[int] = KS) -> dict[str, Any]:
    """Of similarities [U, V] and what belongs together: among equally similar ones, and for NaN, the right one is
    last."""
    asked = own.any(1)
    own, similarity = own[asked], similarity[asked]
    best = similarity.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    ranks = 1 + (~(similarity < best) & ~own).sum(1)  # [asked]
    recalls = {f"recall@{k}": 100 * (ranks <= k).double().mean().item() for k in ks}
    by_chance = 100 * (own.sum(1) / own.shape[1]).double().mean().item()
    return {**recalls, "median_rank": ranks.double().median().item(), "items": len(ranks), "chance": by_chance}
