"""What a config says of its answers, its numbers, or of what it compares: checked, and each fact kept once."""

import math

from .limits_ume import check_own_size
from .tasks_ume import DEFAULT_PROBLEM, LABEL_TRANSFORMS, PROBLEM_TYPES, REGRESSION_LOSSES

NUMBER_FIELDS = ("label_mean", "label_std", "label_transform", "regression_loss")  # of `"regression"` alone


def check_numbers(config) -> None:
    """ValueError where what belongs to numbers does not fit the problem, or them."""
    if PROBLEM_TYPES[config.problem_type].chooses:
        given = [name for name in NUMBER_FIELDS if getattr(config, name) is not None]
        if given:
            raise ValueError(
                f"{given[0]}={getattr(config, given[0])!r} is about numbers, and problem_type={config.problem_type!r} "
                "chooses answers: leave it out, or set problem_type='regression'."
            )
        return
    for name, allowed in (("label_transform", LABEL_TRANSFORMS), ("regression_loss", REGRESSION_LOSSES)):
        if getattr(config, name) not in (None, *allowed):
            raise ValueError(
                f"{name}={getattr(config, name)!r} is not known: choose {' or '.join(allowed)}, or leave it out."
            )
    for name in ("label_mean", "label_std"):
        values = getattr(config, name)
        if values is None:
            continue
        if len(values) != config.num_labels:
            raise ValueError(
                f"{name}={values} has {len(values)} entries, and the model gives {config.num_labels} numbers "
                f"({', '.join(config.id2label.values())}): give one each."
            )
        if not all(math.isfinite(value) and (value > 0 or name == "label_mean") for value in values):
            raise ValueError(
                f"{name}={values} is impossible: give finite numbers{' above 0' * (name == 'label_std')}."
            )


def check_pairs(config) -> None:
    """ValueError where the pairs that retrieval compares are none of the config's modalities."""
    pairs = config.retrieval_pairs
    if pairs is None:
        return
    if not isinstance(pairs, (list, tuple)) or not pairs:
        raise ValueError(f"retrieval_pairs={pairs!r} is impossible: give a list of pairs, [['text', 'vision'], …].")
    for pair in pairs:
        named = isinstance(pair, (list, tuple)) and len(pair) == 2
        if not named or pair[0] == pair[1] or any(name not in config.modalities for name in pair):
            raise ValueError(
                f"retrieval_pairs has {pair!r}: a pair is two different ones of the modalities that the config "
                f"has, {', '.join(config.modalities)}."
            )
    config.retrieval_pairs = [list(pair) for pair in pairs]


def as_numbers(field: str, values) -> list[float] | None:
    """One number or several as a list of floats. ValueError for anything else."""
    if values is None:
        return None
    numbers = values.tolist() if hasattr(values, "tolist") else values
    numbers = list(numbers) if isinstance(numbers, (list, tuple)) else [numbers]
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers):
        raise ValueError(f"{field}={values!r} is impossible: give a number, or a list of them, one a label.")
    return [float(value) for value in numbers]


def settle_answers(fields: dict, problem_type: str) -> dict:
    """The fields with the answers in `id2label` alone, or as `num_labels` where they have no names.

    Raises:
        ValueError: where what is given of `id2label`, `label2id` and `num_labels` contradicts each other.
    """
    fields = dict(fields)
    id2label, label2id, num_labels = (fields.pop(name, None) for name in ("id2label", "label2id", "num_labels"))
    whole = isinstance(num_labels, int) and not isinstance(num_labels, bool)
    if num_labels is not None and (not whole or num_labels < _least(problem_type)):
        raise ValueError(f"num_labels={num_labels!r}: {_too_few(problem_type)}")
    if num_labels is not None:
        check_own_size("num_labels", num_labels)
    if id2label is not None:
        id2label = checked_answers(id2label, problem_type)
    if label2id is not None and id2label is None:
        id2label = inverted(label2id, problem_type)
    elif label2id is not None and (
        not isinstance(label2id, dict) or id2label != {whole_number(key): label for label, key in label2id.items()}
    ):
        raise ValueError("label2id contradicts id2label: give one of them, the other follows.")
    if id2label is None:
        if num_labels is None and _least(problem_type) == 1:
            num_labels = 1  # transformers' own default, two answers, would be two numbers
        return fields if num_labels is None else {**fields, "num_labels": num_labels}
    if num_labels not in (None, len(id2label)):
        raise ValueError(f"num_labels={num_labels} contradicts id2label, which has {len(id2label)} answers.")
    return {**fields, "id2label": id2label}


def _least(problem_type: str) -> int:
    """How many answers there must be; an unknown problem is refused later, by its name."""
    known = isinstance(problem_type, str) and problem_type in PROBLEM_TYPES
    return PROBLEM_TYPES[problem_type if known else DEFAULT_PROBLEM].least_labels


def _too_few(problem_type: str) -> str:
    return (
        "a model that chooses an answer needs two or more (of one number: problem_type='regression')."
        if _least(problem_type) > 1
        else "a model needs one number or more."
    )


def checked_answers(id2label, problem_type: str, given: str = "id2label") -> dict[int, str]:
    """The answers in the order of their ids. ValueError where they are no different words from 0 on, or too few;
    `given` is the field that they were given by."""
    if not isinstance(id2label, dict):
        raise ValueError(f"{given} is a {type(id2label).__name__}: give a dict of ids and answers, {{0: 'no', …}}.")
    for key, label in id2label.items():
        if not isinstance(label, str):
            shown = {key: label} if given == "id2label" else {label: key}
            raise ValueError(f"{given}={shown}: an answer must be a string.")
    answers = {whole_number(key): label for key, label in id2label.items()}
    if sorted(answers) != list(range(len(id2label))):
        raise ValueError(
            f"{given} has {len(id2label)} entries whose ids are not 0 … {len(id2label) - 1}: number the answers "
            "from 0 without gaps."
        )
    if len(set(answers.values())) != len(answers):
        raise ValueError(f"{given} gives the same answer to several ids: every answer must appear once.")
    if len(answers) < _least(problem_type):
        raise ValueError(f"{given} has {list(answers.values())}: {_too_few(problem_type)}")
    return dict(sorted(answers.items()))


def inverted(label2id, problem_type: str) -> dict[int, str]:
    """The answers by their ids. ValueError where they are none; see `checked_answers`."""
    if not isinstance(label2id, dict):
        raise ValueError(f"label2id is a {type(label2id).__name__}: give a dict of answers and ids, {{'no': 0, …}}.")
    if len(set(label2id.values())) < len(label2id):
        raise ValueError("label2id gives the same id to several answers: every id must appear once.")
    return checked_answers({key: label for label, key in label2id.items()}, problem_type, "label2id")


def whole_number(key):
    """An id, which JSON turns into a string; -1, which no id is, for anything else."""
    return int(key) if isinstance(key, int) or (isinstance(key, str) and key.isdecimal() and len(key) < 20) else -1
