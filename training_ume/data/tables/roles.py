"""What a column of a table may be: a modality of the table of modalities, an answer, an id, a type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality
from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import FEATURES

# By role that is no modality's: names that mean it, the surest first. Of two in one tier, neither is surer.
NAMES = {
    "answers": (
        ("answers",),
        ("answer",),
        ("multiple_choice_answer",),
        ("direct_answers",),
        (
            "label", "labels", "target", "class", "class_name", "category", "response", "ground_truth", "gt_answer",
            "correct_answer", "label_name",
        ),
    ),
    "question_id": (("question_id",), ("qid", "questionid", "id", "uid", "sample_id", "row_id")),
    "image_id": (("image_id",), ("img_id", "imageid")),
    "question_type": (("question_type",),),
    "answer_type": (("answer_type",),),
}  # fmt: skip
# Other words for a role in `columns`.
ROLE_WORDS = {
    "text": "question",
    "sentence": "question",
    "answer": "answers",
    "label": "answers",
    "labels": "answers",
    "target": "answers",
    "id": "question_id",
    "picture": "image",
}
# In place of a modality's columns: all that are left.
ALL_LEFT = "*"
# How numbers that are names, and texts that are numbers, are said: `zip:category`; and that a list of numbers is one
# step of as many channels, not as many steps of one: `features:step`.
KINDS = ("category", "number", "step")


def modality_roles() -> dict[str, Modality]:
    """The modalities, by their role: those of the two columns that every table of rows has first."""
    kinds = sorted(MODALITIES.values(), key=lambda kind: (kind.column not in FEATURES, kind.column != "image"))
    return {kind.column: kind for kind in kinds}


def further() -> dict[str, Modality]:
    """The modalities that rows have a column for only where their table has."""
    return {role: kind for role, kind in modality_roles().items() if role not in FEATURES}


def roles() -> dict[str, Sequence[Sequence[str]]]:
    """By role, the names that mean it."""
    return {**{role: ((role,), *kind.column_names) for role, kind in modality_roles().items()}, **NAMES}


def role_words() -> dict[str, str]:
    """Every word for a role in `columns`, other than its own."""
    words = {
        word: role for role, kind in modality_roles().items() for word in (kind.name, kind.argument, *kind.aliases)
    }
    return {**words, **ROLE_WORDS}


def known_names() -> set[str]:
    """All names that mean something."""
    return {name for tiers in roles().values() for tier in tiers for name in tier}


def normal(name: str) -> str:
    """A name as `roles` has it: `imageId`, `Image-ID` and `image id` are `image_id`."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s.\-/]+", "_", name).strip("_").lower()


def given_columns(columns: Mapping[str, Any] | None, there: Sequence[str], file: str) -> tuple[dict, dict[str, str]]:
    """
    What `columns` says: ({role: column, list of columns, or None}, {new name: column} of others). Columns of a
    modality that joins several are a list, in which what a column is said to be stays behind it (`zip:category`).

    Raises:
        VQADataError: for a column that is not there, a role given twice, or a role that is nearly spelled like one.
    """
    known, words = roles(), role_words()
    joining = [role for role, kind in modality_roles().items() if kind.joins]
    found: dict[str, Any] = {}
    others: dict[str, str] = {}
    for word, column in (columns or {}).items():
        role = words.get(word, word)
        near = [] if role in known else difflib.get_close_matches(word, [*known, *words], 1, 0.8)
        if near and word != column:
            raise VQADataError(
                f"columns gives {column!r} for {word!r}, which is no role. Did you mean {near[0]!r}? Roles are "
                f"{', '.join(known)}."
            )
        if role in joining and column is not None:
            column = [name for one in _listed(column) for name in _meant(one, there, file, word)]
            if not column:
                raise VQADataError(f"columns gives no column for {word!r}: name some, or leave {word!r} out.")
        else:
            for name in _listed(column):
                if name is not None and name not in there:
                    raise _not_there(name, there, file, word)
        if role not in known:
            if not isinstance(column, str):
                raise VQADataError(f"columns gives {column!r} for {word!r}: give the name of one column.")
            others[word] = column
        elif role in found:
            raise VQADataError(f"columns gives two columns for {role!r}: {found[role]!r} and {column!r}. Give one.")
        elif isinstance(column, (list, tuple)) and role != "answers" and role not in joining:
            several = ", ".join(["answers", *joining])
            raise VQADataError(f"columns gives several columns for {word!r}; only {several} may have several.")
        else:
            found[role] = column
    return found, others


def _listed(column: Any) -> list:
    return list(column) if isinstance(column, (list, tuple)) else [column]


def _not_there(name: Any, there: Sequence[str], file: str, word: str) -> VQADataError:
    near = difflib.get_close_matches(str(name), there, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return VQADataError(
        f"{file} has no column {name!r}, which columns gives for {word!r}: it has {', '.join(map(repr, there))}.{hint}"
    )


def _meant(name: Any, there: Sequence[str], file: str, word: str) -> list[str]:
    """The columns that one entry names: itself, several with commas between, those that fit a pattern, or what is
    left, which is found later."""
    if not isinstance(name, str):
        raise _not_there(name, there, file, word)
    plain, kind = column_kind(name, there)
    if plain in there or plain == ALL_LEFT:
        return [name]
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 1 and all(parts):
        return [found for part in parts for found in _meant(part, there, file, word)]
    fitting = [column for column in there if fnmatchcase(column, plain)] if set("*?") & set(plain) else []
    if not fitting:
        raise _not_there(plain, there, file, word)
    return [column if kind is None else f"{column}:{kind}" for column in fitting]


def column_kind(name: str, there: Sequence[str]) -> tuple[str, str | None]:
    """A column and what it is said to be: `zip:category` is the column `zip`, unless there is one of that name."""
    plain, colon, kind = name.rpartition(":")
    return (plain, kind) if colon and kind in KINDS and name not in there else (name, None)


def columns_of(column: Any) -> list[str]:
    """The columns of a role as a list."""
    return [name for name in _listed(column) if name is not None]
