"""What a model answered, question by question: the file `predictions.jsonl` beside a run's results.json.

Intervals, tables by type and confusions come from it, without the model or the data. Questions about one image share
what is hard about it, so intervals draw whole images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from metrics.vqa_accuracy.vqa_accuracy import answer_form, answer_score, is_most_common, most_common_answer
from training_ume.records.class_scores import ClassScores, LabelScores
from training_ume.records.files import write_text
from training_ume.records.measured import Measured
from training_ume.records.number_scores import NumberScores

PREDICTIONS = "predictions.jsonl"
COLUMNS = ("question_id", "image_id", "image", "question", "question_type", "answer_type")


def prediction_rows(answers: list[str], dataset: Dataset) -> list[dict]:
    """
    One entry a question.

    Args:
        answers (`list[str]`): what the model said, one a row of `dataset`.
        dataset (`Dataset`): rows of `load_vqa` with answers.

    Returns:
        `list[dict]`: `question_id`, `image_id`, `image` (its path), `question`, `question_type`, `answer_type`,
        `expected` (the most common answer, normalised), `answer`, and its scores `vqa_accuracy` and `exact_match` in
        percent, whose means are those of the metric.
    """
    columns = {name: dataset[name][:] for name in COLUMNS}
    rows = []
    for i, (answer, references) in enumerate(zip(answers, dataset["answers"][:], strict=True)):
        rows.append(
            {
                **{name: values[i] for name, values in columns.items()},
                "expected": most_common_answer(references),
                "answer": answer,
                "vqa_accuracy": 100 * answer_score(answer, references),
                "exact_match": 100.0 * is_most_common(answer, references),
            }
        )
    return rows


def number_rows(answers: list[list[float]], known: np.ndarray, names: Sequence[str], dataset: Dataset) -> list[dict]:
    """
    The same of numbers: `expected` and `answer` are dicts of them by their names, in their unit; None where one is not
    known.

    Args:
        answers: what the model said, a list a row.
        known (`np.ndarray` of shape [rows, numbers]): what is right, nan where nobody knows.
        names: of the numbers.
        dataset (`Dataset`): the rows.
    """
    columns = {name: dataset[name][:] for name in COLUMNS}
    rows = []
    for i, (given, right) in enumerate(zip(answers, known.tolist(), strict=True)):
        expected = {name: None if value != value else value for name, value in zip(names, right, strict=True)}
        answer = dict(zip(names, given, strict=True))
        rows.append({**{name: values[i] for name, values in columns.items()}, "expected": expected, "answer": answer})
    return rows


def class_rows(answers: list, expected: list, dataset: Dataset) -> list[dict]:
    """The same of classes (`expected` and `answer` are strings) or of labels (lists of them)."""
    columns = {name: dataset[name][:] for name in COLUMNS}
    return [
        {**{name: values[i] for name, values in columns.items()}, "expected": right, "answer": answer}
        for i, (answer, right) in enumerate(zip(answers, expected, strict=True))
    ]


def measured(rows: list[dict]) -> Measured | None:
    """What scores rows of predictions.jsonl together; None of answers that each have scores of their own."""
    if not rows or {"vqa_accuracy", "exact_match"} & rows[0].keys():
        return None
    images = [row["image_id"] or row["question_id"] for row in rows]
    given, expected = ([row[name] for row in rows] for name in ("answer", "expected"))
    if isinstance(given[0], dict):
        return numbers_of(rows, logs=True)
    if isinstance(given[0], list):
        given = [[answer_form(label) for label in labels] for labels in given]
        return LabelScores(given, expected, images)
    return ClassScores([answer_form(answer) for answer in given], expected, images)


def numbers_of(rows: list[dict], logs: bool) -> NumberScores:
    """The scores of rows that `number_rows` made; `logs`: also R² of the logarithms."""
    names = list(rows[0]["answer"])
    known = [[np.nan if row["expected"][name] is None else row["expected"][name] for name in names] for row in rows]
    given = [[row["answer"][name] for name in names] for row in rows]
    images = [row["image_id"] or row["question_id"] for row in rows]
    return NumberScores(np.array(given), np.array(known), names, images, logs)


def write_predictions(path: str | Path, rows: Iterable[dict]) -> None:
    """Writes one JSON object a line, in one step: a reader sees the old file or the new one."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_predictions(path: str | Path) -> list[dict]:
    """
    Reads what `write_predictions` wrote.

    Raises:
        ValueError: if a line is not what `prediction_rows` makes, or the file is empty.
        FileNotFoundError: if there is no file.
    """
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
        try:
            row = json.loads(line)
            alone = isinstance(row["answer"], dict | list) or not {"vqa_accuracy", "exact_match"} & row.keys()
            scores = () if alone else ("vqa_accuracy", "exact_match")
            rows.append({name: row[name] for name in (*COLUMNS, "expected", "answer", *scores)})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"Line {number} of {path} is not an answered question ({type(error).__name__}: {error}): write the "
                "file anew with `ume evaluate --predictions`."
            ) from error
    return rows


def mean_score(rows: list[dict], metric: str) -> float:
    """The mean of `metric` over the questions, in percent; of numbers and classes that score of all of them."""
    if together := measured(rows):
        return together.score(metric, np.arange(len(rows)))
    return float(np.mean([row[metric] for row in rows]))


def score_interval(
    rows: list[dict], metric: str, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of the mean score, drawing images with all their questions (Efron & Tibshirani, "An
    Introduction to the Bootstrap", 1993, chapters 8 and 13).

    Args:
        rows: of `prediction_rows`.
        metric (`str`): `vqa_accuracy` or `exact_match`.
        level (`float`): share of the resampled means inside the interval.
        resamples (`int`): number of draws; each draws as many images as there are, with replacement.

    Returns:
        `(low, high)` in percent. Of a single image, both are its own mean. Of numbers and classes, see
        `Measured.interval`.
    """
    if together := measured(rows):
        return together.interval(metric, level, seed)
    images: dict[str, list[float]] = {}
    for row in rows:
        images.setdefault(row["image_id"], []).append(row[metric])
    sums = np.array([sum(scores) for scores in images.values()])
    counts = np.array([len(scores) for scores in images.values()])
    generator = np.random.default_rng(seed)
    means = []
    while len(means) < resamples:
        some = min(
            resamples - len(means), max(1, 1_000_000 // len(sums))
        )  # all would be [resamples, images] in memory
        drawn = generator.integers(len(sums), size=(some, len(sums)))
        means.extend(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
