"""Pretrained encoders: what their arguments mean, where their weights lie in a file, and which of them are missing.

Weights that a file lacks are filled with random numbers by transformers, which warns. Here that is an error wherever
something is computed with them.
"""

import copy
import importlib
import os
from collections.abc import Iterable
from contextlib import contextmanager

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils import logging

from .configuration_ume import UMEConfig, half_of
from .encoders_ume import EncoderAdapter, as_encoder, encoder_class, pooling_kwargs
from .modalities_ume import MODALITIES, usual
from .simple_encoders_ume import vgg_of
from .stored_ume import LOAD_ARGUMENTS, PLACE_ARGUMENTS, known_fields, nearest, own_fields
from .trust_ume import check_fields, load_trusted

DEVICE_ARGUMENTS = ("device_map", "max_memory", "offload_buffers", "offload_folder")
SHOWN_NAMES = 5


def named_encoders(names: tuple[str, ...], arguments: dict) -> tuple[dict[str, str], dict]:
    """
    Args:
        names: of encoders without saying of which modality: of the usual ones, in their order.
        arguments: by name, `text_name` and the like among them.

    Returns:
        The names of the encoders by modality, in the table's order, and the other arguments.

    Raises:
        TypeError: for too many names, or none for a modality that is not given a config either.
    """
    first = [kind.name for kind in usual()]
    if len(names) > len(first):
        raise TypeError(f"{len(names)} names were given: those beyond {' and '.join(first)} have to be given by name.")
    found = dict(zip(first, names, strict=False))
    for modality in MODALITIES:
        name = arguments.get(f"{modality}_name")
        if name is not None and modality in found:
            raise TypeError(f"{modality}_name was given twice: give it once.")
        if name is not None:
            found[modality] = name
    rest = {key: value for key, value in arguments.items() if key not in {f"{name}_name" for name in MODALITIES}}
    there = [name for name in MODALITIES if name in found or rest.get(MODALITIES[name].config_field) is not None]
    if not found or len(there) < 2:
        missing = [f"{name}_name" for name in first if name not in found]
        raise TypeError(f"from_encoders_pretrained() lacks an encoder to join: give {' and '.join(missing)}.")
    return {name: found[name] for name in MODALITIES if name in found}, rest


def split_arguments(arguments: dict) -> tuple[dict[str, dict], dict, str | None, dict]:
    """
    Args:
        arguments: what `from_encoders_pretrained` was given; see there.

    Returns:
        For each modality the arguments of its encoder's loading; the fields of the config; the attention
        implementation of what is no encoder; where the model shall lie.

    Raises:
        ValueError: for a name that is none of all these, a type that torch has not, or attention for another part.
    """
    modalities = list(MODALITIES)
    own = {*own_fields(UMEConfig)} - {kind.config_field for kind in MODALITIES.values()}
    both, fields, loading = {}, {}, {modality: {} for modality in modalities}
    for name, value in arguments.items():
        modality, _, rest = name.partition("_")
        if name in own:
            fields[name] = value
        elif modality in loading and rest:
            loading[modality][rest] = value
        elif name in LOAD_ARGUMENTS:
            both[name] = value
        elif name in known_fields(UMEConfig):
            fields[name] = value
        else:
            raise ValueError(
                f"{name} is neither an argument of from_pretrained nor a field of UMEConfig."
                f"{nearest(name, [*own, *LOAD_ARGUMENTS])}"
            )
    placing = {name: both.pop(name) for name in DEVICE_ARGUMENTS if name in both}
    attention = both.pop("attn_implementation", None)
    by_part = attention if isinstance(attention, dict) else {"": attention, **dict.fromkeys(modalities, attention)}
    by_part = {part.removesuffix("_config"): value for part, value in by_part.items()}
    strange = [part for part in by_part if part and part not in loading]
    if strange:
        raise ValueError(f"attn_implementation names {strange[0]!r}: its keys are {', '.join(modalities)}, or ''.")
    for modality, given in loading.items():
        if by_part.get(modality) is not None:
            given.setdefault("attn_implementation", by_part[modality])
        # A prefixed name is for one encoder, and so has the last word.
        of_types = {"dtype", "torch_dtype"}
        inherited = {name: value for name, value in both.items() if not (name in of_types and of_types & given.keys())}
        loading[modality] = {**inherited, **given}
        for name in of_types & loading[modality].keys():
            loading[modality][name] = _dtype(name, loading[modality][name])
    return loading, fields, by_part.get(""), placing


def _dtype(name: str, value) -> torch.dtype | str | None:
    if value in (None, "auto") or isinstance(value, torch.dtype):
        return value
    found = getattr(torch, value, None) if isinstance(value, str) else None
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name}={value!r} is no type of numbers: give 'auto' or one of torch's, such as 'bfloat16'.")
    return found


def place(model: PreTrainedModel, device_map=None, max_memory=None, offload_folder=None, offload_buffers=False):
    """The model where `device_map` says, which is a device, a dict or one of accelerate's words, or where it is."""
    if device_map is None:
        return model
    words = ("auto", "balanced", "balanced_low_0", "sequential")
    if not isinstance(device_map, dict) and device_map not in words:
        return model.to(device_map)
    accelerate = importlib.import_module("accelerate")
    if device_map in words:
        whole = {"no_split_module_classes": list(model._no_split_modules or ())}
        if device_map != "sequential":
            low_zero = device_map == "balanced_low_0"
            max_memory = accelerate.utils.get_balanced_memory(model, max_memory, low_zero=low_zero, **whole)
        device_map = accelerate.infer_auto_device_map(model, max_memory, **whole)
    if len({*device_map.values()} - {"disk"}) == 1 and "disk" not in device_map.values():
        return model.to(next(iter(device_map.values())))
    return accelerate.dispatch_model(model, device_map, offload_dir=offload_folder, offload_buffers=offload_buffers)


def load_config(name: str, **hub) -> PretrainedConfig:
    """The config of a pretrained encoder by Hub name or folder; of timm's VGG, that of this repo's own.

    Raises:
        ImportError: when transformers needs a package for this kind of encoder, such as timm.
        ForeignCodeError: for an encoder that needs code of its own, which is not run.
    """
    fields, _ = PretrainedConfig.get_config_dict(name, **hub)
    check_fields(fields, f"The config.json of {str(name)!r}")
    return vgg_of(fields) or load_trusted(AutoConfig.from_pretrained, name, **hub)


def with_fields(config: PretrainedConfig, fields: dict, prefix: str = "") -> PretrainedConfig:
    """The config with other values in some of its fields.

    Raises:
        ValueError: for a name that is no field of it; `prefix` is what the caller wrote before the name.
    """
    if not fields:
        return config
    known = config.to_dict().keys() | config.attribute_map.keys()
    for name in fields:
        if name not in known:
            raise ValueError(
                f"{prefix}{name} is neither an argument of from_pretrained nor a field of the encoder's config "
                f"({type(config).__name__}).{nearest(name, [*known, *LOAD_ARGUMENTS], prefix)}"
            )
    fields = {config.attribute_map.get(name, name): value for name, value in fields.items()}
    return type(config).from_dict({**config.to_dict(), **fields})


def load_encoder(name: str, modality: str, pooling: str, **kwargs) -> tuple[PreTrainedModel, str]:
    """A pretrained encoder by Hub name or folder; of a checkpoint that holds several models, such as CLIP's, the one
    for `modality`, with the weights that it has there.

    Weights are read from safetensors only, unless `use_safetensors=False` asks for a pickle; the Hub converts the
    pickles of a model when its safetensors are asked for.

    Args:
        modality: its key in `MODALITIES`.
        pooling: as in [`EncoderAdapter`].
        kwargs: passed to `from_pretrained` (`revision`, `dtype`, `attn_implementation`, `config`, …); other names are
            fields of the encoder's config, which are set.

    Returns:
        The encoder, and its pooling: what was given, or instead of `"auto"` one that does without the weights of a
        pooler where the file has none.

    Raises:
        ValueError: for a folder whose weights are pickled, an unknown name, or a file that lacks weights which are
            read.
    """
    whole = kwargs.pop("config", None)
    if whole is None:
        whole = load_config(name, **{key: kwargs[key] for key in PLACE_ARGUMENTS if key in kwargs})
    kind = MODALITIES[modality]
    config = half_of(whole, modality)
    given = {f"{modality}_{key}": kwargs.pop(key) for key in list(kwargs) if key not in LOAD_ARGUMENTS}
    settings = {setting.name: given.pop(setting.name) for setting in kind.settings if setting.name in given}
    fields = {name.removeprefix(f"{modality}_"): value for name, value in given.items()}
    config = as_encoder(copy.deepcopy(with_fields(config, fields, prefix=f"{modality}_")))
    fitted = kind.fit_config(config, {**settings, f"{modality}_model": name})
    # An encoder by itself, of a file that holds more: a half of a dual model, the encoder of an encoder-decoder.
    is_half = type(config) is not type(whole) or config.is_encoder_decoder != whole.is_encoder_decoder
    kwargs.setdefault("use_safetensors", True)
    folder = os.path.join(name, kwargs.get("subfolder") or "")
    files = os.listdir(folder) if kwargs["use_safetensors"] and os.path.isdir(folder) else []
    pickled = [file for file in files if file.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickled and not any(file.endswith(".safetensors") for file in files):
        raise ValueError(
            f"The weights in {name!r} are a pickle ({pickled[0]}), and reading one may run whatever is in it. If you "
            "trust it, load it once with use_safetensors=False and save it again."
        )
    # Weights of a pretraining's head are left out on purpose, and those that lack are looked at below: a report of
    # both would only frighten. Whether a half's weights lie under its own names in the whole's file shows there, too.
    with _without_reports():
        encoder, absent = _load(encoder_class(config), name, config, {**kwargs, **pooling_kwargs(config, pooling)})
    adapter = EncoderAdapter(encoder, modality, pooling)
    lost = adapter.read_of(encoder, absent)
    if lost and is_half:
        with _without_reports():
            encoder, absent = _out_of_whole(name, whole, config, pooling, kwargs)
        lost = adapter.read_of(encoder, absent)
    if fitted is not config and not lost:
        encoder = _fitted(encoder, fitted, pooling)
    of_pooler = all(weight in adapter.unread_by_states for weight in lost)
    if lost and of_pooler and pooling == "auto":
        return encoder, adapter.without_pooler
    if lost:
        what_to_do = "They would be random: take a checkpoint that has them."
        if of_pooler:
            what_to_do = f"They are its pooler's: choose {modality}_pooling='auto'."
        raise ValueError(
            f"The checkpoint {str(name)!r} lacks weights that its {modality} encoder ({config.model_type!r}) reads, "
            f"or has them in other shapes: {shown(lost)}. {what_to_do}"
        )
    return encoder, pooling


def _fitted(encoder: PreTrainedModel, config: PretrainedConfig, pooling: str) -> PreTrainedModel:
    """The encoder that reads less, with this config: fewer layers, and of its positions the first."""
    less = encoder_class(config)._from_config(config, dtype=encoder.dtype, **pooling_kwargs(config, pooling))
    held = encoder.state_dict()
    weights = {
        name: held[name][tuple(map(slice, wanted.shape))] if held[name].shape != wanted.shape else held[name]
        for name, wanted in less.state_dict().items()
    }
    less.load_state_dict(weights)
    return less.eval()


def shown(names: Iterable[str]) -> str:
    """Some of the names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def _load(model_class: type[PreTrainedModel], name: str, config: PretrainedConfig, kwargs: dict):
    """The model, and the names of its weights that are not in the file, or are there in another shape."""
    kwargs = {**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = load_trusted(model_class.from_pretrained, name, config=config, **kwargs)
    return model, absent_names(info)


def absent_names(loading_info: dict) -> set[str]:
    """Of what `output_loading_info=True` gives: the weights that did not come from the file."""
    return {*loading_info["missing_keys"], *(entry[0] for entry in loading_info["mismatched_keys"])}


@contextmanager
def _without_reports():
    """transformers reports every weight of a file that a model does not take, in a line each."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _out_of_whole(name: str, whole: PretrainedConfig, config: PretrainedConfig, pooling: str, kwargs: dict):
    """An encoder out of a checkpoint whose model holds it under another name, and the names that are absent there."""
    named = [getattr(transformers, str(wanted), None) for wanted in whole.architectures or ()]
    wholes = [found for found in named if isinstance(found, type) and issubclass(found, PreTrainedModel)]
    if not wholes and type(whole) in MODEL_MAPPING:
        wholes = [MODEL_MAPPING[type(whole)]]
    build = {key: kwargs.pop(key) for key in ("attn_implementation", "experts_implementation") if key in kwargs}
    encoder = encoder_class(config)._from_config(config, **pooling_kwargs(config, pooling), **build)
    wanted = encoder.state_dict()
    if not wholes:
        return encoder, set(wanted)
    model, absent = _load(wholes[0], name, whole, kwargs)
    held = model.state_dict()
    # Where it lies: the place where most of its names are, the first of several, and no decoder's.
    places = {key[: -len(inner)] for inner in wanted for key in held if key == inner or key.endswith(f".{inner}")}

    def fitting(place):
        return [inner for inner in wanted if getattr(held.get(place + inner), "shape", None) == wanted[inner].shape]

    order = {key: number for number, key in enumerate(held)}

    def rank(place):
        found = fitting(place)
        return len(found), "decoder" not in place, -min((order[place + inner] for inner in found), default=0)

    place = max(places, key=rank, default="")
    found = {inner for inner in fitting(place) if place + inner not in absent}
    encoder = encoder.to(model.dtype)
    encoder.load_state_dict({inner: held[place + inner] for inner in found}, strict=False)
    return encoder.eval(), wanted.keys() - found
