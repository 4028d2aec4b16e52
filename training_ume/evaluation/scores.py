"""Scores of answers against what people answered."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import evaluate
from datasets import Dataset

import metrics.vqa_accuracy.vqa_accuracy as vqa_accuracy
from configuration_ume.scores import LABELS, NAMES, measured_by
from metrics.vqa_accuracy.vqa_accuracy import answer_form, is_most_common
from training_ume.data.streaming import StreamedQuestions

# Fewer annotators than these cannot agree as VQA accuracy asks them to.
ENOUGH_ANNOTATORS = 4
# Share of the questions that VQA accuracy may be blind to. VQA v2 itself has 0.03 % of them.
TOLERATED = 0.01


@dataclass(frozen=True)
class FittingScore:
    """The name of a score (a key of `LABELS`), and a sentence that says why it fits the data."""

    name: str
    why: str

    @property
    def label(self) -> str:
        return LABELS.get(self.name, self.name)


def fitting_score(references: Sequence[Sequence[str]]) -> FittingScore:
    """
    The score to choose by and to report first: VQA accuracy, unless it is blind to more than 1 % of the questions.

    Args:
        references: the annotators' answers, one list a question; questions without answers do not count.
    """
    few = spelled = questions = 0
    for row in references:
        questions += bool(row)
        if 0 < len(row) < ENOUGH_ANNOTATORS:
            few += 1
        # Where all answers are alike, the official evaluation wants their very spelling, and a class has only one.
        elif row and len({answer.strip() for answer in row}) == 1 and row[0].strip() != answer_form(row[0]):
            spelled += 1
    if few + spelled <= TOLERATED * questions:
        return FittingScore("vqa_accuracy", f"nearly all questions have {ENOUGH_ANNOTATORS} or more answers")
    reasons = []
    if few:
        reasons.append(f"{few:,} of {questions:,} questions have fewer than {ENOUGH_ANNOTATORS} answers")
    if spelled:
        reasons.append(
            f"{spelled:,} of {questions:,} questions have one answer, repeated, in a spelling that is not the "
            "normalised one"
        )
    return FittingScore("exact_match", f"{' and '.join(reasons)}, which VQA accuracy cannot count as right")


def score(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    answer_types: Sequence[str] | None = None,
    question_types: Sequence[str] | None = None,
) -> dict:
    """
    Scores answers.

    Args:
        predictions: one answer a question.
        references: the annotators' answers, one list a question.
        answer_types, question_types (*optional*): one a question; left out where none says anything.

    Returns:
        `dict`: `measured_by` (the name of the score that fits), it and the other one in percent, and in it
        `per_answer_type` and `per_question_type`.

    Raises:
        ValueError: as the metric does, for lengths that differ and the like.
    """
    types = {"answer_types": answer_types, "question_types": question_types}
    types = {name: values for name, values in types.items() if values is not None and any(values)}
    name = fitting_score(references).name
    if name == "vqa_accuracy":
        return {"measured_by": name, **_metric().compute(predictions=predictions, references=references, **types)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fewer than four answers")  # which is why exact match was chosen
        overall = _metric().compute(predictions=predictions, references=references)
    hits = [is_most_common(*pair) for pair in zip(predictions, references, strict=True)]
    return {
        "measured_by": name,
        "exact_match": overall["exact_match"],
        **{f"per_{of[:-1]}": _percent_by_type(hits, kinds) for of, kinds in types.items()},
        "vqa_accuracy": overall["vqa_accuracy"],
    }


def _percent_by_type(hits: Sequence[bool], kinds: Sequence[str]) -> dict[str, float]:
    groups: dict[str, list[bool]] = {}
    for hit, kind in zip(hits, kinds, strict=True):
        groups.setdefault(kind, []).append(hit)
    return {kind: 100 * sum(groups[kind]) / len(groups[kind]) for kind in sorted(groups)}


def _metric() -> evaluate.Metric:
    # Loaded by the path of the installed module, so that it works from any working directory.
    return evaluate.load(str(Path(vqa_accuracy.__file__).parent))


def score_answers(predictions: list[str], dataset: Dataset | StreamedQuestions) -> dict:
    """
    The scores of answers to a dataset's questions.

    Returns:
        `dict`: of `score`, with `per_answer_type` and `per_question_type` where the dataset knows the types.
    """
    return score(predictions, *(dataset[name][:] for name in ("answers", "answer_type", "question_type")))


def flat_scores(scores: dict) -> dict[str, float]:
    """Scores as the Trainer logs them: one number a key, `vqa_accuracy_yes/no` or `exact_match_yes/no` for a type."""
    per_type, name = scores.get("per_answer_type", {}), measured_by(scores)
    return {
        "vqa_accuracy": scores["vqa_accuracy"],
        "exact_match": scores["exact_match"],
        **{f"{name}_{kind}": score for kind, score in per_type.items()},
    }


def score_names(rows: Dataset | StreamedQuestions) -> list[str]:
    """The names of the scores that answers to these rows get."""
    references, kinds = rows["answers"][:], rows["answer_type"][:]
    if not any(references):
        return []
    name = fitting_score(references).name
    return [*NAMES, *(f"{name}_{kind}" for kind in sorted(set(kinds)) if any(kinds))]
