"""The folder of a run: what may be written over, which checkpoint is whole, with what arguments it was made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from configuration_ume.arguments import DataArguments, ModelArguments, Recipe, UMETrainingArguments
from configuration_ume.training_arguments import NOT_COMPARED
from modeling_ume.own_heads_ume import head_digest
from training_ume.records.files import read_json


@dataclass(frozen=True)
class Run:
    """One training: its name in the table, its head, what it sees, its seed and its folder."""

    name: str
    fusion: str
    inputs: str
    seed: int
    folder: Path


def check_output(training: UMETrainingArguments, several: bool = False) -> None:
    """
    Refuses an output folder that is not empty, unless told to resume or to overwrite.

    Args:
        several (`bool`): whether each run has a folder of its own in it, also with one seed.
    """
    folder = Path(training.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir={str(folder)!r} is a file: choose a folder.")
    allowed = training.resume_from_checkpoint or training.overwrite_output
    if folder.is_dir() and any(folder.iterdir()) and not allowed:
        raise ValueError(
            f"The output folder {folder} is not empty. Add --resume_from_checkpoint to go on with what was begun "
            "there, --overwrite_output to start anew, or choose another --output_dir (in Python "
            "resume_from_checkpoint=True, overwrite_output=True, output_dir=…)."
        )
    if not training.resume_from_checkpoint:
        return
    # A single run lies in the folder itself, those of several seeds or values in folders of their own: a model would
    # stay beside results that are not its own.
    several = several or len(training.seeds or []) > 1
    found = read_json(folder / "results.json") or {}
    if several and (folder / "arguments.json").is_file():
        raise ValueError(
            f"The output folder {folder} holds the run of a single seed and value, beside which there cannot be "
            "several: resume it as it was begun, or choose another --output_dir."
        )
    if not several and "runs" in found:
        raise ValueError(
            f"The output folder {folder} holds the runs of several seeds or values, beside which there cannot be a "
            "single one: resume them with the same --seeds and values, or choose another --output_dir."
        )


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
    digest = head_digest(run.fusion)
    own = {} if digest is None else {"fusion_sha256": digest}  # of a head from outside, what its file held
    return {
        "model": {**dataclasses.asdict(recipe.model), "fusion": run.fusion, **own},
        "data": {**dataclasses.asdict(recipe.data), "inputs": run.inputs},
        "training": {**training, "seed": run.seed},
    }


def check_same_arguments(run: Run, arguments: dict) -> None:
    """Raises ValueError when the folder holds a run with other arguments: resuming it would mix the two."""
    before = read_json(run.folder / "arguments.json")
    if before is None:
        return
    # A run of an older version lacks the fields that are newer; it did what their defaults do.
    for part, fields in (("model", ModelArguments), ("data", DataArguments)):
        before[part] = {field.name: field.default for field in dataclasses.fields(fields)} | before[part]
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
