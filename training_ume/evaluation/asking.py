"""Asking a model a few questions about one picture; imports what that takes, and nothing that reads data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from modeling_ume import UMEVQAPipeline
from modeling_ume.choices_ume import about_unknown, check_probability, find_choices
from modeling_ume.images_ume import read_image
from modeling_ume.tasks_ume import check_choosing
from training_ume.evaluation.load import load_checkpoint


def ask(
    name: str,
    image: str,
    questions: Iterable[str],
    top_k: int = 3,
    trust_remote_code: bool = False,
    choices: list[str] | None = None,
    min_probability: float | None = None,
    say: Callable[[str], Any] | None = None,
) -> Iterator[tuple[str, list[dict]]]:
    """
    The best answers of a checkpoint to questions about one image, which is read and encoded once.

    Args:
        name (`str`): see `load_checkpoint`.
        image (`str`): path or URL.
        questions: a list is answered in one batch; of anything else, each as it comes.
        trust_remote_code (`bool`): see `load_checkpoint`.
        choices (`list[str]`, *optional*): the answers that count, `candidate_labels` of `UMEVQAPipeline`.
        min_probability (`float`, *optional*): see `UMEVQAPipeline`.
        say (`callable`, *optional*): is given a sentence about choices that the model does not know.

    Yields:
        A question and `top_k` dicts `{"answer": str, "score": probability}`, the best first; with `min_probability`
        perhaps one, `{"answer": "I do not know", "score": …, "guess": …}`.

    Raises:
        ValueError: no such checkpoint, an impossible top_k, an image that cannot be read (these before the first
            question is taken), an empty question.
    """
    if min_probability is not None:
        check_probability(min_probability)
    model, processor = load_checkpoint(name, trust_remote_code)
    check_choosing(model.config.problem_type, choices=choices, min_probability=min_probability)
    options = {"top_k": top_k, "min_probability": min_probability}
    if choices is not None:
        options["candidate_labels"] = find_choices(choices, model.config.id2label)
        if say is not None and (unknown := about_unknown(options["candidate_labels"])):
            say(unknown)
            options["candidate_labels"] = options["candidate_labels"]._replace(unknown=[])
    pipeline = UMEVQAPipeline(model=model, processor=processor, device=model.device, **options)
    picture = read_image(image)
    if isinstance(questions, list):
        yield from zip(questions, pipeline(picture, questions), strict=True)
    else:
        for question in questions:
            yield question, pipeline(picture, question)
