"""Which column of a table is what: by what the user says, then by its name, then by what it holds.

Where several would do, that is an error which names them: a wrong guess would train on, and say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modeling_ume.modality_base_ume import Modality
from training_ume.data.json_entries import VQADataError
from training_ume.data.tables.cells import Holding
from training_ume.data.tables.roles import ALL_LEFT, column_kind, columns_of, further, modality_roles, normal, roles

# Names that mean a picture only where the column holds names of pictures.
PERHAPS_IMAGE = re.compile(
    r"(.*_)?(image|img|picture|photo|file_name|filename|file|filepath|file_path|path|url)(_.*)?"
)
# What is said of a row and asked of nobody: never taken for the answer by its content.
ABOUT = re.compile(
    r"(.*_)?(id|index|idx|split|part|fold|set|patient|subject|speaker|person|user|author|annotator|rater|worker|house|"
    r"site|hospital|source|dataset|origin|language|lang|locale|date|time|timestamp|year|age|sex|gender|width|height|"
    r"license|licence|url|modality|location|difficulty|confidence|comment|note|notes)(_.*)?"
)


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
    taken = _taken(found, columns)
    kinds, own = modality_roles(), further()

    def left() -> list[str]:
        return [name for name in columns if name not in taken and held[name].filled]

    def take(role: str, fitting: list[str], why: str) -> None:
        if len(fitting) > 1:
            raise _several(file, role, fitting, held)
        if fitting:
            found[role] = (fitting[0], why)
            taken.add(fitting[0])

    for role, tiers in roles().items():
        if role in given:
            continue
        for tier in tiers:
            fitting = [name for name in columns if normal(name) in tier and name not in taken]
            if role in own:
                # A column that is called video, and holds the names of rooms, is none.
                fitting = [name for name in fitting if fits(own[role], held[name])]
            elif role in kinds and kinds[role].in_files:
                fitting = [name for name in fitting if not _of_another(held[name], kinds[role])]
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
        names = {name for tier in roles()["image"] for name in tier}
        better = [name for name in columns if normal(name) in names and name not in taken and held[name].is_image]
        if better:
            taken.discard(found.pop("image")[0])
            take("image", better, "its name, and it holds pictures")

    if "image" not in found and "image" not in given:
        pictures = [name for name in left() if held[name].is_image]
        named = [name for name in pictures if PERHAPS_IMAGE.fullmatch(normal(name))]
        take("image", named or pictures, "it holds pictures")
    for role, kind in own.items():
        if role not in found and role not in given and kind.in_files:
            take(role, [name for name in left() if held[name].is_file_of(kind)], f"it holds {kind.file_nouns}")
    if "image" not in found and "image" not in given:
        there = [name for name in left() if _are_files(held[name], is_file)]
        take("image", there, "files of these names are there")
    if "image" not in found and "image" not in given and "image_id" in found and not own.keys() & found.keys():
        found["image"] = (found["image_id"][0], "the pictures are found by their ids")
    if "question" not in found and "question" not in given:
        take("question", [name for name in left() if held[name].is_text], "it reads like questions or sentences")
    if "answers" not in found and "answers" not in given and kinds.keys() & found.keys():
        fitting = [name for name in left() if held[name].is_class and not ABOUT.fullmatch(normal(name))]
        take("answers", fitting, "few different values, and no other column is the answer")
    if not kinds.keys() & found.keys():
        raise VQADataError(
            f"{file} has no column that is known as a picture or a question: it has "
            f"{', '.join(map(repr, columns))}. Say which is which, e.g. columns={{'image': {columns[0]!r}, "
            "'question': …, 'answer': …}."
        )
    _all_that_are_left(found, columns, held, own, taken)
    _refuse_shared(found, columns, own, file)
    return found


def fits(kind: Modality, holding: Holding) -> bool:
    """Whether a column plainly holds what a modality's cells hold: files, numbers in lists, or columns by name."""
    if kind.in_files:
        return holding.is_file_of(kind)
    if kind.by_name:
        return bool(holding.fields)
    return holding.is_numbers or holding.is_file_of(kind)


def _of_another(holding: Holding, kind: Modality) -> bool:
    """Whether a column holds files that another modality reads."""
    others = [other for other in modality_roles().values() if other is not kind and other.in_files]
    return any(holding.is_file_of(other) for other in others)


# Numbers and words that are said of a row, which say what the row is and not what is so: by them a model would know
# its data by heart.
NO_CONTENT = re.compile(r"(.*_)?(id|ids|index|idx|split|fold|uuid|hash)|unnamed_\d+|row(_number)?|")


def _all_that_are_left(found, columns: Sequence[str], held, own: Mapping[str, Modality], taken: set[str]) -> None:
    """Puts the columns that no role has in the place of `*`, in place."""
    for role in own.keys() & found.keys():
        column, why = found[role]
        if ALL_LEFT not in columns_of(column):
            continue
        said = [name for name in columns_of(column) if name != ALL_LEFT]
        rest = [
            name
            for name in columns
            if name not in taken and held[name].is_value and not NO_CONTENT.fullmatch(normal(name))
        ]
        found[role] = ([*said, *rest], f"{why}: all that are left")
        taken.update(rest)


def _refuse_shared(found, columns: Sequence[str], own: Mapping[str, Modality], file: str) -> None:
    """Raises VQADataError where a column of a further modality has another role, too: the answer, above all."""
    seen: dict[str, str] = {}
    for role in sorted(found, key=lambda role: role in own):
        names = [column_kind(name, columns)[0] for name in columns_of(found[role][0])]
        for name in names:
            other = seen.setdefault(name, role)
            if role in own and names.count(name) > 1:
                raise VQADataError(f"{file}: columns gives {name!r} twice for {role!r}. Give it once.")
            if role in own and other != role:
                what = "the answer, which a model would read off" if other == "answers" else f"{other!r}, too"
                raise VQADataError(
                    f"{file}: the column {name!r} is given for {role!r} and is {what}: leave it out of one."
                )


def _taken(found: Mapping[str, tuple[Any, str]], columns: Sequence[str]) -> set[str]:
    return {column_kind(name, columns)[0] for column, _ in found.values() for name in columns_of(column)}


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
