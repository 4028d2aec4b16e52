"""Curves of results, as pictures. They need matplotlib, which is in the extra `plots`."""

from __future__ import annotations

from pathlib import Path

from configuration_ume.scores import NUMBERS, axis_label, measured_by
from training_ume.records.packages import need_matplotlib


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
    axes.set(xlabel="questions with a missing input (%)", ylabel=axis_label(score))
    if score not in NUMBERS:
        axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150, format="png")
