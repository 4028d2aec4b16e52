"""Pictures of what a model of numbers or classes says against what is right. They need matplotlib (extra `plots`)."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from configuration_ume.scores import quantity
from training_ume.records.class_scores import ClassScores
from training_ume.records.number_scores import NumberScores
from training_ume.records.packages import need_matplotlib

MOST_CLASSES = 30  # in one picture; of more, those that come most often


def plot_numbers(scores: NumberScores, file: str | Path | BinaryIO) -> None:
    """Draws, a row of pictures a number, what is predicted against what is right, and what is left of it, as a PNG."""
    need_matplotlib()
    from matplotlib.figure import Figure

    count = len(scores.names)
    figure = Figure(figsize=(9, 4 * count), layout="constrained")
    grid = figure.subplots(count, 2, squeeze=False)
    for (left, right), name, given, known in zip(grid, scores.names, scores.given.T, scores.known.T, strict=True):
        there = ~np.isnan(known)
        given, known = given[there], known[there]
        left.plot(known, given, "o", markersize=3, alpha=0.6)
        both = np.concatenate([given, known])
        ends = [both.min(), both.max()]
        left.plot(ends, ends, "--", color="grey", linewidth=1)
        left.set(xlabel=f"{name}, true", ylabel=f"{name}, predicted")
        right.plot(given, known - given, "o", markersize=3, alpha=0.6)
        right.axhline(0, linestyle="--", color="grey", linewidth=1)
        right.set(xlabel=f"{name}, predicted", ylabel="true − predicted")
        logs = known.min() > 0 and given.min() > 0 and known.max() / known.min() > 100
        if logs:
            left.set(xscale="log", yscale="log")
            right.set(xscale="log")
        for axes in (left, right):
            axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110, format="png", metadata={"Software": None})  # the same bytes each time


def plot_confusion(scores: ClassScores, file: str | Path | BinaryIO) -> None:
    """Draws how often each class was given where each was right, as a PNG: shares of the rows of a right class."""
    need_matplotlib()
    from matplotlib.figure import Figure

    table = scores.confusion()
    often = np.argsort(-(table.sum(0) + table.sum(1)), kind="stable")[:MOST_CLASSES]
    names, table = [scores.names[i] for i in often], table[np.ix_(often, often)]
    shares = table / np.maximum(1, table.sum(1, keepdims=True))
    side = max(4.0, 0.35 * len(names) + 2)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = [name if len(name) <= 20 else f"{name[:19]}…" for name in names]
    axes.set_xticks(range(len(names)), ticks, rotation=90)
    axes.set_yticks(range(len(names)), ticks)
    axes.set(xlabel="given", ylabel="right")
    if len(names) <= 12:
        for (i, j), number in np.ndenumerate(table):
            axes.text(j, i, quantity(number) if number else "", ha="center", va="center",
                      color="white" if shares[i, j] > 0.5 else "black", fontsize=8)  # fmt: skip
    figure.colorbar(image, label="share of the rows of the right class")
    figure.savefig(file, dpi=110, format="png", metadata={"Software": None})
