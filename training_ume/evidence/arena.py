"""The arena: every fusion head on equal terms. Same frozen features, questions, order and schedule; widths solved for
so that all train about as many parameters; a learning rate each, chosen on other images; several seeds; blind rows.

`run_arena` trains what is missing, one JSON a run, and sums up; `summarise` needs those files alone.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PrinterCallback, set_seed
from transformers.utils import logging

from configuration_ume.arguments import ModelArguments, Recipe, check_together
from configuration_ume.scores import AUTO, measured_by
from modeling_ume import UMEConfig
from modeling_ume.own_heads_ume import heads_to_know, know_heads
from training_ume.build.model import build_model
from training_ume.build.processor import build_processor
from training_ume.build.tokenizer import build_tokenizer
from training_ume.data.collator import VQACollator
from training_ume.data.splits import split_by_image
from training_ume.evaluation.answering import predict
from training_ume.evaluation.scores import score_answers
from training_ume.evidence.contenders import Contender, contenders, stream_widths, trained_parameters
from training_ume.evidence.statistics import METRICS, summarise
from training_ume.records.files import read_json, write_json, write_text
from training_ume.records.machine import environment, keep_freed_memory
from training_ume.records.predictions import prediction_rows
from training_ume.records.run_folder import Run, run_arguments
from training_ume.training.prepare import load_data
from training_ume.training.run import build_trainer, most

LEARNING_RATES = (5e-4, 1.5e-3, 4.5e-3)
SELECTION = 0.15  # of the training images; they choose the learning rate
# Arguments that are each contender's own, or of no weight; the terms hold the others.
OWN = {"fusion", "fusion_hidden_size", "feature_cache", "learning_rate", "seed"}


@dataclass(frozen=True)
class Match:
    """One training: a contender, a learning rate and a seed."""

    contender: Contender
    learning_rate: float
    seed: int

    @property
    def file(self) -> str:
        return f"{self.contender.name.replace(':', '_')}-lr{self.learning_rate:g}-seed{self.seed}.json"


# ---------------------------------------------------------------------------------------------------------- matches


@dataclass
class Ring:
    """What all matches of a process share."""

    recipe: Recipe
    train: Dataset
    selection: Dataset
    test: Dataset
    vocabulary: object
    tokenizer: object
    config: UMEConfig
    facts: dict

    @classmethod
    def of(cls, recipe: Recipe) -> Ring:
        """Loads the data; splits off the images that choose the learning rate where they would otherwise be scored."""
        data = load_data(recipe.data, log_dir=Path(tempfile.gettempdir()))
        train, selection = data.train, data.validation
        if data.scored_on == "validation":
            train, selection = split_by_image(train, SELECTION, recipe.data.split_seed)
        tokenizer = build_tokenizer(recipe.model, train)
        processor = build_processor(recipe.model, tokenizer, data.vocabulary, train)
        facts = {
            "train_questions": len(train),
            "train_images": len(set(train["image_id"][:])),
            "selection_questions": len(selection),
            "selection_images": len(set(selection["image_id"][:])),
            "test_questions": len(data.scored),
            "test_images": len(set(data.scored["image_id"][:])),
            "answers": len(data.vocabulary),
            "baselines": data.baselines,
        }
        config = build_model(recipe.model, processor).config
        return cls(recipe, train, selection, data.scored, data.vocabulary, tokenizer, config, facts)


_ring: Ring | None = None


def _enter(recipe: Recipe, threads: int, heads: list[tuple[str, str, str]]) -> None:
    """Prepares a worker process."""
    global _ring
    know_heads(heads)
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    keep_freed_memory()
    _ring = Ring.of(recipe)


def _fight(match: Match) -> dict:
    return play(_ring, match)


def play(ring: Ring, match: Match) -> dict:
    """Trains and scores one match: `scores` and per-question scores on the test and selection questions, seconds."""
    contender, recipe = match.contender, changed(ring.recipe, match.contender.changes)
    model_args = dataclasses.replace(recipe.model, fusion=contender.fusion, fusion_hidden_size=contender.hidden_size)
    set_seed(match.seed)
    processor = build_processor(model_args, ring.tokenizer, ring.vocabulary, ring.train)
    model = build_model(model_args, processor)
    parts = {"train": ring.train, "validation": ring.selection, "scored": ring.test}
    with tempfile.TemporaryDirectory() as folder:
        training = recipe.training
        training.output_dir, training.seed, training.learning_rate = folder, match.seed, match.learning_rate
        training.save_strategy, training.eval_strategy, training.load_best_model_at_end = "no", "no", False
        training.disable_tqdm, training.report_to = True, []
        recipe = recipe._replace(model=model_args)
        trainer = build_trainer(recipe, model, processor, ring.vocabulary, parts, contender.inputs)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    batch = recipe.training.per_device_eval_batch_size

    def answers(rows: Dataset, inputs: str = contender.inputs) -> list[str]:
        own = VQACollator(
            processor,
            inputs=inputs,
            max_question_length=recipe.data.max_question_length,
            features=trainer.data_collator.features,
        )
        return predict(model, own, rows, batch)

    tests = {"test": answers(ring.test)}
    if contender.inputs == "both":
        tests["image_missing"] = answers(ring.test, "question")
        tests["text_missing"] = answers(ring.test, "image")
        tests["image_shuffled"] = answers(with_other_images(ring.test, match.seed))
    history = trainer.state.log_history
    result = {
        "name": contender.name,
        "fusion": contender.fusion,
        "inputs": contender.inputs,
        "hidden_size": contender.hidden_size,
        "parameters": contender.parameters,
        "changes": dict(contender.changes),
        "learning_rate": match.learning_rate,
        "seed": match.seed,
        "train_seconds": most(history, "seconds"),
        "train_cpu_seconds": most(history, "cpu_seconds"),
        "selection": score_answers(answers(ring.selection), ring.selection),
        **{name: score_answers(given, ring.test) for name, given in tests.items()},
    }
    rows = prediction_rows(tests["test"], ring.test)
    result["per_question"] = {metric: [round(row[metric], 4) for row in rows] for metric in METRICS}
    return result


def changed(recipe: Recipe, changes: Iterable[tuple[str, object]]) -> Recipe:
    """The recipe with other values for some fields of its model and training parts; these parts are copies.

    Raises:
        ValueError: when the fields then contradict each other.
    """
    model, training = dict(changes), copy.copy(recipe.training)
    for name in [name for name in model if name not in ModelArguments.__dataclass_fields__]:
        setattr(training, name, model.pop(name))
    recipe = recipe._replace(model=dataclasses.replace(recipe.model, **model), training=training)
    check_together(recipe)
    return recipe


def with_other_images(rows: Dataset, seed: int) -> Dataset:
    """The questions with the pictures of other questions: images move on by one in a random order of them."""
    images = list(dict.fromkeys(rows["image"][:]))
    order = np.random.default_rng(seed).permutation(len(images))
    instead = {images[i]: images[j] for i, j in zip(order, np.roll(order, 1), strict=True)}
    return rows.remove_columns("image").add_column("image", [instead[image] for image in rows["image"][:]])


# ------------------------------------------------------------------------------------------------------------ arena


def run_arena(
    recipe: Recipe,
    names: list[str],
    folder: Path,
    *,
    seeds: list[int],
    learning_rates: list[float],
    budget: int | None = None,
    processes: int = 1,
) -> dict:
    """
    Trains every contender at every learning rate with the first seed, and at its best one with the other seeds.

    What is finished lies in `folder`, one JSON a run, and is not run again.

    Args:
        recipe: data, encoders, schedule; usually with a feature cache.
        names: heads of `FUSIONS`, `question_only`, `image_only`.
        budget (`int`, *optional*): trained parameters of each; default: those of `ume` at the recipe's width.
        processes (`int`): how many train at the same time, on one thread each if there are several.

    Returns:
        `dict`: what `summarise` returns, with the data's and the machine's facts.

    Raises:
        ValueError: for an unknown name, or when the folder holds runs of another recipe.
    """
    ring = Ring.of(recipe)
    if budget is None:
        config = copy.deepcopy(ring.config)
        config.fusion = "ume"
        budget = trained_parameters(config, stream_widths(config))
    taking_part = contenders(names, ring.config, budget)
    return tournament(ring, taking_part, folder, seeds, learning_rates, budget, processes, reference="ume")


def tournament(
    ring: Ring,
    taking_part: list[Contender],
    folder: Path,
    seeds: list[int],
    learning_rates: list[float],
    budget: int,
    processes: int,
    reference: str,
) -> dict:
    """Plays all matches of these contenders; see `run_arena`, and `summarise` for the reference."""
    recipe = ring.recipe
    arguments = run_arguments(Run("", recipe.model.fusion, recipe.data.inputs, 0, folder), recipe)
    terms = {
        "recipe": recipe.name,
        "budget": budget,
        "learning_rates": learning_rates,
        "epochs": recipe.training.num_train_epochs,
        "batch_size": recipe.training.per_device_train_batch_size,
        "model": {name: value for name, value in arguments["model"].items() if name not in OWN},
        "training": {name: value for name, value in arguments["training"].items() if name not in OWN},
        "data": ring.facts,
    }
    terms = json.loads(json.dumps(terms))  # as they read back from the file
    check_terms(folder, terms)
    write_json(folder / "terms.json", terms)
    first = [Match(contender, rate, seeds[0]) for contender in taking_part for rate in learning_rates]
    results = _play_all(first, recipe, folder, processes, "learning rates")
    metric = recipe.training.metric_for_best_model.removeprefix("eval_")
    if metric == AUTO:
        metric = measured_by(results[0]["selection"])
    chosen = {}
    for contender in taking_part:
        own = [result for result in results if result["name"] == contender.name]
        chosen[contender.name] = max(own, key=lambda result: result["selection"][metric])["learning_rate"]
    rest = [Match(contender, chosen[contender.name], seed) for contender in taking_part for seed in seeds[1:]]
    results += _play_all(rest, recipe, folder, processes, "other seeds")
    rows = summarise(results, chosen, metric, ring.test["image_id"][:], reference)
    return {**terms, "seeds": seeds, "metric": metric, "rows": rows, "environment": environment()}


def check_terms(folder: Path, terms: dict) -> None:
    """Raises ValueError where the folder holds matches that were played on other terms."""
    before = read_json(folder / "terms.json")
    if before is None:
        return
    # What an older version did not write down: the model fields that are newer did what their defaults do.
    newer = {field.name: field.default for field in dataclasses.fields(ModelArguments) if field.name not in OWN}
    before = {"training": terms["training"], **before, "model": newer | before["model"]}
    names = [name for name in terms if before.get(name) != terms[name]]
    if names:
        raise ValueError(
            f"{folder} holds matches on other terms ({', '.join(names)} differ): choose another --output_dir."
        )


def _play_all(matches: list[Match], recipe: Recipe, folder: Path, processes: int, what: str) -> list[dict]:
    finished = {match: read_json(folder / match.file) for match in matches}
    missing = [match for match, result in finished.items() if result is None]
    for match, result in finished.items():
        changes = json.loads(json.dumps(dict(match.contender.changes)))
        if result is not None and result.get("changes", {}) != changes:
            raise ValueError(
                f"{folder / match.file} was trained with other changes: {result.get('changes', {})} instead of "
                f"{changes}. Choose another --output_dir, or delete that file to train it anew."
            )
    threads = 1 if processes > 1 else torch.get_num_threads()
    if missing:
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(processes, len(missing)), spawn, _enter, (recipe, threads, heads_to_know()))
        try:
            waiting = {pool.submit(_fight, match): match for match in missing}
            for done in tqdm(as_completed(waiting), total=len(waiting), desc=what, unit="run"):
                match, result = waiting[done], done.result()
                write_text(folder / match.file, json.dumps(result) + "\n")  # a line: thousands of scores are in it
                finished[match] = result
        finally:
            pool.shutdown(cancel_futures=True)
    return [finished[match] for match in matches]
