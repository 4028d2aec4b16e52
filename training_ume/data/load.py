"""Question-answering data of any origin as one table of rows, with every problem named and never a silent drop.

`load_vqa` reads VQA v2's official files, easy-VQA's pip package, or any data set with VQAv2's columns (Hub or local).
Images stay paths until the collator opens them; `split_by_image` makes honest held-out parts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import pyarrow as pa
from tqdm.auto import tqdm

from modeling_ume.modality_base_ume import Modality
from training_ume.data.images import open_image
from training_ume.data.json_entries import JSONEntries, VQADataError
from training_ume.data.rows import FEATURES, _BadEntry, _label, _Problems, _question_id, _select
from training_ume.data.sources.easy_vqa import _easy_vqa_rows
from training_ume.data.sources.hub import _named_rows, _open_named
from training_ume.data.sources.official import _official_rows

# ---------------------------------------------------------------------------------------------------------- loading


def load_vqa(
    source: str = "vqa_v2",
    *,
    split: str = "train",
    questions: str | os.PathLike | None = None,
    annotations: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    image_pattern: str | None = None,
    name: str | None = None,
    on_error: str = "raise",
    skipped_log: str | os.PathLike | None = None,
    check_images: bool | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> datasets.Dataset:
    """Loads questions, answers and the paths of their images into one table with the columns of `FEATURES`.

    | column | type | what it holds |
    |---|---|---|
    | `question_id` | int64 | unique in the table |
    | `image_id` | string | the source's own id; a content hash or the path where the source has none |
    | `question` | string | as it was written |
    | `image` | string | absolute path; `""` when `source="vqa_v2"` was given no `images` (text only) |
    | `answers` | list of strings | as they were written, usually ten; `[]` when the source has none (test sets) |
    | `question_type`, `answer_type` | string | `""` where the source has none |

    Args:
        source (`str`, *optional*, defaults to `"vqa_v2"`):
            `"vqa_v2"` for files in VQA v2's official layout, `"easy_vqa"` for the pip package `easy-vqa` (answers
            repeated ten times), or the name of a data set with VQAv2's columns: a Hub name, a folder written by
            `save_to_disk`, or a folder of parquet or JSON files.
        split (`str`, *optional*, defaults to `"train"`):
            The split of an easy-VQA or named data set. Official files are one split each, so they ignore it.
        questions, annotations (path, *optional*):
            Official files: `.json`, `.json.gz` or the official `.zip`. `archive.zip::member.json` picks one member.
            Without `annotations` (a test set) every row has `answers == []`.
        images (path, *optional*):
            The image folder of official files, or the folder that relative paths of a named data set start from. No
            name in the data leads out of it; links that lie in it are followed, as they are its owner's.
        image_pattern (`str`, *optional*):
            The file name of an image, e.g. `COCO_train2014_{image_id:012d}.jpg`. Without it the pattern is read off
            the folder, which must leave no doubt.
        name (`str`, *optional*): The configuration of a Hub data set.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"raise"` or `"skip"`. Skipping leaves out the rows that cannot be used, logs one line with the counts by
            kind, and writes each of them (the first 100,000) with its reason to `skipped_log`. A file that cannot be
            parsed always raises, and so does one that asks for too much (see `training_ume/data/json_entries.py`; the
            environment variable `UME_MAX_ENTRIES` raises the limit on entries).
        skipped_log (path, *optional*): Where `on_error="skip"` writes its list (tab-separated). Required for it.
        check_images (`bool`, *optional*):
            Whether every image is decoded once now. The default is to do so when `on_error="skip"`; otherwise a
            broken image is found, and named, when the collator opens it. That an image exists is always checked.
        cache_dir (path, *optional*):
            Where a Hub data set and the images embedded in it are kept, defaults to the `datasets` library's cache.

    Raises:
        VQADataError: for a missing or malformed file, a missing or broken image, a question without its annotation
            or the other way round, a duplicate id, or an image name that leaves the image folder.
        ValueError: for arguments that contradict one another.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
    if on_error == "skip" and skipped_log is None:
        raise ValueError("on_error='skip' needs skipped_log, the file that will list what was left out and why.")
    _refuse_foreign_arguments(
        source, questions=questions, annotations=annotations, images=images, image_pattern=image_pattern, name=name
    )
    if check_images is None:
        check_images = on_error == "skip"

    problems = _Problems(stops=on_error == "raise")
    if source == "vqa_v2":
        if questions is None:
            raise ValueError("source='vqa_v2' needs questions, the path of the questions JSON (or .json.gz, .zip).")
        rows = _official_rows(questions, annotations, images, image_pattern, problems)
    elif source == "easy_vqa":
        rows = _easy_vqa_rows(split, problems)
    else:
        rows = _named_rows(source, name, split, images, cache_dir, problems)

    # Decoding takes minutes on a large set: what is known to be wrong is said before.
    if on_error == "raise":
        problems.raise_if_any()
    if check_images:
        rows = _without_broken_images(rows, problems)
    if on_error == "raise":
        problems.raise_if_any()
    else:
        problems.write(skipped_log, kept=len(rows["question_id"]))
    if not rows["question_id"]:
        where = f" See {skipped_log} for the reasons." if problems.entries else ""
        raise VQADataError(f"No question of {questions or source} can be used.{where}")
    # Straight to Arrow: Dataset.from_dict would first walk through each of the answers in Python.
    return datasets.Dataset(pa.Table.from_pydict(rows, schema=FEATURES.arrow_schema))


def question_ids(
    source: str = "vqa_v2",
    *,
    split: str = "train",
    questions: str | os.PathLike | None = None,
    name: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    **others: Any,
) -> dict[int | str, int | str]:
    """
    Which questions a source asks, also those that `load_vqa` left out.

    Args:
        as those of `load_vqa`; `others` do not matter here.

    Returns:
        `dict`: by the `question_id` of `load_vqa`'s rows, the id as the source writes it, a number or a string. An id
        that is no 64-bit whole number stands under the words that say which it is.
    """
    if source == "easy_vqa":
        return {number: number for number in _easy_vqa_rows(split, _Problems())["question_id"]}
    if source == "vqa_v2":
        entries = JSONEntries(questions, "questions")
    else:
        table = _open_named(source, name, split, cache_dir)
        entries = [{"question_id": written} for written in table["question_id"][:]]
    asked: dict[int, int | str] = {}
    for position, entry in enumerate(entries):
        try:
            asked.setdefault(_question_id(entry), entry["question_id"])
        except _BadEntry:
            asked[_label(entry, position)] = _label(entry, position)
    return asked


def skipped_entries(skipped_log: str | os.PathLike) -> int:
    """How many entries `load_vqa` left out, by the log that it wrote."""
    with open(skipped_log, encoding="utf-8") as log:
        return int(re.search(r"(\d+) entries skipped", log.readline())[1])


def _refuse_foreign_arguments(source: str, **given: Any) -> None:
    """An argument that the source would ignore is a mistake worth a sentence."""
    allowed = {"vqa_v2": {"questions", "annotations", "images", "image_pattern"}, "easy_vqa": set()}
    foreign = [key for key, value in given.items() if value and key not in allowed.get(source, {"images", "name"})]
    if foreign:
        hint = "" if source in allowed else f" If {source!r} is not meant as a Hub name, use 'vqa_v2' or 'easy_vqa'."
        raise ValueError(f"source={source!r} takes no {', '.join(foreign)}.{hint}")


def broken_images(paths: Iterable[str]) -> dict[str, str]:
    """Decodes every image once, exactly as training will: `{path: what is wrong with it}` of the broken ones."""
    return _broken(list(paths), open_image, "images")


def broken_files(kind: Modality, paths: Iterable[str]) -> dict[str, str]:
    """The same of the files of any modality."""
    return _broken(list(paths), kind.open, kind.nouns)


def _broken(paths: list[str], opened: Callable[[str], Any], nouns: str) -> dict[str, str]:
    broken: dict[str, str] = {}

    def trouble(path: str) -> tuple[str, str | None]:
        try:
            opened(path)
        except ValueError as error:
            return path, str(error)
        return path, None

    # PIL lets go of the interpreter lock while it decodes, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        checked = pool.map(trouble, paths)
        for path, reason in tqdm(checked, total=len(paths), desc=f"checking {nouns}", disable=None, leave=False):
            if reason is not None:
                broken[path] = reason
    return broken


def _without_broken_images(rows: dict[str, list], problems: _Problems) -> dict[str, list]:
    """Drops the questions of images that cannot be decoded."""
    broken = broken_images(path for path in dict.fromkeys(rows["image"]) if path)
    if not broken:
        return rows
    for question_id, path in zip(rows["question_id"], rows["image"], strict=True):
        if path in broken:
            problems.add("broken_image", path, f"question_id {question_id}", broken[path])
    return _select(rows, [path not in broken for path in rows["image"]])
