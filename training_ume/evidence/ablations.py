"""Ablations: what each change of a recipe brings, by itself, against the recipe as it is, on the arena's terms.

A change pays when the 95 % interval of its paired gain, a bootstrap over the test images, lies above 0.
"""

from __future__ import annotations

from pathlib import Path

from configuration_ume.arguments import Recipe
from training_ume.evidence.arena import Ring, changed, tournament
from training_ume.evidence.contenders import Contender, stream_widths, trained_parameters

BASE = "base"

# By name, the fields of the recipe that differ.
ABLATIONS = {
    "soft_targets": {"soft_targets": True},
    "soft_targets_sigmoid": {"problem_type": "multi_label_classification"},
    "fusion_lr_x5": {"fusion_learning_rate_multiplier": 5.0},
    "classifier_lr_x50": {"classifier_learning_rate_multiplier": 50.0},
    "ema": {"ema_decay": 0.99},
    "label_smoothing": {"label_smoothing_factor": 0.1},
    "question_only_regulariser": {"rubi_weight": 1.0},
}

RESOLUTION = "higher_resolution"  # its size and its feature cache follow the data


def run_ablations(
    recipe: Recipe,
    names: list[str],
    folder: Path,
    *,
    seeds: list[int],
    learning_rates: list[float],
    higher_resolution: tuple[str, str] | None = None,
    processes: int = 1,
) -> dict:
    """
    Trains the recipe as it is and with each change, each at its best learning rate; see `run_arena`.

    Args:
        names: of `ABLATIONS`, or `higher_resolution`; none: all that can be run.
        higher_resolution (*optional*): image size in pixels, and the folder of the features made with it (`"null"`:
            the encoders run).

    Returns:
        `dict`: as `run_arena`'s; each row but `base`'s has `changes` and `gain`, `mean` and `interval`.

    Raises:
        ValueError: for an unknown name, a resolution that is missing, a change that the recipe has already or that
            contradicts it, or when the folder holds other runs.
    """
    changes = {name: ABLATIONS[name] for name in names or ABLATIONS if name in ABLATIONS}
    unknown = [name for name in names if name not in ABLATIONS and name != RESOLUTION]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no ablation: choose from {', '.join([*ABLATIONS, RESOLUTION])}.")
    if RESOLUTION in names and higher_resolution is None:
        raise ValueError(f"{RESOLUTION} needs an image size and its feature cache: give --higher_resolution.")
    if higher_resolution is not None and (RESOLUTION in names or not names):
        pixels, cache = higher_resolution
        if not pixels.isdigit():
            raise ValueError(f"--higher_resolution {pixels}: the first value is a whole number of pixels.")
        changes[RESOLUTION] = {"image_size": int(pixels), "feature_cache": None if cache == "null" else cache}
    settings = {**vars(recipe.training), **vars(recipe.model)}
    for name, fields in changes.items():
        if all(settings[field] == value for field, value in fields.items()):
            raise ValueError(f"The recipe has {name} already, so the change would be none: leave one of them out.")
        try:
            changed(recipe, fields.items())
        except ValueError as error:
            raise ValueError(f"The recipe does not go with {name}: {error} Name the changes to make.") from error
    ring = Ring.of(recipe)
    parameters = trained_parameters(ring.config, stream_widths(ring.config))
    own = (recipe.model.fusion, recipe.data.inputs, recipe.model.fusion_hidden_size, parameters)
    taking_part = [Contender(name, *own, tuple(fields.items())) for name, fields in {BASE: {}, **changes}.items()]
    summary = tournament(ring, taking_part, folder, seeds, learning_rates, parameters, processes, reference=BASE)
    for row in summary["rows"]:
        row["changes"] = {
            name: value for name, value in changes.get(row["name"], {}).items() if name != "feature_cache"
        }
        behind = row.pop("behind", None)
        if behind is not None:
            low, high = behind["interval"]
            row["gain"] = {"mean": 0.0 - behind["mean"], "interval": [0.0 - high, 0.0 - low]}  # no -0.0
    return summary
