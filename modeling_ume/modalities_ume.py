"""The table of modalities: all that the rest of the code knows of one, it reads here.

Adding a modality is a class (see modality_base_ume.py) and a line in `MODALITIES`.
"""

from .modality_base_ume import Modality
from .text_ume import Text
from .vision_ume import Vision

MODALITIES: dict[str, Modality] = {kind.name: kind for kind in (Text(), Vision())}


def modality_named(name: str | None, among=None) -> str:
    """
    The key in `MODALITIES` of what a caller calls a modality: the key itself, or another name that transformers has.

    Args:
        name: None stands for the first.
        among: the keys that are meant; default: all.

    Raises:
        ValueError: for a name that is none of them.
    """
    among = list(MODALITIES if among is None else among)
    if name is None:
        return among[0]
    for key in among:
        if name == key or name in MODALITIES[key].aliases:
            return key
    known = [repr(key) for key in among]
    raise ValueError(f"modality={name!r} is not known: choose {', '.join(known[:-1])} or {known[-1]}.")


def usual() -> list[Modality]:
    """The modalities of a config that names none."""
    return [kind for kind in MODALITIES.values() if kind.default_config is not None]
