"""What a caller has of each modality, under any of its names, as rows; and rows as what a model reads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .modalities_ume import MODALITIES
from .stored_ume import nearest


def names_of(modalities: Iterable[str]) -> dict[str, str]:
    """Every name that callers have for these modalities → its key in `MODALITIES`."""
    return {name: key for key in modalities for name in MODALITIES[key].names}


def by_modality(given: Mapping[str, Any], modalities: Sequence[str], others: bool = False) -> dict[str, Any]:
    """
    What a caller gives of one example → the same by the keys of the modalities, without what is not there.

    Args:
        given: by any name of a modality (`image`, `question`, `audio`, `table` …).
        modalities: those that the model reads.
        others: whether names of nothing are passed over, as other columns of a row are.

    Raises:
        ValueError: for what the model does not read, a name of nothing, what is given twice, and nothing at all.
    """
    known, found = names_of(MODALITIES), {}
    for name, cell in given.items():
        key = known.get(name)
        if key is None and others:
            continue
        if key is None:
            own = list(names_of(modalities))
            raise ValueError(f"{name} is nothing that a model reads.{nearest(str(name), own)} {_reads(modalities)}")
        if MODALITIES[key].lacks(cell):
            continue
        if key not in modalities:
            raise ValueError(f"{name} was given, and there is no encoder for it. {_reads(modalities)}")
        if key in found:
            raise ValueError(f"{MODALITIES[key].noun} is given twice, the second time as {name}: give it once.")
        found[key] = cell
    if not found:
        raise ValueError(f"There is nothing to answer from. {_reads(modalities)}")
    return found


def _reads(modalities: Sequence[str]) -> str:
    columns = [MODALITIES[key].column for key in modalities]
    return f"This model reads {', '.join(columns[:-1])} and {columns[-1]}: give one of them or more."


def inputs_of(processor, rows: Sequence[Mapping[str, Any]], modalities: Iterable[str]) -> dict[str, Tensor]:
    """
    Rows → what `forward` takes; what several rows share is in it once.

    Args:
        processor: a [`UMEProcessor`].
        rows: of `by_modality`, each of which may lack some of the modalities.
        modalities: those that the model reads.

    Raises:
        ValueError: for what cannot be read.
    """
    batch: dict[str, Tensor] = {}
    for key in modalities:
        kind = MODALITIES[key]
        if not any(key in row for row in rows):
            continue
        cells, position, index = [], {}, []
        for row in rows:
            cell = row.get(key)
            mark = cell if isinstance(cell, (str, bytes)) else id(cell)
            if key in row and mark not in position:
                position[mark] = len(cells)
                cells.append(kind.open(cell))
            index.append(position[mark] if key in row else 0)
        batch.update(kind.process(processor.part(kind), cells))
        if index != list(range(len(cells))):
            batch[kind.index] = torch.tensor(index)
        if not all(key in row for row in rows):
            batch[kind.present] = torch.tensor([key in row for row in rows])
    return batch
