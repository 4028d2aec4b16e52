"""A finished checkpoint on a data set: its scores, those of blind ones, and how it holds when an input is missing.

Checkpoints are loaded through this package's own classes, so no remote code is run.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from datasets import Dataset

from training_ume.data.answers import AnswerVocabulary
from training_ume.data.collator import VQACollator
from training_ume.data.inputs import BLIND, LEFT
from training_ume.evaluation.answering import predict
from training_ume.evaluation.challenge import write_challenge_results
from training_ume.evaluation.load import load_checkpoint
from training_ume.evaluation.scores import score_answers
from training_ume.records.machine import environment
from training_ume.records.predictions import prediction_rows, write_predictions

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
        drop_seed (`int`): draws which ones; those that lose it at one rate lose it at every higher one too.

    Returns:
        `dict`: `model`, `questions`, `images`, `seconds`, `environment`; with annotated questions `scores`,
        `baselines`, `robustness` (where something is dropped: `seed`, and for each input its `robustness_curve`) and
        the `coverage` of them by the model's answers, with others `predictions`.

    Raises:
        ValueError: no such checkpoint, an unknown baseline or input to drop, an impossible rate, a baseline or a
            curve for questions without answers, or a challenge file that would lack some of the questions.
    """
    if challenge_file is not None and asked is not None:
        check_all_answered(dataset["question_id"][:], asked)
    model, processor = load_checkpoint(name, trust_remote_code)
    annotated = any(dataset["answers"][:])
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
    if drop:
        check_rates(drop_rates)

    @functools.cache  # a baseline and the end of a curve are the same answers
    def answers(inputs: str) -> list[str]:
        collator = VQACollator(processor, inputs=inputs, max_question_length=max_question_length)
        return predict(model, collator, dataset, batch_size, num_workers)

    started = time.perf_counter()
    predictions = answers("both")
    results = {
        "model": name,
        "questions": len(dataset),
        "images": len(set(dataset["image"][:])),
        "seconds": time.perf_counter() - started,
    }
    if annotated:
        vocabulary = AnswerVocabulary.from_id2label(model.config.id2label)
        results["scores"] = score_answers(predictions, dataset)
        results["baselines"] = {
            baseline: {
                "what": f"this checkpoint, given the {BLIND[baseline]} alone",
                **score_answers(answers(BLIND[baseline]), dataset),
            }
            for baseline in baselines or []
        }
        if drop:
            results["robustness"] = {
                "seed": drop_seed,
                "curves": {
                    missing: robustness_curve(predictions, answers(LEFT[missing]), dataset, drop_rates, drop_seed)
                    for missing in drop
                },
            }
        results["coverage"] = dataclasses.asdict(vocabulary.coverage(dataset["answers"][:]))
    else:
        rows = zip(dataset["question_id"][:], predictions, strict=True)
        results["predictions"] = [{"question_id": i, "answer": answer} for i, answer in rows]
    if predictions_file is not None:
        write_predictions(predictions_file, prediction_rows(predictions, dataset))
    if challenge_file is not None:
        ids = dataset["question_id"][:]
        write_challenge_results(challenge_file, ids if asked is None else [asked[i] for i in ids], predictions)
    return {**results, "environment": environment()}


def robustness_curve(
    predictions: list[str], without: list[str], dataset: Dataset, rates: Sequence[float] = DROP_RATES, seed: int = 0
) -> list[dict]:
    """
    The score over the share of questions for which one input is missing.

    An answer depends on its own question and image alone, so the answers at any rate are a mixture of those with the
    input and those without: no rate needs the model again.

    Args:
        predictions (`list[str]`): the answers with everything, one a row of `dataset`.
        without (`list[str]`): the answers where the input is missing for every row.
        rates: shares in [0, 1]; the nearest whole number of questions is taken.
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
        curve.append({"rate": rate, "missing": len(missing), **score_answers(mixed, dataset)})
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
