"""VQA v2's official files, and every data set in their layout."""

from __future__ import annotations

import sys
from typing import Any

from training_ume.data.images import _image_paths
from training_ume.data.json_entries import JSONEntries, unique_keys
from training_ume.data.rows import (
    _add_row,
    _answers,
    _BadEntry,
    _empty_rows,
    _image_id,
    _label,
    _Problems,
    _question_id,
    _question_text,
    _type_name,
)

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
