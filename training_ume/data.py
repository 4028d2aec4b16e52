"""Question-answering data of any origin as one table of rows, with every problem named and never a silent drop.

`load_vqa` reads VQA v2's official files, easy-VQA's pip package, or any data set with VQAv2's columns (Hub or local).
Images stay paths until the collator opens them with `open_image`; `split_by_image` makes honest held-out parts.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import string
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from glob import escape as glob_escape
from glob import glob
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image
from tqdm.auto import tqdm

from modeling_ume.processing_ume import to_rgb
from training_ume.json_entries import JSONEntries, VQADataError, check_count, unique_keys
from training_ume.pictures import copies

logger = logging.getLogger(__name__)

FEATURES = datasets.Features(
    {
        "question_id": datasets.Value("int64"),
        "image_id": datasets.Value("string"),
        "question": datasets.Value("string"),
        "image": datasets.Value("string"),
        "answers": datasets.List(datasets.Value("string")),
        "question_type": datasets.Value("string"),
        "answer_type": datasets.Value("string"),
    }
)
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
MAX_ANSWERS = 1000  # to one question; VQA v2 has ten
KEPT_PROBLEMS = 100_000  # of which the rest is counted
# The shape of a numbered image's name: what stands before the last digits, the digits, the suffix.
NUMBERED_NAME = re.compile(r"(.*?)(\d+)(\.[A-Za-z]+)", re.ASCII)


class _BadEntry(Exception):
    """One entry that cannot become a row: the kind of problem it is counted under, and the reason."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


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
            parsed always raises, and so does one that asks for too much (see `training_ume/json_entries.py`; the
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


class _Problems:
    """Everything found wrong: (kind, file, id, reason), told in one error or written to one log.

    Of very many, the first `KEPT_PROBLEMS` are kept and the others counted; with `stops`, one more is an error.
    """

    def __init__(self, stops: bool = False) -> None:
        self.entries: list[tuple[str, str, str, str]] = []
        self.kinds: Counter[str] = Counter()
        self.stops = stops

    def add(self, kind: str, file: str | os.PathLike, entry_id: str, reason: str) -> None:
        self.kinds[kind] += 1
        if len(self.entries) < KEPT_PROBLEMS:
            self.entries.append((kind, os.fspath(file), entry_id, reason))
        elif self.stops:
            self.raise_if_any(", and was read no further")

    def count(self) -> int:
        return self.kinds.total()

    def counts(self) -> str:
        return ", ".join(f"{count} × {kind}" for kind, count in self.kinds.most_common())

    def raise_if_any(self, addition: str = "") -> None:
        if not self.entries:
            return
        shown = "\n".join(f"  {file}: {entry_id}: {reason}" for _, file, entry_id, reason in self.entries[:3])
        more = f"\n  and {self.count() - 3} more" if self.count() > 3 else ""
        raise VQADataError(
            f"The data has {self.count()} problem(s){addition}: {self.counts()}.\n{shown}{more}\n"
            "Mend the files, or leave these entries out with on_error='skip' and skipped_log=<a file>."
        )

    def write(self, path: str | os.PathLike, kept: int) -> None:
        """Writes the log (also when it is empty, so that no older one misleads) and logs its first line."""
        summary = f"{kept} questions kept, {self.count()} entries skipped"
        if self.entries:
            summary += f": {self.counts()}"
        parent = os.path.dirname(os.path.abspath(path))
        os.makedirs(parent, exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"# {summary}\n# kind\tfile\tid\treason\n")
            for entry in self.entries:
                log.write("\t".join(" ".join(field.split()) for field in entry) + "\n")
            if self.count() > len(self.entries):
                log.write(f"# and {self.count() - len(self.entries)} more, which are not listed\n")
        logger.log(logging.WARNING if self.entries else logging.INFO, "%s (listed in %s)", summary, path)


# --------------------------------------------------------------------------------------------- checking one entry


def _is_text(value: Any) -> bool:
    """A string that UTF-8 can hold: JSON may carry half a surrogate pair, which no table or tokenizer takes."""
    if not isinstance(value, str):
        return False
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def _is_number(text: str) -> bool:
    """Digits that fit 64 bits; `str.isdecimal` alone takes other scripts, and `int` refuses thousands of digits."""
    return text.isascii() and text.isdecimal() and len(text) < 20


def _question_id(entry: dict) -> int:
    value = _field(entry, "question_id")
    if isinstance(value, str) and _is_number(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise _BadEntry("malformed_entry", f"question_id must be a 64-bit whole number, not {_short(value)}")
    return value


def _image_id(entry: dict) -> str:
    value = _field(entry, "image_id")
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "" or not _is_text(str(value)):
        raise _BadEntry("malformed_entry", f"image_id must be a number or a string, not {_short(value)}")
    return str(value)


def _question_text(entry: dict) -> str:
    value = _field(entry, "question")
    if not _is_text(value) or not value.strip():
        raise _BadEntry("malformed_entry", f"question must be a non-empty string, not {_short(value)}")
    return value


def _type_name(entry: dict, key: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if not _is_text(value):
        raise _BadEntry("malformed_entry", f"{key} must be a string, not {_short(value)}")
    return value


# Where a question's answers stand, the first of these that is there.
ANSWER_KEYS = ("answers", "answer", "multiple_choice_answer")


def _answers(entry: dict) -> list[str]:
    """The answers as strings, from a list of strings, a list of {"answer": …}, {"answer": [ … ]}, or one `answer`."""
    key = next((key for key in ANSWER_KEYS if key in entry), ANSWER_KEYS[0])
    value = _field(entry, key)
    if isinstance(value, dict) and isinstance(value.get("answer"), list):
        value = value["answer"]
    if isinstance(value, str) and key != "answers":
        value = [value] if value.strip() else []
    if not isinstance(value, list):
        raise _BadEntry("malformed_entry", f"answers must be a list, not {_short(value)}")
    if len(value) > MAX_ANSWERS:
        raise _BadEntry("malformed_entry", f"there are {len(value)} answers, and {MAX_ANSWERS} are the most")
    answers = [answer.get("answer") if isinstance(answer, dict) else answer for answer in value]
    for answer in answers:
        if not _is_text(answer):
            raise _BadEntry("malformed_entry", f"each answer must be a string, not {_short(answer)}")
    return answers


def _field(entry: Any, key: str) -> Any:
    if not isinstance(entry, dict):
        raise _BadEntry("malformed_entry", f"an entry must be an object, not {_short(entry)}")
    if key not in entry:
        raise _BadEntry("malformed_entry", f"the key {key!r} is missing")
    return entry[key]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _label(entry: Any, position: int) -> str:
    """How the log calls an entry: by its id where it has one, else by its place in the file."""
    if isinstance(entry, dict) and "question_id" in entry:
        return f"question_id {_short(entry['question_id'])}"
    return f"entry number {position}"


def _empty_rows() -> dict[str, list]:
    return {column: [] for column in FEATURES}


def _add_row(rows: dict[str, list], *values: Any) -> None:
    for column, value in zip(FEATURES, values, strict=True):
        rows[column].append(value)


# ------------------------------------------------------------------------------------------- VQA v2's official files


def _official_rows(questions, annotations, images, image_pattern, problems: _Problems) -> dict[str, list]:
    question_list = JSONEntries(questions, "questions")
    question_file = question_list.name
    asked, seen = [], set()
    for position, entry in enumerate(question_list):
        try:
            question_id = _question_id(entry)
            if question_id in seen:
                raise _BadEntry("duplicate_question_id", "this id came before; the first entry counts")
            seen.add(question_id)
            asked.append((question_id, _image_id(entry), _question_text(entry)))
        except _BadEntry as bad:
            problems.add(bad.kind, question_file, _label(entry, position), bad.reason)
    annotated = None
    if annotations is not None:
        annotated, rejected, annotation_file = _read_annotations(annotations, problems)

    parsed = []
    for row in asked:
        question_id = row[0]
        try:
            if annotated is None:
                row += ([], "", "")
            elif question_id in annotated:
                annotation_image, *rest = annotated[question_id]
                if annotation_image not in (None, row[1]):
                    reason = f"the question is about image {row[1]!r}, its annotation about {annotation_image!r}"
                    raise _BadEntry("image_id_mismatch", reason)
                row += tuple(rest)
            elif question_id in rejected:
                continue  # its annotation is already on the list of problems, under the same id
            else:
                raise _BadEntry("question_without_annotation", f"{annotation_file} has no annotation with this id")
            parsed.append(row)
        except _BadEntry as bad:
            problems.add(bad.kind, question_file, f"question_id {question_id}", bad.reason)
    del asked
    if annotated is not None:
        for question_id in annotated.keys() - seen:
            reason = f"{question_file} has no question with this id"
            problems.add("annotation_without_question", annotation_file, f"question_id {question_id}", reason)

    if images is None:
        paths = dict.fromkeys((row[1] for row in parsed), "")
    else:
        paths = _image_paths([row[1] for row in parsed], images, image_pattern)
    rows = _empty_rows()
    for question_id, image_id, question, answers, question_type, answer_type in parsed:
        path = paths[image_id]
        if isinstance(path, _BadEntry):
            problems.add(path.kind, question_file, f"question_id {question_id}", path.reason)
        else:
            _add_row(rows, question_id, image_id, question, path, answers, question_type, answer_type)
    return rows


def _read_annotations(path, problems: _Problems) -> tuple[dict[int, tuple], set[int], str]:
    """{question_id: (image_id or None, answers, question_type, answer_type)}, the ids of malformed ones, the file."""
    entries = JSONEntries(path, "annotations", hook=_shrink_answer)
    file = entries.name
    annotated: dict[int, tuple] = {}
    rejected: set[int] = set()
    for position, entry in enumerate(entries):
        question_id = None
        try:
            question_id = _question_id(entry)
            if question_id in annotated or question_id in rejected:
                raise _BadEntry("duplicate_annotation", "an annotation with this id came before; the first counts")
            image_id = _image_id(entry) if "image_id" in entry else None
            answers = _answers(entry)
            if not answers:
                raise _BadEntry("malformed_entry", "answers is empty")
            types = (_type_name(entry, "question_type"), _type_name(entry, "answer_type"))
            annotated[question_id] = (image_id, answers, *types)
        except _BadEntry as bad:
            if bad.kind == "malformed_entry" and question_id is not None:
                rejected.add(question_id)
            problems.add(bad.kind, file, _label(entry, position), bad.reason)
    return annotated, rejected, file


def _shrink_answer(pairs: list[tuple[str, Any]]) -> Any:
    """Turns {"answer": "cup", …} into "cup" while the file is parsed: VQA v2 has 4.4 million of them."""
    value = unique_keys(pairs)
    if "answer" in value and "question_id" not in value and type(value["answer"]) is str:
        return sys.intern(value["answer"])
    return value


# ------------------------------------------------------------------------------------------------------- image paths


def _image_paths(image_ids: Iterable[str], images, pattern: str | None) -> dict[str, str | _BadEntry]:
    """{image id: absolute path, or what is wrong with it}. Each folder is listed once; no file is opened."""
    root = os.path.abspath(images)
    if not os.path.isdir(root):
        hint = " Unpack the archive and give the folder." if os.path.isfile(root) else " Check the path."
        raise VQADataError(f"The image folder {root} does not exist or is not a folder.{hint}")
    distinct = list(dict.fromkeys(image_ids))
    if not distinct:
        return {}
    if pattern is None:
        pattern = infer_image_pattern(root, distinct)
    takes_number = _pattern_takes_number(pattern)
    listed = _Listing()
    paths: dict[str, str | _BadEntry] = {}
    for image_id in distinct:
        try:
            if takes_number and not _is_number(image_id):
                reason = f"image_id {image_id!r} is not a number, which the pattern {pattern!r} needs"
                raise _BadEntry("malformed_entry", reason)
            file_name = pattern.format(image_id=int(image_id) if takes_number else image_id)
            path = _inside(root, file_name)
            if not listed.has_file(path):
                raise _BadEntry("missing_image", f"the image {path} of image_id {image_id!r} does not exist")
            paths[image_id] = path
        except _BadEntry as bad:
            paths[image_id] = bad
    return paths


def _inside(root: str, file_name: str) -> str:
    """The absolute path of a name from a data file, which must stay in its folder whatever the file says."""
    path = os.path.normpath(os.path.join(root, file_name))
    if "\0" in file_name or not path.startswith(os.path.join(root, "")):
        raise _BadEntry("unsafe_image_name", f"the image name {_short(file_name)} leaves the image folder {root}")
    return path


class _Listing:
    """Which files exist, by listing each folder once: 82,783 images cost one scan instead of 82,783 look-ups."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def has_file(self, path: str) -> bool:
        folder, file_name = os.path.split(path)
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[folder] = {entry.name for entry in entries if entry.is_file()}
            except OSError:
                self._names[folder] = set()
        return file_name in self._names[folder]


def _pattern_takes_number(pattern: str) -> bool:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(pattern) if field is not None]
        if set(fields) != {"image_id"}:
            raise ValueError("it must hold the field image_id and no other")
        pattern.format(image_id=1)
    except (ValueError, LookupError, AttributeError) as error:
        raise ValueError(
            f"image_pattern={pattern!r} cannot be used ({error}). "
            "Write it like 'COCO_train2014_{image_id:012d}.jpg'."
        ) from error
    try:
        pattern.format(image_id="a")
    except ValueError:
        return True
    return False


def infer_image_pattern(folder: str | os.PathLike, image_ids: Iterable[str]) -> str:
    """The file-name pattern that leads from image ids to the files of a folder, where only one does.

    Raises `VQADataError` when no pattern finds any image, or when several do.
    """
    wanted = set(image_ids)
    wanted_numbers = {int(image_id) for image_id in wanted if _is_number(image_id)}
    found: Counter[str] = Counter()
    digits: dict[tuple[str, str], list[str]] = defaultdict(list)
    examples = []
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() not in IMAGE_SUFFIXES:
                continue
            examples.append(entry.name)
            if stem in wanted:
                found[f"{{image_id}}{suffix}"] += 1
            elif match := NUMBERED_NAME.fullmatch(entry.name):
                digits[match[1], match[3]].append(match[2])
    for (prefix, suffix), numbers in digits.items():
        literal = prefix.replace("{", "{{").replace("}", "}}")
        plain = sum(number in wanted for number in numbers)
        if plain:
            found[f"{literal}{{image_id}}{suffix}"] += plain
        # Zero-padded numbers have one width; a number that fills the width needs no zero.
        widths = {len(number) for number in numbers if number.startswith("0") and len(number) > 1}
        for width in widths:
            hits = sum(
                len(number) == width and _is_number(number) and int(number) in wanted_numbers for number in numbers
            )
            if hits > plain:
                found[f"{literal}{{image_id:0{width}d}}{suffix}"] += hits
                found.pop(f"{literal}{{image_id}}{suffix}", None)
    if len(found) == 1:
        return next(iter(found))
    if not found:
        names = ", ".join(sorted(examples)[:3]) or "no image"
        ids = ", ".join(sorted(wanted)[:3])
        raise VQADataError(
            f"No file of {folder} fits the image ids: the folder holds {names}, the ids are {ids}, … Give the right "
            "folder, or image_pattern, e.g. 'COCO_train2014_{image_id:012d}.jpg'."
        )
    patterns = ", ".join(f"{pattern} ({count} images)" for pattern, count in found.most_common(5))
    raise VQADataError(f"Several file-name patterns fit {folder}: {patterns}. Say which one with image_pattern.")


# ------------------------------------------------------------------------------------------------------ other sources


def _easy_vqa_rows(split: str, problems: _Problems) -> dict[str, list]:
    try:
        import easy_vqa
    except ImportError as error:
        raise ImportError(
            "source='easy_vqa' needs the package easy-vqa, which holds the data. Install it with: pip install easy-vqa"
        ) from error
    readers = {
        "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
        "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
    }
    if split not in readers:
        raise ValueError(f"easy-VQA has the splits 'train' and 'test', not {split!r}.")
    read_questions, read_images = readers[split]
    images = {number: os.path.abspath(path) for number, path in read_images().items()}
    rows = _empty_rows()
    for question_id, (question, answer, number) in enumerate(zip(*read_questions(), strict=True)):
        # Both splits count their images from 0; the id must not join different images.
        image_id = f"{split}-{number}"
        if number not in images:
            problems.add("missing_image", easy_vqa.__file__, f"question_id {question_id}", f"no image {image_id}")
            continue
        question_type = " ".join(question.split()[:2])
        answer_type = "yes/no" if answer in ("yes", "no") else "other"
        _add_row(rows, question_id, image_id, question, images[number], [answer] * 10, question_type, answer_type)
    return rows


def _named_rows(source: str, name, split: str, images, cache_dir, problems: _Problems) -> dict[str, list]:
    table = _open_named(source, name, split, cache_dir)
    missing = {"question_id", "image", "question"} - set(table.column_names)
    if missing:
        raise VQADataError(
            f"{source} lacks the column(s) {', '.join(sorted(missing))}: it has {', '.join(table.column_names)}. "
            "Rename its columns to VQAv2's."
        )
    given = [column for column in ANSWER_KEYS if column in table.column_names][:1]
    if not given:
        logger.warning(
            "%s has no column 'answers': its rows can be answered, but neither trained on nor scored.", source
        )
    optional = ["image_id", "question_type", "answer_type"]
    columns = ["question_id", "question", *given, *(column for column in optional if column in table.column_names)]
    check_count(len(table), source)
    if isinstance(table.features["image"], datasets.Image):
        table = table.cast_column("image", datasets.Image(decode=False))
    image_store = _ImageStore(source, images, cache_dir)
    batches = table.select_columns([*columns, "image"]).with_format("arrow").iter(batch_size=128)
    progress = tqdm(total=len(table), desc="images", unit="row", disable=None, leave=False)
    rows, seen, annotated, position = _empty_rows(), set(), [], 0
    for batch in batches:
        for entry in batch.to_pylist():
            try:
                question_id = _question_id(entry)
                if question_id in seen:
                    raise _BadEntry("duplicate_question_id", "this id came before; the first entry counts")
                seen.add(question_id)
                question = _question_text(entry)
                path, origin = image_store.path(entry["image"])
                image_id = origin if entry.get("image_id") is None else _image_id(entry)
                answers = _answers(entry) if given and entry[given[0]] is not None else []
                types = (_type_name(entry, "question_type"), _type_name(entry, "answer_type"))
                _add_row(rows, question_id, image_id, question, path, answers, *types)
                annotated.append(bool(answers))
            except _BadEntry as bad:
                problems.add(bad.kind, source, _label(entry, position), bad.reason)
            position += 1
        progress.update(batch.num_rows)
    progress.close()

    if any(annotated) and not all(annotated):
        # A test set has no answers at all; single rows without them are an accident.
        for question_id, has_answers in zip(rows["question_id"], annotated, strict=True):
            if not has_answers:
                reason = "the row has no answers although others have"
                problems.add("question_without_annotation", source, f"question_id {question_id}", reason)
        rows = _select(rows, annotated)
    return rows


def _open_named(source: str, name: str | None, split: str, cache_dir) -> datasets.Dataset:
    if os.path.isfile(os.path.join(source, "dataset_dict.json")):
        parts = datasets.load_from_disk(source)
        if split not in parts:
            raise VQADataError(f"{source} has the splits {', '.join(parts)}, not {split!r}.")
        return parts[split]
    if os.path.isfile(os.path.join(source, "state.json")):
        return datasets.load_from_disk(source)
    if os.path.isdir(source):
        # Of these, files of a few kB hold any number of equal rows, which `datasets` first writes out in full.
        with suppress(OSError, pa.ArrowInvalid):
            files = glob(os.path.join(glob_escape(source), "**", "*.parquet"), recursive=True)
            check_count(sum(parquet.read_metadata(file).num_rows for file in files), source)
    try:
        return datasets.load_dataset(source, name, split=split, cache_dir=cache_dir and os.fspath(cache_dir))
    # RuntimeError: a script lies there, which `datasets` no longer runs.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetGenerationError) as error:
        raise VQADataError(
            f"The data set {source!r} (configuration {name!r}, split {split!r}) cannot be loaded: {error} "
            "A source is 'vqa_v2' (official files), 'easy_vqa', a folder, or a name on the Hub."
        ) from error


class _ImageStore:
    """Gives every image of a named data set a path; embedded ones are written once, as their original bytes."""

    SUFFIXES = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"))

    def __init__(self, source: str, images, cache_dir):
        self.local, self.images_given = os.path.isdir(source), bool(images)
        self.root = os.path.abspath(images or source) if images or self.local else None
        self.folder = os.path.join(os.path.abspath(cache_dir or datasets.config.HF_DATASETS_CACHE), "ume_images")
        self.listing = _Listing()

    def path(self, image: dict | str | bytes | None) -> tuple[str, str]:
        """(absolute path, what identifies the image when the data set itself has no image_id)."""
        if isinstance(image, dict):
            image = image.get("path") if image.get("bytes") is None else image["bytes"]
        if isinstance(image, bytes) and image:
            digest = hashlib.sha256(image).hexdigest()
            return self._write(image, digest), digest
        if not isinstance(image, str) or not image:
            raise _BadEntry("missing_image", f"the row has no image ({_short(image)})")
        # Only one's own folder may name files anywhere; a downloaded table must not, nor one with a folder of its own.
        if os.path.isabs(image) and self.local and not self.images_given:
            path = os.path.normpath(image)
        elif self.root is None:
            reason = f"the image is only the name {_short(image)}; give the folder that holds it as images"
            raise _BadEntry("missing_image", reason)
        else:
            path = _inside(self.root, image)
        if not self.listing.has_file(path):
            raise _BadEntry("missing_image", f"the image {path} does not exist")
        return path, path

    def _write(self, content: bytes, digest: str) -> str:
        suffix = next((suffix for magic, suffix in self.SUFFIXES if content.startswith(magic)), ".image")
        path = os.path.join(self.folder, digest[:2], digest + suffix)
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            # Several processes may write the same image: each its own file, then one atomic rename.
            with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
                file.write(content)
            os.replace(file.name, path)
        return path


# ------------------------------------------------------------------------------------------------------------ images


def open_image(path: str | os.PathLike, content: bytes | None = None) -> Image.Image:
    """Opens an image file as RGB, the way a viewer shows it on a white page.

    Where the file's `content` is given, `path` only says in messages which image it is.

    EXIF orientation is applied. Transparent parts become white: dropping the alpha channel would show whatever colour
    happens to lie under it. 16-bit greys are scaled to 8 bits (PIL would clip them to white). CMYK, palette, grey and
    bilevel images are converted. Of an animation it is the first frame.

    Raises:
        VQADataError: naming the path, when the file is missing, no image, cut off, too large to be honest
            (`PIL.Image.MAX_IMAGE_PIXELS`), or holds floating-point values, whose white is not known.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as file:
            return to_rgb(file)
    except FileNotFoundError as error:
        raise VQADataError(f"The image {path} does not exist. Restore it, or load the data again.") from error
    except Image.DecompressionBombError as error:
        raise VQADataError(
            f"The image {path} is too large to decode safely ({error}). Scale it down, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from error
    except MemoryError:
        raise
    # PIL's decoders raise almost anything on bad bytes: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        raise VQADataError(
            f"The image {path} cannot be read ({error}). Replace it, or leave its questions out with "
            "load_vqa(..., on_error='skip', skipped_log=<a file>)."
        ) from error


def _without_broken_images(rows: dict[str, list], problems: _Problems) -> dict[str, list]:
    """Decodes every distinct image once, exactly as training will, and drops the questions of the broken ones."""
    paths = [path for path in dict.fromkeys(rows["image"]) if path]
    broken: dict[str, str] = {}

    def trouble(path: str) -> tuple[str, str | None]:
        try:
            open_image(path)
        except VQADataError as error:
            return path, str(error)
        return path, None

    # PIL lets go of the interpreter lock while it decodes, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        checked = pool.map(trouble, paths)
        for path, reason in tqdm(checked, total=len(paths), desc="checking images", disable=None, leave=False):
            if reason is not None:
                broken[path] = reason
    if not broken:
        return rows
    for question_id, path in zip(rows["question_id"], rows["image"], strict=True):
        if path in broken:
            problems.add("broken_image", path, f"question_id {question_id}", broken[path])
    return _select(rows, [path not in broken for path in rows["image"]])


def _select(rows: dict[str, list], keep: list[bool]) -> dict[str, list]:
    return {
        column: [value for value, kept in zip(values, keep, strict=True) if kept] for column, values in rows.items()
    }


# ------------------------------------------------------------------------------------------------------------ splits


def split_by_image(dataset: datasets.Dataset, fraction: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Splits off `fraction` of the *images*, with all their questions: (train, held_out).

    No image is on both sides, whether it is known by its `image_id`, by its path or by its file's bytes: copies of a
    picture under several names are one (see `copies` for what is read of the files). Without copies the choice
    depends on the image ids and the seed alone; never on the order of the rows, which stays as it is within each part.

    Raises:
        ValueError: when `fraction` is not between 0 and 1, or leaves one side without an image.
    """
    if isinstance(fraction, bool) or not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction={fraction!r} must lie between 0 and 1: the share of the images to hold out.")
    image_ids, paths = dataset.with_format(None)["image_id"][:], dataset.with_format(None)["image"][:]
    group_of = _image_groups(image_ids, paths)
    groups = sorted(set(group_of.values()))
    held_out_count = round(fraction * len(groups))
    if 0 < round(fraction * len(group_of)) < len(group_of) and len(groups) > 1:
        # It is the copies that make them few, not the fraction: both sides get a picture at least.
        held_out_count = min(max(held_out_count, 1), len(groups) - 1)
    if not 0 < held_out_count < len(groups):
        raise ValueError(
            f"fraction={fraction!r} of {len(groups)} images puts {held_out_count} on one side. Use another fraction, "
            "or more images."
        )
    chosen = np.random.default_rng(seed).permutation(len(groups))[:held_out_count]
    held_out = {groups[index] for index in chosen}
    is_held_out = np.array([group_of[image_id] in held_out for image_id in image_ids])
    return dataset.select(np.flatnonzero(~is_held_out)), dataset.select(np.flatnonzero(is_held_out))


def _image_groups(image_ids: list[str], paths: list[str]) -> dict[str, str]:
    """{image id: the smallest id that shows the same image}; ids are joined when they share a file or its bytes."""
    parent = {image_id: image_id for image_id in image_ids}

    def root(image_id: str) -> str:
        while parent[image_id] != image_id:
            parent[image_id] = image_id = parent[parent[image_id]]
        return image_id

    picture = copies(paths)
    first_of_picture: dict[str, str] = {}
    for image_id, path in dict.fromkeys(zip(image_ids, paths, strict=True)):
        if path:
            small, large = sorted((root(image_id), root(first_of_picture.setdefault(picture[path], image_id))))
            parent[large] = small
    return {image_id: root(image_id) for image_id in parent}
