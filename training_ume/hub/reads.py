"""What a card says of what a model reads: each modality by its class, the code that calls it, the Hub's task."""

from __future__ import annotations

import json
from types import SimpleNamespace

from configuration_ume.encoder_arguments import given_modalities
from modeling_ume.modalities_ume import ALL, MODALITIES
from modeling_ume.modalities_ume import seen_by as modalities_seen_by
from modeling_ume.modality_base_ume import Modality
from training_ume.data.inputs import BLIND
from training_ume.hub.read import Run
from training_ume.records.files import read_json

# How the claim names what answers without a part of what the model reads, or without a model.
WITHOUT_A_MODEL = {
    "question_lookup": "looking the question up among the training questions",
    "most_common_answer": "always giving the commonest answer",
    "most_common_class": "always giving the commonest class",
    "usual_labels": "always giving the labels that most rows have",
    "training_mean": "always giving the mean of the training rows",
}


def seen_by(run: Run) -> list[str]:
    """The modalities of the model that its rows have, by their keys in `MODALITIES`."""
    arguments = run.results["arguments"]
    there = given_modalities(SimpleNamespace(**arguments["model"]))
    return [name for name in modalities_seen_by(arguments["data"].get("inputs", ALL)) if name in there]


def kinds_of(run: Run) -> list[Modality]:
    """The modalities that the model is given."""
    return [MODALITIES[name] for name in seen_by(run)]


def readers(seen: list[str]) -> str:
    """Which encoder reads what, as a part of a sentence."""
    nouns = [MODALITIES[name].subject for name in seen]
    return ", ".join(f"{'one encoder reads' if i == 0 else 'another'} the {noun}" for i, noun in enumerate(nouns))


def given_parts(run: Run) -> str:
    """What a processor is called with, as code: an example of each modality."""
    parts = read_json(run.folder / "processor_config.json") or {}
    examples = {}
    for kind in kinds_of(run):
        cell = next((row[kind.column] for row in run.rows if row.get(kind.column)), None)
        fields = parts.get(kind.part)
        part = kind.part_from_dict(fields) if isinstance(fields, dict) else None
        said = cell is not None and not kind.in_files
        examples[kind.argument] = json.dumps(cell, ensure_ascii=False) if said else kind.code_of(part)
    # A picture stands first, as it does in the pipeline and the processor.
    order = sorted(examples, key=lambda argument: argument != "images")
    return ", ".join(f"{argument}={examples[argument]}" for argument in order)


def packages(run: Run) -> str:
    """What a user needs, as a sentence that is not ended."""
    files = [kind for kind in kinds_of(run) if kind.packages]
    more = "; ".join(f"{' and '.join(kind.packages)} to read {kind.nouns} in files" for kind in files)
    return f"torch and pillow are needed{f' ({more})' if more else ''}"


def hub_tag(run: Run) -> str | None:
    """What the Hub calls the task, by what the model reads where the task itself has no name there; None: nothing."""
    if run.task.tag is not None and run.of_images:
        return run.task.tag
    tags = [kind.hub_classes if run.problem.chooses else kind.hub_numbers for kind in kinds_of(run)]
    return next((tag for tag in reversed(tags) if tag), None)


def told(run: Run, name: str) -> str:
    """How a sentence names a baseline or a model that was given less."""
    return WITHOUT_A_MODEL[name] if name in WITHOUT_A_MODEL else f"the same model {trained_without(run, name)}"


def trained_without(run: Run, name: str) -> str:
    """What a model of `BLIND` was not given, of what this one reads."""
    others = [kind for kind in map(MODALITIES.get, seen_by(run)) if kind.column != BLIND[name]]
    return f"trained without the {' and the '.join(kind.subjects for kind in others)}"


def named(run: Run, name: str) -> str:
    """How a table names a run."""
    if name not in BLIND:
        return f"`{name}`"
    alone = next(kind for kind in MODALITIES.values() if kind.column == BLIND[name])
    return f"{alone.subject} only ({trained_without(run, name)})"


def held_out(run: Run, share: float) -> str:
    """Which part of the training rows was held out, as a part of a sentence."""
    arguments = run.results["arguments"]["data"]
    drawn = f"drawn with seed {arguments['split_seed']}"
    if arguments.get("split_by"):
        by = arguments["split_by"]
        return f"those of {share:.0%} of the values of `{by}` in the training rows, {drawn}: none is in both parts"
    files = [kind for kind in map(MODALITIES.get, seen_by(run)) if kind.in_files]
    if run.of_images:
        others = "".join(f", and no {kind.subject}," for kind in files if kind.column != "image")
        return f"those about {share:.0%} of the training images, {drawn}: no image{others} is in both parts"
    apart = f": no {' and no '.join(kind.subject for kind in files)} is in both parts" if files else ""
    return f"{share:.0%} of the training rows, {drawn}{apart}"
