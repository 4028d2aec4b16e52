"""The answer vocabulary: which answers a model can give, and what that choice costs.

One idea: every answer is known by its form (`answer_form`), so the classes of the model, its training targets and
exact match all speak of the same strings: spellings of one answer are one class, different answers never are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from metrics.vqa_accuracy.vqa_accuracy import answer_form, answer_score, most_common_answer, normalize_answer

# How much of a target an answer is worth that n of N annotators gave; see `AnswerVocabulary.soft_targets`.
ANSWER_SCORES = ("thirds", "official", "any")


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
        answers: The answers in the order of their ids. They are kept as given, and looked up by their form.

    Raises:
        ValueError: no answers, an answer that is not a string, two answers with the same form.
    """

    def __init__(self, answers: Sequence[str]):
        if isinstance(answers, str) or len(answers) == 0:
            raise ValueError(f"An answer vocabulary needs a list of at least one answer, but it got {answers!r}.")
        self.id2label: dict[int, str] = {}
        self._ids: dict[str, int] = {}  # by the answer's form
        for i, answer in enumerate(answers):
            if not isinstance(answer, str):
                raise ValueError(f"Answers must be strings, but the one with id {i} is {answer!r}.")
            first = self._ids.setdefault(answer_form(answer), i)
            if first != i:
                raise ValueError(
                    f"An answer vocabulary must not hold an answer twice, but ids {first} and {i} are "
                    f"{self.id2label[first]!r} and {answer!r}, both {answer_form(answer)!r} when normalised. "
                    "Remove one of them."
                )
            self.id2label[i] = answer

    @classmethod
    def from_answers(
        cls,
        answers: Iterable[Sequence[str]],
        top_k: int | None = None,
        min_count: int | None = None,
        every: bool = False,
    ) -> AnswerVocabulary:
        """Choose the answers from annotated questions.

        What is counted is questions: each one votes for the form of its most common answer (among equally common ones
        the first listed), if it has a visible character. The usual 3,129-answer list of VQA v2 (at least 9 questions
        of train and val) counts the annotation files' `multiple_choice_answer` instead, the same but for ties (about
        7 % of the questions), where those files pick by no visible rule. For exactly that count, pass
        `[[multiple_choice_answer], ...]`. Ids go from the most to the least frequent answer, and alphabetically among
        equals.

        The labels are the forms. But where the annotators of each question all write the same (one annotator, or one
        answer repeated), they keep their capitals as most questions have them, "Yes" or "KRAS": the official
        evaluation wants just that then.

        Args:
            answers: One list of answers a question.
            top_k: Keep this many of the most frequent answers, or all where there are fewer. The thesis used 1000 and
                3128.
            min_count: Keep the answers that are the most common one of at least this many questions. With neither
                limit, every question's most common answer is kept.
            every: A row's answers are its labels, all of them right: each counts, and not the most common one alone.

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
        spelled: defaultdict[str, Counter[str]] = defaultdict(Counter)
        one_voice, questions = True, 0
        for i, row in enumerate(answers):
            _check_row(row, i)
            questions += 1
            one_voice = one_voice and (every or len(set(map(_spelling, row))) == 1)
            for form in dict.fromkeys(map(answer_form, row)) if every else [most_common_answer(row)]:
                if not form:
                    continue
                votes[form] += 1
                spelled[form].update(word for word in set(map(_spelling, row)) if word.lower() == form)
        if not questions:
            raise ValueError("There are no questions to take answers from.")
        if not votes:
            raise ValueError(f"The answers of all {questions} questions are empty: give answers with some text.")
        ranked = sorted(votes, key=lambda answer: (-votes[answer], answer))
        kept = [answer for answer in ranked if votes[answer] >= (min_count or 1)][:top_k]
        if not kept:
            raise ValueError(
                f"No answer is the most common one of {min_count} or more questions (the best, {ranked[0]!r}, is that "
                f"of {votes[ranked[0]]}). Lower `min_count`."
            )
        if one_voice:
            kept = [next((word for word, _ in spelled[form].most_common(1)), form) for form in kept]
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

    def find(self, answer: str) -> int | None:
        """The id of an answer, or None."""
        form = answer_form(answer)
        if form not in self._ids and "" in self._ids and not normalize_answer(answer):
            return self._ids[""]  # of vocabularies that were made when "A" and "?" were the empty answer
        return self._ids.get(form)

    def _counts(self, row: Sequence[str]) -> Counter[int]:
        """How many annotators gave each answer of the vocabulary."""
        return Counter(i for i in map(self.find, row) if i is not None)

    def soft_targets(self, answers: Sequence[Sequence[str]], scores: str = "thirds") -> torch.Tensor:
        """Scores in [0, 1] by how many annotators gave the answer: [B, C] float32.

        The targets of `multi_label_classification`. An answer that n of N annotators gave scores, with `"thirds"`,
        min(n / min(3, N), 1): three annotators make it fully right, or all where there are fewer. With `"official"` it
        scores what VQA accuracy gives it, the mean over leaving each annotator out of min(n' / min(3, N - 1), 1) with
        n' of those left; of ten annotators 0.3, 0.6, 0.9 and 1. With `"any"` all that was given scores 1, as labels.
        A single annotator's answer scores 1 with each of them. A question without answers gets a row of zeros.
        """
        if scores not in ANSWER_SCORES:
            raise ValueError(f"scores={scores!r} must be one of {', '.join(ANSWER_SCORES)}.")
        rows, columns, values = [], [], []
        for b, row in enumerate(answers):
            for i, n in self._counts(row).items():
                rows.append(b)
                columns.append(i)
                values.append(SCORED[scores](n, len(row)))
        targets = torch.zeros(len(answers), len(self))  # [B, C]
        targets[rows, columns] = torch.tensor(values)
        return targets

    def hard_targets(self, answers: Sequence[Sequence[str]]) -> torch.Tensor:
        """Id of each question's most common answer: [B] int64, -100 where the vocabulary lacks it or there is none.

        The targets of `single_label_classification`; cross-entropy skips -100. Among equally common answers the first
        listed one counts, whether the vocabulary has it or not.
        """
        ids = [self._most_common(row) for row in answers]
        return torch.tensor([-100 if i is None else i for i in ids], dtype=torch.long)

    def _most_common(self, row: Sequence[str]) -> int | None:
        return self.find(most_common_answer(row)) if len(row) else None

    def coverage(self, rows: Iterable[Sequence[str]]) -> Coverage:
        """What this vocabulary can reach on questions with these answers, one list a question.

        Raises:
            ValueError: no questions, or a question without answers.
        """
        questions = covered_questions = answers = covered_answers = 0
        reachable = 0.0
        for i, row in enumerate(rows):
            _check_row(row, i)
            known = self._counts(row)
            questions += 1
            answers += len(row)
            covered_questions += self._most_common(row) is not None
            covered_answers += sum(known.values())
            # The score of an answer never falls with its count; where answers of several forms are one to the metric,
            # it may be another than the most common that scores best.
            reachable += max((answer_score(self.id2label[i], row) for i in known), default=0.0)
        if questions == 0:
            raise ValueError("There are no questions to measure the coverage on.")
        return Coverage(covered_questions / questions, covered_answers / answers, reachable / questions)


def _kind(row) -> str:
    return f"the string {row!r}" if isinstance(row, str) else f"a {type(row).__name__}"


def _spelling(answer: str) -> str:
    return " ".join(answer.split())


def _thirds(n: int, annotators: int) -> float:
    return min(n / min(3, annotators), 1.0)


def _leave_one_out(n: int, annotators: int) -> float:
    if annotators == 1:
        return float(n)
    enough = min(3, annotators - 1)
    without = n * min(1, (n - 1) / enough) + (annotators - n) * min(1, n / enough)
    return without / annotators


SCORED = {"thirds": _thirds, "official": _leave_one_out, "any": lambda n, annotators: 1.0}


def several_spellings(rows: Iterable[Sequence[str]], most: int = 3) -> tuple[int, list[list[str]]]:
    """Which different spellings count as one answer.

    Args:
        rows: one list of answers a question.
        most: how many examples to give.

    Returns:
        `(count, examples)`: how many answers have several spellings, and the two commonest spellings of those whose
        second one is the most frequent: where it is no mere slip, it may be another answer.
    """
    spelled: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for answer in row:
            spelled[answer_form(answer)][_spelling(answer)] += 1
    several = [counts.most_common(2) for form, counts in spelled.items() if form and len(counts) > 1]
    several.sort(key=lambda pair: (-pair[1][1], pair[0][0]))
    return len(several), [[spelling for spelling, _ in pair] for pair in several[:most]]


def _check_row(row: Sequence[str], i: int) -> None:
    if isinstance(row, (str, Mapping)) or not isinstance(row, Sequence):
        raise ValueError(f"Each question needs a list of answers, but that at index {i} has {_kind(row)}.")
    if len(row) == 0:
        raise ValueError(f"The question at index {i} has no answers. Use questions with annotations here.")
    for answer in row:
        if not isinstance(answer, str):
            raise ValueError(f"Answers must be strings, but the question at index {i} has {answer!r} among them.")
