"""The answer vocabulary: which answers a model can give, and what that choice costs.

One idea: every answer goes through the official VQA normalisation first, so the classes of the model, its training
targets and the metric all speak of the same strings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from metrics.vqa_accuracy.vqa_accuracy import answer_score, most_common_answer, normalize_answer


@dataclass(frozen=True)
class Coverage:
    """What a vocabulary can reach on annotated questions. All three are shares, 0 to 1.

    Attributes:
        questions: Share of the questions whose most common answer is in the vocabulary.
        answers: Share of all the annotators' answers that are in the vocabulary.
        ceiling: Mean VQA accuracy of the best answer that the vocabulary has for each question. Annotators who
            disagree keep it below 1, and so do answers that all annotators spelled alike but not in the normalised
            form ("night_stand"): the official evaluation then wants that very spelling.
    """

    questions: float
    answers: float
    ceiling: float

    def __str__(self) -> str:
        return (
            f"The answer vocabulary holds the most common answer of {self.questions:.2%} of the questions and "
            f"{self.answers:.2%} of all given answers; no model that answers from it can score above "
            f"{100 * self.ceiling:.2f} VQA accuracy here."
        )


class AnswerVocabulary:
    """A fixed list of answers and their ids, for `config.id2label` and for training targets.

    Args:
        answers: The answers in the order of their ids. They are kept as given, and looked up by their normalised form.

    Raises:
        ValueError: no answers, an answer that is not a string, two answers with the same normalised form.
    """

    def __init__(self, answers: Sequence[str]):
        if isinstance(answers, str) or len(answers) == 0:
            raise ValueError(f"An answer vocabulary needs a list of at least one answer, but it got {answers!r}.")
        self.id2label: dict[int, str] = {}
        self._ids: dict[str, int] = {}  # by normalised answer
        for i, answer in enumerate(answers):
            if not isinstance(answer, str):
                raise ValueError(f"Answers must be strings, but the one with id {i} is {answer!r}.")
            first = self._ids.setdefault(_class_form(answer), i)
            if first != i:
                raise ValueError(
                    f"An answer vocabulary must not hold an answer twice, but ids {first} and {i} are "
                    f"{self.id2label[first]!r} and {answer!r}, both {_class_form(answer)!r} when normalised. "
                    "Remove one of them."
                )
            self.id2label[i] = answer

    @classmethod
    def from_answers(
        cls, answers: Iterable[Sequence[str]], top_k: int | None = None, min_count: int | None = None
    ) -> AnswerVocabulary:
        """Choose the answers from annotated questions.

        What is counted is questions: each one votes for its most common normalised answer (among equally common ones
        the first listed). The usual 3,129-answer list of VQA v2 (at least 9 questions of train and val) counts the
        annotation files' `multiple_choice_answer` instead, the same but for ties (about 7 % of the questions),
        where those files pick by no visible rule. For exactly that count, pass `[[multiple_choice_answer], ...]`.
        Ids go from the most to the least frequent answer, and alphabetically among equals.

        Args:
            answers: One list of answers a question.
            top_k: Keep this many of the most frequent answers, or all where there are fewer. The thesis used 1000 and
                3128.
            min_count: Keep the answers that are the most common one of at least this many questions. With neither
                limit, every question's most common answer is kept.

        Raises:
            ValueError: both limits given, a limit below 1, no questions, a question without answers, or a `min_count`
                that no answer reaches.
        """
        if top_k is not None and min_count is not None:
            raise ValueError(f"Give `top_k` or `min_count`, not both; got top_k={top_k} and min_count={min_count}.")
        for name, limit in (("top_k", top_k), ("min_count", min_count)):
            if limit is not None and limit < 1:
                raise ValueError(f"`{name}` must be at least 1, but it is {limit}.")
        votes: Counter[str] = Counter()
        for i, row in enumerate(answers):
            _check_row(row, i)
            votes[_class_form(most_common_answer(row))] += 1
        if not votes:
            raise ValueError("There are no questions to take answers from.")
        ranked = sorted(votes, key=lambda answer: (-votes[answer], answer))
        kept = [answer for answer in ranked if votes[answer] >= (min_count or 1)][:top_k]
        if not kept:
            raise ValueError(
                f"No answer is the most common one of {min_count} or more questions (the best, {ranked[0]!r}, is that "
                f"of {votes[ranked[0]]}). Lower `min_count`."
            )
        return cls(kept)

    @classmethod
    def from_id2label(cls, id2label: Mapping[int | str, str]) -> AnswerVocabulary:
        """The vocabulary of a checkpoint, from `config.id2label`; keys may be the strings that JSON makes of them.

        Raises:
            ValueError: keys that are not exactly 0 … n-1, and what the constructor refuses.
        """
        try:
            answers = {int(key): answer for key, answer in id2label.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"The keys of `id2label` must be whole numbers, but {error}.") from None
        missing = sorted(set(range(len(id2label))) - set(answers))
        if missing:
            raise ValueError(
                f"The keys of `id2label` must be 0 to {len(id2label) - 1} without gaps, but {missing[0]} is missing."
            )
        return cls([answers[i] for i in range(len(answers))])

    @property
    def label2id(self) -> dict[str, int]:
        return {answer: i for i, answer in self.id2label.items()}

    def __len__(self) -> int:
        return len(self.id2label)

    def soft_targets(self, answers: Sequence[Sequence[str]]) -> torch.Tensor:
        """Soft scores min(n / 3, 1), n = how many annotators gave the answer (normalised): [B, C] float32.

        The targets of `multi_label_classification`. A question without answers gets a row of zeros.
        """
        rows, columns, scores = [], [], []
        for b, row in enumerate(answers):
            for answer, n in Counter(map(_class_form, row)).items():
                column = self._ids.get(answer)
                if column is not None:
                    rows.append(b)
                    columns.append(column)
                    scores.append(min(n / 3, 1.0))
        targets = torch.zeros(len(answers), len(self))  # [B, C]
        targets[rows, columns] = torch.tensor(scores)
        return targets

    def hard_targets(self, answers: Sequence[Sequence[str]]) -> torch.Tensor:
        """Id of each question's most common answer: [B] int64, -100 where the vocabulary lacks it or there is none.

        The targets of `single_label_classification`; cross-entropy skips -100. Among equally common answers the first
        listed one counts, whether the vocabulary has it or not.
        """
        ids = [self._ids.get(_class_form(most_common_answer(row)), -100) if len(row) else -100 for row in answers]
        return torch.tensor(ids, dtype=torch.long)

    def coverage(self, rows: Iterable[Sequence[str]]) -> Coverage:
        """What this vocabulary can reach on questions with these answers, one list a question.

        Raises:
            ValueError: no questions, or a question without answers.
        """
        questions = covered_questions = answers = covered_answers = 0
        reachable = 0.0
        for i, row in enumerate(rows):
            _check_row(row, i)
            counts = Counter(map(_class_form, row))
            known = {answer: n for answer, n in counts.items() if answer in self._ids}
            questions += 1
            answers += len(row)
            covered_questions += max(counts, key=counts.__getitem__) in known
            covered_answers += sum(known.values())
            if known:  # the score never falls with the count, so the most common known answer is the best one
                best = self.id2label[self._ids[max(known, key=known.__getitem__)]]
                reachable += answer_score(best, row)
        if questions == 0:
            raise ValueError("There are no questions to measure the coverage on.")
        return Coverage(covered_questions / questions, covered_answers / answers, reachable / questions)


def _kind(row) -> str:
    return f"the string {row!r}" if isinstance(row, str) else f"a {type(row).__name__}"


def _class_form(answer: str) -> str:
    """The normalised form that stays as it is when it is normalised again, which a few with many periods do not."""
    form = normalize_answer(answer)
    while (again := normalize_answer(form)) != form:
        form = again
    return form


def _check_row(row: Sequence[str], i: int) -> None:
    if isinstance(row, (str, Mapping)) or not isinstance(row, Sequence):
        raise ValueError(f"Each question needs a list of answers, but that at index {i} has {_kind(row)}.")
    if len(row) == 0:
        raise ValueError(f"The question at index {i} has no answers. Use questions with annotations here.")
    for answer in row:
        if not isinstance(answer, str):
            raise ValueError(f"Answers must be strings, but the question at index {i} has {answer!r} among them.")
