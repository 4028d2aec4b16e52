"""A table, whatever it came in: columns, and batches of their cells from the beginning as often as asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets
import pyarrow as pa

from training_ume.data.json_entries import VQADataError

BATCH = 1000
# A row of pictures is large: of columns that hold bytes, few rows are held at a time.
SMALL_BATCH = 64
# The names of the parts of a data set; those in one line mean the same.
PART_NAMES = (("train", "training"), ("validation", "valid", "val", "dev"), ("test", "testing"))
Batch = tuple[Any, dict[str, list]]  # what its rows are called by, and each column's cells


@dataclass
class Table:
    """
    One table, of whatever container.

    Attributes:
        name (`str`): what messages call it.
        container (`str`): what it comes in, in words.
        columns: the names of its columns.
        batches: makes an iterator of (what the rows are called by and each column's cells, rows that cannot be read).
        label (`str`): how one row is said, e.g. `line {}`.
        types: the Arrow type of each column that is known to have one.
        classes: the names of a column's numbers.
        folder (`str`, *optional*): where its pictures' names begin, a folder or an address.
        own (`bool`): whether it is a file of the user's, which may name pictures anywhere.
        rows (`int`, *optional*): how many there are, where that is known without reading them.
        notes: what was done to read it, whole sentences.
        cells_are_text (`bool`): whether it is a text file, whose numbers are written out.
        ids_are_labels (`bool`): whether rows stand under their ids, which then are what they are called by.
        took_split (`bool`): whether it holds just the split that was asked for.
    """

    name: str
    container: str
    columns: list[str]
    batches: Callable[[], Iterator[tuple[Batch, list[tuple[Any, str]]]]]
    label: str = "row {} (the first is 0)"
    types: dict[str, pa.DataType] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)
    folder: str | None = None
    own: bool = True
    rows: int | None = None
    notes: list[str] = field(default_factory=list)
    cells_are_text: bool = False
    ids_are_labels: bool = False
    took_split: bool = False


def refuse_double_names(file: str, names: list[str]) -> None:
    """Raises VQADataError where two columns have one name: either could be meant."""
    for name, count in Counter(names).items():
        if count > 1:
            places = " and ".join(str(position + 1) for position, other in enumerate(names) if other == name)
            raise VQADataError(
                f"{file} has {count} columns of the name {name!r} (columns {places}). Rename one of them."
            )


def classes_of(features: Mapping) -> dict[str, list[str]]:
    return {name: feature.names for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}


def holds_bytes(schema: pa.Schema) -> bool:
    def inside(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(inside(part.type) for part in kind)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return inside(kind.value_type)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    return any(inside(kind) for kind in schema.types)
