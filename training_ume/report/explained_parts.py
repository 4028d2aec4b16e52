"""Panels of an explanation: what each part of an input adds, drawn over the input as the modality wants it.

`PartScores.picture` chooses the panel from `PANELS`: over a spectrogram, beside curves, over frames, or as bars.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from training_ume.records.explanation import PartScores

FOR, AGAINST = "#2a7a4b", "#b5473c"
MOST_CURVES, MOST_BARS, FRAMES_A_ROW = 6, 20, 4


def show(axes, image: np.ndarray, cells: np.ndarray | None = None, most: float | None = None) -> None:
    """The image, and over it a map [h, w] ≥ 0 whose cells cover their part of it; `most` is its strongest colour."""
    height, width = image.shape[:2]
    if cells is None:
        axes.imshow(image)
    else:
        # Grey below, so that all colour is the map's.
        grey = image.mean(-1)
        axes.imshow(0.35 + 0.65 * grey, cmap="gray", vmin=0, vmax=1)
        axes.imshow(
            cells, cmap="inferno", vmin=0, vmax=most or 1, alpha=0.62, extent=(-0.5, width - 0.5, height - 0.5, -0.5)
        )
    axes.set(xticks=[], yticks=[])


def label_bars(axes, values: Iterable[float], form: str, margin: float = 0.25) -> None:
    """Writes at the end of each horizontal bar what it is, the first bar above."""
    for place, value in enumerate(values):
        side = 1 if value >= 0 else -1
        axes.annotate(
            form.format(value), (value, place), xytext=(3 * side, 0), textcoords="offset points", va="center",
            ha="left" if side > 0 else "right", fontsize=10,
        )  # fmt: skip
    axes.invert_yaxis()
    axes.margins(x=margin)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelsize=10)


def panel_height(scores: PartScores) -> float:
    """In inches."""
    return PANELS[scores.picture][1](scores)


def draw_parts(part, scores: PartScores, adds_to: str) -> None:
    """
    Draws a panel.

    Args:
        part: a subfigure.
        adds_to: what the scores are added to.
    """
    part.suptitle(f"the {scores.noun}: what each part adds to {adds_to}\n({scores.method})", fontsize=10)
    PANELS[scores.picture][0](part, scores)


def _coloured(scores: np.ndarray, most: float) -> np.ndarray:
    """[…] → […, 4], green for what speaks for the answer, red against, the stronger the less transparent."""
    from matplotlib.colors import to_rgb

    found = np.empty((*scores.shape, 4))
    found[..., :3] = np.where(scores[..., None] > 0, to_rgb(FOR), to_rgb(AGAINST))
    found[..., 3] = 0.75 * np.abs(scores) / (most or 1)
    return found


def _map(part, scores: PartScores) -> None:
    """Over a picture, such as a spectrogram, whose first row is the lowest."""
    axes, across = part.subplots(), scores.axes[-1]
    cells = np.atleast_2d(scores.scores)
    extent = (across.edges[0], across.edges[-1], 0, len(cells))
    options = {"origin": "lower", "aspect": "auto", "extent": extent}
    axes.imshow(scores.shown, cmap="gray", interpolation="nearest", **options)
    axes.imshow(_coloured(cells, np.abs(cells).max()), interpolation="nearest", **options)
    axes.set_xlabel(f"{across.name} ({across.unit})" if across.unit else across.name, fontsize=9)
    if scores.scores.ndim > 1:
        up = scores.axes[0]
        axes.set_yticks(range(len(up.edges)), [f"{edge:,.0f}" for edge in up.edges])
        axes.set_ylabel(f"{up.name} ({up.unit})" if up.unit else up.name, fontsize=9)
    else:
        axes.set_yticks([])
    axes.tick_params(labelsize=8)


def _curves(part, scores: PartScores) -> None:
    """Each channel as a curve on stretches that are coloured; of many channels those that matter most."""
    channels = np.sort(np.argsort(-np.abs(scores.scores).sum(1), kind="stable")[:MOST_CURVES])
    most, edges = np.abs(scores.scores).max(), scores.axes[-1].edges
    columns = part.subplots(len(channels), 1, sharex=True, squeeze=False)[:, 0]
    steps = np.arange(len(scores.shown)) + 0.5
    for axes, channel in zip(columns, channels, strict=True):
        axes.plot(steps, scores.shown[:, channel], color="black", linewidth=0.8, marker="." if len(steps) < 40 else "")
        for colour, low, high in zip(_coloured(scores.scores[channel], most), edges, edges[1:], strict=False):
            axes.axvspan(low, high, color=tuple(colour), linewidth=0)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylabel(scores.axes[0].labels[channel], fontsize=9)
        axes.tick_params(labelsize=8)
    columns[-1].set_xlabel(scores.axes[-1].name, fontsize=9)


def _bars(part, scores: PartScores) -> None:
    """A bar a part; of many those that matter most."""
    best = scores.best(MOST_BARS)
    axes = part.subplots()
    values = [value for _, value in best]
    axes.barh(range(len(best)), values, color=[FOR if value > 0 else AGAINST for value in values])
    axes.set_yticks(range(len(best)), [name if len(name) <= 40 else f"{name[:39]}…" for name, _ in best])
    axes.axvline(0, color="black", linewidth=0.8)
    label_bars(axes, values, "{:+.3g}")


def _frames(part, scores: PartScores) -> None:
    """A strip of frames in their order, each with the part of the map that lies on it and their sum."""
    frames, cells = scores.shown, scores.scores.reshape(len(scores.shown), -1)
    rows = -(-len(frames) // FRAMES_A_ROW)
    panels = list(part.subplots(rows, FRAMES_A_ROW, squeeze=False).flat)
    most, height, width = np.abs(cells).max(), *frames.shape[1:3]
    for number, (axes, frame, scored) in enumerate(zip(panels, frames, cells, strict=False)):
        axes.imshow(0.35 + 0.65 * frame.mean(-1), cmap="gray", vmin=0, vmax=1)
        own = scored.reshape(scores.scores.shape[1:] if scores.scores.ndim == 3 else (1, 1))
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(_coloured(own, most), extent=extent, interpolation="nearest")
        axes.set_title(f"{scores.axes[0].labels[number]}  {scored.sum():+.2g}", fontsize=9)
        axes.set(xticks=[], yticks=[])
    for axes in panels[len(frames) :]:
        axes.set_axis_off()


# By `Parts.picture`: what draws it on a subfigure, and how high that is in inches.
PANELS = {
    "map": (_map, lambda scores: 2.6 if scores.scores.ndim > 1 else 2.2),
    "curves": (_curves, lambda scores: 0.9 + 0.8 * min(len(scores.scores), MOST_CURVES)),
    "bars": (_bars, lambda scores: 0.9 + 0.27 * min(scores.scores.size, MOST_BARS)),
    "frames": (_frames, lambda scores: 0.6 + 1.75 * -(-len(scores.scores) // FRAMES_A_ROW)),
}
