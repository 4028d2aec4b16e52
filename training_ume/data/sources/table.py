"""The data sets that are known by name, a file each."""

from __future__ import annotations

import difflib

from training_ume.data.sources.base import Source

SOURCES: dict[str, Source] = {}


def find_source(source: str | Source | None) -> Source | None:
    """
    The data set of a name.

    Raises:
        ValueError: for a name that no data set has.
    """
    if source is None or isinstance(source, Source):
        return source
    if source not in SOURCES:
        near = difflib.get_close_matches(source, SOURCES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"source={source!r} is no data set that is known: {', '.join(SOURCES)}.{hint}")
    return SOURCES[source]
