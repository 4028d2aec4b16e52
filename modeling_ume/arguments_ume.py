"""Which part of a processor an argument is for, as transformers' own processors decide it: by the names it knows."""

import inspect

from transformers.processing_utils import ImagesKwargs, TextKwargs

from .stored_ume import nearest

# Of inputs that a processor of texts and images has no part for.
OTHER_INPUTS = ("videos", "audio")


def route_arguments(tokenizer, image_processor, groups: dict, common: dict | None, flat: dict) -> tuple[dict, dict]:
    """
    Sorts what a caller of a processor gave besides texts and images.

    Args:
        groups: `"text_kwargs"` and `"images_kwargs"`, a dict or None each: for that part, and final.
        common: `common_kwargs`, for every part that knows the name.
        flat: arguments given by themselves, likewise; where a part has no such name, the other has to.

    Returns:
        The arguments of the tokenizer and those of the image processor.

    Raises:
        ValueError: for videos or audio, and an argument that was given twice.
        TypeError: for a name that no part knows; the message names the nearest.
    """
    flat = {name: value for name, value in flat.items() if value is not None or name not in OTHER_INPUTS}
    for name in OTHER_INPUTS:
        if name in flat:
            raise ValueError(f"{name} was given, but this processor reads images and texts: leave it out.")
    known = {"text_kwargs": _tokenizer_names(tokenizer), "images_kwargs": _image_names(image_processor)}
    routed = {}
    for group, names in known.items():
        own = dict(groups[group] or {})
        twice = sorted(own.keys() & flat.keys() & names)
        if twice:
            raise ValueError(f"{twice[0]} was given twice, in {group} and by itself: give it once.")
        shared = {**(common or {}), **flat}
        routed[group] = {**{name: value for name, value in shared.items() if name in names}, **own}
    everything = set().union(*known.values())
    for name in (*flat, *(common or {})):
        if name not in everything:
            raise TypeError(
                f"Neither the tokenizer nor the image processor has an argument {name!r}."
                f"{nearest(name, everything)} What only they understand goes into text_kwargs or images_kwargs."
            )
    return routed["text_kwargs"], routed["images_kwargs"]


def _tokenizer_names(tokenizer) -> set[str]:
    names = {*TextKwargs.__annotations__, *_named(type(tokenizer).__call__)}
    return names - {"self", "text", "text_target", "text_pair_target"}


def _image_names(image_processor) -> set[str]:
    valid = getattr(image_processor, "valid_kwargs", None) or ImagesKwargs
    names = {*ImagesKwargs.__annotations__, *valid.__annotations__, *_named(image_processor.preprocess)}
    return names - {"self", "images", "videos"}


def _named(function) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
