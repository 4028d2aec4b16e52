"""easy-VQA from its package: drawn shapes, questions about them."""

from __future__ import annotations

import os

from training_ume.data.rows import _add_row, _empty_rows, _Problems

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
