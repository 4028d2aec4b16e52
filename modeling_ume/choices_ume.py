"""Fewer answers than a model knows: the choices that a question names, and "I do not know" below a probability.

A model chooses from a closed list, so a choice that is not on it cannot be scored: it is left out, by name, and the
probabilities are those among the others.
"""

from typing import NamedTuple

import torch

from .tasks_ume import decode_logits

UNSURE = "I do not know"


class Choices(NamedTuple):
    """The ids of the choices that a model knows, what to call each, and those that it does not know."""

    ids: list[int]
    names: list[str]
    unknown: list[str]


def find_choices(candidate_labels, id2label: dict[int, str]) -> Choices:
    """
    Finds the choices among a model's answers, as they are written or but for case and spaces.

    Args:
        candidate_labels (`list[str]` or `str`): the choices; a string holds them with commas between. [`Choices`]
            are returned as they are.
        id2label (`dict[int, str]`): the answers that the model knows.

    Raises:
        ValueError: for what is no list of two or more different choices, and where the model knows none of them.
    """
    if isinstance(candidate_labels, Choices):
        return candidate_labels
    if isinstance(candidate_labels, str):
        candidate_labels = [part.strip() for part in candidate_labels.split(",") if part.strip()]
    if not isinstance(candidate_labels, (list, tuple)) or not all(isinstance(one, str) for one in candidate_labels):
        raise ValueError(f"candidate_labels must be a list of choices, each a string, not {candidate_labels!r}.")
    exact = {answer: key for key, answer in id2label.items()}
    loose = {}
    for key, answer in id2label.items():
        loose.setdefault(_form(answer), key)
    found = {choice: exact.get(choice, loose.get(_form(choice))) for choice in candidate_labels}
    if len(found) < 2:
        raise ValueError(f"There is nothing to choose from in {list(candidate_labels)}: give two choices or more.")
    known = {choice: key for choice, key in found.items() if key is not None}
    twice = [choice for choice, key in known.items() if list(known.values()).count(key) > 1]
    if twice:
        raise ValueError(f"The choices {', '.join(map(repr, twice))} are one answer of this model: give it once.")
    unknown = [choice for choice, key in found.items() if key is None]
    if not known:
        raise ValueError(
            f"This model knows none of the choices {', '.join(map(repr, unknown))}: it chooses from the "
            f"{len(id2label):,} answers that it was trained on, such as {', '.join(list(id2label.values())[:3])}."
        )
    return Choices(list(known.values()), list(known), unknown)


def about_unknown(choices: Choices) -> str | None:
    """A sentence that says which choices are left out; None where there are none."""
    if not choices.unknown:
        return None
    one = len(choices.unknown) == 1
    return (
        f"The model does not know {'the choice' if one else 'the choices'} {', '.join(map(repr, choices.unknown))}: "
        f"{'it is' if one else 'they are'} not among the answers that it was trained on, so the probabilities are "
        f"those among {', '.join(map(repr, choices.names))}."
    )


def _form(answer: str) -> str:
    return " ".join(answer.split()).casefold()


def decode_choices(
    logits: torch.Tensor,
    id2label: dict[int, str],
    problem_type: str,
    top_k: int,
    choices: Choices | None = None,
    min_probability: float | None = None,
) -> list[list[dict]]:
    """
    As `decode_logits`, among some of the answers, and only where the model is sure enough.

    Args:
        logits (`torch.Tensor` of shape [B, C]): a score for each of the C answers.
        top_k (`int`): answers a row; all of them where there are fewer.
        choices ([`Choices`], *optional*): the answers that count; a softmax is over these alone.
        min_probability (`float`, *optional*):
            Where the best answer has less, a row is one dict: `UNSURE` as its answer, and as `score` and `guess` the
            probability that was too low and of what.
    """
    if choices is not None:
        logits = logits[:, choices.ids]
        id2label = dict(enumerate(choices.names))
    rows = decode_logits(logits, id2label, problem_type, min(top_k, len(id2label)))
    if min_probability is None:
        return rows
    return [
        row if row[0]["score"] >= min_probability
        else [{"answer": UNSURE, "score": row[0]["score"], "guess": row[0]["answer"]}]
        for row in rows
    ]  # fmt: skip


def check_probability(min_probability) -> None:
    """Raises ValueError for what is no probability."""
    number = isinstance(min_probability, (int, float)) and not isinstance(min_probability, bool)
    if not number or not 0 <= min_probability <= 1:
        raise ValueError(f"min_probability={min_probability!r} is impossible: a probability lies in [0, 1].")
