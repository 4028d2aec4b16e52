"""Names of what a batch holds, shared by those who make batches and those who leave a part out."""

from __future__ import annotations

from typing import Any

from modeling_ume.modalities_ume import MODALITIES

# Models that are trained on one modality alone, and what they are given.
BLIND = {f"{kind.column}_only": kind.column for kind in MODALITIES.values()}
# What is left to the model (`inputs` of the collator) when one is missing, by the name of that.
LEFT = {
    kind.short: "+".join(other.column for other in MODALITIES.values() if other is not kind)
    for kind in reversed(MODALITIES.values())
}


def lacked_by_all(rows: Any) -> list[str]:
    """The modalities that rows of `load_rows` have a column for, and no row has: what a collator then `may_lack`."""
    return [
        kind.name
        for kind in MODALITIES.values()
        if kind.column in rows.column_names and all(map(kind.lacks, rows[kind.column][:]))
    ]
