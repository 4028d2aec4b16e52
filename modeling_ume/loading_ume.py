"""Arguments of a model that is joined from pretrained encoders: what loads them, and what its config holds."""

import torch

from .configuration_ume import UMEConfig
from .stored_ume import LOAD_ARGUMENTS, known_fields, nearest, own_fields


def split_arguments(arguments: dict) -> tuple[dict[str, dict], dict, str | None]:
    """
    Args:
        arguments: what `from_encoders_pretrained` was given; see there.

    Returns:
        For each modality the arguments of its encoder's loading; the fields of the config; the attention
        implementation of what is no encoder.

    Raises:
        ValueError: for a name that is none of all these, a type that torch has not, or attention for another part.
    """
    modalities = [part.removesuffix("_config") for part in UMEConfig.sub_configs]
    own = {*own_fields(UMEConfig)} - {f"{modality}_config" for modality in modalities}
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
    return loading, fields, by_part.get("")


def _dtype(name: str, value) -> torch.dtype | str | None:
    if value in (None, "auto") or isinstance(value, torch.dtype):
        return value
    found = getattr(torch, value, None) if isinstance(value, str) else None
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name}={value!r} is no type of numbers: give 'auto' or one of torch's, such as 'bfloat16'.")
    return found
