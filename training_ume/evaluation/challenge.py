"""Result files for the VQA challenge: the JSON that EvalAI's servers and the official evaluation code read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from operator import index
from pathlib import Path


def write_challenge_results(
    path: str | os.PathLike, question_ids: Sequence[int] | Sequence[str], answers: Sequence[str]
) -> Path:
    """Write `[{"question_id": int, "answer": str}, ...]` in the order given, and return the path. Where all ids are
    strings, as some data sets write them, they stay strings.

    The file appears whole or not at all: it is written beside its place and then moved there, over an older one. A
    missing folder is made.

    Raises:
        ValueError: lengths that differ, nothing to write, a question id that is no integer (nor a string, where all
            are) or comes twice, an answer that is not a string. Nothing is written then.
    """
    if len(question_ids) != len(answers):
        raise ValueError(
            f"Each question needs one answer, but there are {len(question_ids)} question ids and "
            f"{len(answers)} answers."
        )
    if len(question_ids) == 0:
        raise ValueError("There are no answers to write; the challenge server would refuse an empty file.")
    results = []
    strings = all(isinstance(question_id, str) for question_id in question_ids)
    first_at: dict[int | str, int] = {}
    for i, (question_id, answer) in enumerate(zip(question_ids, answers, strict=True)):
        try:
            if isinstance(question_id, bool):
                raise TypeError
            # numpy's and torch's integers too, but no 1.0, and no "1" among numbers
            question_id = question_id if strings else index(question_id)
        except TypeError:
            raise ValueError(f"Question ids must be integers, but question_ids[{i}] is {question_id!r}.") from None
        if not isinstance(answer, str):
            raise ValueError(f"Answers must be strings, but that of question {question_id} is {answer!r}.")
        if first_at.setdefault(question_id, i) != i:
            raise ValueError(
                f"Question {question_id} is answered twice, at index {first_at[question_id]} and at index {i}. "
                "The challenge takes one answer a question."
            )
        results.append({"question_id": question_id, "answer": answer})

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(results, file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(beside, 0o666 & ~mask)  # mkstemp makes it readable to its owner only
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return path
