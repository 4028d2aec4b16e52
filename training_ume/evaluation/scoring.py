"""What evaluations make of a model's logits, by what its answers are: from a list, or numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor

from configuration_ume.scores import NUMBERS
from modeling_ume.numerics_ume import widen
from modeling_ume.tasks_ume import PROBLEM_TYPES
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.numbers import NumberTargets, numbers_in
from training_ume.data.streaming import StreamedQuestions
from training_ume.evaluation.baselines import plain, score_baselines
from training_ume.evaluation.measures import Answered, check_scores
from training_ume.evaluation.scores import FittingScore, fitting_score, flat_scores, score_answers, score_names
from training_ume.records.number_scores import NumberScores
from training_ume.records.predictions import number_rows, prediction_rows

Rows = Dataset | StreamedQuestions


class AnswerScoring:
    """
    Answers from a list: the one with the highest logit.

    Attributes:
        always_intervals: a score is told with its interval, whether or not it was asked for by name.
    """

    always_intervals = False

    def __init__(self, id2label: Mapping[int, str], transform: str | None = None):
        self.id2label = dict(id2label)
        # For some scores: see `Answered`.
        self.probabilities, self.classes, self.wordnet = None, (), None

    def kept(self, logits: Tensor) -> Tensor:
        """Of logits [B, C] what `answers` needs: ids [B]."""
        return logits.argmax(-1)

    def answers(self, kept: Sequence) -> list:
        """One answer a row."""
        return [self.id2label[int(i)] for i in kept]

    def fitting(self, references: Sequence[Sequence[str]]) -> FittingScore:
        """The score to choose by and to report first."""
        return fitting_score(references)

    def score(self, answers: list, rows: Rows) -> dict:
        return score_answers(answers, rows)

    def flat(self, answers: list, rows: Rows) -> dict[str, float]:
        """Scores as the Trainer logs them."""
        return flat_scores(self.score(answers, rows))

    def measured(self, answers: list, rows: Rows) -> Answered | NumberScores:
        """What makes scores of some of the rows."""
        columns = rows["answers"][:], rows["image_id"][:]
        return Answered(answers, *columns, self.probabilities, self.classes, self.wordnet)

    def check_scores(self, names: Sequence[str]) -> list[str]:
        """The names of further scores. ValueError for one that these answers have not."""
        return check_scores(names)

    def coverage(self, references: Sequence[Sequence[str]]) -> dict:
        """What share of the rows the answers cover, as the part `coverage` of an evaluation's results."""
        return {"coverage": asdict(AnswerVocabulary.from_id2label(self.id2label).coverage(references))}

    def names(self, rows: Rows) -> list[str]:
        """The names of what `flat` gives."""
        return score_names(rows)

    def rows(self, answers: list, dataset: Rows) -> list[dict]:
        """An entry a row of predictions.jsonl."""
        return prediction_rows(answers, dataset)

    def baselines(self, train: Dataset, scored: Dataset, vocabulary: AnswerVocabulary) -> dict[str, dict]:
        return score_baselines(train, scored, vocabulary)


class NumberScoring(AnswerScoring):
    """Numbers in their unit: what the model says, as it is."""

    always_intervals = True

    def __init__(self, id2label: Mapping[int, str], transform: str | None = None):
        super().__init__(id2label)
        self.names_of = [self.id2label[i] for i in range(len(self.id2label))]
        self.logs = transform == "log"

    def kept(self, logits: Tensor) -> Tensor:
        return widen(logits)

    def answers(self, kept: Sequence) -> list[list[float]]:
        return [[float(number) for number in row] for row in kept]

    def check_scores(self, names: Sequence[str]) -> list[str]:
        scored = [name for name in NUMBERS if self.logs or name != "r2_log"]
        unknown = [name for name in names if name not in scored]
        if unknown:
            raise ValueError(
                f"The score {unknown[0]!r} is none of numbers, which this model gives: those are {', '.join(scored)}, "
                "and told anyway."
            )
        return []

    def coverage(self, references: Sequence[Sequence[str]]) -> dict:
        return {}

    def known(self, references: Sequence[Sequence[str]], ids: Sequence[Any] | None = None) -> np.ndarray:
        return numbers_in(references, len(self.id2label), ids)

    def fitting(self, references: Sequence[Sequence[str]]) -> FittingScore:
        known = self.known(references)
        varied = any(len(np.unique(column[~np.isnan(column)])) > 1 for column in known.T)
        if not varied:
            return FittingScore("mae", "the rows say only one value, of which R² says nothing")
        if self.logs:
            return FittingScore("r2_log", "the logarithms are learned (label_transform=log)")
        return FittingScore("r2", "the answers are numbers")

    def measured(self, answers: list, rows: Rows) -> NumberScores:
        known = self.known(rows["answers"][:], rows["question_id"][:])
        given = np.array(answers, dtype=np.float64)
        return NumberScores(given, known, self.names_of, rows["image_id"][:], self.logs)

    def score(self, answers: list, rows: Rows) -> dict:
        found = self.measured(answers, rows).scores()
        return {"measured_by": self.fitting(rows["answers"][:]).name, **found}

    def flat(self, answers: list, rows: Rows) -> dict[str, float]:
        scores = self.score(answers, rows)
        parts = {f"{name}_{of}": value for of, each in scores.get("per_number", {}).items()
                 for name, value in each.items()}  # fmt: skip
        flat = {**{name: scores.get(name) for name in NUMBERS}, **parts}
        return {name: value for name, value in flat.items() if value is not None}

    def names(self, rows: Rows) -> list[str]:
        if not any(rows["answers"][:]):
            return []
        several = self.names_of if len(self.names_of) > 1 else []
        scored = [name for name in NUMBERS if self.logs or name != "r2_log"]
        return [*scored, *(f"{name}_{of}" for of in several for name in scored)]

    def rows(self, answers: list, dataset: Rows) -> list[dict]:
        known = self.known(dataset["answers"][:], dataset["question_id"][:])
        return number_rows(answers, known, self.names_of, dataset)

    def baselines(self, train: Dataset, scored: Dataset, vocabulary: NumberTargets) -> dict[str, dict]:
        """Scores without a model: always what is usual in training, and what is usual for the same question."""
        usual = vocabulary.usual
        found = {"training_mean": self.score([usual] * len(scored), scored)}
        if not any(train["question"][:]):
            return found
        known = vocabulary.numbers(train["answers"][:])
        learned = np.log(known) if self.logs else known
        by_question: dict[str, list[int]] = defaultdict(list)
        for row, question in enumerate(train["question"][:]):
            by_question[plain(question)].append(row)
        table = {}
        for question, rows in by_question.items():
            part, means = learned[rows], []
            for i, column in enumerate(part.T):
                column = column[~np.isnan(column)]
                mean = float(column.mean()) if len(column) else None
                means.append(usual[i] if mean is None else float(np.exp(mean)) if self.logs else mean)
            table[question] = means
        looked_up = [table.get(plain(question), usual) for question in scored["question"][:]]
        return {**found, "question_lookup": self.score(looked_up, scored)}


def scoring_of(problem_type: str, id2label: Mapping[int, str], transform: str | None = None) -> AnswerScoring:
    """
    How answers are scored.

    Args:
        problem_type (`str`): one of `PROBLEM_TYPES`.
        id2label: the answers, or the names of the numbers.
        transform (`str`, *optional*): `label_transform` of the config.
    """
    kind = AnswerScoring if PROBLEM_TYPES[problem_type].chooses else NumberScoring
    return kind(id2label, transform)


def scoring_of_targets(targets: AnswerVocabulary | NumberTargets) -> AnswerScoring:
    """The same by what makes the labels."""
    if isinstance(targets, NumberTargets):
        return NumberScoring(targets.id2label, targets.transform)
    return AnswerScoring(targets.id2label)


def scoring_of_model(config) -> AnswerScoring:
    """The same by a model's config."""
    return scoring_of(config.problem_type, config.id2label, config.label_transform)
