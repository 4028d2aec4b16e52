"""Which part of a processor an argument is for, as transformers' own processors decide it: by the names it knows."""

import inspect

from transformers.processing_utils import ImagesKwargs, TextKwargs

from .stored_ume import nearest

# Of inputs that a processor of texts and images has no part for.
OTHER_INPUTS = ("videos", "audio")


def route_arguments(
    known: dict[str, set[str]], groups: dict, common: dict | None, flat: dict, given: dict
) -> dict[str, dict]:
    """
    Sorts what a caller of a processor gave besides texts, images and the like.

    Args:
        known: the names that each part's arguments have, by the name of its group, such as `"text_kwargs"`.
        groups: by the same names a dict or None each: for that part, and final.
        common: `common_kwargs`, for every part that knows the name.
        flat: arguments given by themselves, likewise; where a part has no such name, another has to.
        given: what is to be processed, by what the call names it.

    Returns:
        The arguments of each part, by group.

    Raises:
        ValueError: for inputs that there is no part for, and an argument that was given twice.
        TypeError: for a name that no part knows; the message names the nearest.
    """
    here = [group.removesuffix("_kwargs") for group in known]
    strange = [name for name in (*given, *flat) if name in {*OTHER_INPUTS, *given} and name not in here]
    reads = " and ".join(sorted(name if name.endswith("s") else f"{name}s" for name in here))
    flat = {name: value for name, value in flat.items() if value is not None or name not in OTHER_INPUTS}
    for name in strange:
        if name in given or name in flat:
            raise ValueError(f"{name} was given, but this processor reads {reads}: leave it out.")
    routed = {}
    for group, names in known.items():
        own = dict(groups.get(group) or {})
        twice = sorted(own.keys() & flat.keys() & names)
        if twice:
            raise ValueError(f"{twice[0]} was given twice, in {group} and by itself: give it once.")
        shared = {**(common or {}), **flat}
        routed[group] = {**{name: value for name, value in shared.items() if name in names}, **own}
    everything = set().union(*known.values())
    for name in (*flat, *(common or {})):
        if name not in everything:
            raise TypeError(
                f"No part of the processor has an argument {name!r}."
                f"{nearest(name, everything)} What only they understand goes into {' or '.join(known)}."
            )
    return routed


def tokenizer_names(tokenizer) -> set[str]:
    """The arguments of a tokenizer's call besides texts."""
    names = {*TextKwargs.__annotations__, *_named(type(tokenizer).__call__)}
    return names - {"self", "text", "text_target", "text_pair_target"}


def image_names(image_processor) -> set[str]:
    """The arguments of an image processor's call besides images."""
    valid = getattr(image_processor, "valid_kwargs", None) or ImagesKwargs
    names = {*ImagesKwargs.__annotations__, *valid.__annotations__, *_named(image_processor.preprocess)}
    return names - {"self", "images", "videos"}


def _named(function) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
