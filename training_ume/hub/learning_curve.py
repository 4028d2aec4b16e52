"""The picture of a run on its card. It needs matplotlib, which is in the extra `plots`."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from training_ume.records.packages import need_matplotlib


def plot_learning_curve(epochs: list[dict], metric: str, label: str, file: str | Path | BinaryIO) -> None:
    """
    Draws a run's score on the validation questions, and both losses below it, over the epochs, as a PNG.

    Args:
        epochs: `epochs` of a run's results.json.
        metric (`str`): the score to draw; `label` names it, with its unit.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    scored = [epoch for epoch in epochs if metric in epoch]
    above.plot([epoch["epoch"] for epoch in scored], [epoch[metric] for epoch in scored], marker="o")
    above.set(ylabel=label)
    for name, style in (("train_loss", "--"), ("validation_loss", "-")):
        known = [epoch for epoch in epochs if epoch[name] is not None]  # before the first log there is none
        if known:
            at, values = [epoch["epoch"] for epoch in known], [epoch[name] for epoch in known]
            below.plot(at, values, style, marker="o", markersize=3, label=name.replace("_loss", ""))
    below.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110, format="png", metadata={"Software": None})  # the same bytes each time
