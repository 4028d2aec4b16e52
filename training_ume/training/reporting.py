"""Where a training is watched (wandb, trackio, tensorboard …): each run of a set is one there, too, under a name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from configuration_ume.arguments import Recipe
from training_ume.records.run_folder import Run


def run_name(run: Run, recipe: Recipe) -> str:
    """What a run is called where it is watched: its folder, or the name that was given, and which of several it is."""
    given, folder = recipe.training.run_name, str(run.folder)
    if given is None:
        return folder
    alone = not recipe.settings and folder == recipe.training.output_dir.rstrip("/")
    return given if alone else f"{given}: {run.name}, seed {run.seed}"


@contextmanager
def watched_apart(report_to: list[str] | None) -> Iterator[None]:
    """
    Within it, a run is watched as one of its own.

    The Trainer's wandb goes on with the run that is open, so that the next training of this process would be drawn
    into this one's curves; one that the user opened stays open.
    """
    wandb = import_module("wandb") if "wandb" in (report_to or []) else None
    was_open = wandb is not None and wandb.run is not None
    try:
        yield
    finally:
        if wandb is not None and not was_open and wandb.run is not None:
            wandb.finish()
