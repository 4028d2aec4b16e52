"""What a training needs of this machine, and what of `TrainingArguments` it cannot do: known before data is loaded.

Each check raises a ValueError of one sentence; a run that would fail hours later, or after it has deleted the one
before, fails at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from transformers.trainer_pt_utils import AcceleratorConfig

from configuration_ume.scores import ALWAYS_SCORED, AUTO, NAMES, NUMBERS
from configuration_ume.values import as_kinds, number_in, parse_json
from modeling_ume.stored_ume import NEAR
from modeling_ume.tasks_ume import PROBLEM_TYPES

# Packages of report backends that transformers does not list as available, or not beside another.
UNLISTED = {"azure_ml": "azureml", "flyte": "flytekit"}
MOST_SEEDS = 2**32  # what numpy takes


def check_before(args) -> None:
    """What `TrainingArguments` would import, or take for another thing, while it is made."""
    if args.deepspeed and find_spec("deepspeed") is None:
        raise ValueError("deepspeed is given, but the package is not there: `pip install deepspeed`, or leave it out.")
    for name in args._VALID_DICT_FIELDS:
        value = getattr(args, name, None)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            setattr(args, name, value := parse_json(name, value, "'{\"key\": value}'"))
        if isinstance(value, dict):
            # Of these only the schedule's are numbers throughout.
            kinds = {int, float, bool} if name == "lr_scheduler_kwargs" else set()
            words = {int, float, bool, str}
            typed = {
                key: as_kinds(
                    inner, words if isinstance(inner, str) and number_in(inner) is None else kinds, f"{name}.{key}"
                )
                for key, inner in value.items()
            }
            setattr(args, name, typed)
    if isinstance(args.accelerator_config, dict):
        known = [field.name for field in dataclasses.fields(AcceleratorConfig)]
        for key in args.accelerator_config:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=NEAR)
                raise ValueError(
                    f"accelerator_config.{key} is unknown: "
                    + (f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}.")
                )


def check_arguments(args) -> None:
    """
    Args:
        args (`UMETrainingArguments`): complete, as it stands after `__post_init__`.
    """
    _check_what_is_ours(args)
    _check_reports(args.report_to)
    on_cpu = args.device.type == "cpu"
    if args.fp16 and on_cpu:
        raise ValueError("fp16 needs a GPU, and there is none: leave it out, or train with bf16.")
    if args.fsdp and args.parallel_mode.value != "distributed":
        raise ValueError("fsdp shards a model over several processes: start them with torchrun or accelerate launch.")
    for name in ("seed", "data_seed", "seeds"):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and not 0 <= value < MOST_SEEDS:
                raise ValueError(f"{name}={value} is impossible: a seed lies in [0, {MOST_SEEDS}).")
    _check_optimizer(args)


def _check_what_is_ours(args) -> None:
    if args.label_names != ["labels"]:
        raise ValueError(f"label_names={args.label_names} is impossible: batches have labels, so leave it out.")
    if args.remove_unused_columns:
        raise ValueError(
            "remove_unused_columns=True is impossible: it would take away the questions and images that make a batch, "
            "so leave it out."
        )
    strategy = getattr(args, "train_sampling_strategy", "random")
    if strategy not in ("random", "sequential") or getattr(args, "group_by_length", False):
        raise ValueError(
            f"train_sampling_strategy={strategy!r} is impossible: batches hold all questions of an image. Use random, "
            "with bucket_by_length for less padding, or sequential."
        )
    for name in ("split_batches", "dispatch_batches"):
        if getattr(args.accelerator_config, name, None):
            raise ValueError(
                f"accelerator_config.{name}=True is impossible: it would cut a batch's questions from their images: "
                "leave it out."
            )
    if getattr(args, "use_liger_kernel", False):
        raise ValueError(
            "use_liger_kernel=True is impossible: there are no such kernels for this model, so leave it out."
        )


def _check_reports(names: list[str]) -> None:
    from transformers.integrations import integration_utils as known

    missing, available = [], known.get_available_reporting_integrations()
    for name in names or []:
        if name not in known.INTEGRATION_TO_CALLBACK:
            near = difflib.get_close_matches(name, known.INTEGRATION_TO_CALLBACK, n=1, cutoff=NEAR)
            raise ValueError(
                f"report_to names {name!r}, which is unknown: "
                + (f"did you mean {near[0]}?" if near else f"choose from {', '.join(known.INTEGRATION_TO_CALLBACK)}.")
            )
        if name not in available and not (name in UNLISTED and find_spec(UNLISTED[name])):
            missing.append(name)
    if missing:
        raise ValueError(
            f"report_to names {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed here: "
            f"`pip install {' '.join(name.replace('_', '-') for name in missing)}`, or leave it out "
            "(`--report_to none`)."
        )


def _check_optimizer(args) -> None:
    """Makes the optimizer and the schedule of a single weight, where they are not the usual ones."""
    usual = args.optim in ("adamw_torch", "adamw_torch_fused") and not args.optim_args
    if usual and not args.lr_scheduler_kwargs and args.lr_scheduler_type in ("linear", "cosine", "constant"):
        return
    from transformers import Trainer
    from transformers.optimization import get_scheduler

    weight = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(weight.parameters(), lr=args.learning_rate)
    if not usual:
        try:
            optimizer_class, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, weight)
            if not {"params", "model", "optimizer_dict"} & kwargs.keys():  # which create_optimizer refuses
                optimizer = optimizer_class(weight.parameters(), **kwargs)
        except (ImportError, ValueError, TypeError, RuntimeError, SyntaxError, KeyError) as error:
            given = f"optim={str(args.optim.value)!r}" + f" with optim_args={args.optim_args!r}" * bool(
                args.optim_args
            )
            raise ValueError(f"{given} cannot be used ({_reason(error)}): choose another, or install it.") from error
    try:
        get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=1,
            num_training_steps=10,
            scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )
    except (TypeError, ValueError, AttributeError, KeyError, ZeroDivisionError) as error:
        raise ValueError(
            f"lr_scheduler_type={str(args.lr_scheduler_type.value)!r} cannot be used with "
            f"lr_scheduler_kwargs={args.lr_scheduler_kwargs} ({_reason(error)})."
        ) from error


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].strip().rstrip('.')}"


def check_metric(name: str | None, chooses: bool = True) -> None:
    """
    What makes a checkpoint the best one, as far as it is known without the data.

    Args:
        name: `metric_for_best_model`.
        chooses (`bool`): answers are from a list; else they are numbers.
    """
    if not chooses:
        names = ["loss", *NUMBERS]
        bare = (name or "loss").removeprefix("eval_")
        if bare not in (AUTO, *names) and not bare.startswith(tuple(f"{score}_" for score in NUMBERS)):
            raise ValueError(
                f"metric_for_best_model={name!r} is not among what evaluations of numbers give: choose from {AUTO}, "
                f"{', '.join(f'eval_{score}' for score in names)}, or one of these with _ and the name of a number."
            )
        return
    bare = (name or "loss").removeprefix("eval_")
    by_type = tuple(f"{score}_" for score in NAMES)
    if bare not in (AUTO, *ALWAYS_SCORED) and not bare.startswith(by_type):
        raise ValueError(
            f"metric_for_best_model={name!r} is not among what evaluations give: choose from {AUTO}, "
            f"{', '.join(f'eval_{score}' for score in ALWAYS_SCORED)}, or eval_vqa_accuracy_ and a type of answers."
        )


def check_run(recipe) -> None:
    """
    What a run of a recipe needs beside its data.

    Args:
        recipe (`Recipe`): whose output folder has been looked at already.
    """
    training = recipe.training
    if recipe.model.lora_r and find_spec("peft") is None:
        raise ValueError("lora_r needs the package peft: `pip install peft`.")
    if training.eval_strategy != "no":
        check_metric(training.metric_for_best_model, PROBLEM_TYPES[recipe.model.problem_type].chooses)
    if training.push_to_hub:
        from huggingface_hub import constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise ValueError(
                "push_to_hub cannot work while HF_HUB_OFFLINE is set: unset it, or leave push_to_hub out."
            )
        if get_token() is None:
            raise ValueError(
                "push_to_hub needs a Hub token: run `hf auth login`, set HF_TOKEN, or leave push_to_hub out."
            )
    check_writable(training.output_dir)


def check_writable(folder: str | Path) -> None:
    """Raises ValueError where a folder cannot be made or written."""
    path = Path(folder).absolute()
    there = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    if not there.is_dir():
        raise ValueError(f"output_dir={str(folder)!r} is impossible: {there} is no folder. Choose another one.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"output_dir={str(folder)!r} cannot be written: {there} does not let you. Choose another one."
        )
