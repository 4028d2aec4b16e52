"""The table of modalities: all that the rest of the code knows of one, it reads here.

Adding a modality is a class (see modality_base_ume.py) and a line in `MODALITIES`.
"""

from .audio_ume import Audio
from .modality_base_ume import Modality
from .series_ume import Series
from .table_ume import Table
from .text_ume import Text
from .video_ume import Video
from .vision_ume import Vision

MODALITIES: dict[str, Modality] = {
    kind.name: kind
    for kind in (
        Text(),
        Vision(),
        Audio(),
        Video(),
        Series(),
        Table(),
    )
}


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


ALL = "both"  # the name is from a time of two


def inputs_known() -> tuple[str, ...]:
    """What of a table of rows a model may be given: everything, or the column of one modality alone."""
    return (ALL, *(kind.column for kind in MODALITIES.values()))


def seen_by(inputs: str) -> list[str]:
    """
    The modalities that a model is given.

    Args:
        inputs: one of `inputs_known`, or several columns with a + between them.

    Raises:
        ValueError: for a column of no modality.
    """
    known = inputs_known()
    columns = str(inputs).split("+")
    if any(column not in known for column in columns) or (ALL in columns and len(columns) > 1):
        raise ValueError(f"inputs={inputs!r} must be one of {', '.join(known)}.")
    return [name for name, kind in MODALITIES.items() if inputs == ALL or kind.column in columns]


def usual() -> list[Modality]:
    """The modalities of a config that names none."""
    return [kind for kind in MODALITIES.values() if kind.default_config is not None]


def prepared() -> list[Modality]:
    """The modalities that a part of the processor prepares."""
    return [kind for kind in MODALITIES.values() if kind.part is not None]
