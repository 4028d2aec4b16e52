"""Values of a recipe, typed by what they are for: `1e-12` is a number also inside a nested field, and a name that is
all digits stays a name.

YAML 1.1 reads `1e-12` as text, `010` as 8, `1:30` as 90 and a commit such as `0123456` as a number. Here numbers are
those that Python writes, what is written stays at hand for fields that take text, and a leading zero is refused where
a number is expected.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from argparse import ArgumentTypeError
from typing import Any

import yaml
from transformers import CONFIG_MAPPING, AutoConfig

from modeling_ume.stored_ume import nearest

TRUTH = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)")
DECIMAL = re.compile(
    r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
# Arguments of every config that are none of its attributes.
ALWAYS_KNOWN = {"attn_implementation", "torch_dtype"}


class Whole(int):
    """A whole number of a YAML file, with what was written."""

    text: str


class Decimal(float):
    """Any other number of a YAML file, with what was written."""

    text: str


class LeadingZero(str):
    """What YAML releases read as octal, decimal or text."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        seen = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        "while reading a mapping", node.start_mark, f"found {key.value} twice", key.start_mark
                    )
                seen[key.value] = key
        return super().construct_mapping(node, deep)


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float | str:
    text = loader.construct_scalar(node)
    if LEADING_ZERO.fullmatch(text):
        return LeadingZero(text)
    number = number_in(text)
    number = Whole(number) if isinstance(number, int) else Decimal(number)
    number.text = text
    return number


def _date(loader: _Loader, node: yaml.ScalarNode) -> str:
    loader.construct_yaml_timestamp(node)  # which refuses days that there are not
    return loader.construct_scalar(node)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(f"^(?:{WHOLE.pattern}|{DECIMAL.pattern}|{LEADING_ZERO.pattern})$"),
    list("-+.0123456789"),
)


_Loader.add_constructor("tag:yaml.org,2002:float", _number)


_Loader.add_constructor("tag:yaml.org,2002:int", _number)


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _date)


def load_yaml(text: str) -> Any:
    """
    Reads a YAML document; its numbers are `Whole`, `Decimal` or, with a leading zero, `LeadingZero`.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: for what is none, and keys that are there twice.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def scalar_text(value: Any, takes_text: bool, path: str = "") -> str:
    """
    A YAML scalar as it would be typed on the command line.

    Args:
        takes_text (`bool`): whether the field takes text, for which a number is as it was written.

    Raises:
        ValueError: where a number has a leading zero.
    """
    if isinstance(value, LeadingZero) and not takes_text:
        raise ValueError(f"{path}{value} has a leading zero, which YAML may read as octal: write {int(value)}, or 0o…")
    if value is None:
        return "null"
    return value.text if takes_text and isinstance(value, Whole | Decimal) else str(value)


def plain(value: Any, path: str, within: tuple = ()) -> Any:
    """
    A nested YAML value as JSON has it, numbers as they were written where they have a leading zero.

    Raises:
        ValueError: for what JSON has not: dates, sets, values that hold themselves.
    """
    if any(value is outer for outer in within):
        raise ValueError(f"{path} holds itself.")
    if isinstance(value, dict):
        for key in value:
            if isinstance(key, bool) or key is None or not isinstance(key, str | int | float):
                raise ValueError(f"{path} has a key that reads as {key}: put quotes around it.")
        return {_key(key): plain(inner, f"{path}.{_key(key)}", (*within, value)) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner, f"{path}[{i}]", (*within, value)) for i, inner in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{path} is a {type(value).__name__}: give text, numbers, lists and mappings only.")


def _key(key: Any) -> str:
    return getattr(key, "text", None) or str(key)


def parse_json(name: str, text: str, example: str) -> dict:
    """
    A field's JSON object.

    Raises:
        ValueError: for what is none, and keys that are there twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict:
        keys = [key for key, _ in pairs]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is there twice")
        return dict(pairs)

    try:
        parsed = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not valid JSON ({error}): write it as {example}.") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{name} is JSON but no object: write it as {example}.")
    return parsed


def pairs(name: str, texts: list[str]) -> dict[str, str | list[str]]:
    """
    The mapping that `key=value` pairs say, or a single JSON object; a key that is there twice has a list of values.

    Raises:
        ValueError: for what is neither.
    """
    if len(texts) == 1 and texts[0].lstrip().startswith("{"):
        return parse_json(name, texts[0], '\'{"key": "value"}\'')
    found: dict[str, str | list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"{name} has {text!r}, which is no pair: write key=value, as in --{name} key=value.")
        before = found.get(key)
        found[key] = value if before is None else [*(before if isinstance(before, list) else [before]), value]
    return found


def rate_or_rates(text: str) -> float | dict[str, float]:
    """
    A number, or those that belong to names: `name=number`, or a JSON object.

    Raises:
        ArgumentTypeError: for what is neither.
    """
    if text.lstrip().startswith("{"):
        try:
            return parse_json("a mapping", text, "'{\"audio\": 0.3}'")
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from error
    name, equals, value = text.rpartition("=")
    number = number_in(value)
    if number is None or (equals and not name):
        raise ArgumentTypeError(f"{text!r} is neither a number nor name=number")
    return {name: float(number)} if equals else float(number)


def number_in(text: str) -> int | float | None:
    """The number that a text is, None for any other."""
    if WHOLE.fullmatch(text):
        return int(text, 0)
    if DECIMAL.fullmatch(text):
        return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    return None


def truth_or_text(text: str) -> bool | str:
    """What a field takes that is a truth value or a name."""
    return TRUTH.get(text.lower(), text)


def as_kinds(value: Any, kinds: set[type], path: str) -> Any:
    """
    A value as the types that are expected of it, as far as its text says them.

    Args:
        kinds: of `bool`, `int`, `float`, `str`, `list`, `dict` and `NoneType`; none: anything.

    Raises:
        ValueError: for a number with a leading zero, text where a number is expected, and a truth value for text.
    """
    if isinstance(value, list):
        return [as_kinds(inner, kinds - {list, type(None)}, f"{path}[{i}]") for i, inner in enumerate(value)]
    numeric = bool(kinds & {int, float}) and str not in kinds
    if isinstance(value, LeadingZero) and str not in kinds:
        scalar_text(value, takes_text=False, path=f"{path}=")
    if isinstance(value, Whole | Decimal):
        text_only = kinds and not kinds & {int, float} and str in kinds
        return value.text if text_only else (int if isinstance(value, Whole) else float)(value)
    if isinstance(value, bool) and kinds and not kinds & {bool, int, float} and str in kinds:
        raise ValueError(f"{path} reads as {value}. YAML takes yes and no for truth values: put quotes around it.")
    if isinstance(value, bool) and numeric and bool not in kinds:
        raise ValueError(f"{path} reads as {value}, where a number is expected.")
    if not isinstance(value, str) or str in kinds or not kinds:
        return str(value) if isinstance(value, LeadingZero) else value
    if bool in kinds and value.lower() in TRUTH:
        return TRUTH[value.lower()]
    number = number_in(value) if numeric else None
    if number is not None and (float in kinds or isinstance(number, int)):
        return number
    if numeric and dict not in kinds:
        what = "a number" if float in kinds else "a whole number"
        raise ValueError(f"{path}={value!r} is impossible: {what} is expected.")
    return value


def typed_config(field: str, settings: dict) -> dict:
    """
    The settings of a new encoder with the types that its config gives them.

    Args:
        field (`str`): the recipe's field, for messages.
        settings (`dict`): with `model_type`.

    Raises:
        ValueError: for an unknown encoder or setting (the nearest is named), a value of another type, and whatever the
            config itself refuses.
    """
    settings = plain(settings, field)
    model_type = settings["model_type"]
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        hint = nearest(str(model_type), CONFIG_MAPPING) or " Write for example bert, vit or resnet."
        raise ValueError(f"{field}.model_type={model_type!r} is no encoder that transformers knows.{hint}")
    cls = CONFIG_MAPPING[model_type]
    kinds = _kinds(cls)
    typed = {}
    for name, value in settings.items():
        if kinds is not None and name not in kinds:
            hint = nearest(name, kinds) or " Its settings are those that transformers documents."
            raise ValueError(f"{field}.{name} is no setting of {cls.__name__}.{hint}")
        typed[name] = as_kinds(value, (kinds or {}).get(name, set()), f"{field}.{name}")
    try:
        AutoConfig.for_model(**typed)
    except Exception as error:  # configs check themselves in many ways
        raise ValueError(f"{field} cannot be used: {' '.join(str(error).split()) or type(error).__name__}.") from error
    return typed


def _kinds(cls: type) -> dict[str, set[type]] | None:
    """The types of each setting of a config, an empty set where they are unknown; None: where it has no default."""
    try:
        default = cls()
    except Exception:  # a composite that needs its parts
        return None
    values = {**vars(default), **default.to_dict()}
    names = {*inspect.signature(cls.__init__).parameters, *values, *cls.attribute_map, "model_type", *ALWAYS_KNOWN}
    names |= {name for name in dir(cls) if isinstance(inspect.getattr_static(cls, name), property)}
    kinds: dict[str, set[type]] = {name: set() for name in names if not name.startswith("__")}
    annotated = {field.name: field.type for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    for name in kinds:
        known = _of_annotation(annotated[name]) if name in annotated else None
        if known is None:
            value = values.get(cls.attribute_map.get(name, name))
            # A default tells half: 0 may stand for a share, and None for anything.
            known = {type(value)} if isinstance(value, bool | float | str) else set()
            known |= {int, float} if type(value) is int else set()
        kinds[name] = known | ({int} if float in known else set())
    return kinds


def _of_annotation(annotation: Any) -> set[type] | None:
    """The plain types of an annotation, those inside lists included; None where it does not say."""
    if annotation in (bool, int, float, str, dict, type(None)):
        return {annotation}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        return {dict}
    if origin in (list, tuple) or annotation in (list, tuple):
        inner = [_of_annotation(argument) for argument in arguments if argument is not Ellipsis]
        return {list}.union(*(kinds for kinds in inner if kinds)) if None not in inner else None
    if arguments:
        inner = [_of_annotation(argument) for argument in arguments]
        return set().union(*inner) if None not in inner else None
    return None
