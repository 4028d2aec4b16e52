"""Scores beside exact match and VQA accuracy, by name, and every score by the values of a column, with intervals.

A score of single questions is a mean; macro F1 and AUROC are of all of them together. Intervals draw whole images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from configuration_ume.scores import FURTHER, NAMES
from metrics.vqa_accuracy.vqa_accuracy import answer_form, answer_score, is_most_common, most_common_answer
from training_ume.evaluation.wups import WordNet, wups

RESAMPLES = 1000
MOST_VALUES = 100  # of a column by which scores are shown
EMPTY = "(empty)"


@dataclass
class Answered:
    """
    Answered questions, and what scores need to know of them.

    Args:
        answers: what the model said, one a question.
        references: what people said, a list a question.
        image_ids: whose questions are drawn together.
        probabilities (`np.ndarray` of shape [questions, classes], *optional*): for AUROC.
        classes: what each column of these is.
        wordnet: for WUPS.
    """

    answers: Sequence[str]
    references: Sequence[Sequence[str]]
    image_ids: Sequence[str]
    probabilities: np.ndarray | None = None
    classes: Sequence[str] = ()
    wordnet: WordNet | None = None
    expected: list[str] = field(init=False)
    given: list[str] = field(init=False)
    _each: dict[str, np.ndarray] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        hits = [is_most_common(*pair) for pair in zip(self.answers, self.references, strict=True)]
        self.expected = [most_common_answer(some) for some in self.references]
        pairs = zip(self.answers, self.expected, hits, strict=True)
        self.given = [right if hit else answer_form(answer) for answer, right, hit in pairs]
        self._each["exact_match"] = np.array([100.0 * hit for hit in hits])

    def each(self, name: str) -> np.ndarray | None:
        """A score of each question in percent [N]; None for a score that single questions have not."""
        if name in self._each:
            return self._each[name]
        if name == "accuracy":
            return self.each("exact_match")
        if name == "vqa_accuracy":
            pairs = zip(self.answers, self.references, strict=True)
            values = [100 * answer_score(*pair) for pair in pairs]
        elif name.startswith("wups_"):
            right = [Counter(some).most_common(1)[0][0] for some in self.references]
            values = wups(self.answers, right, float(name.removeprefix("wups_")), self.wordnet)
        else:
            return None
        self._each[name] = np.array(values)
        return self._each[name]

    def score(self, name: str, rows: np.ndarray) -> float | None:
        """A score of some of the questions, by their numbers, which may come several times; None: it has none."""
        each = self.each(name)
        if each is not None:
            return float(each[rows].mean()) if len(rows) else None
        return TOGETHER[name](self, rows)


def macro_f1(answered: Answered, rows: np.ndarray) -> float | None:
    """The mean over all classes that were given or right of F1 = 2 · hits / (given + right), in percent."""
    given, right = (np.asarray(column, dtype=object)[rows] for column in (answered.given, answered.expected))
    times, wanted, hits = Counter(given), Counter(right), Counter(given[given == right])
    classes = times.keys() | wanted.keys()
    if not classes:
        return None
    return float(100 * np.mean([2 * hits[name] / (times[name] + wanted[name]) for name in classes]))


def auroc(answered: Answered, rows: np.ndarray) -> float | None:
    """
    The probability that a question with an answer is given more of it than one without, in percent: the mean over the
    answers that some of the questions have and others have not. Ties count half. Of two classes, both have the same.
    """
    right = np.asarray(answered.expected, dtype=object)[rows]
    areas = [
        area
        for column, name in enumerate(answered.classes)
        if (area := _area(answered.probabilities[rows, column], right == answer_form(name))) is not None
    ]
    return float(100 * np.mean(areas)) if areas else None


def _area(values: np.ndarray, positive: np.ndarray) -> float | None:
    """Mann and Whitney's U over all pairs of a positive and a negative: (Σ ranks − n₁ (n₁ + 1) / 2) / (n₁ n₀)."""
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]  # equal values share the mean of their ranks
    return (ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros)


TOGETHER: dict[str, Callable[[Answered, np.ndarray], float | None]] = {"macro_f1": macro_f1, "auroc": auroc}


def check_scores(names: Sequence[str]) -> list[str]:
    """
    The names, `wups` as both of its scores, each once.

    Raises:
        ValueError: for one that is not known.
    """
    known = [*NAMES, *FURTHER]
    found: list[str] = []
    for name in names:
        if name != "wups" and name not in known:
            raise ValueError(f"The score {name!r} is not known: choose from {', '.join([*known, 'wups'])}.")
        found += [each for each in known if each.startswith("wups_")] if name == "wups" else [name]
    return list(dict.fromkeys(found))


def by_values(answered: Answered, values: Sequence, names: Sequence[str], seed: int = 0) -> dict[str, dict]:
    """
    The scores of the questions with each value of a column.

    Returns:
        `dict`: by value, the commonest first, `questions`, `images`, the scores in percent (None where these questions
        have none) and `intervals`: of each score the 95 % percentile interval over images drawn with replacement.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row, value in enumerate(values):
        groups[as_text(value)].append(row)
    if len(groups) > MOST_VALUES:
        raise ValueError(
            f"The column has {len(groups):,} different values, such as {', '.join(list(groups)[:3])}: choose one with "
            f"{MOST_VALUES} or fewer."
        )
    table = {}
    for value, rows in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        rows = np.array(rows)
        scores = {name: answered.score(name, rows) for name in names}
        table[value] = {
            "questions": len(rows),
            "images": len({answered.image_ids[row] for row in rows}),
            **scores,
            "intervals": intervals(answered, rows, [name for name in names if scores[name] is not None], seed),
        }
    return table


def intervals(answered: Answered, rows: np.ndarray, names: Sequence[str], seed: int = 0) -> dict[str, list[float]]:
    """The interval of each score that has one."""
    found = {name: interval(answered, rows, name, seed) for name in names}
    return {name: between for name, between in found.items() if between is not None}


def interval(
    answered: Answered, rows: np.ndarray, name: str, seed: int = 0, level: float = 0.95
) -> list[float] | None:
    """Percentile bootstrap interval of a score, drawing images with all their questions; see `score_interval`."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        groups[answered.image_ids[row]].append(row)
    images = [np.array(group) for group in groups.values()]
    generator = np.random.default_rng(seed)
    each = answered.each(name)
    if each is not None:
        sums, counts = np.array([each[group].sum() for group in images]), np.array([len(group) for group in images])
        drawn = (generator.multinomial(len(images), np.full(len(images), 1 / len(images))) for _ in range(RESAMPLES))
        draws = [float(times @ sums / (times @ counts)) for times in drawn]
    else:
        draws = []
        for _ in range(RESAMPLES // 5):  # each of them sorts all questions
            chosen = generator.integers(len(images), size=len(images))
            draws.append(answered.score(name, np.concatenate([images[i] for i in chosen])))
        draws = [draw for draw in draws if draw is not None]
    if not draws:  # of numbers that are all the same in every draw
        return None
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def as_text(value) -> str:
    """A value as it is shown."""
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        return EMPTY
    return str(value)


def open_or_closed(answer_types: Sequence[str], expected: Sequence[str]) -> list[str]:
    """`open` or `closed` for each question: what its type says, else closed where the right answer is yes or no."""
    kinds = []
    for kind, answer in zip(answer_types, expected, strict=True):
        said = (kind or "").strip().casefold()
        kinds.append(said if said in ("open", "closed") else "closed" if answer in ("yes", "no") else "open")
    return kinds
