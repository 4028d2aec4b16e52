"""Rows: the one layout that every source is brought into, and how a bad entry is said."""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import Any

import datasets

from training_ume.data.json_entries import VQADataError

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

MAX_ANSWERS = 1000  # to one question; VQA v2 has ten
KEPT_PROBLEMS = 100_000  # of which the rest is counted


class _BadEntry(Exception):
    """One entry that cannot become a row: the kind of problem it is counted under, and the reason."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


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


def _select(rows: dict[str, list], keep: list[bool]) -> dict[str, list]:
    return {
        column: [value for value, kept in zip(values, keep, strict=True) if kept] for column, values in rows.items()
    }
