"""Which trainings a recipe asks for, each with its head, its seed and its folder."""

from __future__ import annotations

from pathlib import Path

from configuration_ume.arguments import Recipe
from modeling_ume import FUSIONS
from modeling_ume.own_heads_ume import FILE, check_travels, known_head
from training_ume.data.inputs import BLIND, one_alone
from training_ume.records.checkpoints import last_whole_checkpoint
from training_ume.records.files import read_json
from training_ume.records.run_folder import Run


def plan(recipe: Recipe) -> list[tuple[Recipe, Run]]:
    """Every training, with the recipe that says it: of a sweep, one of those; otherwise the recipe itself."""
    return [(each, run) for each in recipe.sweep or (recipe,) for run in plan_runs(each)]


def plan_runs(recipe: Recipe) -> list[Run]:
    """The recipe's own model and those beside it, for each seed; of a recipe of a sweep, named by what it sets.

    Raises:
        ValueError: for a name that is neither a fusion head nor a blind model, or that the recipe trains anyway, and
            for a head whose file nobody else could load.
    """
    inputs, fusion = recipe.data.inputs, recipe.model.fusion
    main = next((name for name, sees in BLIND.items() if sees == inputs), fusion)
    variants = {main: (fusion, inputs)}
    told = {name: value for name, value in recipe.settings.items() if name not in ("fusion", "inputs")}
    label = "".join(f", {name}={value}" for name, value in told.items())
    for name in recipe.training.beside or []:
        name = known_head(name) if FILE.fullmatch(name) else name
        if name in variants:
            raise ValueError(f"beside names {name!r}, which the recipe trains anyway: leave it out.")
        if name not in FUSIONS and name not in BLIND:
            raise ValueError(f"beside names {name!r}, which is unknown: choose from {', '.join([*FUSIONS, *BLIND])}.")
        if name in FUSIONS and one_alone(inputs):
            raise ValueError(
                f"beside names the head {name!r}, but the recipe's inputs={inputs!r} leave nothing to fuse."
            )
        variants[name] = (fusion, BLIND[name]) if name in BLIND else (name, inputs)
    for head, _ in variants.values():
        check_travels(head)
    seeds = recipe.training.seeds or [recipe.training.seed]
    output_dir = Path(recipe.training.output_dir)
    runs = []
    for name, (head, sees) in variants.items():
        folder = output_dir if name == main else output_dir / "beside" / name.replace(":", "_")
        for seed in seeds:
            runs.append(Run(name + label, head, sees, seed, folder / f"seed{seed}" if len(seeds) > 1 else folder))
    return runs


def how_to_resume(recipe: Recipe) -> str:
    """What to tell a user whose training was cut short: where the last checkpoint lies, and how to go on."""
    folders = [run.folder for _, run in plan(recipe)]
    unfinished = [folder for folder in folders if "scores" not in (read_json(folder / "results.json") or {})]
    checkpoint = last_whole_checkpoint(unfinished[0])[0] if unfinished and unfinished[0].is_dir() else None
    where = f"The last checkpoint is {checkpoint}." if checkpoint else "There is no checkpoint of this run yet."
    return f"{where} To go on, repeat the command with --resume_from_checkpoint."
