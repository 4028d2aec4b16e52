"""Asking a model a few questions about one picture, or for what it makes of a sound, a film, a table row and the like;
imports what that takes, and nothing that reads data sets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from modeling_ume import UMEVQAPipeline
from modeling_ume.choices_ume import about_unknown, check_probability, find_choices
from modeling_ume.images_ume import read_image
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality
from modeling_ume.tasks_ume import check_choosing
from training_ume.evaluation.load import load_checkpoint

QUESTION = MODALITIES["text"].column


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
    pipeline = _pipeline(name, top_k, trust_remote_code, choices, min_probability, say)
    picture = read_image(image)
    if isinstance(questions, list):
        yield from zip(questions, pipeline(picture, questions), strict=True)
    else:
        for question in questions:
            yield question, pipeline(picture, question)


def ask_any(
    name: str,
    things: list[str],
    named: dict[str, str],
    top_k: int = 3,
    trust_remote_code: bool = False,
    choices: list[str] | None = None,
    min_probability: float | None = None,
    say: Callable[[str], Any] | None = None,
) -> list[tuple[str, list[dict]]]:
    """
    What a checkpoint of any modalities makes of one example, of which any may be left out.

    Args:
        things: files, folders, addresses and questions, in any order; what each is, `sorted_things` finds out.
        named: the same by the column of its modality; numbers as JSON, such as `{"table": '{"area": 3}'}`.
        name, top_k, trust_remote_code, choices, min_probability, say: see `ask`.

    Returns:
        The questions, or `""` where there is none, with their answers; see `ask`.

    Raises:
        ValueError: see `ask`; and for a thing that the model does not read.
    """
    pipeline = _pipeline(name, top_k, trust_remote_code, choices, min_probability, say)
    kinds = [MODALITIES[modality] for modality in pipeline.model.config.modalities]
    given, questions = sorted_things(things, kinds, named)
    rows = [{**given, QUESTION: question} for question in questions] or [given]
    return list(zip(questions or [""], pipeline.answer(rows), strict=True))


def sorted_things(things: list[str], kinds: list[Modality], named: dict[str, str]) -> tuple[dict, list[str]]:
    """
    Which of the things that were typed is of which modality: a file by its ending, a folder as frames, numbers in JSON
    by their form, and all that is no file as a question.

    Args:
        things: see `ask_any`.
        kinds: the modalities that the model reads.
        named: see `ask_any`.

    Returns:
        Cells by column, and the questions.

    Raises:
        ValueError: for what is none of them, a second one of a modality, or what is no JSON.
    """
    given = {}
    for column, text in named.items():
        kind = next((kind for kind in kinds if kind.column == column), None)
        if kind is None:
            raise ValueError(f"--{column} was given, and this model reads {_columns(kinds)}: leave it out.")
        given[column] = _cell(kind, text)
    questions, asks = [], any(kind.column == QUESTION for kind in kinds)
    for thing in things:
        kind = _kind_of(thing, [kind for kind in kinds if kind.column not in given])
        if kind is None and asks and not os.path.exists(thing):
            questions.append(thing)
        elif kind is None:
            taken = _kind_of(thing, kinds)
            reason = f"a second {taken.noun}" if taken else "no file that this model reads"
            options = " or ".join(f"--{kind.column}" for kind in kinds if kind.column != QUESTION)
            raise ValueError(f"{thing!r} is {reason}: it reads {_columns(kinds)}. Say what it is by {options}.")
        else:
            given[kind.column] = _cell(kind, thing)
    return given, questions


def _kind_of(thing: str, kinds: list[Modality]) -> Modality | None:
    if thing.lstrip()[:1] in ("{", "["):
        wanted = dict if thing.lstrip()[0] == "{" else list
        return next(
            (k for k in kinds if not k.in_files and k.column != QUESTION and k.by_name == (wanted is dict)), None
        )
    if os.path.isdir(thing):
        return next((kind for kind in kinds if kind.as_folder), None)
    ending = os.path.splitext(thing.partition("?")[0] if "://" in thing else thing)[1].lower()
    if ending and (os.path.isfile(thing) or "://" in thing or " " not in thing):
        found = next((kind for kind in kinds if ending in kind.suffixes), None)
        if found is not None:
            return found
    # What bears no ending that tells may be of the only one that stands in files.
    files = [kind for kind in kinds if kind.in_files]
    told = any(ending in kind.suffixes for kind in MODALITIES.values())
    return files[0] if os.path.isfile(thing) and len(files) == 1 and not told else None


def _cell(kind: Modality, text: str):
    """What was typed of a modality → a cell of it: numbers out of JSON, and the path of a file as it is."""
    if kind.in_files or kind.column == QUESTION or (os.path.exists(text) and not kind.by_name):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        example = "'{\"area\": 3}'" if kind.by_name else "'[[1, 2], [3, 4]]', or a file"
        raise ValueError(f"--{kind.column} {text!r} is no JSON ({error}): write it as {example}.") from error


def _columns(kinds: list[Modality]) -> str:
    return " and ".join(kind.column for kind in kinds)


def _pipeline(name, top_k, trust_remote_code, choices, min_probability, say) -> UMEVQAPipeline:
    """The pipeline of a checkpoint with these options; see `ask`."""
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
    return UMEVQAPipeline(model=model, processor=processor, device=model.device, **options)
