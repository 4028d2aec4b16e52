"""A finished checkpoint on a data set: its scores, those of blind ones, and how it holds when an input is missing.

Checkpoints are loaded through this package's own classes, so no remote code is run.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from configuration_ume.scores import names_in
from metrics.vqa_accuracy.vqa_accuracy import answer_form, most_common_answer
from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.stored_ume import nearest
from modeling_ume.tasks_ume import PROBLEM_TYPES, TASKS, check_choosing
from training_ume.data.collator import VQACollator
from training_ume.data.inputs import BLIND, LEFT
from training_ume.evaluation.answering import predict
from training_ume.evaluation.challenge import write_challenge_results
from training_ume.evaluation.finding import chance, score_retrieval
from training_ume.evaluation.load import load_checkpoint
from training_ume.evaluation.measures import Answered, by_values, intervals, open_or_closed
from training_ume.evaluation.scores import score_answers
from training_ume.evaluation.scoring import scoring_of_model, task_of
from training_ume.evaluation.subsets import score_subsets
from training_ume.evaluation.wups import WordNet
from training_ume.records.machine import environment
from training_ume.records.number_scores import NumberScores
from training_ume.records.predictions import write_predictions

OPEN_CLOSED = "open_closed"  # a column that every data set has
DROP_RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


def evaluate_checkpoint(
    name: str,
    dataset: Dataset,
    *,
    baselines: list[str] | None = None,
    batch_size: int = 64,
    max_question_length: int | None = None,
    num_workers: int = 0,
    challenge_file: str | Path | None = None,
    asked: Mapping[int | str, int | str] | None = None,
    predictions_file: str | Path | None = None,
    drop: list[str] | None = None,
    drop_rates: Sequence[float] = DROP_RATES,
    drop_seed: int = 0,
    trust_remote_code: bool = False,
    scores: Sequence[str] = (),
    by: Sequence[str] = (),
    wordnet: str | Path | None = None,
    may_lack: Sequence[str] = (),
    subsets: bool = False,
) -> dict:
    """
    Answers a data set's questions with a checkpoint and scores the answers.

    Args:
        name (`str`): see `load_checkpoint`.
        dataset (`Dataset`): rows of `load_vqa`.
        baselines (`list[str]`, *optional*): `question_only`, `image_only`: score the same checkpoint without the other
            input too.
        challenge_file (path, *optional*): where to write the answers in the form that the VQA challenge server reads.
        asked (`dict`, *optional*): what `question_ids` says of the data: the challenge file answers these, or is
            refused before any work.
        predictions_file (path, *optional*): where to write each question's answer and score (`predictions.jsonl`).
        drop (`list[str]`, *optional*): `image`, `text`: score the checkpoint with this input missing at `drop_rates`.
        drop_rates (sequence of `float`): shares of the questions that lose the input, in [0, 1].
        trust_remote_code (`bool`): see `load_checkpoint`.
        scores (sequence of `str`): further scores, keys of `FURTHER`, or `wups` for both of them.
        by (sequence of `str`): columns of the data set, or `open_closed`, by whose values to show every score.
        wordnet (path, *optional*): for WUPS, see `WordNet`.
        may_lack (sequence of `str`): modalities that all rows are meant to lack, see `VQACollator`.
        subsets (`bool`): score the checkpoint on every subset of its modalities, see `score_subsets`.
        drop_seed (`int`): draws which ones; those that lose it at one rate lose it at every higher one too.

    Returns:
        `dict`: `model`, `questions`, `images`, `seconds`, `environment`; with annotated questions `scores`,
        `baselines`, `subsets` (where they are asked for), `robustness` (where something is dropped: `seed`, and for
        each input its `robustness_curve`), `intervals` and `by` (see `by_values`), and the `coverage` of them by the
        model's answers, with others `predictions`.

    Raises:
        ValueError: no such checkpoint, an unknown baseline, score, column or input to drop, an impossible rate, a
            baseline, score or curve for questions without answers, or a challenge file that would lack some of the
            questions.
    """
    if challenge_file is not None and asked is not None:
        check_all_answered(dataset["question_id"][:], asked)
    annotated = any(dataset["answers"][:])
    check_columns(dataset, by)
    if (scores or by) and not annotated:
        raise ValueError("The questions have no answers, so they have no scores: leave --scores and --by out.")
    model, processor = load_checkpoint(name, trust_remote_code)
    if not TASKS[task_of(model)].labels:
        return found_together(name, model, processor, dataset, batch_size, max_question_length, may_lack)
    scoring = scoring_of_model(model)
    scores = scoring.check_scores(scores)
    words = WordNet(wordnet) if any(score.startswith("wups_") for score in scores) else None
    if challenge_file is not None:
        check_choosing(model.config.problem_type, challenge_file=challenge_file)
    for baseline in baselines or []:
        if baseline not in BLIND:
            raise ValueError(f"The baseline {baseline!r} is not known: choose from {', '.join(BLIND)}.")
        if not annotated:
            raise ValueError("The questions have no answers, so a baseline has no score: leave --baselines out.")
    for name_of_input in drop or []:
        if name_of_input not in LEFT:
            raise ValueError(f"The input to drop {name_of_input!r} is not known: choose from {', '.join(LEFT)}.")
        if not annotated:
            raise ValueError("The questions have no answers, so missing inputs have no score: leave --drop out.")
    if predictions_file is not None and not annotated:
        raise ValueError("The questions have no answers, so they have no score: leave --predictions out.")
    if subsets and not annotated:
        raise ValueError("The questions have no answers, so subsets of modalities have no score: leave --subsets out.")
    if drop:
        check_rates(drop_rates)

    @functools.cache  # a baseline and the end of a curve are the same answers
    def answers(inputs: str, collect=None) -> list:
        collator = VQACollator(processor, inputs=inputs, max_question_length=max_question_length, may_lack=may_lack)
        return predict(model, collator, dataset, batch_size, num_workers, collect)

    kept = Probabilities(model, dataset) if "auroc" in scores else None
    started = time.perf_counter()
    predictions = answers("both", kept)
    results = {
        "model": name,
        "questions": len(dataset),
        "called": "questions" if any(dataset["question"][:]) else "rows",
        "images": len(set(dataset["image"][:]) - {""}),
        "seconds": time.perf_counter() - started,
    }
    if annotated:
        results["scores"] = scoring.score(predictions, dataset)
        if scoring.always_intervals or scores or by:
            if kept is not None:
                scoring.probabilities, scoring.classes = kept.values, kept.classes
            scoring.wordnet = words
            results |= further_scores(results["scores"], scoring.measured(predictions, dataset), dataset, scores, by)
        results["baselines"] = {
            baseline: {
                "what": f"this checkpoint, given the {BLIND[baseline]} alone",
                **scoring.score(answers(BLIND[baseline]), dataset),
            }
            for baseline in baselines or []
        }
        if drop:
            results["robustness"] = {
                "seed": drop_seed,
                "curves": {
                    missing: robustness_curve(
                        predictions, answers(LEFT[missing]), dataset, drop_rates, drop_seed, scoring.score
                    )
                    for missing in drop
                },
            }
        if subsets:
            collator = VQACollator(processor, max_question_length=max_question_length, may_lack=may_lack)
            results["subsets"] = score_subsets(model, collator, dataset, batch_size, num_workers)
        results |= scoring.coverage(dataset["answers"][:])
    else:
        rows = zip(dataset["question_id"][:], predictions, strict=True)
        results["predictions"] = [{"question_id": i, "answer": answer} for i, answer in rows]
    if predictions_file is not None:
        write_predictions(predictions_file, scoring.rows(predictions, dataset))
    if challenge_file is not None:
        ids = dataset["question_id"][:]
        write_challenge_results(challenge_file, ids if asked is None else [asked[i] for i in ids], predictions)
    return {**results, "environment": environment()}


def found_together(
    name: str, model, processor, dataset: Dataset, batch_size: int, max_length: int | None, may_lack: Sequence[str]
) -> dict:
    """The results of a model that compares modalities: what it finds among the rows, see `score_retrieval`."""

    def collate(column: str) -> VQACollator:
        return VQACollator(processor, inputs=column, max_question_length=max_length, may_lack=may_lack)

    started = time.perf_counter()
    scores = score_retrieval(model, collate, dataset, batch_size)
    images = len(set(dataset["image"][:]) - {""})
    results = {"model": name, "questions": len(dataset), "called": "rows", "images": images}
    results |= {"seconds": time.perf_counter() - started, "scores": scores, "baselines": {"chance": chance(scores)}}
    return {**results, "environment": environment()}


class Probabilities:
    """Gathers the model's probabilities of the answers that are right somewhere, [questions, classes]."""

    def __init__(self, model: UMEForVisualQuestionAnswering, dataset: Dataset):
        right = {most_common_answer(some) for some in dataset["answers"][:]}
        ids = [key for key, answer in model.config.id2label.items() if answer_form(answer) in right]
        self.classes = [model.config.id2label[key] for key in ids]
        self.values = np.zeros((len(dataset), len(ids)), dtype=np.float32)
        self._ids, self._problem = torch.tensor(ids), PROBLEM_TYPES[model.config.problem_type]

    def __call__(self, rows: list[int], logits: torch.Tensor) -> None:
        self.values[rows] = self._problem.probabilities(logits.float().cpu())[:, self._ids].numpy()


def check_columns(dataset: Dataset, by: Sequence[str]) -> None:
    """Raises ValueError for a column by which nothing can be shown."""
    for column in by:
        if column not in (*dataset.column_names, OPEN_CLOSED):
            near = nearest(column, dataset.column_names)
            raise ValueError(
                f"--by {column!r}: the data have no such column, but {', '.join(dataset.column_names)}; "
                f"{OPEN_CLOSED!r} tells questions with yes or no from the others.{near}"
            )


def further_scores(
    found: dict, answered: Answered | NumberScores, dataset: Dataset, scores: Sequence[str], by: Sequence[str]
) -> dict:
    """Adds `scores` to those that were found; returns the `intervals` of all, and them `by` columns' values."""
    rows = np.arange(len(dataset))
    found |= {name: answered.score(name, rows) for name in scores}
    names = list(dict.fromkeys([*names_in(found), *scores]))
    tables = {}
    for column in by:
        if column == OPEN_CLOSED:
            if not isinstance(answered, Answered):
                raise ValueError(f"--by {OPEN_CLOSED} tells answers yes and no from others, and these are numbers.")
            values = open_or_closed(dataset["answer_type"][:], answered.expected)
        else:
            values = dataset[column][:]
        try:
            tables[column] = by_values(answered, values, names)
        except ValueError as error:
            raise ValueError(f"--by {column!r}: {error}") from error
    return {
        "intervals": intervals(answered, rows, [name for name in names if found[name] is not None]),
        "by": tables,
    }


def robustness_curve(
    predictions: list,
    without: list,
    dataset: Dataset,
    rates: Sequence[float] = DROP_RATES,
    seed: int = 0,
    score: Callable[[list, Dataset], dict] | None = None,
) -> list[dict]:
    """
    The score over the share of questions for which one input is missing.

    An answer depends on its own question and image alone, so the answers at any rate are a mixture of those with the
    input and those without: no rate needs the model again.

    Args:
        predictions (`list[str]`): the answers with everything, one a row of `dataset`.
        without (`list[str]`): the answers where the input is missing for every row.
        rates: shares in [0, 1]; the nearest whole number of questions is taken.
        score (*optional*): makes the scores of answers to rows; left out, those of answers to questions.
        seed (`int`): draws one order of the questions, from whose start every rate takes its share.

    Returns:
        `list[dict]`: for each rate, in ascending order, `rate`, `missing` (how many questions) and the scores.

    Raises:
        ValueError: for a rate outside [0, 1], or none.
    """
    order = torch.randperm(len(predictions), generator=torch.Generator().manual_seed(seed)).tolist()
    curve = []
    for rate in check_rates(rates):
        missing = order[: round(rate * len(order))]
        mixed = list(predictions)
        for i in missing:
            mixed[i] = without[i]
        curve.append({"rate": rate, "missing": len(missing), **(score or score_answers)(mixed, dataset)})
    return curve


def check_all_answered(question_ids: Sequence[int], asked: Mapping[int | str, int | str]) -> None:
    """Raises ValueError where there are questions that are asked and not among `question_ids`, or ids of two kinds."""
    usable = [written for question_id, written in asked.items() if isinstance(question_id, int)]
    if len({isinstance(written, str) for written in usable}) > 1:
        raise ValueError(
            "Some question ids are numbers and others strings, which no challenge file may mix: write all of them one "
            "way, or leave --challenge_file out."
        )
    answered = set(question_ids)
    missing = [written for question_id, written in asked.items() if question_id not in answered]
    if missing:
        shown = ", ".join(str(written) for written in missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ValueError(
            f"{len(missing):,} of {len(asked):,} questions would have no answer ({shown}), and the challenge server "
            "refuses a file that does not answer all of them. Mend what was left out (a picture that is missing may "
            "be replaced by any other), ask all questions, or leave --challenge_file out."
        )


def check_rates(rates: Sequence[float]) -> list[float]:
    """The distinct rates in ascending order; ValueError for one outside [0, 1], or none."""
    for rate in rates:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate={rate} is impossible: the share of questions with a missing input lies in [0, 1].")
    if not rates:
        raise ValueError("No rate is given: name at least one share of questions with a missing input, e.g. 0.5.")
    return sorted(set(rates))
