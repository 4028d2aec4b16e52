"""A recipe is a YAML file with the fields of three dataclasses: the model, the data, the training.

`parse_recipe` reads one and lets the command line override every field. YAML values go through the same argument
parser as the command line, so there is one set of types, one spelling and one kind of error.
"""

from __future__ import annotations

import difflib
import functools
from argparse import SUPPRESS, ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from configuration_ume import RECIPES
from configuration_ume.arguments import DataArguments, ModelArguments, Recipe, UMETrainingArguments, check_together
from configuration_ume.values import load_yaml, plain, scalar_text, truth_or_text
from modeling_ume.own_heads_ume import FILE

# What --help shows of TrainingArguments, which has over a hundred fields.
_SHOWN = {
    "output_dir", "num_train_epochs", "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size",
    "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay",
    "max_grad_norm", "label_smoothing_factor", "bf16", "fp16", "gradient_checkpointing", "seed", "eval_strategy",
    "save_strategy", "save_steps",
    "save_total_limit", "load_best_model_at_end", "metric_for_best_model", "early_stopping_patience",
    "class_weights", "logging_steps", "report_to",
    "dataloader_num_workers", "use_cpu", "disable_tqdm", "push_to_hub", "resume_from_checkpoint", "overwrite_output",
    "fusion_learning_rate_multiplier", "classifier_learning_rate_multiplier", "ema_decay", "rubi_weight", "beside",
    "seeds",
}  # fmt: skip


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """One spelling for each option, a default only where there is one, and the examples a line each."""

    def _format_action_invocation(self, action):
        if not action.option_strings:
            return super()._format_action_invocation(action)
        return f"{action.option_strings[0]} {self._format_args(action, action.dest.upper())}".strip()

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class _RecipeParser(HfArgumentParser):
    def __init__(self, description: str | None = None, prog: str | None = None):
        super().__init__(
            [ModelArguments, DataArguments, UMETrainingArguments],
            prog=prog,
            description=description,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            usage="%(prog)s RECIPE [--FIELD VALUE …]",
        )
        self.add_argument("recipe", help=f"A YAML file, or a shipped recipe: {', '.join(shipped_recipes())}.")
        self.options = {}
        self.one_or_several = set()
        self.kinds = {
            field.name: _kinds(hints[field.name])
            for group in self.dataclass_types
            for hints in [get_type_hints(group)]
            for field in fields(group)
        }
        for action in self._actions:
            if not action.option_strings or action.dest == "help":
                continue
            if action.option_strings[0].startswith("--no_"):
                action.help = SUPPRESS
                continue
            self.options[action.dest] = action
            if self.takes(action.dest, list) and action.nargs is None and action.type is not None:
                action.nargs = "+"  # of one or several; parse_known_args makes one of one again
                self.one_or_several.add(action.dest)
            if self.takes(action.dest, bool) and self.takes(action.dest, str):
                action.type = truth_or_text
            if action.default is None and action.type is not None:
                action.type = _or_null(action.type)
                if action.choices is not None:
                    action.metavar = f"{{{','.join(action.choices)}}}"
                    action.choices = [*action.choices, None]
        shown = _SHOWN | set(ModelArguments.__dataclass_fields__) | set(DataArguments.__dataclass_fields__)
        for name, action in self.options.items():
            if name not in shown:
                action.help = SUPPRESS

    def takes(self, name: str, kind: type) -> bool:
        """Whether a field takes values of a type, among others."""
        return kind in self.kinds.get(name, ())

    def parse_known_args(self, args=None, namespace=None):
        namespace, rest = super().parse_known_args(args, namespace)
        for name in self.one_or_several:
            value = getattr(namespace, name)
            if isinstance(value, list) and len(value) == 1:
                setattr(namespace, name, value[0])
        for name, value in vars(namespace).items():
            if isinstance(value, list) and None in value:  # of a field with several values, argparse reads one by one
                if len(value) > 1:
                    self.error(f"{name} has null among its values: null alone empties the field")
                setattr(namespace, name, None)
        return namespace, rest

    def error(self, message: str):
        raise ValueError(f"{message[0].upper()}{message[1:]}. See --help.")

    def nearest(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.options, n=1, cutoff=0.5)
        return f" Did you mean {close[0]}?" if close else " See --help for the fields there are."


def shipped_recipes() -> list[str]:
    """Names of the recipes in configuration_ume/recipes, sorted; those of a folder with it, as `thesis/bert_vit`."""
    paths = [path.relative_to(RECIPES) for path in RECIPES.rglob("*.yaml")]
    # The files in accelerate/ are for `accelerate launch`.
    return sorted(path.with_suffix("").as_posix() for path in paths if path.parts[0] != "accelerate")


def parse_recipe(argv: list[str], description: str | None = None, prog: str | None = None) -> Recipe:
    """
    Reads a recipe and the changes that the command line makes to it.

    Args:
        argv (`list[str]`): the recipe (a YAML file or the bare name of a shipped one), then `--field value` pairs. The
            value `null` empties a field that may be empty; dicts are given as JSON.
        description (`str`, *optional*): what `--help` says above the list of fields.
        prog (`str`, *optional*): what `--help` calls the command.

    Returns:
        `Recipe`, with `training.output_dir` set to `runs/<name>` where nobody set it.

    Raises:
        ValueError: for a recipe that is not there, an unknown field (the nearest one is named), a value of the wrong
            type and fields that contradict each other.
    """
    parser = _RecipeParser(description, prog)
    if not argv or argv[0].startswith("-"):
        if any(argument in ("-h", "--help") for argument in argv):
            parser.parse_args(argv)  # prints the help and leaves
        raise ValueError(f"The first argument is the recipe: a YAML file, or one of {', '.join(shipped_recipes())}.")
    path = _recipe_path(argv[0])
    values = _read_yaml(path)
    parser.set_defaults(**_parse_yaml_values(parser, path, values))
    # A file is written into one folder by default, so that `train.py RECIPE` alone is a complete command.
    if parser.get_default("output_dir") is None:
        parser.set_defaults(output_dir=f"runs/{path.stem}")
    try:
        model, data, training, _, rest = parser.parse_args_into_dataclasses(
            argv, return_remaining_strings=True, look_for_args_file=False
        )
    except (TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:  # of fields that have fields
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: its fields cannot be used together ({type(error).__name__}: {reason}).") from error
    if rest:
        name = rest[0].lstrip("-").split("=")[0].replace("-", "_")
        raise ValueError(f"{rest[0]} is not a field of a recipe.{parser.nearest(name)}")
    recipe = Recipe(path.stem, model, data, training)
    check_together(recipe)
    return recipe


def _recipe_path(name: str) -> Path:
    path = RECIPES / f"{name}.yaml" if name in shipped_recipes() else Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise ValueError(
            f"There is no recipe {name!r}: give a YAML file that exists, or one of {', '.join(shipped_recipes())}."
        )
    return path


def _read_yaml(path: Path) -> dict:
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no date, too long a number
        raise ValueError(
            f"{path} is not valid YAML ({' '.join(str(error).split())}): mend it, or start from a shipped recipe."
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}: a recipe is a list of `field: value` lines.")
    return values


def _parse_yaml_values(parser: _RecipeParser, path: Path, values: dict) -> dict:
    """YAML values as if they had been typed on the command line; mappings for fields that take them as they are."""
    argv, mappings = [str(path)], {}
    for name, value in values.items():
        if name not in parser.options:
            raise ValueError(f"{path}: {name!r} is not a field of a recipe.{parser.nearest(str(name))}")
        action = parser.options[name]
        if isinstance(value, bool) and not parser.takes(name, bool):
            raise ValueError(
                f"{path}: {name} reads as {value}. YAML takes yes and no for truth values: put quotes around it."
            )
        for kind, called in ((dict, "a mapping"), (list, "a list")):
            if isinstance(value, kind) and not parser.takes(name, kind):
                wanted = "a mapping (`key: value` lines)" if parser.takes(name, dict) else "one value"
                raise ValueError(f"{path}: {name} is {called}, where {wanted} is expected.")
        try:
            if isinstance(value, dict):
                mappings[name] = plain(value, name)
                continue
            text = getattr(action.type, "__wrapped__", action.type) in (None, str)
            given = [scalar_text(each, text) for each in (value if isinstance(value, list) else [value])]
        except ValueError as error:
            raise ValueError(f"{path}: {name}: {error}") from error
        if isinstance(value, list) and (not given or len(given) > 1):
            argv += [f"--{name}", *given]
        else:
            argv.append(f"--{name}={given[0]}")
    try:
        parsed = vars(parser.parse_args(argv))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if "fusion" in values:
        parsed["fusion"] = _beside(path, parsed["fusion"])
    if isinstance(parsed.get("beside"), list):
        parsed["beside"] = [_beside(path, name) for name in parsed["beside"]]
    return {name: parsed[name] for name in values if name not in mappings} | mappings


def _beside(recipe: Path, head: str) -> str:
    """A head's file that a recipe names, which may lie beside the recipe instead of where the command is run."""
    named = FILE.fullmatch(str(head))
    if named is None or Path(named["file"]).is_file() or not (recipe.parent / named["file"]).is_file():
        return head
    return f"{recipe.parent / named['file']}:{named['head']}"


def _kinds(annotation) -> set:
    """The types that an annotation is made of, without what lists and mappings hold."""
    arguments = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
    return {get_origin(argument) or argument for argument in arguments}


def _or_null(convert):
    @functools.wraps(convert, updated=())
    def converted(text: str):
        return None if text == "null" else convert(text)

    converted.__wrapped__ = convert
    return converted
