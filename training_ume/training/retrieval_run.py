"""A recipe whose task is retrieval: trained on what belongs together, with no answers, and scored by finding it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from datasets import Dataset
from transformers import Trainer, set_seed

from configuration_ume.arguments import Recipe
from configuration_ume.scores import LABELS, written
from modeling_ume.modalities_ume import ALL
from training_ume.build.model import build_model, count_parameters, encoder_sources
from training_ume.build.processor import build_collator, build_processor
from training_ume.build.tokenizer import build_tokenizer
from training_ume.data.collator import allow_lacks
from training_ume.data.inputs import lacked_by_all
from training_ume.evaluation.finding import chance, score_retrieval
from training_ume.records.comparison import comparison_rows, comparison_table
from training_ume.records.files import write_json, writing
from training_ume.records.machine import environment
from training_ume.records.outputs import clear, files_of_runs
from training_ume.records.run_folder import Run, check_output, run_arguments
from training_ume.report.console import print_table
from training_ume.training.callbacks import Stopwatch
from training_ume.training.prepare import split_parts
from training_ume.training.stopping import EarlyStopping

# Fields that speak of answers or of several runs, and what they are where they say nothing.
NOT_HERE = {
    "training": {"beside": None, "seeds": None, "class_weights": None, "rubi_weight": 0.0, "ema_decay": 0.0,
                 "label_smoothing_factor": 0.0, "fusion_learning_rate_multiplier": 1.0,
                 "classifier_learning_rate_multiplier": 1.0, "resume_from_checkpoint": False},
    "model": {"lora_r": 0, "feature_cache": None, "soft_targets": False, "init_from": None},
}  # fmt: skip


class RetrievalTrainer(Trainer):
    """HF's, whose evaluation finds what belongs together among all rows that it is given."""

    def __init__(self, *args, collate, **kwargs):
        super().__init__(*args, **kwargs)
        self.collate = collate

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        scores = score_retrieval(self.model, self.collate, rows, self.args.eval_batch_size)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in flat(scores).items()}
        metrics |= {f"{metric_key_prefix}_runtime": 0.0}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def flat(scores: Mapping) -> dict[str, float]:
    """Scores as the Trainer logs them."""
    return {name: value for name, value in scores.items() if name not in ("measured_by", "pairs")}


def train_retrieval(recipe: Recipe, rows: Mapping[str, Dataset] | None = None) -> dict:
    """
    Trains what a recipe with `task: retrieval` says, into its output folder.

    Args:
        recipe (`Recipe`): `pairs` says which modalities are compared.
        rows (*optional*): as of `train_and_evaluate`.

    Returns:
        `dict`: the results as written to `output_dir/results.json`.

    Raises:
        ValueError: for fields that speak of answers or of several runs, and rows that lack the modalities.
    """
    _check(recipe)
    training, args, folder = recipe.training, recipe.model, Path(recipe.training.output_dir)
    if training.should_save:
        check_output(training)
    before = files_of_runs(folder) if training.should_save and training.overwrite_output else {}
    understood: dict[str, dict] = {}
    train, evaluated = split_parts(recipe.data, folder, rows, understood, print)
    scored_on, scored = list(evaluated.items())[-1]
    set_seed(training.seed)
    processor = build_processor(args, build_tokenizer(args, train), None, train)
    model = build_model(args, processor, None, "retrieval")
    parameters = {
        **count_parameters(model),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }

    def collate(column: str):
        collator = build_collator(recipe.data, processor, None, args.problem_type, column)
        collator.may_lack = tuple(lacked_by_all(train))
        return collator

    both = collate(ALL)
    for part in (train, *evaluated.values()):
        allow_lacks(both, part)
    training.metric_for_best_model, training.greater_is_better = "eval_recall@1", True
    trainer = RetrievalTrainer(
        model,
        training,
        data_collator=partial(with_loss, both),
        train_dataset=train,
        eval_dataset=evaluated["validation"],
        processing_class=processor,
        collate=collate,
        callbacks=[
            Stopwatch(),
            *([EarlyStopping(training.early_stopping_patience)] if training.early_stopping_patience else []),
        ],
    )
    print(
        f"{len(train):,} training rows, {len(evaluated['validation']):,} to choose the epoch on; compared: "
        f"{', '.join(' and '.join(pair) for pair in model.pairs)}."
    )
    clear(before)  # not before the data is known to load and the model to build
    trainer.train()
    scores = score_retrieval(trainer.model, collate, scored, training.per_device_eval_batch_size)
    history = trainer.state.log_history
    run = Run("retrieval", args.fusion, ALL, training.seed, folder)
    results = {
        "name": "retrieval",
        "recipe": recipe.name,
        "seed": training.seed,
        "scored_on": scored_on,
        "selected_by": {"score": "recall@1", "why": "it is what finding is about"},
        "scores": scores,
        "baselines": {"chance": chance(scores)},
        "train_seconds": max((entry.get("seconds", 0.0) for entry in history), default=0.0),
        "train_cpu_seconds": max((entry.get("cpu_seconds", 0.0) for entry in history), default=0.0),
        "epochs": epochs(history),
        "parameters": parameters,
        "encoders": encoder_sources(args),
        "data": {f"{name}_questions": len(part) for name, part in {"train": train, **evaluated}.items()},
        "understood": understood,
        "arguments": run_arguments(run, recipe),
        "environment": environment(),
    }
    results["comparison"] = comparison_rows([results])
    if training.should_save:
        with writing(folder):
            trainer.model.save_pretrained(folder)
            processor.save_pretrained(folder)
        write_json(folder / "arguments.json", results["arguments"])
        write_json(folder / "results.json", results)
    print()
    print_table(comparison_table(results["comparison"], results["baselines"]))
    for direction, found in scores["pairs"].items():
        shown = ", ".join(f"{LABELS[name]} {written(name, found[name])}" for name in flat(scores))
        print(f"{direction.replace('_', ' ')} ({found['items']:,} asked): {shown}; by chance {found['chance']:.2f}.")
    return results


def with_loss(collator, rows: list[dict]) -> dict:
    """A batch of the collator that asks for the loss."""
    return {**collator(rows), "return_loss": True}


def epochs(history: list[dict]) -> list[dict]:
    """One entry an evaluation, as other runs have them."""
    table, loss = [], None
    for entry in history:
        loss = entry.get("loss", loss)
        if "eval_recall@1" in entry:
            scores = {
                name[5:]: value for name, value in entry.items() if name.startswith("eval_") and name[5:] in LABELS
            }
            table.append(
                {"epoch": entry["epoch"], "step": entry["step"], "train_loss": loss, "validation_loss": None, **scores}
            )
    return table


def _check(recipe: Recipe) -> None:
    for part, defaults in NOT_HERE.items():
        for name, nothing in defaults.items():
            value = getattr(getattr(recipe, part), name)
            if value and value != nothing:
                raise ValueError(
                    f"{name}={value!r} is not for task=retrieval, which compares modalities and gives no answers: "
                    "leave it out."
                )
    if recipe.sweep:
        raise ValueError("task=retrieval trains one run: give each field one value.")
    if recipe.data.inputs != ALL:
        raise ValueError(f"inputs={recipe.data.inputs!r} leaves nothing to compare: leave it out (`--inputs {ALL}`).")
    if recipe.training.world_size > 1:
        raise ValueError("task=retrieval trains in one process.")
