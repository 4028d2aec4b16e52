"""Machines that are made up: a gauge, a hum, an operator's note and a few readings, which together name a fault."""

from __future__ import annotations

import math
import os
import tempfile
import wave

import numpy as np
from PIL import Image, ImageDraw

RATE, SECONDS, SIDE = 8000, 0.5, 48
# What each fault does: the signs that a machine with it shows. No sign is of one fault alone, so that no kind of data
# names all faults by itself.
FAULTS = {
    "fine": (),
    "bearing": ("clicks", "hot"),
    "pump": ("low", "hot"),
    "seal": ("low", "leak"),
    "fan": ("clicks", "leak"),
}
MISLEADING = 0.05  # how often a sign shows without its fault, or does not show with it
NOTES = {
    True: ("oil under the machine", "the floor is wet again", "a puddle below, wiped away", "drops at the flange"),
    False: ("nothing to report", "cleaned, looks fine", "floor dry, checked twice", "as on the day before"),
}
MAKERS = ("north", "south", "west")
DEGREES = {"north": 50.0, "south": 58.0, "west": 66.0}  # how warm a maker's machines are when nothing is wrong
EMPTY = 0.03  # how often a reading was not taken


def machine(random: np.random.Generator) -> dict:
    """What is known of one machine: its fault, its signs and its readings."""
    fault = list(FAULTS)[random.integers(len(FAULTS))]
    signs = {
        sign: bool((sign in FAULTS[fault]) != (random.random() < MISLEADING))
        for sign in ("clicks", "hot", "low", "leak")
    }
    maker = MAKERS[random.integers(len(MAKERS))]
    readings = {
        # Hot is hot for its maker: the number alone does not say it.
        "temperature": DEGREES[maker] + 7.0 * signs["hot"] + random.normal(0, 1.5),
        "hours": float(random.integers(100, 20_000)),
        "maker": maker,
    }
    taken = {name: None if name != "maker" and random.random() < EMPTY else value for name, value in readings.items()}
    return {"fault": fault, **signs, **taken, "note": NOTES[signs["leak"]][random.integers(4)]}


def draw_gauge(low: bool, random: np.random.Generator, path: str) -> None:
    """A round gauge whose needle points to the left half for low pressure, to the right half otherwise."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((3, 3, SIDE - 4, SIDE - 4), outline="black", width=2)
    degrees = random.uniform(100, 170) if low else random.uniform(10, 80)
    x, y = math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))
    middle, reach = SIDE / 2, 0.36 * SIDE
    pen.line((middle, middle, middle + reach * x, middle + reach * y), fill="red", width=3)
    pixels = np.asarray(image) + random.normal(0, 25, (SIDE, SIDE, 1))
    _replace(path, lambda file: Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG"))


def sound_hum(clicks: bool, random: np.random.Generator, path: str) -> None:
    """Half a second of a motor's hum in noise, with a short click every turn for a worn part."""
    time = np.arange(int(RATE * SECONDS)) / RATE
    turns = random.uniform(20, 30)  # a second
    phase = random.uniform(0, 2 * np.pi)
    hum = sum(np.sin(2 * np.pi * turns * k * time + phase * k) / k for k in (1, 2, 3))
    signal = 0.2 * hum + random.normal(0, 0.05, len(time))
    if clicks:
        for start in np.arange(random.uniform(0, 1 / turns), SECONDS - 0.01, 1 / turns):
            place = int(start * RATE)
            signal[place : place + 40] += 0.35 * random.normal(0, 1, 40) * np.exp(-np.arange(40) / 10)
    samples = (signal.clip(-1, 1) * 32767).astype("<i2").tobytes()

    def write(file) -> None:
        with wave.open(file, "wb") as out:
            out.setparams((1, 2, RATE, 0, "NONE", ""))
            out.writeframes(samples)

    _replace(path, write)


def _replace(path: str, write) -> None:
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
        write(file)
    os.replace(file.name, path)  # several processes may make the same
