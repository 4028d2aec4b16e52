"""Which column of a table is what: by what the user says, then by its name, then by what it holds.

Where several would do, that is an error which names them: a wrong guess would train on, and say nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from training_ume.data.json_entries import VQADataError
from training_ume.data.tables.cells import Holding

# By role: names that mean it, the surest first. Of two in one tier, neither is surer.
NAMES = {
    "image": (
        ("image",),
        (
            "img", "image_path", "img_path", "image_file", "img_file", "image_filename", "image_file_name",
            "img_filename", "image_name", "img_name", "file_name", "filename", "picture", "picture_path",
            "picture_name", "photo", "image_url", "img_url", "pic", "images",
        ),
    ),
    "question": (
        ("question",),
        ("questions", "question_text", "query", "sentence", "text", "prompt", "caption", "sent", "statement"),
    ),
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
# Names that mean a picture only where the column holds names of pictures.
PERHAPS_IMAGE = re.compile(
    r"(.*_)?(image|img|picture|photo|file_name|filename|file|filepath|file_path|path|url)(_.*)?"
)
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
# What is said of a row and asked of nobody: never taken for the answer by its content.
ABOUT = re.compile(
    r"(.*_)?(id|index|idx|split|part|fold|set|patient|subject|speaker|person|user|author|annotator|rater|worker|house|"
    r"site|hospital|source|dataset|origin|language|lang|locale|date|time|timestamp|year|age|sex|gender|width|height|"
    r"license|licence|url|modality|location|difficulty|confidence|comment|note|notes)(_.*)?"
)


def normal(name: str) -> str:
    """A name as `NAMES` has it: `imageId`, `Image-ID` and `image id` are `image_id`."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s.\-/]+", "_", name).strip("_").lower()


KNOWN_NAMES = {name for tiers in NAMES.values() for tier in tiers for name in tier}


def given_columns(columns: Mapping[str, Any] | None, there: Sequence[str], file: str) -> tuple[dict, dict[str, str]]:
    """
    What `columns` says: ({role: column, list of columns, or None}, {new name: column} of others).

    Raises:
        VQADataError: for a column that is not there, a role given twice, or a role that is nearly spelled like one.
    """
    roles: dict[str, Any] = {}
    others: dict[str, str] = {}
    for word, column in (columns or {}).items():
        role = ROLE_WORDS.get(word, word)
        for name in column if isinstance(column, (list, tuple)) else [column]:
            if name is not None and name not in there:
                near = difflib.get_close_matches(str(name), there, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise VQADataError(
                    f"{file} has no column {name!r}, which columns gives for {word!r}: it has "
                    f"{', '.join(map(repr, there))}.{hint}"
                )
        if role not in NAMES:
            near = difflib.get_close_matches(word, [*NAMES, *ROLE_WORDS], 1, 0.8)
            if near and word != column:
                raise VQADataError(
                    f"columns gives {column!r} for {word!r}, which is no role. Did you mean {near[0]!r}? Roles are "
                    f"{', '.join(NAMES)}."
                )
            if not isinstance(column, str):
                raise VQADataError(f"columns gives {column!r} for {word!r}: give the name of one column.")
            others[word] = column
        elif role in roles:
            raise VQADataError(f"columns gives two columns for {role!r}: {roles[role]!r} and {column!r}. Give one.")
        elif isinstance(column, (list, tuple)) and role != "answers":
            raise VQADataError(f"columns gives several columns for {word!r}; only answers may have several.")
        else:
            roles[role] = column
    return roles, others


def find_columns(
    columns: Sequence[str],
    held: Mapping[str, Holding],
    given: Mapping[str, Any],
    file: str,
    is_file: Callable[[str], bool],
) -> dict[str, tuple[Any, str]]:
    """
    `{role: (column, or list of columns, and why)}` of the roles that the table has.

    Args:
        columns: the names of all columns.
        held: what each of them holds.
        given: what the user says, by role.
        file: what messages call the table.
        is_file: whether a name is that of a picture that is there.

    Raises:
        VQADataError: where several columns would do for a role, or none is a picture or a question.
    """
    found: dict[str, tuple[Any, str]] = {}
    for role, column in given.items():
        if column is not None:
            found[role] = (column, "columns says so")
    taken = _taken(found)

    def left() -> list[str]:
        return [name for name in columns if name not in taken and held[name].filled]

    def take(role: str, fitting: list[str], why: str) -> None:
        if len(fitting) > 1:
            raise _several(file, role, fitting, held)
        if fitting:
            found[role] = (fitting[0], why)
            taken.add(fitting[0])

    for role, tiers in NAMES.items():
        if role in given:
            continue
        for tier in tiers:
            fitting = [name for name in columns if normal(name) in tier and name not in taken]
            if role == "image" and len(fitting) > 1:
                fitting = [name for name in fitting if held[name].is_image] or fitting
            if len(fitting) > 1:
                raise _several(file, role, fitting, held)
            if fitting:
                found[role] = (fitting[0], "its name")
                taken.add(fitting[0])
                break
    if "image" not in given and "image" in found and not held[found["image"][0]].is_image:
        # A column `image` of numbers beside one `image_path` of names: the names are the pictures.
        names = {name for tier in NAMES["image"] for name in tier}
        better = [name for name in columns if normal(name) in names and name not in taken and held[name].is_image]
        if better:
            taken.discard(found.pop("image")[0])
            take("image", better, "its name, and it holds pictures")

    if "image" not in found and "image" not in given:
        pictures = [name for name in left() if held[name].is_image]
        named = [name for name in pictures if PERHAPS_IMAGE.fullmatch(normal(name))]
        take("image", named or pictures, "it holds pictures")
    if "image" not in found and "image" not in given:
        there = [name for name in left() if _are_files(held[name], is_file)]
        take("image", there, "files of these names are there")
    if "image" not in found and "image" not in given and "image_id" in found:
        found["image"] = (found["image_id"][0], "the pictures are found by their ids")
    if "question" not in found and "question" not in given:
        take("question", [name for name in left() if held[name].is_text], "it reads like questions or sentences")
    if "answers" not in found and "answers" not in given and {"image", "question"} & found.keys():
        fitting = [name for name in left() if held[name].is_class and not ABOUT.fullmatch(normal(name))]
        take("answers", fitting, "few different values, and no other column is the answer")
    if not {"image", "question"} & found.keys():
        raise VQADataError(
            f"{file} has no column that is known as a picture or a question: it has "
            f"{', '.join(map(repr, columns))}. Say which is which, e.g. columns={{'image': {columns[0]!r}, "
            "'question': …, 'answer': …}."
        )
    return found


def _taken(found: Mapping[str, tuple[Any, str]]) -> set[str]:
    return {
        name for column, _ in found.values() for name in (column if isinstance(column, (list, tuple)) else [column])
    }


def _are_files(holding: Holding, is_file: Callable[[str], bool]) -> bool:
    names = [name for name in list(holding.distinct)[:20] if not name.startswith("[")]
    return bool(names) and "text" in holding.kinds and all(is_file(name) for name in names)


def _several(file: str, role: str, fitting: list[str], held: Mapping[str, Holding]) -> VQADataError:
    word = {"answers": "answer"}.get(role, role)
    listed = "; ".join(f"{name!r} ({held[name].words_for()}, e.g. {held[name].example!r})" for name in fitting)
    return VQADataError(
        f"{file} has {len(fitting)} columns that could be the {word}: {listed}. Say which one it is: "
        f"columns={{{word!r}: {fitting[0]!r}}} (--columns {word}={fitting[0]}), or columns={{{word!r}: None}} if none "
        "is."
    )
