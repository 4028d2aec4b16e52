"""From a recipe to trained models and their results.

`train_and_evaluate` runs a recipe, with other heads or blind models beside it and over several seeds, each run in a
folder of its own. A run that was cut short goes on from its last whole checkpoint; a finished one is not run again.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import hashlib
import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from huggingface_hub import try_to_load_from_cache
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    AutoConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
    set_seed,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

# Some releases up to 5.17 give it out at the top only where torchvision is installed, which it does not need.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from modeling_ume import FUSIONS, UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.loading_ume import load_config, load_encoder
from modeling_ume.processing_ume import with_image_size
from modeling_ume.trust_ume import ForeignCodeError, load_tokenizer, load_trusted
from training_ume.answers import AnswerVocabulary, several_spellings
from training_ume.checkpoints import holds_weights_only, last_whole_checkpoint, passed_over, remove_unfinished
from training_ume.collator import VQACollator
from training_ume.console import print_table
from training_ume.data import load_vqa, skipped_entries, split_by_image
from training_ume.evaluation import BLIND, first_line
from training_ume.features import open_features
from training_ume.lora import describe_lora, lora_facts, save_adapter, with_lora
from training_ume.outputs import clear, files_of_runs, not_of_runs
from training_ume.pictures import shared_pictures
from training_ume.predictions import PREDICTIONS, prediction_rows, write_predictions
from training_ume.recipes import DataArguments, ModelArguments, Recipe, UMETrainingArguments
from training_ume.requirements import check_run
from training_ume.results import comparison_rows, comparison_table, environment, read_json, write_json, writing
from training_ume.scoring import fitting_score
from training_ume.streaming import StreamedQuestions, open_shards, write_shards
from training_ume.trainer import (
    UMETrainer,
    in_image_order,
    predict,
    score_answers,
    ume_model,
)

# Numbers of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
# Arguments that decide which rows and answers shards hold.
SHARDED = (
    "validation_fraction", "split_seed", "top_k_answers", "min_answer_count", "max_train_questions",
    "max_eval_questions",
)  # fmt: skip
# Arguments that change where and how a run is watched, not what it learns.
NOT_COMPARED = {
    "output_dir", "resume_from_checkpoint", "overwrite_output", "beside", "seeds", "disable_tqdm", "report_to",
    "run_name", "log_level", "logging_steps", "logging_strategy", "logging_first_step", "save_total_limit",
    "dataloader_num_workers", "dataloader_pin_memory", "push_to_hub", "hub_model_id", "hub_token", "hub_private_repo",
    "do_eval", "label_names", "greater_is_better", "accelerator_config",
}  # fmt: skip


@dataclass
class VQAData:
    """What all runs of a recipe share: rows to train on, to choose the epoch on and to score at the end (without test
    data these are the same), the answers, and what was counted on the way."""

    train: Dataset | StreamedQuestions
    validation: Dataset | StreamedQuestions
    scored: Dataset | StreamedQuestions
    scored_on: str  # "test" or "validation"
    vocabulary: AnswerVocabulary
    summary: dict
    baselines: dict[str, dict]
    remarks: dict  # what a reader of the scores should know: spellings taken as one, pictures on both sides

    def parts(self) -> dict[str, Dataset | StreamedQuestions]:
        """All rows that a model sees, by what they are for."""
        return {"train": self.train, "validation": self.validation, "scored": self.scored}


@dataclass(frozen=True)
class Run:
    """One training: its name in the table, its head, what it sees, its seed and its folder."""

    name: str
    fusion: str
    inputs: str
    seed: int
    folder: Path


# ---------------------------------------------------------------------------------------------------------- training


def train_and_evaluate(recipe: Recipe) -> dict:
    """
    Trains what a recipe says, scores it and writes everything into `recipe.training.output_dir`.

    Each run's folder holds the best model with its processor, its checkpoints, `arguments.json` and `results.json`;
    the results of the output folder also have the `comparison` of all runs. LoRA runs hold the merged model, and
    in `adapter` the adapter together with its base.

    Returns:
        `dict`: the results as written to `output_dir/results.json`.

    Raises:
        ValueError: when the output folder is not empty and neither resume nor overwrite was asked for, a resumed run
            was started with other arguments, or the data or the model arguments are wrong.
    """
    runs = plan_runs(recipe)
    output_dir = Path(recipe.training.output_dir)
    writes = recipe.training.should_save
    if writes:
        check_output(recipe.training)
        check_run(recipe)
    before = files_of_runs(output_dir) if writes and recipe.training.overwrite_output else {}
    if recipe.training.device.type == "cpu":
        keep_freed_memory()
    data = load_data(recipe.data, log_dir=output_dir)
    say(recipe.training, describe_data(data))
    tokenizer = build_tokenizer(recipe.model, data.train)
    if before:  # not deleted before the data is known to load and the models to build
        rehearse(runs, recipe, data, tokenizer)
        clear(before)
    if before and (left := not_of_runs(output_dir)):
        say(recipe.training, f"Left in {output_dir}, as not written by a run: {', '.join(left)}.")
    finished = []
    for number, run in enumerate(runs, 1):
        say(recipe.training, f"\nRun {number} of {len(runs)}: {run.name}, seed {run.seed} → {run.folder}")
        finished.append(train_one(run, recipe, data, tokenizer))
    results = summarise(recipe, runs, finished, data)
    if writes:
        write_json(output_dir / "results.json", results)
        print()
        print_table(comparison_table(results["comparison"], data.baselines))
    return results


def plan_runs(recipe: Recipe) -> list[Run]:
    """The recipe's own model and those beside it, for each seed.

    Raises:
        ValueError: for a name that is neither a fusion head nor a blind model, or that the recipe trains anyway.
    """
    inputs, fusion = recipe.data.inputs, recipe.model.fusion
    main = next((name for name, sees in BLIND.items() if sees == inputs), fusion)
    variants = {main: (fusion, inputs)}
    for name in recipe.training.beside or []:
        if name in variants:
            raise ValueError(f"beside names {name!r}, which the recipe trains anyway: leave it out.")
        if name not in FUSIONS and name not in BLIND:
            raise ValueError(f"beside names {name!r}, which is unknown: choose from {', '.join([*FUSIONS, *BLIND])}.")
        if name in FUSIONS and inputs != "both":
            raise ValueError(
                f"beside names the head {name!r}, but the recipe's inputs={inputs!r} leave nothing to fuse."
            )
        variants[name] = (fusion, BLIND[name]) if name in BLIND else (name, inputs)
    seeds = recipe.training.seeds or [recipe.training.seed]
    output_dir = Path(recipe.training.output_dir)
    runs = []
    for name, (head, sees) in variants.items():
        folder = output_dir if name == main else output_dir / "beside" / name
        for seed in seeds:
            runs.append(Run(name, head, sees, seed, folder / f"seed{seed}" if len(seeds) > 1 else folder))
    return runs


def check_output(training: UMETrainingArguments) -> None:
    """Refuses an output folder that is not empty, unless told to resume or to overwrite."""
    folder = Path(training.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir={str(folder)!r} is a file: choose a folder.")
    allowed = training.resume_from_checkpoint or training.overwrite_output
    if folder.is_dir() and any(folder.iterdir()) and not allowed:
        raise ValueError(
            f"The output folder {folder} is not empty. Add --resume_from_checkpoint to go on with what was begun "
            "there, --overwrite_output to start anew, or choose another --output_dir."
        )
    if not training.resume_from_checkpoint:
        return
    # One seed's run lies in the folder itself, those of several in folders of their own: a model would stay beside
    # results that are not its own.
    several, found = len(training.seeds or []) > 1, read_json(folder / "results.json") or {}
    if several and (folder / "arguments.json").is_file():
        raise ValueError(
            f"The output folder {folder} holds the run of a single seed, beside which there cannot be several: resume "
            "it with its one seed, or choose another --output_dir."
        )
    if not several and "runs" in found:
        raise ValueError(
            f"The output folder {folder} holds the runs of several seeds, beside which there cannot be a single one: "
            "resume them with --seeds, or choose another --output_dir."
        )


def rehearse(runs: list[Run], recipe: Recipe, data: VQAData, tokenizer) -> None:
    """Builds each model with its trainer once, before what earlier runs left is deleted: what cannot be built fails
    while it is still there."""
    for run in {run.name: run for run in runs}.values():
        set_seed(run.seed)  # stored features are those of the encoders that the run itself will begin with
        args = dataclasses.replace(recipe.model, fusion=run.fusion)
        processor = build_processor(args, tokenizer, data.vocabulary)
        model = build_model(args, processor)
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
    processor = build_processor(model_args, tokenizer, data.vocabulary)
    model = build_model(model_args, processor)
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
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    with writing(run.folder):
        final = save_final(trainer, processor, run.folder)
    answers = predict(
        final, collator, data.scored, training.per_device_eval_batch_size, training.dataloader_num_workers
    )
    history = trainer.state.log_history
    results = {
        "name": run.name,
        "recipe": recipe.name,
        "seed": run.seed,
        "scored_on": data.scored_on,
        "selected_by": {"score": trainer.selected_by.name, "why": trainer.selected_by.why},
        "scores": score_answers(answers, data.scored),
        "baselines": data.baselines,
        **({"train_batch_size": trainer.state.train_batch_size} if training.auto_find_batch_size else {}),
        "train_seconds": most(history, "seconds"),
        "train_cpu_seconds": most(history, "cpu_seconds"),
        "epochs": epoch_table(history),
        "parameters": parameters,
        "encoders": encoder_sources(model_args),
        **({"lora": facts} if model_args.lora_r else {}),
        "data": data.summary,
        "remarks": data.remarks,
        "arguments": arguments,
        "environment": environment(),
    }
    if training.should_save:
        write_predictions(run.folder / PREDICTIONS, prediction_rows(answers, data.scored))
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
    if inputs != "both":  # a blind model beside others has no image to weigh its question against
        training = copy.copy(training)
        training.rubi_weight = 0.0
    collator = build_collator(
        recipe.data, processor, vocabulary, args.problem_type, inputs, args.soft_targets, args.answer_scores
    )
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
            "arguments": finished[0]["arguments"],
            "environment": finished[0]["environment"],
            "runs": [str(run.folder.relative_to(recipe.training.output_dir)) for run in runs],
        },
    )
    return {**own, "comparison": comparison_rows(finished)}


def run_arguments(run: Run, recipe: Recipe) -> dict:
    """Everything that decides what a run learns; of TrainingArguments, what differs from the defaults."""
    training = recipe.training.to_dict()
    # Not from another UMETrainingArguments: making one resets what the process knows about its process group.
    defaults = {
        field.name: None if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(UMETrainingArguments)
    }
    named = {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "weight_decay", "lr_scheduler_type"}
    training = {
        key: value
        for key, value in training.items()
        if key not in NOT_COMPARED and (key in named or (value or None) != (defaults.get(key) or None))
    }
    return {
        "model": {**dataclasses.asdict(recipe.model), "fusion": run.fusion},
        "data": {**dataclasses.asdict(recipe.data), "inputs": run.inputs},
        "training": {**training, "seed": run.seed},
    }


def check_same_arguments(run: Run, arguments: dict) -> None:
    """Raises ValueError when the folder holds a run with other arguments: resuming it would mix the two."""
    before = read_json(run.folder / "arguments.json")
    if before is None:
        return
    # A run of an older version lacks the fields that are newer; it did what their defaults do.
    before["model"] = {field.name: field.default for field in dataclasses.fields(ModelArguments)} | before["model"]
    changes = [
        f"{name} was {before[part].get(name)!r} and is {arguments[part].get(name)!r}"
        for part in arguments
        for name in sorted(arguments[part].keys() | before[part].keys())
        if before[part].get(name) != arguments[part].get(name)
    ]
    if changes:
        raise ValueError(
            f"The run in {run.folder} was started with other arguments: {'; '.join(changes)}. Repeat the command "
            "it was started with, or choose another --output_dir."
        )


def check_same_answers(run: Run, checkpoint: Path, vocabulary: AnswerVocabulary) -> None:
    """Raises ValueError when a checkpoint's classes are other answers: its classifier would be read as if they were
    these."""
    config = read_json(checkpoint / "config.json") or read_json(run.folder / "base" / "config.json") or {}
    before = config.get("id2label")
    if before is not None and AnswerVocabulary.from_id2label(before).id2label != vocabulary.id2label:
        raise ValueError(
            f"{checkpoint} was trained with other answers than these questions give now (another version of the data, "
            "or of this program): start anew with another --output_dir."
        )


def how_to_resume(recipe: Recipe) -> str:
    """What to tell a user whose training was cut short: where the last checkpoint lies, and how to go on."""
    folders = [run.folder for run in plan_runs(recipe)]
    unfinished = [folder for folder in folders if "scores" not in (read_json(folder / "results.json") or {})]
    checkpoint = last_whole_checkpoint(unfinished[0])[0] if unfinished and unfinished[0].is_dir() else None
    where = f"The last checkpoint is {checkpoint}." if checkpoint else "There is no checkpoint of this run yet."
    return f"{where} To go on, repeat the command with --resume_from_checkpoint."


def keep_freed_memory() -> None:
    """
    Lets this process keep the memory that tensors free, for training on a CPU under Linux.

    glibc hands every block over 32 MB back to the system at once, which has to find and zero its pages anew at the
    next step. For pair tensors of a few hundred MB that takes twice as long as the arithmetic itself.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)
    mallopt(M_ARENA_MAX, 1)  # forward and backward run in different threads and shall share what is kept


def say(training: UMETrainingArguments, text: str) -> None:
    """Prints once, not once a process."""
    if training.process_index == 0:
        print(text, flush=True)


# -------------------------------------------------------------------------------------------------------------- data


def load_data(args: DataArguments, log_dir: Path) -> VQAData:
    """
    Loads what to train on, to validate on and to score, the latter two in image order, and chooses the answers.

    With a `validation_fraction` the best epoch is chosen on training images held out, and test data, where the
    recipe has any, is scored once at the end; otherwise the validation questions serve for both.
    Training questions whose most common answer is not among them are left out and counted: with cross-entropy they
    teach nothing, and every model gets the same questions. All this was decided for shards when they were written.
    """
    if args.source == "stream":
        return load_shards(args)
    train = load_split(args, "train", log_dir)
    evaluated = {}  # by name; the last of them is what is scored
    if args.validation_fraction is not None:
        train, evaluated["validation"] = split_by_image(train, args.validation_fraction, args.split_seed)
    if args.has_eval_part:
        evaluated["test" if evaluated else "validation"] = load_split(args, "eval", log_dir)
    train = first_rows(train, args.max_train_questions)
    evaluated = {name: first_rows(part, args.max_eval_questions) for name, part in evaluated.items()}
    for name, part in {"train": train, **evaluated}.items():
        if not all(part["answers"][:]):
            raise ValueError(f"The {name} questions have no answers: give their annotations.")
    vocabulary = AnswerVocabulary.from_answers(train["answers"][:], args.top_k_answers, args.min_answer_count)
    coverage = {
        name: dataclasses.asdict(vocabulary.coverage(part["answers"][:]))
        for name, part in {"train": train, **evaluated}.items()
    }
    known = [i for i, label in enumerate(vocabulary.hard_targets(train["answers"][:]).tolist()) if label != -100]
    summary = {
        "train_questions": len(known),
        "train_questions_left_out": len(train) - len(known),
        "train_images": len(set(train["image_id"][:])),
        **{f"{name}_questions": len(part) for name, part in evaluated.items()},
        **{f"{name}_images": len(set(part["image_id"][:])) for name, part in evaluated.items()},
        "answers": len(vocabulary),
        "coverage": coverage,
    }
    train = train.select(known)
    evaluated = {name: in_image_order(part)[0] for name, part in evaluated.items()}
    scored_on, scored = list(evaluated.items())[-1]
    baselines = score_baselines(train, scored, vocabulary)
    remarks = {
        "several_spellings": dict(zip(("answers", "examples"), several_spellings(train["answers"][:]), strict=True)),
        "entries_skipped": {
            path.stem.removeprefix("skipped_"): skipped_entries(path)
            for path in (log_dir / f"skipped_{part}.tsv" for part in ("train", "eval"))
            if args.on_error == "skip" and path.is_file()
        },
        "pictures_trained_on": {name: shared_pictures(part, train) for name, part in evaluated.items()},
    }
    return VQAData(train, evaluated["validation"], scored, scored_on, vocabulary, summary, baselines, remarks)


def load_shards(args: DataArguments) -> VQAData:
    """
    What `shard_data` wrote, to be read while training.

    Raises:
        ValueError: when the arguments ask for other rows or answers than the shards hold.
    """
    facts, parts = open_shards(args.dataset_name)
    wanted = {name: getattr(args, name) for name in SHARDED}
    changes = [
        f"{name} was {facts['arguments'][name]!r} and is {value!r}"
        for name, value in wanted.items()
        if facts["arguments"][name] != value
    ]
    if changes:
        raise ValueError(
            f"The shards in {args.dataset_name} were written with other arguments: {'; '.join(changes)}. Give the "
            "same ones, or write other shards."
        )
    return VQAData(
        parts["train"],
        parts["validation"],
        parts[facts["scored_on"]],
        facts["scored_on"],
        AnswerVocabulary(facts["answers"]),
        facts["summary"],
        facts["baselines"],
        facts.get("remarks", {}),  # shards of earlier versions have none
    )


def shard_data(args: DataArguments, folder: str | Path, shards: int | None = None) -> dict:
    """
    Writes the data of a recipe as shards that `source=stream` trains from: its questions and its images, with the
    answers, counts and scores without a model that `load_data` finds; see `write_shards` for the rest.

    Returns:
        `dict`: the index.
    """
    data = load_data(args, log_dir=Path(folder))
    facts = {
        "arguments": {name: getattr(args, name) for name in SHARDED},
        "answers": [data.vocabulary.id2label[i] for i in range(len(data.vocabulary))],
        "scored_on": data.scored_on,
        "summary": data.summary,
        "baselines": data.baselines,
        "remarks": data.remarks,
    }
    parts = {"train": data.train, "validation": data.validation, data.scored_on: data.scored}
    return write_shards(parts, facts, folder, shards)


def load_split(args: DataArguments, part: str, log_dir: Path) -> Dataset:
    """The rows of `part` (`"train"` or `"eval"`), as the data arguments describe them."""
    common = {"on_error": args.on_error}
    if args.on_error == "skip":
        common["skipped_log"] = log_dir / f"skipped_{part}.tsv"
    if args.source == "easy_vqa":
        return load_vqa("easy_vqa", split="train" if part == "train" else "test", **common)
    if args.source == "hub":
        split = args.train_split if part == "train" else args.eval_split
        images = args.train_images if part == "train" else args.eval_images
        return load_vqa(args.dataset_name, name=args.dataset_config, split=split, images=images, **common)
    names = ("questions", "annotations", "images", "image_pattern")
    return load_vqa("vqa_v2", **{name: getattr(args, f"{part}_{name}") for name in names}, **common)


def first_rows(dataset: Dataset, count: int | None) -> Dataset:
    return dataset if count is None else dataset.select(range(min(count, len(dataset))))


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


def describe_data(data: VQAData) -> str:
    """The lines printed before training: what there is, and what the vocabulary makes of it."""
    summary = data.summary
    left_out = summary["train_questions_left_out"]
    fits = fitting_score(data.scored["answers"][:])
    parts = {"train": "training", "validation": "validation", "test": "test"}
    counts = [
        f"{summary[f'{name}_questions']:,} {adjective} questions about {summary[f'{name}_images']:,} images"
        for name, adjective in parts.items()
        if f"{name}_questions" in summary
    ]
    lines = [
        f"{', '.join(counts)}, {summary['answers']:,} answers.",
        f"The best epoch is chosen on the validation questions; the final scores are those of the {data.scored_on} "
        "questions.",
        f"The score that fits them is {fits.label}: {fits.why}.",
    ]
    if left_out:
        lines.append(f"{left_out:,} training questions are left out: their answer is not among these.")
    for part, numbers in summary["coverage"].items():
        lines.append(
            f"On the {part} questions the vocabulary holds {numbers['questions']:.2%} of the most common answers and "
            f"{numbers['answers']:.2%} of all answers; no model can score above "
            f"{100 * numbers['ceiling' if fits.name == 'vqa_accuracy' else 'questions']:.2f}."
        )
    for name, scores in data.baselines.items():
        lines.append(f"Without a model, {name.replace('_', ' ')}: {scores[fits.name]:.2f} {fits.label}.")
    spelled = data.remarks.get("several_spellings", {"answers": 0})
    if spelled["answers"]:
        examples = "; ".join(" and ".join(map(repr, pair)) for pair in spelled["examples"])
        lines.append(f"{spelled['answers']:,} answers have several spellings, each taken as one answer: {examples}.")
    for part, count in data.remarks.get("entries_skipped", {}).items():
        if count:
            lines.append(f"{count:,} entries of the {part} data are left out as unusable: see skipped_{part}.tsv.")
    for name, shared in data.remarks.get("pictures_trained_on", {}).items():
        if shared:
            lines.append(
                f"WARNING: {shared:,} of the {name} pictures are trained on, too (the same files, whatever their "
                f"names): the {name} scores are not those of unseen pictures."
            )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- model


def build_tokenizer(args: ModelArguments, train: Dataset):
    """The text model's tokenizer, the one that is named, or a word-level one made from the training questions."""
    if args.tokenizer == "words":
        return words_tokenizer(train["question"][:], args.text_config.get("max_position_embeddings"))
    name, revision = (args.text_model, args.text_revision) if args.text_model else (args.tokenizer, None)
    try:
        return load_tokenizer(name, revision=revision or "main")
    except ForeignCodeError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"No tokenizer can be loaded from {name!r} ({first_line(error)}).") from error


def words_tokenizer(questions: list[str], max_length: int | None = None) -> PreTrainedTokenizerFast:
    """
    A word-level tokenizer with every word of `questions`, in lower case; other words become [UNK].

    Args:
        max_length (`int`, *optional*): longest question in tokens, for an encoder that has so many positions.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]  # [PAD] is 0, as encoder configs have it
    tokenizer.train_from_iterator(questions, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", special.index("[CLS]")), ("[SEP]", special.index("[SEP]"))]
    )
    limit = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        **limit,
    )


def build_processor(args: ModelArguments, tokenizer, vocabulary: AnswerVocabulary) -> UMEProcessor:
    """The processor: the tokenizer, the image encoder's own image processor or a plain one, and the answers."""
    if args.vision_model is not None:
        try:
            image_processor = load_image_processor(args.vision_model, args.vision_revision or "main")
        except ForeignCodeError:
            raise
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(
                f"No image processor can be loaded from {args.vision_model!r} ({first_line(error)})."
            ) from error
        if args.image_size is not None:
            image_processor = with_image_size(image_processor, args.image_size)
    else:
        image_processor = ViTImageProcessor(
            size={"height": args.image_size, "width": args.image_size},
            image_mean=args.image_mean or [0.5] * 3,
            image_std=args.image_std or [0.5] * 3,
        )
    return UMEProcessor(image_processor, tokenizer, id2label=dict(vocabulary.id2label), problem_type=args.problem_type)


def load_image_processor(name: str, revision: str):
    """A pretrained image encoder's own image processor; of timm's VGG, whose own only timm reads, ImageNet's."""
    fields, _ = PretrainedConfig.get_config_dict(name, revision=revision)
    if fields.get("model_type") == "timm_wrapper" and load_config(name, revision=revision).model_type == "ume_vgg":
        return ViTImageProcessor(image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD)
    return load_trusted(AutoImageProcessor.from_pretrained, name, revision=revision)


def build_model(args: ModelArguments, processor: UMEProcessor) -> UMEForVisualQuestionAnswering:
    """The model in float32, encoders pretrained or new, frozen where asked for."""
    head = {
        "id2label": dict(processor.id2label),
        **{
            name: getattr(args, name)
            for name in (
                "fusion", "fusion_hidden_size", "fusion_num_heads", "fusion_num_members", "fusion_num_layers",
                "fusion_rank", "fusion_dropout", "classifier_dropout", "modality_dropout", "text_pooling",
                "vision_pooling", "feature_grid", "problem_type",
            )
        },
    }  # fmt: skip
    pretrained = {}
    for modality in ("text", "vision"):
        name, revision = getattr(args, f"{modality}_model"), getattr(args, f"{modality}_revision")
        if name is not None:
            pooling = f"{modality}_pooling"
            pretrained[modality], head[pooling] = load_encoder(
                name, modality, head[pooling], revision=revision or "main", dtype=torch.float32
            )
    configs = {
        "text": encoder_config(args.text_config, args.text_model, args.text_revision),
        "vision": encoder_config(args.vision_config, args.vision_model, args.vision_revision),
    }
    if args.text_config is not None:
        configs["text"].vocab_size = len(processor.tokenizer)
        configs["text"].pad_token_id = processor.tokenizer.pad_token_id
    if args.vision_config is not None and "image_size" in configs["vision"].to_dict():
        configs["vision"].image_size = args.image_size
    config = UMEConfig.from_encoder_configs(configs["text"], configs["vision"], **head)
    attention = {} if args.attn_implementation is None else {"attn_implementation": args.attn_implementation}
    try:
        model = UMEForVisualQuestionAnswering._from_config(config, dtype=torch.float32, **attention)
    except (TypeError, KeyError, AttributeError, IndexError, RuntimeError, ArithmeticError, AssertionError) as error:
        if len(pretrained) == 2:
            raise
        raise ValueError(
            f"No encoder can be made of text_config or vision_config ({type(error).__name__}: {first_line(error)}): "
            "give values that the encoder can have."
        ) from error
    for modality, encoder in pretrained.items():
        model.ume.encoder(modality).load_state_dict(encoder.state_dict())
    if args.init_from is not None:
        start_from(model, args.init_from)
    for modality, frozen in (("text", args.freeze_text), ("vision", args.freeze_vision)):
        if frozen:
            model.freeze(modality)
    return model


def start_from(model: UMEForVisualQuestionAnswering, name: str) -> None:
    """
    Gives a model all weights of an earlier one.

    Args:
        name (`str`): a folder or a Hub name.

    Raises:
        ValueError: when there is no such model, or it answers with other answers or is built in another way.
    """
    try:
        earlier = UMEForVisualQuestionAnswering.from_pretrained(name, dtype=torch.float32)
    except ForeignCodeError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"init_from={name!r} cannot be loaded ({first_line(error)}).") from error
    if earlier.config.id2label != model.config.id2label:
        raise ValueError(
            f"init_from={name!r} knows {earlier.config.num_labels} answers, which are not the "
            f"{model.config.num_labels} of this recipe: train on the same questions, with the same answers kept."
        )
    own, given = model.state_dict(), earlier.state_dict()
    other = [key for key in sorted(own.keys() | given.keys()) if key not in own or key not in given]
    other += [key for key in own.keys() & given.keys() if own[key].shape != given[key].shape]
    if other:
        raise ValueError(
            f"init_from={name!r} is another model: {other[0]} and {len(other) - 1} more weights differ in name or "
            "shape. Give the encoders, the head and its sizes as they were then."
        )
    model.load_state_dict(given)


def encoder_config(settings: dict | None, name: str | None, revision: str | None) -> PretrainedConfig:
    if settings is None:
        try:
            return load_config(name, revision=revision or "main")
        except ForeignCodeError:
            raise
        except (OSError, ValueError) as error:
            raise ValueError(f"No encoder can be loaded from {name!r} ({first_line(error)}).") from error
    settings = dict(settings)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def encoder_sources(args: ModelArguments) -> dict[str, dict]:
    """
    Where the pretrained encoders came from, by modality.

    Returns:
        `dict`: of each `name` and `revision`, the commit of a Hub repo; of a folder, which has none, the `sha256` of
        its safetensors files instead.
    """
    sources = {}
    for modality in ("text", "vision"):
        name, revision = getattr(args, f"{modality}_model"), getattr(args, f"{modality}_revision")
        if name is not None and Path(name).is_dir():
            digest = hashlib.sha256()
            for path in sorted(Path(name).glob("*.safetensors")):
                with path.open("rb") as file:
                    while block := file.read(2**20):
                        digest.update(block)
            sources[modality] = {"name": name, "sha256": digest.hexdigest()}
        elif name is not None:
            # It was loaded a moment ago, so it lies in the cache, in a folder named after the commit.
            cached = try_to_load_from_cache(name, "config.json", revision=revision or "main")
            commit = Path(cached).parent.name if isinstance(cached, str) else revision
            sources[modality] = {"name": name, "revision": commit}
    return sources


def count_parameters(model: UMEForVisualQuestionAnswering) -> dict[str, int]:
    """Numbers of parameters: `total`, and of each part."""
    parts = {name: sum(p.numel() for p in parameters) for name, parameters in model.parts().items()}
    return {"total": sum(parts.values()), **parts}


def build_collator(
    args: DataArguments,
    processor: UMEProcessor,
    vocabulary: AnswerVocabulary | None,
    problem_type: str,
    inputs: str,
    soft_targets: bool = False,
    answer_scores: str = "thirds",
) -> VQACollator:
    return VQACollator(
        processor,
        vocabulary,
        problem_type=problem_type,
        inputs=inputs,
        max_question_length=args.max_question_length,
        image_cache_bytes=args.image_cache_mb * 1_000_000,
        soft_targets=soft_targets,
        answer_scores=answer_scores,
    )
