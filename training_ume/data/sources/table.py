"""The data sets that are known by name, a file each."""

from __future__ import annotations

import difflib
import os
import re
from typing import Any

from training_ume.data.sources.aokvqa import A_OKVQA
from training_ume.data.sources.base import Source
from training_ume.data.sources.clevr import CLEVR
from training_ume.data.sources.coco_qa import COCO_QA
from training_ume.data.sources.daquar import DAQUAR
from training_ume.data.sources.driver_stress import DRIVER_STRESS
from training_ume.data.sources.easy_vqa import EASY_VQA
from training_ume.data.sources.gqa import GQA
from training_ume.data.sources.hateful_memes import HATEFUL_MEMES
from training_ume.data.sources.machines import MACHINES
from training_ume.data.sources.okvqa import OK_VQA
from training_ume.data.sources.pairs import pair_of
from training_ume.data.sources.path_vqa import PATH_VQA
from training_ume.data.sources.slake import SLAKE
from training_ume.data.sources.sort_of_clevr import SORT_OF_CLEVR
from training_ume.data.sources.spoken_digits import SPOKEN_DIGITS
from training_ume.data.sources.textvqa import TEXTVQA
from training_ume.data.sources.visual7w import VISUAL7W
from training_ume.data.sources.vizwiz import VIZWIZ
from training_ume.data.sources.vqa_rad import VQA_RAD
from training_ume.data.sources.vqa_v2 import VQA_V2

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        VQA_V2,
        OK_VQA,
        A_OKVQA,
        TEXTVQA,
        VIZWIZ,
        GQA,
        CLEVR,
        COCO_QA,
        VISUAL7W,
        DAQUAR,
        VQA_RAD,
        PATH_VQA,
        SLAKE,
        HATEFUL_MEMES,
        EASY_VQA,
        SORT_OF_CLEVR,
        SPOKEN_DIGITS,
        MACHINES,
        DRIVER_STRESS,
    )
}


def find_source(source: str | Source | None) -> Source | None:
    """
    The data set of a name.

    Raises:
        ValueError: for a name that no data set has.
    """
    if source is None or isinstance(source, Source):
        return source
    plain = {re.sub(r"[^a-z0-9]", "", name): name for name in SOURCES}  # A-OKVQA, ok_vqa and vqa-rad are known, too
    source = plain.get(re.sub(r"[^a-z0-9]", "", source.lower()), source)
    if source not in SOURCES:
        near = difflib.get_close_matches(source, SOURCES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"source={source!r} is no data set that is known: {', '.join(SOURCES)}.{hint}")
    return SOURCES[source]


def source_of_path(data: Any) -> Source | None:
    """The data set that a path, or a pair of files, plainly is; None where several or none would do. Files of
    questions and annotations that no data set publishes under these names are in VQA v2's layout, which is theirs."""
    pair = pair_of(data)
    path = pair[0] if pair else data
    if not isinstance(path, (str, os.PathLike)) or not os.path.exists(path):
        return None
    seen = [source for source in SOURCES.values() if source.recognises_path(os.fspath(path))]
    return seen[0] if len(seen) == 1 else VQA_V2 if pair and not seen else None
