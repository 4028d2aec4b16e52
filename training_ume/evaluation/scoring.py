"""What evaluations make of a model's logits, by what its answers are: from a list, or numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from configuration_ume.scores import CLASSES, LABEL_SETS, NUMBERS
from metrics.vqa_accuracy.vqa_accuracy import answer_form, most_common_answer
from modeling_ume import TASK_MODELS
from modeling_ume.numerics_ume import widen
from modeling_ume.tasks_ume import DEFAULT_PROBLEM, DEFAULT_TASK, PROBLEM_TYPES, TASKS, label_scale
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.numbers import NumberTargets, numbers_in
from training_ume.data.streaming import StreamedQuestions
from training_ume.evaluation.baselines import plain, score_baselines
from training_ume.evaluation.measures import Answered, check_scores
from training_ume.evaluation.scores import FittingScore, fitting_score, flat_scores, score_answers, score_names
from training_ume.records.class_scores import ClassScores, LabelScores
from training_ume.records.measured import Measured
from training_ume.records.number_scores import NumberScores
from training_ume.records.predictions import class_rows, number_rows, prediction_rows

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

    def usual(self, config) -> tuple[Any, str]:
        """What is answered without looking at anything, as `score` takes it, and what that is, in words."""
        return self.id2label[0], (
            f"the most common training answer, {self.id2label[0]!r}: the first of the model's answers, which are in "
            "order of how common they were"
        )

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


class ClassScoring(AnswerScoring):
    """One class of a list a row."""

    group = CLASSES
    always_intervals = True

    def fitting(self, references: Sequence[Sequence[str]]) -> FittingScore:
        return FittingScore("accuracy", "each row has one class")

    def expected(self, references: Sequence[Sequence[str]]) -> list:
        """What is right, one a row."""
        return [most_common_answer(row) for row in references]

    def measured(self, answers: list, rows: Rows) -> Measured:
        given = [answer_form(answer) for answer in answers]
        others = None
        if self.probabilities is not None or self.wordnet is not None:
            others = super().measured(answers, rows)
        return ClassScores(given, self.expected(rows["answers"][:]), rows["image_id"][:], others)

    def check_scores(self, names: Sequence[str]) -> list[str]:
        return check_scores([name for name in names if name not in self.group])

    def score(self, answers: list, rows: Rows) -> dict:
        references = rows["answers"][:]
        return {"measured_by": self.fitting(references).name, **self.measured(answers, rows).scores()}

    def flat(self, answers: list, rows: Rows) -> dict[str, float]:
        scores = self.score(answers, rows)
        return {name: scores[name] for name in self.group if scores.get(name) is not None}

    def names(self, rows: Rows) -> list[str]:
        return list(self.group) if any(rows["answers"][:]) else []

    def rows(self, answers: list, dataset: Rows) -> list[dict]:
        return class_rows(answers, self.expected(dataset["answers"][:]), dataset)

    def baselines(self, train: Dataset, scored: Dataset, vocabulary: AnswerVocabulary) -> dict[str, dict]:
        labels = vocabulary.hard_targets(train["answers"][:])
        commonest = int(labels[labels != -100].mode().values)
        answers = self.answers([commonest] * len(scored))
        return {"most_common_class": self.score(answers, scored)}


class LabelsScoring(ClassScoring):
    """Several labels a row: each whose probability is one half or more."""

    group = LABEL_SETS

    def kept(self, logits: Tensor) -> Tensor:
        return logits >= 0  # the sigmoid of 0 is one half

    def answers(self, kept: Sequence) -> list[list[str]]:
        return [[self.id2label[i] for i, there in enumerate(row) if there] for row in kept]

    def usual(self, config) -> tuple[list[str], str]:
        answer, what = super().usual(config)
        return [answer], f"{what}; it alone"

    def fitting(self, references: Sequence[Sequence[str]]) -> FittingScore:
        return FittingScore("micro_f1", "a row has several labels, or none")

    def expected(self, references: Sequence[Sequence[str]]) -> list[list[str]]:
        return [list(dict.fromkeys(map(answer_form, row))) for row in references]

    def measured(self, answers: list, rows: Rows) -> Measured:
        given = [[answer_form(label) for label in row] for row in answers]
        return LabelScores(given, self.expected(rows["answers"][:]), rows["image_id"][:])

    def check_scores(self, names: Sequence[str]) -> list[str]:
        unknown = [name for name in names if name not in self.group]
        if unknown:
            raise ValueError(
                f"The score {unknown[0]!r} is none of several labels a row: those are {', '.join(self.group)}, and "
                "told anyway."
            )
        return []

    def coverage(self, references: Sequence[Sequence[str]]) -> dict:
        return {}

    def baselines(self, train: Dataset, scored: Dataset, vocabulary: AnswerVocabulary) -> dict[str, dict]:
        shares = vocabulary.soft_targets(train["answers"][:], "any").mean(0)
        usual = self.answers([(shares >= 0.5).tolist()])[0]
        return {"usual_labels": self.score([usual] * len(scored), scored)}


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

    def usual(self, config) -> tuple[list[float], str]:
        logarithms = ", of their logarithms" if self.logs else ""
        standardised = torch.zeros(1, len(self.id2label))
        return label_scale(config).in_unit(standardised)[0].tolist(), f"the mean of the training labels{logarithms}"

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


def scoring_of(
    problem_type: str, id2label: Mapping[int, str], transform: str | None = None, task: str = DEFAULT_TASK
) -> AnswerScoring:
    """
    How answers are scored.

    Args:
        problem_type (`str`): one of `PROBLEM_TYPES`.
        id2label: the answers, or the names of the numbers.
        transform (`str`, *optional*): `label_transform` of the config.
        task (`str`): one of `TASKS`.
    """
    problem = PROBLEM_TYPES[problem_type]
    if not problem.chooses:
        kind = NumberScoring
    elif TASKS[task].asks:
        kind = AnswerScoring
    else:
        kind = ClassScoring if problem.exclusive else LabelsScoring
    return kind(id2label, transform)


def scoring_of_targets(
    targets: AnswerVocabulary | NumberTargets, problem_type: str = DEFAULT_PROBLEM, task: str = DEFAULT_TASK
) -> AnswerScoring:
    """The same by what makes the labels."""
    if isinstance(targets, NumberTargets):
        return NumberScoring(targets.id2label, targets.transform)
    return scoring_of(problem_type, targets.id2label, task=task)


def task_of(model) -> str:
    """The task that a model is for, by its class; of one that is wrapped, the model's within."""
    kinds = tuple(TASK_MODELS.values())
    found = model if isinstance(model, kinds) else next((m for m in model.modules() if isinstance(m, kinds)), None)
    names = {kind: name for name, kind in TASK_MODELS.items()}
    return next((names[kind] for kind in type(found).__mro__ if kind in names), DEFAULT_TASK)


def scoring_of_model(model) -> AnswerScoring:
    """The same by a model."""
    config = model.config
    return scoring_of(config.problem_type, config.id2label, config.label_transform, task_of(model))
