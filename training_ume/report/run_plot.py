"""The losses and scores of trainings over their epochs, as one picture. It needs matplotlib, in the extra `plots`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from configuration_ume.scores import axis_label, lower_is_better, measured_by
from training_ume.records.packages import need_matplotlib

MOST_LABELS = 10  # trainings that are named one by one; of more, the names would cover the curves


def draw_runs(runs: Mapping[str, dict], path: str | Path | None = None) -> Image.Image | Path:
    """
    Draws the score that fits the validation questions above, and the losses below, over the epochs; one colour a
    training, the loss in training dashed, and a ring around the epoch that was kept.

    Args:
        runs: the results of each training, by its name.
        path (*optional*): a PNG file to write.

    Returns:
        The picture, or with `path` that path.

    Raises:
        ImportError: without matplotlib.
        ValueError: where no training was validated.
    """
    need_matplotlib()
    # Not pyplot, which keeps figures alive and looks for a screen.
    from matplotlib.figure import Figure

    drawn = {name: results for name, results in runs.items() if results["epochs"]}
    if not drawn:
        raise ValueError("There is nothing to draw: no epoch was validated (eval_strategy=no).")
    score = measured_by(next(iter(drawn.values()))["scores"])
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for number, (name, results) in enumerate(drawn.items()):
        colour, epochs = f"C{number % 10}", results["epochs"]
        steps = [epoch["epoch"] for epoch in epochs]
        scores = [epoch.get(score) for epoch in epochs]
        if None not in scores:
            above.plot(steps, scores, marker="o", markersize=4, color=colour, label=name)
            sign = -1 if lower_is_better(score) else 1
            places = zip(scores, (-(epoch["validation_loss"] or 0) for epoch in epochs), strict=True)
            ranked = [(sign * value, by_loss, -i) for i, (value, by_loss) in enumerate(places)]
            best = ranked.index(max(ranked))
            above.plot(steps[best], scores[best], "o", markersize=11, markerfacecolor="none", color=colour)
        for loss, style in (("train_loss", "--"), ("validation_loss", "-")):
            known = [epoch for epoch in epochs if epoch[loss] is not None]  # before the first log none is
            below.plot([e["epoch"] for e in known], [e[loss] for e in known], style, color=colour, linewidth=1.2)
    above.set(ylabel=f"{axis_label(score)} on validation")
    if len(drawn) <= MOST_LABELS:
        above.legend(fontsize="small")
    below.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    below.plot([], [], "--", color="grey", label="training")
    below.plot([], [], "-", color="grey", label="validation")
    below.legend(fontsize="small")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    target = io.BytesIO() if path is None else Path(path)
    figure.savefig(target, dpi=120, format="png", metadata={"Software": None})  # the same bytes each time
    return Image.open(target) if path is None else target
