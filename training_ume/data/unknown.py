"""Words that a tokenizer does not know: it reads them all as one, and a model cannot tell them apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

# Distinct questions that are looked at: a share needs no more.
LOOKED_AT = 20_000
# A larger share than this is worth a warning.
MUCH = 0.05


def unknown_tokens(tokenizer, questions: Iterable[str], most: int = 3) -> dict | None:
    """
    How much of the questions a tokenizer reads as its unknown token.

    Args:
        tokenizer: one of transformers.
        questions: the first `LOOKED_AT` distinct ones are looked at.
        most (`int`): how many examples to give.

    Returns:
        `dict`: `share` of the tokens, `questions` with one in it as a share, and as `examples` those of which the
        most is unknown. None where the tokenizer has no such token or no question has any text.
    """
    if tokenizer.unk_token_id is None:
        return None
    distinct = list(itertools.islice(dict.fromkeys(question for question in questions if question.strip()), LOOKED_AT))
    if not distinct:
        return None
    ids = tokenizer(distinct, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    counts = [(tokens.count(tokenizer.unk_token_id), len(tokens)) for tokens in map(list, ids)]
    worst = sorted(
        (i for i, (unknown, _) in enumerate(counts) if unknown), key=lambda i: (-counts[i][0] / counts[i][1], i)
    )
    return {
        "share": sum(unknown for unknown, _ in counts) / max(sum(total for _, total in counts), 1),
        "questions": len(worst) / len(distinct),
        "examples": [distinct[i] for i in worst[:most]],
    }


def unknown_warning(found: dict[str, dict | None]) -> list[str]:
    """
    Sentences about the parts of which the tokenizer does not know much.

    Args:
        found: what `unknown_tokens` gives, by the name of the part.
    """
    return [
        f"WARNING: the tokenizer reads {numbers['share']:.0%} of the {part} questions' tokens as unknown, all alike: "
        f"for example {'; '.join(map(repr, numbers['examples']))}. Choose a text model of the language, or keep the "
        "rows that it can read (--where)."
        for part, numbers in found.items()
        if numbers is not None and numbers["share"] > MUCH
    ]
