"""What can be scored without a model: the commonest answer, looking the question up."""

from __future__ import annotations

from collections import Counter

from datasets import Dataset

from training_ume.data.answers import AnswerVocabulary
from training_ume.evaluation.scores import score_answers


def score_baselines(train: Dataset, scored: Dataset, vocabulary: AnswerVocabulary) -> dict[str, dict]:
    """Scores without a model: always the commonest answer, and looking the question up among the training ones."""
    labels = vocabulary.hard_targets(train["answers"][:]).tolist()
    commonest = Counter(labels).most_common(1)[0][0]
    by_question: dict[str, Counter] = {}
    for question, label in zip(train["question"][:], labels, strict=True):
        by_question.setdefault(plain(question), Counter())[label] += 1
    table = {question: counts.most_common(1)[0][0] for question, counts in by_question.items()}
    looked_up = [table.get(plain(question), commonest) for question in scored["question"][:]]
    return {
        "most_common_answer": score_answers([vocabulary.id2label[commonest]] * len(scored), scored),
        "question_lookup": score_answers([vocabulary.id2label[label] for label in looked_up], scored),
    }


def plain(question: str) -> str:
    return " ".join(question.lower().split())
