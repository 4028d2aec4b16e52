"""Machines with faults, made up here: an image, a sound, a note and a table at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from training_ume.data.machines import draw_gauge, machine, sound_hum
from training_ume.data.rows import _Problems
from training_ume.data.sources.base import Layout, Source
from training_ume.data.tables.memory import from_entries
from training_ume.data.tables.table import Table

ROWS = {"train": 3000, "test": 1000}


@dataclass(frozen=True)
class MachinesSource(Source):
    """Needs no files. `split` is train or test; `name` is another number of machines."""

    def open(self, data: Any, split: str | None, name: str | None, cache_dir, problems: _Problems) -> Table:
        split = split or "train"
        if split not in ROWS or (name is not None and not str(name).isdecimal()):
            raise ValueError(f"Machines have the splits train and test, and name is their number: not {name!r}.")
        folder = os.path.join(os.path.abspath(cache_dir or datasets.config.HF_DATASETS_CACHE), "machines", split)
        os.makedirs(folder, exist_ok=True)
        rows = []
        for number in range(int(name or ROWS[split])):
            random = np.random.default_rng((list(ROWS).index(split), number))
            one = machine(random)
            image, audio = (os.path.join(folder, f"{number}.{ending}") for ending in ("png", "wav"))
            for path, make, sign in ((image, draw_gauge, "low"), (audio, sound_hum, "clicks")):
                if not os.path.isfile(path):
                    make(one[sign], np.random.default_rng((list(ROWS).index(split), number, 1)), path)
            told = {name: one[name] for name in ("fault", "note", "temperature", "hours", "maker")}
            rows.append({"image": image, "audio": audio, "image_id": f"{split}-{number}", **told})
        table = from_entries(rows)
        table.name, table.container, table.took_split = f"machines, {split}", "made up here", True
        return table


MACHINES = MachinesSource(
    name="machines",
    title="Machines with faults (made up)",
    layouts=(
        Layout(
            {
                "image": "image",
                "image_id": "image_id",
                "question": "note",
                "audio": "audio",
                "table": ["temperature", "hours", "maker"],
                "answers": "fault",
            },
            tells=False,
        ),
    ),
    scores=("exact_match",),
    by=("maker",),
    url="made up by this package",
    licence="none needed",
    size="4,000 machines",
    pictures="Gauges are drawn and hums are sounded into the cache when they are asked for.",
    needs_data=False,
)
