"""Pictures of results. They need matplotlib, which is in the extra `plots`; nothing else does."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from training_ume.evaluation.scores import NAMES, measured_by


def need_matplotlib() -> None:
    """Raises ImportError where matplotlib is missing; asked before the work whose result is to be drawn."""
    if find_spec("matplotlib") is None:
        raise ImportError("Drawing a curve needs the package matplotlib: `pip install matplotlib`.")


def plot_robustness(curves: dict[str, list[dict]], path: str | Path) -> None:
    """
    Draws the score that fits the data over the share of questions with a missing input, one line an input, as a PNG.

    Args:
        curves: by the name of the missing input, the points of `training_ume.evaluation.robustness_curve`.
    """
    need_matplotlib()
    # Not pyplot, which keeps figures alive and looks for a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        rates = [100 * point["rate"] for point in points]
        score = measured_by(points[0])
        axes.plot(rates, [point[score] for point in points], marker="o", label=f"{name} missing")
    axes.set(xlabel="questions with a missing input (%)", ylabel=f"{NAMES[score]} (%)", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150, format="png")


def plot_learning_curve(epochs: list[dict], metric: str, label: str, file: str | Path | BinaryIO) -> None:
    """
    Draws a run's score on the validation questions, and both losses below it, over the epochs, as a PNG.

    Args:
        epochs: `epochs` of a run's results.json.
        metric (`str`): the score to draw, in percent; `label` names it.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    steps = [epoch["epoch"] for epoch in epochs]
    above.plot(steps, [epoch[metric] for epoch in epochs], marker="o")
    above.set(ylabel=f"{label} (%)")
    for name, style in (("train_loss", "--"), ("validation_loss", "-")):
        values = [epoch[name] for epoch in epochs]
        if None not in values:
            below.plot(steps, values, style, marker="o", markersize=3, label=name.replace("_loss", ""))
    below.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110, format="png", metadata={"Software": None})  # the same bytes each time
