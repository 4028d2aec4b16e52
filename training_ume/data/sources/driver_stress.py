"""Drivers under stress, simulated here: an ECG, the vehicle's signals and the context of the trip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from training_ume.data.drives import drive
from training_ume.data.rows import _Problems
from training_ume.data.sources.base import Layout, Source
from training_ume.data.tables.memory import from_entries
from training_ume.data.tables.table import Table

DRIVERS = {"train": 60, "test": 20}
A_DRIVER = 20  # drives


@dataclass(frozen=True)
class DriverStressSource(Source):
    """Needs no files. `split` is train or test, which no driver shares; `name` is another number of drivers."""

    def open(self, data: Any, split: str | None, name: str | None, cache_dir, problems: _Problems) -> Table:
        split = split or "train"
        if split not in DRIVERS or (name is not None and not str(name).isdecimal()):
            raise ValueError(
                f"Driver stress has the splits train and test, and name is a number of drivers: not {name!r}."
            )
        part, rows = list(DRIVERS).index(split), []
        for person in range(int(name or DRIVERS[split])):
            for number in range(A_DRIVER):
                random = np.random.default_rng((part, person, number))
                own = np.random.default_rng((part, person))
                rows.append({**drive(random, own), "driver": f"{split}-{person}"})
        table = from_entries(rows)
        table.name, table.container, table.took_split = f"driver stress, {split}", "simulated here", True
        return table


DRIVER_STRESS = DriverStressSource(
    name="driver_stress",
    title="Driver stress (simulated)",
    layouts=(
        Layout(
            {"series": "signals", "table": ["road", "weather", "hour", "traffic"], "answers": "stress"},
            tells=False,
        ),
    ),
    scores=("exact_match",),
    by=("road",),
    url="simulated by this package; the sensors and three levels are those of Rastgoo et al. 2019",
    licence="none needed",
    size="1,600 windows of 32 s, 80 drivers",
    pictures="There are none.",
    needs_data=False,
)
