"""The arena: every fusion head on equal terms. Same frozen features, questions, order and schedule; widths solved for
so that all train about as many parameters; a learning rate each, chosen on other images; several seeds; blind rows.

`run_arena` trains what is missing, one JSON a run, and sums up; `summarise` needs those files alone.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import statistics
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

from modeling_ume import FUSIONS, UMEConfig
from modeling_ume.encoders_ume import EncoderAdapter, build_encoder
from modeling_ume.fusion_ume import build_fusion
from training_ume.collator import VQACollator
from training_ume.data import split_by_image
from training_ume.evaluation import BLIND
from training_ume.predictions import prediction_rows
from training_ume.recipes import ModelArguments, Recipe, check_together
from training_ume.results import environment, read_json, write_json, write_text
from training_ume.run import (
    Run,
    build_model,
    build_processor,
    build_tokenizer,
    build_trainer,
    keep_freed_memory,
    load_data,
    most,
    run_arguments,
)
from training_ume.scoring import AUTO, NAMES, measured_by
from training_ume.trainer import predict, score_answers

LEARNING_RATES = (5e-4, 1.5e-3, 4.5e-3)
WIDTH_STEP = 8  # what the usual eight attention heads divide
WIDEST = 4096
SELECTION = 0.15  # of the training images; they choose the learning rate
RESAMPLES = 2000
METRICS = tuple(NAMES)
# Arguments that are each contender's own, or of no weight; the terms hold the others.
OWN = {"fusion", "fusion_hidden_size", "feature_cache", "learning_rate", "seed"}


@dataclass(frozen=True)
class Contender:
    """A head (`fusion`) with what it sees (`inputs` of the collator), as wide as the budget allows."""

    name: str
    fusion: str
    inputs: str
    hidden_size: int
    parameters: int  # trained: head and classifier
    changes: tuple[tuple[str, object], ...] = ()  # fields of the recipe that differ for it


@dataclass(frozen=True)
class Match:
    """One training: a contender, a learning rate and a seed."""

    contender: Contender
    learning_rate: float
    seed: int

    @property
    def file(self) -> str:
        return f"{self.contender.name}-lr{self.learning_rate:g}-seed{self.seed}.json"


# ------------------------------------------------------------------------------------------------------- contenders


def stream_widths(config: UMEConfig) -> list[list[int]]:
    """Widths of the tokens and of the summaries that the encoders of a config give."""
    with torch.device("meta"):
        adapters = [
            EncoderAdapter(build_encoder(settings, pooling), modality, pooling)
            for modality, settings, pooling in (
                ("text", config.text_config, config.text_pooling),
                ("vision", config.vision_config, config.vision_pooling),
            )
        ]
    return [[adapter.width for adapter in adapters], [adapter.pooled_width for adapter in adapters]]


def trained_parameters(config: UMEConfig, widths: list[list[int]]) -> int:
    """Parameters of the head and the classifier that a config describes, counted without making them."""
    with torch.device("meta"):
        head = build_fusion(config, *widths)
    return (
        sum(p.numel() for p in head.parameters())
        + head.num_views * (config.fusion_hidden_size + 1) * config.num_labels
    )


def matched_width(config: UMEConfig, widths: list[list[int]], fusion: str, budget: int) -> tuple[int, int]:
    """
    The `fusion_hidden_size`, a multiple of 8, at which a head and its classifier come nearest to a budget.

    Args:
        config: everything but the head and its width.
        widths: see `stream_widths`.
        budget (`int`): trained parameters.

    Returns:
        `(hidden_size, parameters)`.
    """
    found = {}
    low, high = 1, WIDEST // WIDTH_STEP
    candidate = copy.deepcopy(config)
    candidate.fusion = fusion
    while low <= high:  # parameters grow with the width
        middle = (low + high) // 2
        candidate.fusion_hidden_size = middle * WIDTH_STEP
        found[middle * WIDTH_STEP] = trained_parameters(candidate, widths)
        if found[middle * WIDTH_STEP] < budget:
            low = middle + 1
        else:
            high = middle - 1
    width = min(found, key=lambda width: (abs(found[width] - budget), width))
    return width, found[width]


def contenders(names: Iterable[str], config: UMEConfig, budget: int) -> list[Contender]:
    """
    Raises:
        ValueError: for a name that is neither a head nor a blind row, or a head that cannot read stored features.
    """
    found, widths = [], stream_widths(config)
    for name in names:
        if name not in FUSIONS and name not in BLIND:
            raise ValueError(f"{name!r} is not known: choose from {', '.join([*FUSIONS, *BLIND])}.")
        # What sees one input alone has nothing to fuse; `concat` then is an MLP over the summary.
        fusion = name if name in FUSIONS else "concat"
        if FUSIONS[fusion].reads_in_encoder:
            raise ValueError(
                f"The head {name!r} runs inside the text encoder, so it has no stored features: leave it out."
            )
        found.append(Contender(name, fusion, BLIND.get(name, "both"), *matched_width(config, widths, fusion, budget)))
    return found


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
        processor = build_processor(recipe.model, tokenizer, data.vocabulary)
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


def _enter(recipe: Recipe, threads: int) -> None:
    """Prepares a worker process."""
    global _ring
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
    processor = build_processor(model_args, ring.tokenizer, ring.vocabulary)
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
        pool = ProcessPoolExecutor(min(processes, len(missing)), spawn, _enter, (recipe, threads))
        try:
            waiting = {pool.submit(_fight, match): match for match in missing}
            for done in tqdm(as_completed(waiting), total=len(waiting), desc=what, unit="run"):
                match, result = waiting[done], done.result()
                write_text(folder / match.file, json.dumps(result) + "\n")  # a line: thousands of scores are in it
                finished[match] = result
        finally:
            pool.shutdown(cancel_futures=True)
    return [finished[match] for match in matches]


def summarise(
    results: list[dict], chosen: dict[str, float], metric: str, image_ids: list[str], reference: str = "ume"
) -> list[dict]:
    """
    One row a contender, the best first.

    Args:
        results: of `play`, all learning rates and seeds.
        chosen: each contender's learning rate.
        metric (`str`): what rows are sorted by and differences are taken of.
        image_ids: of the test questions, in their order.
        reference (`str`): the contender that others are compared with, where it took part.

    Returns:
        `list[dict]`: `name`, `parameters`, `hidden_size`, `learning_rate` and the selection scores of all `tried`; of
        each metric `each`, `mean`, `sd` over seeds and the 95 % `interval` over images; `per_answer_type`,
        `train_seconds`, `train_cpu_seconds`, scores with an input missing or other images, and `behind`: how far the
        reference is ahead in `metric`, `mean` and `interval` of the paired bootstrap.
    """
    draws = draw_images(image_ids)
    finals = {
        name: [r for r in results if r["name"] == name and r["learning_rate"] == rate] for name, rate in chosen.items()
    }
    questions = {  # a question's score, the mean over seeds: [N]
        name: {m: np.mean([run["per_question"][m] for run in runs], axis=0) for m in METRICS}
        for name, runs in finals.items()
    }
    rows = []
    for name, runs in finals.items():
        first = runs[0]
        row = {
            **{key: first[key] for key in ("name", "fusion", "inputs", "hidden_size", "parameters", "learning_rate")},
            "tried": {
                f"{r['learning_rate']:g}": r["selection"][metric]
                for r in results
                if r["name"] == name and r["seed"] == first["seed"]
            },
            "seeds": [run["seed"] for run in runs],
            "train_seconds": statistics.mean(run["train_seconds"] for run in runs),
            "train_cpu_seconds": statistics.mean(run["train_cpu_seconds"] for run in runs),
        }
        for m in METRICS:
            each = [run["test"][m] for run in runs]
            low, high = interval(draws, questions[name][m])
            sd = statistics.stdev(each) if len(each) > 1 else None
            row[m] = {"each": each, "mean": statistics.mean(each), "sd": sd, "interval": [low, high]}
        row["measured_by"] = measured_by(runs[0]["test"])
        kinds = runs[0]["test"].get("per_answer_type", {})
        row["per_answer_type"] = {
            kind: statistics.mean(run["test"]["per_answer_type"][kind] for run in runs) for kind in kinds
        }
        for condition in ("image_missing", "text_missing", "image_shuffled"):
            if condition in first:
                row[condition] = {m: statistics.mean(run[condition][m] for run in runs) for m in METRICS}
        if reference in questions and name != reference:
            ahead = questions[reference][metric] - questions[name][metric]
            row["behind"] = {"mean": float(ahead.mean()), "interval": list(interval(draws, ahead))}
        rows.append(row)
    return sorted(rows, key=lambda row: -row[metric]["mean"])


def draw_images(image_ids: list[str], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each question is drawn when whole images are drawn with replacement, [resamples, N]."""
    _, image_of = np.unique(image_ids, return_inverse=True)
    count = image_of.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, image_of].astype(np.float32)


def interval(draws: np.ndarray, values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` [N] over `draws` [resamples, N]."""
    means = draws @ values / draws.sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
