"""From a recipe to trained models and their results.

`train_and_evaluate` runs a recipe, with other heads or blind models beside it and over several seeds, each run in a
folder of its own. A run that was cut short goes on from its last whole checkpoint; a finished one is not run again.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import set_seed

from configuration_ume.arguments import Recipe, UMETrainingArguments
from configuration_ume.requirements import check_run
from configuration_ume.scores import LABELS, written
from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modalities_ume import ALL, seen_by
from modeling_ume.tasks_ume import TASKS
from training_ume.build.lora import describe_lora, lora_facts, save_adapter, with_lora
from training_ume.build.model import build_model, count_parameters, encoder_sources, start_from
from training_ume.build.processor import build_collator, build_processor
from training_ume.build.tokenizer import build_tokenizer
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.inputs import BLIND, one_alone
from training_ume.data.streaming import StreamedQuestions
from training_ume.data.unknown import unknown_tokens, unknown_warning
from training_ume.evaluation.answering import predict
from training_ume.evaluation.scoring import task_of
from training_ume.features.store import open_features
from training_ume.records.checkpoints import holds_weights_only, last_whole_checkpoint, passed_over, remove_unfinished
from training_ume.records.comparison import best_on_validation, comparison_rows, comparison_table
from training_ume.records.files import first_line, read_json, write_json, writing
from training_ume.records.machine import environment, keep_freed_memory
from training_ume.records.outputs import clear, files_of_runs, not_of_runs
from training_ume.records.predictions import PREDICTIONS, write_predictions
from training_ume.records.run_folder import Run, check_output, check_same_arguments, run_arguments
from training_ume.report.console import print_table
from training_ume.training.plan import how_to_resume, plan, plan_runs  # noqa: F401  (named here before)
from training_ume.training.prepare import VQAData, answer_names, choices_made, describe_data, load_data
from training_ume.training.reporting import run_name, watched_apart
from training_ume.training.retrieval_run import train_retrieval
from training_ume.training.stopping import stopped_early
from training_ume.training.trainer import UMETrainer, ume_model

# ---------------------------------------------------------------------------------------------------------- training


def train_and_evaluate(
    recipe: Recipe, rows: Mapping[str, Dataset] | None = None, understood: Mapping[str, dict] | None = None
) -> dict:
    """
    Trains what a recipe says, scores it and writes everything into `recipe.training.output_dir`.

    Each run's folder holds the best model with its processor, its checkpoints, `arguments.json` and `results.json`;
    the results of the output folder also have the `comparison` of all runs. LoRA runs hold the merged model, and
    in `adapter` the adapter together with its base.

    Args:
        recipe (`Recipe`): see `parse_recipe` and `make_recipe`.
        rows (*optional*): the rows of `train`, and of `validation` and `test` where there are any, as `load_rows`
            makes them, in place of what the recipe's data fields name.
        understood (*optional*): what the tables of these rows were taken for, by part; for the results.

    Returns:
        `dict`: the results as written to `output_dir/results.json`.

    Raises:
        ValueError: when the output folder is not empty and neither resume nor overwrite was asked for, a resumed run
            was started with other arguments, or the data or the model arguments are wrong.
    """
    if recipe.model.task is not None and not TASKS[recipe.model.task].labels:
        return train_retrieval(recipe, rows)
    planned = plan(recipe)
    output_dir = Path(recipe.training.output_dir)
    writes = recipe.training.should_save
    if writes:
        check_output(recipe.training, several=bool(recipe.sweep))
        for each in recipe.sweep:
            check_output(each.training)
        for each in recipe.sweep or (recipe,):
            check_run(each)
    before = files_of_runs(output_dir) if writes and recipe.training.overwrite_output else {}
    if recipe.training.device.type == "cpu":
        keep_freed_memory()
    prepared = Prepared(output_dir, rows, understood)
    if before:  # not deleted before the data is known to load and the models to build
        for each in recipe.sweep or (recipe,):
            data, tokenizer = prepared(each)
            own = [as_there_is(of, run, data) for of, run in planned if of is each]
            rehearse([run for _, run in own], own[0][0], data, tokenizer)
        clear(before)
    if before and (left := not_of_runs(output_dir)):
        say(recipe.training, f"Left in {output_dir}, as not written by a run: {', '.join(left)}.")
    finished = []
    data, _ = prepared(recipe)
    for number, (each, run) in enumerate(planned, 1):
        facts = prepared(each)
        each, run = as_there_is(each, run, facts[0])
        say(recipe.training, f"\nRun {number} of {len(planned)}: {run.name}, seed {run.seed} → {run.folder}")
        finished.append(train_one(run, each, *facts))
    results = summarise(recipe, [run for _, run in planned], finished, data)
    if writes:
        write_json(output_dir / "results.json", results)
        print()
        print_table(comparison_table(results["comparison"], data.baselines))
        if best := results.get("best"):
            label = LABELS.get(best["score"], best["score"])
            value = written(best["score"], best["value"])
            print(f"Best on the validation questions: {best['name']} ({value} {label}).")
    return results


class Prepared:
    """
    The data and the tokenizer of a recipe, loaded and told once for all that share them.

    Args:
        log_dir (path): where entries that are left out are listed.
        rows, understood (*optional*): see `train_and_evaluate`.
    """

    def __init__(
        self,
        log_dir: str | Path,
        rows: Mapping[str, Dataset] | None = None,
        understood: Mapping[str, dict] | None = None,
    ):
        self.log_dir, self.rows, self.understood = log_dir, rows, understood
        self.loaded: dict[str, VQAData] = {}
        self.tokenizers: dict[tuple[str, ...], Any] = {}

    def __call__(self, recipe: Recipe) -> tuple[VQAData, Any]:
        labels = {name: getattr(recipe.model, name) for name in ("problem_type", "label_transform", "task")}
        key = repr((recipe.data, labels))
        if key not in self.loaded:
            heard = partial(say, recipe.training)
            named = answer_names(self.understood)
            self.loaded[key] = load_data(recipe.data, self.log_dir, self.rows, heard, **labels, names=named)
            if self.understood:
                self.loaded[key].understood = dict(self.understood)
            heard(describe_data(self.loaded[key]))
            for line in choices_made(recipe.data, self.loaded[key], self.rows, recipe.model.modalities):
                heard(line)
        data, model = self.loaded[key], recipe.model
        words = (key, *map(repr, (model.tokenizer, model.text_model, model.text_revision, model.text_config)))
        if words not in self.tokenizers:
            self.tokenizers[words] = tokenizer = build_tokenizer(model, data.train)
            if "text" in seen_by(data.inputs) and tokenizer is not None:
                parts = {"training": data.train, data.scored_on: data.scored}
                unknown = {name: unknown_tokens(tokenizer, part["question"][:]) for name, part in parts.items()}
                data.remarks["unknown_tokens"] = unknown
                for line in unknown_warning(unknown):
                    say(recipe.training, line)
        return data, self.tokenizers[words]


def as_there_is(recipe: Recipe, run: Run, data: VQAData) -> tuple[Recipe, Run]:
    """A run, and its recipe, that see of questions and images what the rows have."""
    if data.inputs == recipe.data.inputs or run.inputs != ALL:
        return recipe, run
    name = next((name for name, sees in BLIND.items() if sees == data.inputs), run.fusion)
    name = run.name.replace(run.fusion, name, 1)
    recipe = recipe._replace(data=dataclasses.replace(recipe.data, inputs=data.inputs))
    return recipe, dataclasses.replace(run, inputs=data.inputs, name=name)


def rehearse(runs: list[Run], recipe: Recipe, data: VQAData, tokenizer) -> None:
    """Builds each model with its trainer once, before what earlier runs left is deleted: what cannot be built fails
    while it is still there."""
    for run in {run.name: run for run in runs}.values():
        set_seed(run.seed)  # stored features are those of the encoders that the run itself will begin with
        args = dataclasses.replace(recipe.model, fusion=run.fusion)
        processor = build_processor(args, tokenizer, data.vocabulary, data.train)
        model = build_model(args, processor, data.vocabulary, data.task)
        if args.lora_r:
            model = with_lora(model, args, run.folder.absolute() / "base")
        training = copy.copy(recipe.training)
        training.push_to_hub = False  # nothing is made there yet
        recipe = recipe._replace(model=args, training=training)
        trainer = build_trainer(recipe, model, processor, data.vocabulary, data.parts(), run.inputs)
        trainer.check_metric()
        check_forward(trainer)


def check_forward(trainer: UMETrainer) -> None:
    """Raises ValueError where the model cannot read what the collator makes, as settings may not fit the images."""
    dataset = trainer.eval_dataset
    if isinstance(dataset, StreamedQuestions):
        return
    batch = trainer.data_collator([dataset[0]])
    model = trainer.model
    training, batch = model.training, {name: value.to(trainer.args.device) for name, value in batch.items()}
    model.eval()
    try:
        with torch.no_grad():
            model(**batch)
    except (RuntimeError, IndexError, TypeError, AttributeError, ArithmeticError, AssertionError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise ValueError(
            f"The model cannot read a question and its image ({type(error).__name__}: {first_line(error)}): look at "
            "the encoders' settings, image_size and the tokenizer."
        ) from error
    finally:
        model.train(training)


def train_one(run: Run, recipe: Recipe, data: VQAData, tokenizer) -> dict:
    """Trains one run to its end, from wherever it stands, and returns its results."""
    training = copy.copy(recipe.training)
    training.run_name = run_name(run, recipe)
    training.output_dir, training.seed = str(run.folder.absolute()), run.seed
    arguments = run_arguments(run, recipe)
    results = read_json(run.folder / "results.json")
    check_same_arguments(run, arguments)
    if results is not None and "scores" in results:
        say(training, "It is finished; its results are taken as they are.")
        return {key: value for key, value in results.items() if key != "comparison"}
    if training.should_save:
        write_json(run.folder / "arguments.json", arguments)
    checkpoint = checkpoint_to_go_on_from(run.folder, training)
    if checkpoint is not None:
        check_same_answers(run, checkpoint, data.vocabulary)

    set_seed(run.seed)
    model_args = dataclasses.replace(recipe.model, fusion=run.fusion)
    processor = build_processor(model_args, tokenizer, data.vocabulary, data.train)
    model = build_model(model_args, processor, data.vocabulary, data.task)
    parameters = count_parameters(model)
    if model_args.lora_r:
        base = run.folder.absolute() / "base"
        facts = lora_facts(model, model_args)
        say(training, describe_lora(facts))
        if checkpoint is not None and (base / "config.json").is_file():
            # What the adapter of the checkpoint belongs to, whatever is built here today.
            start_from(model, str(base))
        elif training.should_save:
            with writing(base):
                model.save_pretrained(base)
                processor.save_pretrained(base)
        model = with_lora(model, model_args, base, checkpoint)
    parameters["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    recipe = recipe._replace(model=model_args, training=training)
    trainer = build_trainer(recipe, model, processor, data.vocabulary, data.parts(), run.inputs)
    collator = trainer.data_collator
    if model_args.feature_cache is not None:
        read = " and ".join(collator.features) or "nothing that this run looks at"
        say(training, f"Read from {model_args.feature_cache} instead of encoded: {read}.")
    if not trainer.is_fsdp_enabled and not trainer.is_deepspeed_enabled:
        check_forward(trainer)
    with watched_apart(training.report_to):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    with writing(run.folder):
        final = save_final(trainer, processor, run.folder)
    answers = predict(
        final, collator, data.scored, training.per_device_eval_batch_size, training.dataloader_num_workers
    )
    scoring, history = trainer.scoring, trainer.state.log_history
    if stopped := stopped_early(trainer.args, trainer.state):
        say(
            training,
            f"Stopped after epoch {stopped['epoch']:g}: {stopped['score']} did not improve in "
            f"{stopped['patience']} evaluation{'s' * (stopped['patience'] > 1)}.",
        )
    results = {
        "name": run.name,
        "recipe": recipe.name,
        "seed": run.seed,
        "scored_on": data.scored_on,
        "selected_by": {"score": trainer.selected_by.name, "why": trainer.selected_by.why},
        "scores": scoring.score(answers, data.scored),
        "baselines": data.baselines,
        **({"train_batch_size": trainer.state.train_batch_size} if training.auto_find_batch_size else {}),
        **({"stopped_early": stopped} if stopped else {}),
        **({"class_weights": by_answer(trainer)} if training.class_weights else {}),
        "train_seconds": most(history, "seconds"),
        "train_cpu_seconds": most(history, "cpu_seconds"),
        "epochs": epoch_table(history),
        "parameters": parameters,
        "encoders": encoder_sources(model_args),
        **({"lora": facts} if model_args.lora_r else {}),
        "data": data.summary,
        "remarks": data.remarks,
        **({"understood": data.understood} if data.understood else {}),
        "arguments": arguments,
        "environment": environment(),
    }
    if training.should_save:
        write_predictions(run.folder / PREDICTIONS, scoring.rows(answers, data.scored))
        write_json(run.folder / "results.json", results)  # last: with it, the run is finished
    return results


def checkpoint_to_go_on_from(folder: Path, training: UMETrainingArguments) -> Path | None:
    """The newest whole checkpoint, after clearing away what the run was writing when it was cut short."""
    for path in remove_unfinished(folder) if training.should_save else ():
        say(training, f"{path.name} was being written when the run was cut short; it is deleted.")
    checkpoint, _ = last_whole_checkpoint(folder)
    others = passed_over(folder)
    if others:
        names = ", ".join(path.name for path in others)
        say(training, f"Left alone, as no checkpoint of this run that was written to its end: {names}.")
    if checkpoint is not None and holds_weights_only(checkpoint):
        say(
            training,
            f"Going on from {checkpoint}, which holds weights only (save_only_model): the optimizer and the random "
            "numbers begin anew, so that the run will not end as it would have without the interruption.",
        )
    elif checkpoint is not None:
        say(training, f"Going on from {checkpoint}.")
    return checkpoint


def build_trainer(
    recipe: Recipe,
    model: nn.Module,
    processor: UMEProcessor,
    vocabulary: AnswerVocabulary,
    parts: dict[str, Dataset | StreamedQuestions],
    inputs: str,
) -> UMETrainer:
    """
    The trainer of one run, its collator (`trainer.data_collator`) reading stored features where the recipe says so.

    Args:
        parts: the rows by what they are for: `train`, `validation`, and others that the features have to cover.
        inputs (`str`): what the model sees.
    """
    args, training = recipe.model, recipe.training
    if one_alone(inputs):  # a blind model beside others has no image to weigh its question against
        training = copy.copy(training)
        training.rubi_weight = 0.0
    scores = args.answer_scores if TASKS[task_of(model)].asks else "any"  # of a row's labels all are right
    collator = build_collator(recipe.data, processor, vocabulary, args.problem_type, inputs, args.soft_targets, scores)
    if args.feature_cache is not None:
        collator.features = open_features(
            args.feature_cache, ume_model(model), collator, args.frozen, list(parts.values())
        )
    return UMETrainer(
        model,
        training,
        data_collator=collator,
        train_dataset=parts["train"],
        eval_dataset=parts["validation"],
        processing_class=processor,
        group_by_image=recipe.data.group_by_image,
        bucket_by_length=recipe.data.bucket_by_length,
    )


def save_final(trainer: UMETrainer, processor: UMEProcessor, folder: Path) -> UMEForVisualQuestionAnswering:
    """Saves the best model (of a LoRA run: the adapter, then the merged model) and returns the UME model itself."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not isinstance(model, UMEForVisualQuestionAnswering):
        if trainer.args.should_save:
            save_adapter(model, folder)
        model = model.merge_and_unload()
    if trainer.is_fsdp_enabled:
        trainer.save_model(str(folder))  # all processes put the weights together
        (folder / "training_args.bin").unlink(missing_ok=True)
    elif trainer.args.should_save:
        model.save_pretrained(folder)
    if trainer.args.should_save:
        processor.save_pretrained(folder)
    return model


def by_answer(trainer: UMETrainer) -> dict[str, float]:
    """The weight of each answer in the loss."""
    names = ume_model(trainer.model).config.id2label
    return {names[i]: weight for i, weight in enumerate(trainer.answer_weights().tolist())}


def most(history: list[dict], name: str) -> float:
    return max((entry[name] for entry in history if name in entry), default=0.0)


def epoch_table(history: list[dict]) -> list[dict]:
    """One entry an evaluation: epoch, step, seconds so far, the last training loss before it, and its scores."""
    table, loss = [], None
    for entry in history:
        loss = entry.get("loss", loss)
        if "eval_loss" in entry or "eval_exact_match" in entry:
            scores = {key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")}
            times = {"runtime", "samples_per_second", "steps_per_second", "model_preparation_time"}
            scores = {key: value for key, value in scores.items() if key not in times}
            table.append(
                {
                    "epoch": entry["epoch"],
                    "step": entry["step"],
                    "seconds": entry["seconds"],
                    "evaluation_seconds": entry["eval_runtime"],
                    "train_loss": loss,
                    "validation_loss": scores.pop("loss", None),
                    **scores,
                }
            )
    return table


def summarise(recipe: Recipe, runs: list[Run], finished: list[dict], data: VQAData) -> dict:
    """What goes into the output folder's results.json: its own run, if it holds one, and the comparison of all."""
    own = next(
        (
            results
            for run, results in zip(runs, finished, strict=True)
            if run.folder == Path(recipe.training.output_dir)
        ),
        {
            "recipe": recipe.name,
            "scored_on": data.scored_on,
            "baselines": data.baselines,
            "data": data.summary,
            "remarks": data.remarks,
            **({"understood": data.understood} if data.understood else {}),
            "arguments": finished[0]["arguments"],
            "environment": finished[0]["environment"],
            "runs": [str(run.folder.relative_to(recipe.training.output_dir)) for run in runs],
        },
    )
    best = {"best": found} if recipe.sweep and (found := best_on_validation(finished)) else {}
    return {**own, **best, "comparison": comparison_rows(finished)}


def check_same_answers(run: Run, checkpoint: Path, vocabulary: AnswerVocabulary) -> None:
    """Raises ValueError when a checkpoint's classes are other answers: its classifier would be read as if they were
    these."""
    config = read_json(checkpoint / "config.json") or read_json(run.folder / "base" / "config.json") or {}
    before = config.get("id2label")
    if before is not None and {int(key): answer for key, answer in before.items()} != vocabulary.id2label:
        raise ValueError(
            f"{checkpoint} was trained with other answers than these questions give now (another version of the data, "
            "or of this program): start anew with another --output_dir."
        )


def say(training: UMETrainingArguments, text: str) -> None:
    """Prints once, not once a process."""
    if training.process_index == 0:
        print(text, flush=True)
