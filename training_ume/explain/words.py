"""Which words mattered: pair weights and scores of tokens merged into words."""

from __future__ import annotations

import math

from torch import Tensor

from modeling_ume import UMEProcessor
from modeling_ume.parts_ume import word_of, word_spans
from training_ume.records.explanation import PairMaps

# --------------------------------------------------------------------------------------------- tokens, cells and words


def pair_maps(weights: dict[str, Tensor], grid: Tensor, tokens: list[str]) -> PairMaps | None:
    """The head's "pair_weights" [1, T, N] as a map a token; None where it has none."""
    if "pair_weights" not in weights:
        return None
    pairs, grid = weights["pair_weights"][0].detach().float().cpu(), tuple(grid.tolist())
    places = pairs[:, -math.prod(grid) :]
    return PairMaps(
        tokens=tokens,
        maps=places.unflatten(1, grid).numpy(),
        off_grid=pairs[:, : -math.prod(grid)].sum(1).numpy(),
    )


def merge_words(question: str, offsets: list[list[int]], special: list[bool], scores: list[float]) -> list[dict]:
    """
    Sums the scores of tokens over the words that they are pieces of; special tokens are left out.

    Args:
        offsets: of each token, where it begins and ends in the question.

    Returns:
        One dict a word of which the model has read a piece: `word`, `start`, `end`, `score`. A mark is a word, too.
    """
    spans = word_spans(question)
    sums: dict[tuple[int, int], float] = {}
    for (start, end), is_special, score in zip(offsets, special, scores, strict=True):
        if is_special or not spans:
            continue
        span = spans[word_of(spans, start, end)]
        sums[span] = sums.get(span, 0.0) + score
    return [
        {"word": question[start:end], "start": start, "end": end, "score": score}
        for (start, end), score in sorted(sums.items())
    ]


def token_texts(
    processor: UMEProcessor, text: dict[str, Tensor], question: str, offsets: list[list[int]], special: Tensor
) -> list[str]:
    """Each token as it stands in the question; special ones by their names."""
    names = processor.tokenizer.convert_ids_to_tokens(text["input_ids"][0].tolist())
    return [
        name if is_special else question[start:end].strip() or name
        for name, (start, end), is_special in zip(names, offsets, special.tolist(), strict=True)
    ]
