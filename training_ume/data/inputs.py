"""Names of what a batch holds, shared by those who make batches and those who leave a part out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality

PART = 100  # rows that are looked at together

# Models that are trained on one modality alone, and what they are given.
BLIND = {f"{kind.column}_only": kind.column for kind in MODALITIES.values()}
# What is left to the model (`inputs` of the collator) when one is missing, by the name of that.
LEFT = {
    kind.short: "+".join(other.column for other in MODALITIES.values() if other is not kind)
    for kind in reversed(MODALITIES.values())
}


def one_alone(inputs: str) -> bool:
    """Whether a model is given one modality, so that there is nothing to fuse."""
    return inputs in BLIND.values()


def there(rows: Any) -> list[Modality]:
    """The modalities that some of the rows of `load_rows` have."""
    return [kind for kind in MODALITIES.values() if kind.column in rows.column_names and not _all_lack(kind, rows)]


def lacked_by_all(rows: Any) -> list[str]:
    """The modalities that rows of `load_rows` have a column for, and no row has: what a collator then `may_lack`."""
    return [kind.name for kind in MODALITIES.values() if kind.column in rows.column_names and _all_lack(kind, rows)]


def _all_lack(kind: Modality, rows: Any) -> bool:
    parts = rows.select_columns([kind.column]).iter(batch_size=PART)
    return all(kind.lacks(cell) for part in parts for cell in part[kind.column])


def cell_keys(rows: Any, files: Mapping[str, str]) -> list[tuple]:
    """
    What tells the rows of `load_rows` apart: each modality's cell, a text without its case, a file by its content.

    Args:
        files: what the content of each path is known by, see `copies`.
    """
    kinds = [kind for kind in MODALITIES.values() if kind.column in rows.column_names]
    return [
        tuple(_key(kind, cell, files) for kind, cell in zip(kinds, cells, strict=True))
        for cells in zip(*(rows[kind.column][:] for kind in kinds), strict=True)
    ]


def _key(kind: Modality, cell: Any, files: Mapping[str, str]) -> Any:
    if kind.lacks(cell):
        return ""
    if kind.names_file(cell):
        return files.get(cell, cell)
    return " ".join(cell.casefold().split()) if isinstance(cell, str) else repr(cell)


def paths_in(rows: Any) -> dict[str, list[str]]:
    """The path of each row's file, by the column of each modality that stands in files; `""` where there is none."""
    return {
        kind.column: [cell if cell and kind.names_file(cell) else "" for cell in rows[kind.column][:]]
        for kind in MODALITIES.values()
        if kind.suffixes and kind.column in rows.column_names and _may_name_files(rows, kind.column)
    }


def _may_name_files(rows: Any, column: str) -> bool:
    """Whether a column holds texts: one of numbers names no files, and is long to read."""
    return getattr(rows.features.get(column), "dtype", None) in ("string", "large_string")
