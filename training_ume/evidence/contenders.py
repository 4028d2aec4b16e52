"""Who stands in the arena: heads of about the same number of trained parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from modeling_ume import FUSIONS, UMEConfig
from modeling_ume.encoders_ume import EncoderAdapter, build_encoder
from modeling_ume.fusion_ume import build_fusion
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.own_heads_ume import FILE, known_head
from training_ume.data.inputs import BLIND

WIDTH_STEP = 8  # what the usual eight attention heads divide
WIDEST = 4096


@dataclass(frozen=True)
class Contender:
    """A head (`fusion`) with what it sees (`inputs` of the collator), as wide as the budget allows."""

    name: str
    fusion: str
    inputs: str
    hidden_size: int
    parameters: int  # trained: head and classifier
    changes: tuple[tuple[str, object], ...] = ()  # fields of the recipe that differ for it


# ------------------------------------------------------------------------------------------------------- contenders


def stream_widths(config: UMEConfig) -> list[list[int]]:
    """Widths of the tokens and of the summaries that the encoders of a config give."""
    with torch.device("meta"):
        adapters = [
            EncoderAdapter(build_encoder(config.encoder_config(modality), pooling), modality, pooling)
            for modality, pooling in (
                (modality, getattr(config, MODALITIES[modality].pooling_field)) for modality in config.modalities
            )
        ]
    return [[adapter.width for adapter in adapters], [adapter.pooled_width for adapter in adapters]]


def trained_parameters(config: UMEConfig, widths: list[list[int]]) -> int:
    """Parameters of the head and the classifier that a config describes, counted without making them."""
    with torch.device("meta"):
        head = build_fusion(config, *widths)
    return (
        sum(p.numel() for p in head.parameters())
        + head.num_views * (config.fusion_hidden_size + 1) * config.num_labels
    )


def matched_width(config: UMEConfig, widths: list[list[int]], fusion: str, budget: int) -> tuple[int, int]:
    """
    The `fusion_hidden_size`, a multiple of 8, at which a head and its classifier come nearest to a budget.

    Args:
        config: everything but the head and its width.
        widths: see `stream_widths`.
        budget (`int`): trained parameters.

    Returns:
        `(hidden_size, parameters)`.
    """
    found = {}
    low, high = 1, WIDEST // WIDTH_STEP
    candidate = copy.deepcopy(config)
    candidate.fusion = fusion
    while low <= high:  # parameters grow with the width
        middle = (low + high) // 2
        candidate.fusion_hidden_size = middle * WIDTH_STEP
        found[middle * WIDTH_STEP] = trained_parameters(candidate, widths)
        if found[middle * WIDTH_STEP] < budget:
            low = middle + 1
        else:
            high = middle - 1
    width = min(found, key=lambda width: (abs(found[width] - budget), width))
    return width, found[width]


def contenders(names: Iterable[str], config: UMEConfig, budget: int) -> list[Contender]:
    """
    Raises:
        ValueError: for a name that is neither a head nor a blind row, or a head that cannot read stored features.
    """
    found, widths = [], stream_widths(config)
    for name in names:
        name = known_head(name) if FILE.fullmatch(name) else name
        if name not in FUSIONS and name not in BLIND:
            raise ValueError(f"{name!r} is not known: choose from {', '.join([*FUSIONS, *BLIND])}.")
        # What sees one input alone has nothing to fuse; `concat` then is an MLP over the summary.
        fusion = name if name in FUSIONS else "concat"
        if FUSIONS[fusion].reads_in_encoder:
            raise ValueError(
                f"The head {name!r} runs inside the text encoder, so it has no stored features: leave it out."
            )
        found.append(Contender(name, fusion, BLIND.get(name, "both"), *matched_width(config, widths, fusion, budget)))
    return found
