"""A recipe is a YAML file with the fields of three dataclasses: the model, the data, the training.

`parse_recipe` reads one and lets the command line override every field. YAML values go through the same argument
parser as the command line, so there is one set of types, one spelling and one kind of error.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
from argparse import SUPPRESS, ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Collection, Mapping
from dataclasses import fields
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from configuration_ume import RECIPES
from configuration_ume.arguments import DataArguments, ModelArguments, Recipe, UMETrainingArguments, check_together
from configuration_ume.data_arguments import OF_THE_LAYOUT, OWN_FIELDS, PAIRS, SWEPT
from configuration_ume.encoder_arguments import fields_of
from configuration_ume.training_arguments import NOT_COMPARED
from configuration_ume.values import load_yaml, pairs, plain, rate_or_rates, scalar_text, truth_or_text
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.own_heads_ume import FILE
from modeling_ume.stored_ume import nearest

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


MOST_HINTS = 4  # names that a hint gives


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
        self.scalars = set()
        self.several = False  # whether a field of one value may be given several, to be tried one by one
        self.sweep: dict[str, list] = {}  # those that were, by field, of the last parse
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
            # Of a number or several by name, each value is one or the other.
            rates = self.takes(action.dest, dict) and self.takes(action.dest, float)
            if rates:
                action.type = rate_or_rates
            if action.dest in PAIRS:
                action.nargs, action.type = "+", str
            elif action.nargs in (None, "?") and (rates or not self.takes(action.dest, dict)):
                self.scalars.add(action.dest)
                action.nargs = "*" if action.nargs == "?" else "+"
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
        for name in PAIRS:
            if isinstance(value := getattr(namespace, name), list):
                setattr(namespace, name, None if value == ["null"] else pairs(name, value))
        self._take_apart(namespace)
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

    def _take_apart(self, namespace) -> None:
        """One of one value again, and the first of several; all of these are put into `sweep`."""
        self.sweep = {}
        for name in self.scalars:
            value = getattr(namespace, name)
            if not isinstance(value, list):
                continue
            if len(value) > 1 and all(isinstance(one, dict) for one in value):
                twice = [key for i, one in enumerate(value) for key in one if any(key in o for o in value[:i])]
                if twice:
                    raise ValueError(f"{name} has {twice[0]} twice: give it once.")
                value = [{key: number for one in value for key, number in one.items()}]
            if len(value) > 1:
                self._check_several(name, value)
                self.sweep[name] = value
            # A truth value's option alone says yes.
            setattr(namespace, name, value[0] if value else True)

    def _check_several(self, name: str, values: list) -> None:
        given = " ".join(map(str, values))
        if name == "seed":
            raise ValueError(f"seed takes one value, and got {given}: give several seeds as --seeds {given}.")
        if not self.several:
            raise ValueError(f"{name} takes one value, and got {given}: only `ume train` tries several.")
        if not can_sweep(name):
            raise ValueError(
                f"{name} takes one value, and got {given}: runs that differ in it learn the same, or are scored on "
                "other rows."
            )
        if len(set(map(str, values))) < len(values):
            raise ValueError(f"{name} is given the same value twice: {given}.")

    def error(self, message: str):
        raise ValueError(f"{message[0].upper()}{message[1:]}. See --help.")

    def nearest(self, name: str) -> str:
        if near := nearest(name, self.options):
            return near
        words = set(name.split("_"))
        # What people call `epochs` has a longer name here.
        longer = [option for option in self.options if words <= set(option.split("_"))]
        if 0 < len(longer) <= MOST_HINTS:
            return f" There {'is' if len(longer) == 1 else 'are'} {', '.join(longer)}."
        return " See --help for the fields there are."


def can_sweep(name: str) -> bool:
    """Whether runs that differ in a field learn differently and are scored on the same rows."""
    if name in DataArguments.__dataclass_fields__:
        return name in SWEPT
    return name not in NOT_COMPARED


def shipped_recipes() -> list[str]:
    """Names of the recipes in configuration_ume/recipes, sorted; those of a folder with it, as `thesis/bert_vit`."""
    paths = [path.relative_to(RECIPES) for path in RECIPES.rglob("*.yaml")]
    # The files in accelerate/ are for `accelerate launch`.
    return sorted(path.with_suffix("").as_posix() for path in paths if path.parts[0] != "accelerate")


def parse_recipe(
    argv: list[str], description: str | None = None, prog: str | None = None, several: bool = False
) -> Recipe:
    """
    Reads a recipe and the changes that the command line makes to it.

    Args:
        argv (`list[str]`): the recipe (a YAML file or the bare name of a shipped one), then `--field value` pairs. The
            value `null` empties a field that may be empty; dicts are given as JSON.
        description (`str`, *optional*): what `--help` says above the list of fields.
        prog (`str`, *optional*): what `--help` calls the command.
        several (`bool`): whether fields of one value may be given several, which `sweep` of the recipe then has.

    Returns:
        `Recipe`, with `training.output_dir` set to `runs/<name>` where nobody set it.

    Raises:
        ValueError: for a recipe that is not there, an unknown field (the nearest one is named), a value of the wrong
            type and fields that contradict each other.
    """
    parser = _RecipeParser(description, prog)
    parser.several = several
    if not argv or argv[0].startswith("-"):
        if any(argument in ("-h", "--help") for argument in argv):
            parser.parse_args(argv)  # prints the help and leaves
        raise ValueError(f"The first argument is the recipe: a YAML file, or one of {', '.join(shipped_recipes())}.")
    path = _recipe_path(argv[0])
    values = _read_yaml(path)
    parser.set_defaults(**_parse_yaml_values(parser, path, values))
    given = {}
    for argument, behind in itertools.zip_longest(argv[1:], argv[2:]):
        field, equals, value = argument.partition("=")
        if field.startswith("--"):
            given[field[2:].replace("-", "_")] = value if equals else behind
    _give_way(parser, {name: None if value == "null" else value for name, value in given.items()})
    return _recipes(parser, path, path.stem, argv)


def make_recipe(
    recipe: str | PathLike | Mapping[str, Any], fields: Mapping[str, Any], several: bool = False
) -> Recipe:
    """
    As `parse_recipe`, from Python's values instead of a command line.

    Args:
        recipe: a YAML file, the bare name of a shipped recipe, or its fields as a dict.
        fields: what is changed in it; None empties a field. A list of values for a field of one is, with `several`, as
            on the command line: each is tried.

    Raises:
        ValueError: as `parse_recipe`.
    """
    parser = _RecipeParser(None, "ume train")
    parser.several = several
    if isinstance(recipe, Mapping):
        path, values = Path("recipe"), dict(recipe)
    else:
        path = _recipe_path(os.fspath(recipe))
        values = _read_yaml(path)
    parser.set_defaults(**_parse_yaml_values(parser, path, values))
    _give_way(parser, fields)
    parser.set_defaults(
        **_parse_yaml_values(parser, Path("ume.train"), {name: _yaml(v) for name, v in fields.items()})
    )
    return _recipes(parser, path, path.stem, [str(path)])


def _give_way(parser: _RecipeParser, given: Mapping[str, Any]) -> None:
    """Empties what a recipe says where its user says other things: who names data takes the place of all that it says
    of where its own lie, who names an encoder that of the recipe's own, with what only that one needs, and who empties
    its encoder takes all away that is said of it."""
    if given.get("data") is not None or given.get("source") not in (None, *OWN_FIELDS):
        parser.set_defaults(**dict.fromkeys(OF_THE_LAYOUT - given.keys()))
    elif given.get("source") in OWN_FIELDS:
        parser.set_defaults(data=None)
    for kind in MODALITIES.values():
        model, config = f"{kind.name}_model", f"{kind.name}_config"
        there = {name: parser.get_default(name) for name in (model, config)}
        if given.get(model) is not None and given.get(config) is None:
            parser.set_defaults(**dict.fromkeys({config, *kind.of_new} - given.keys()))
        elif given.get(config) is not None and given.get(model) is None:
            parser.set_defaults(**dict.fromkeys({model, f"{kind.name}_revision"} - given.keys()))
            if there[model] is not None:  # a new encoder in place of a pretrained one, which knows nothing yet
                parser.set_defaults(**_as_nobody_says({f"freeze_{kind.name}", *kind.of_recipe} - given.keys()))
        elif there[model] is None or there[config] is None:
            emptied = any(name in given and there[name] is not None for name in there)
            if emptied:
                own = {*fields_of(kind), *kind.of_new, *kind.of_recipe}
                parser.set_defaults(**_as_nobody_says(own - given.keys()))


def _as_nobody_says(names: Collection[str]) -> dict[str, Any]:
    """Fields of a model as they are where neither a recipe nor its user says them."""
    return {field.name: field.default for field in fields(ModelArguments) if field.name in names}


def _yaml(value: Any) -> Any:
    """A value of Python's as YAML has it: paths as text, other containers as lists."""
    if isinstance(value, PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _yaml(inner) for key, inner in value.items()}
    return [_yaml(inner) for inner in value] if isinstance(value, list | tuple | set | range) else value


def _recipes(parser: _RecipeParser, source: Path, name: str, argv: list[str]) -> Recipe:
    """What a parser's defaults and the command line say, with a recipe for each combination of several values."""
    # A file is written into one folder by default, so that `train.py RECIPE` alone is a complete command.
    if parser.get_default("output_dir") is None:
        parser.set_defaults(output_dir=f"runs/{name}")

    def parse(argv: list[str], settings: dict[str, Any]) -> Recipe:
        try:
            model, data, training, _, rest = parser.parse_args_into_dataclasses(
                argv, return_remaining_strings=True, look_for_args_file=False
            )
        except (TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:  # of fields that have fields
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{source}: its fields cannot be used together ({type(error).__name__}: {reason})."
            ) from error
        if rest:
            name_of_field = rest[0].lstrip("-").split("=")[0].replace("-", "_")
            raise ValueError(f"{rest[0]} is not a field of a recipe.{parser.nearest(name_of_field)}")
        recipe = Recipe(name, model, data, training)
        recipe.settings = settings
        check_together(recipe)
        return recipe

    recipe = parse(argv, {})
    swept, variants = dict(sorted(parser.sweep.items(), key=lambda item: list(parser.options).index(item[0]))), []
    for values in itertools.product(*swept.values()) if swept else ():
        settings = dict(zip(swept, values, strict=True))
        texts = [f"--{field}={_as_typed(value)}" for field, value in settings.items()]
        try:
            variant = parse([*argv, *texts], settings)
        except ValueError as error:
            raise ValueError(f"With {', '.join(text[2:] for text in texts)}: {error}") from error
        folder = ",".join(f"{field}={_in_a_name(value)}" for field, value in settings.items())
        variant.training.output_dir = str(Path(recipe.training.output_dir) / "sweep" / folder)
        variants.append(variant)
    folders = [variant.training.output_dir for variant in variants]
    if len(set(folders)) < len(folders):
        raise ValueError(f"Several of these runs would have one folder ({', '.join(folders)}): give other values.")
    recipe.sweep = tuple(variants)
    return recipe


def _as_typed(value: Any) -> str:
    """A value as the command line takes it."""
    return "null" if value is None else json.dumps(value) if isinstance(value, dict) else str(value)


def _in_a_name(value: Any) -> str:
    """A value as part of a folder's name."""
    return re.sub(r"[^\w.+-]+", "--", str(value)).strip(".") or "empty"


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
            tried = kind is list and parser.several and can_sweep(name) and name in parser.scalars
            if isinstance(value, kind) and not parser.takes(name, kind) and not tried:
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
    parsed |= parser.sweep
    for name in ("fusion", "beside"):
        if name in values and parsed[name] is not None:
            heads = parsed[name]
            parsed[name] = [_beside(path, head) for head in heads] if isinstance(heads, list) else _beside(path, heads)
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
