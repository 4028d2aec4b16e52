"""The fields of a recipe that each modality has, made from the table of modalities: which encoder, how it is used."""

from __future__ import annotations

from dataclasses import field, make_dataclass

from configuration_ume.values import parse_json, typed_config
from modeling_ume.modalities_ume import MODALITIES, usual
from modeling_ume.modality_base_ume import Modality


def _fields(kind: Modality) -> list[tuple]:
    name, called, noun = kind.name, kind.called, kind.noun
    article = "an" if noun[0] in "aeiou" else "a"
    return [
        (f"{name}_model", str | None, f"Pretrained encoder of {kind.nouns}: a Hub name or a folder.", None),
        (f"{name}_revision", str | None, f"Branch, tag or commit of the {name} model.", None),
        (
            f"{name}_config",
            dict | str | None,
            f"New encoder of {kind.nouns} instead: its config as JSON with `model_type`"
            + ("; `vocab_size` follows the tokenizer." if kind.part == "tokenizer" else "."),
            None,
        ),
        (kind.pooling_field, str, f"What summarises {article} {noun}: auto, cls, mean, pooler or last.", "auto"),
        (f"freeze_{name}", bool, f"Keep the {called} encoder as it is.", False),
        *((setting.name, setting.type, setting.help, setting.default) for setting in kind.settings),
    ]


def fields_of(kind: Modality) -> list[str]:
    """The fields of a recipe that are about a modality's encoder."""
    return [name for name, *_ in _fields(kind)]


EncoderArguments = make_dataclass(
    "EncoderArguments",
    [
        (name, of_type, field(default=default, metadata={"help": said}))
        for kind in MODALITIES.values()
        for name, of_type, said, default in _fields(kind)
    ],
    namespace={
        "__module__": __name__,
        "__doc__": "An encoder for each modality, pretrained (a name) or new (a config).",
    },
)


def given_modalities(args: EncoderArguments) -> list[str]:
    """The modalities that a recipe gives an encoder, in the order of the table."""
    return [
        name
        for name in MODALITIES
        if getattr(args, f"{name}_model", None) is not None or getattr(args, f"{name}_config", None) is not None
    ]


def frozen_modalities(args: EncoderArguments) -> list[str]:
    """The modalities whose encoders stay as they are."""
    return [name for name in given_modalities(args) if getattr(args, f"freeze_{name}")]


def check_encoders(args: EncoderArguments) -> None:
    """
    Reads configs that were given as text, in place.

    Raises:
        ValueError: where an encoder is given twice or not at all, or what belongs to one is given without it.
    """
    for kind in MODALITIES.values():
        name, config, revision = f"{kind.name}_model", f"{kind.name}_config", f"{kind.name}_revision"
        if isinstance(getattr(args, config), str):
            setattr(args, config, parse_json(config, getattr(args, config), '\'{"model_type": "bert", …}\''))
        if getattr(args, name) is not None and getattr(args, config) is not None:
            raise ValueError(
                f"{name}={getattr(args, name)!r} and {config} are both given: an encoder is either pretrained or "
                f"new. Empty one of them (`--{name} null` or `--{config} null`)."
            )
        if getattr(args, config) is not None and "model_type" not in getattr(args, config):
            raise ValueError(f"{config} has no `model_type`: add the kind of encoder, for example bert or resnet.")
        if getattr(args, config) is not None:
            setattr(args, config, typed_config(config, getattr(args, config)))
        if getattr(args, revision) is not None and getattr(args, name) is None:
            raise ValueError(f"{revision} is given without {name}: a new encoder has no revision.")
    given = given_modalities(args)
    wanted = usual() if all(MODALITIES[name] in usual() for name in given) else []
    missing = [kind.name for kind in wanted if kind.name not in given]
    if missing:
        raise ValueError(
            f"Neither {missing[0]}_model nor {missing[0]}_config is given: name a pretrained encoder, or configure a "
            "new one."
        )
    if len(given) < 2:
        raise ValueError(
            f"Only {given[0]} is given an encoder, and a model joins two modalities or more: give "
            f"{' or '.join(f'{name}_model' for name in MODALITIES if name not in given)}, too."
        )
    idle = [f"freeze_{name}" for name in MODALITIES if name not in given and getattr(args, f"freeze_{name}")]
    idle += [
        setting.name
        for name, kind in MODALITIES.items()
        for setting in kind.settings
        if name not in given and getattr(args, setting.name) != setting.default
    ]
    if idle:
        raise ValueError(f"{idle[0]} is given without such an encoder: leave it out.")
