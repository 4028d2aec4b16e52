"""Pictures of explanations, narrow enough to be read on a phone: one of an `Explanation`, one of a whole data set."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from configuration_ume.scores import quantity
from training_ume.records.explanation import Explanation, PartScores
from training_ume.records.packages import need_matplotlib
from training_ume.report.explained_parts import AGAINST, FOR, draw_parts, label_bars, panel_height, show


def modality_table(kinds: dict[str, dict]) -> list[tuple[str, ...]]:
    """`kinds` of `explain_dataset` as lines of cells, the first being the header; shares in percent."""
    views = list(kinds["all"]["modality_weights"] or {})
    names, subsets = list(kinds["all"]["shapley"]), list(kinds["all"]["values"])
    ends = ("neither", "both") if len(names) == 2 else ("none", "all")
    # Of many modalities all of them, each alone, and none: their subsets are 2^K.
    shown = [0, *range(1, len(names) + 1), -1]
    given = [ends[0], *(subsets[place] for place in shown[1:-1]), ends[1]]
    header = ("", "questions", *(f"share {name}" for name in names), *(f"P {subset}" for subset in given))
    lines = [(*header, *(f"weight {view}" for view in views))]
    for kind, means in kinds.items():
        shares = (
            ("–",) * len(names) if means["share"] is None else (f"{100 * s:.1f} %" for s in means["share"].values())
        )
        lines.append(
            (
                kind,
                f"{means['questions']:,}",
                *shares,
                *(f"{list(means['values'].values())[place]:.3f}" for place in shown),
                *(f"{means['modality_weights'][view]:.3f}" for view in views),
            )
        )
    return lines


# Of the modalities in their order; the pairs have one of their own.
COLOURS, PAIRS_COLOUR = ("#5b8dbd", "#d1903d", "#3f9c86", "#c0669a", "#8c8c3a", "#7d6b5d"), "#8a6fae"
WIDTH, DPI = 6.4, 150  # inches; 960 pixels
TOKENS_A_ROW = 4


def plot_explanation(explanation: Explanation, path: str | Path) -> None:
    """
    Draws an explanation as a PNG: the image, where the model looked, its words, its modalities, its pair weights.

    Raises:
        ImportError: without matplotlib.
    """
    need_matplotlib()
    # Not pyplot, which keeps figures alive and looks for a screen.
    from matplotlib.figure import Figure

    pairs = explanation.pair_weights
    token_rows = 0 if pairs is None else -(-len(pairs.tokens) // TOKENS_A_ROW)
    panels: list[tuple[float, Callable]] = []
    if explanation.image is not None:
        panels.append((2.5, _where))
    if explanation.baseline_logit is not None:
        panels.append((0.75 + 0.27 * max(len(explanation.words), 1), _words))
    for scores in explanation.parts.values():
        panels.append((panel_height(scores), partial(_parts, scores=scores)))
    panels.append((1.75 + 0.2 * max(0, len(explanation.shapley) - 3), _modalities))
    if pairs is not None:
        panels.append((0.45 + 1.75 * token_rows, partial(_pairs, rows=token_rows)))
    title = textwrap.wrap(explanation.question or f"Why {explanation.answer}?", 46)
    top = 0.45 + 0.32 * len(title)
    heights = [height for height, _ in panels]
    figure = Figure(figsize=(WIDTH, top + sum(heights)), layout="constrained")
    head, *parts = figure.subfigures(1 + len(heights), 1, height_ratios=[top, *heights])
    lines = "\n".join(title)
    head.text(0.5, 0.66, lines, ha="center", va="center", fontsize=15, fontweight="bold")
    head.text(0.5, 0.14, _answer(explanation), ha="center", va="center", fontsize=11.5)
    for part, (_, draw) in zip(parts, panels, strict=True):
        draw(part, explanation)
    figure.savefig(path, dpi=DPI, format="png", metadata={"Software": None})  # the same bytes each time


def _answer(explanation: Explanation) -> str:
    """What is explained, in a line."""
    if not explanation.chooses:
        return f"{explanation.answer}: {quantity(explanation.probability)}"
    answer = f"“{explanation.answer}”, probability {explanation.probability:.1%}"
    predicted = explanation.candidates[0]
    if predicted["answer"] != explanation.answer:
        answer += f" (the model's own answer: “{predicted['answer']}”, {predicted['score']:.1%})"
    return answer


def _parts(part, explanation: Explanation, scores: PartScores) -> None:
    draw_parts(part, scores, "the answer's logit" if explanation.chooses else f"“{explanation.answer}”")


def _where(part, explanation: Explanation) -> None:
    seen, *maps = part.subplots(1, 3)
    show(seen, explanation.image)
    seen.set_title("what the model sees", fontsize=10)
    named = ("where it looked:\nGrad-CAM", explanation.grad_cam), ("integrated gradients", explanation.integrated)
    for axes, (name, cells) in zip(maps, named, strict=True):
        speaks_for = cells.clip(0)
        show(axes, explanation.image, speaks_for, speaks_for.max())
        size = "×".join(map(str, cells.shape)) if speaks_for.any() else "nothing speaks for it"
        axes.set_title(f"{name}, {size}", fontsize=10)


def _words(part, explanation: Explanation) -> None:
    axes = part.subplots()
    scores = [word["score"] for word in explanation.words]
    places = range(len(scores))
    axes.barh(places, scores, color=[FOR if score > 0 else AGAINST for score in scores])
    axes.set_yticks(places, [word["word"] for word in explanation.words], fontsize=11)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_title("which words mattered: what each adds to the answer's logit", fontsize=10)
    for place, score in zip(places, scores, strict=True):
        side = 1 if score >= 0 else -1
        axes.annotate(
            f"{score:+.2f}", (score, place), xytext=(3 * side, 0), textcoords="offset points", va="center",
            ha="left" if side > 0 else "right", fontsize=9,
        )  # fmt: skip
    axes.margins(x=0.16)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelsize=10)


def _modalities(part, explanation: Explanation) -> None:
    weights = explanation.modality_weights
    columns = part.subplots(1, 1 if weights is None else 2, squeeze=False)[0]
    shapley = explanation.shapley
    values = explanation.values
    said, form = ("probability", "{:.2f}".format) if explanation.chooses else (explanation.answer, quantity)
    columns[0].barh(list(shapley), list(shapley.values()), color=[_colour(name, list(shapley)) for name in shapley])
    columns[0].axvline(0, color="black", linewidth=0.8)
    columns[0].set_title(
        f"which modality: Shapley values\n{said} {form(values[''])} → {form(list(values.values())[-1])}", fontsize=10
    )
    label_bars(columns[0], shapley.values(), "{:+.2f}" if explanation.chooses else "{:+.4g}")
    if weights is not None:
        columns[1].barh(
            list(weights), list(weights.values()), color=[_colour(name, list(shapley)) for name in weights]
        )
        columns[1].set_title("the head's own weights\n(they sum to 1)", fontsize=10)
        label_bars(columns[1], weights.values(), "{:.2f}")


def _colour(name: str, names: list[str]) -> str:
    """The colour of a view among the modalities of a model."""
    return COLOURS[names.index(name) % len(COLOURS)] if name in names else PAIRS_COLOUR


def _pairs(part, explanation: Explanation, rows: int) -> None:
    pairs = explanation.pair_weights
    part.suptitle("the head's pair weights: question token × image; they sum to 100 %", fontsize=10)
    most = pairs.maps.max()
    panels = list(part.subplots(rows, TOKENS_A_ROW, squeeze=False).flat)
    for axes, token, cells, off_grid in zip(panels, pairs.tokens, pairs.maps, pairs.off_grid, strict=False):
        show(axes, explanation.image, cells, most)
        axes.set_title(f"{token}  {cells.sum() + off_grid:.0%}", fontsize=10)
    for axes in panels[len(pairs.tokens) :]:
        axes.set_axis_off()


def plot_modalities(kinds: dict[str, dict], path: str | Path) -> None:
    """
    Draws each modality's share for all questions and for each type of answer, as a PNG.

    Args:
        kinds: `kinds` of `training_ume.explain.explain_dataset`.

    Raises:
        ImportError: without matplotlib.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    blocks = [("share of the Shapley values", "share")]
    if kinds["all"]["modality_weights"] is not None:
        blocks.append(("the head's own weights", "modality_weights"))
    figure = Figure(figsize=(WIDTH, len(blocks) * (1.2 + 0.42 * len(kinds))), layout="constrained")
    for axes, (title, field) in zip(figure.subplots(len(blocks), 1, squeeze=False).flat, blocks, strict=True):
        shown = {kind: means[field] for kind, means in kinds.items() if means[field] is not None}
        labels = [f"{kind}\n{kinds[kind]['questions']:,} questions" for kind in shown]
        left = np.zeros(len(shown))
        names = list(kinds["all"]["shapley"])
        for view in list(next(iter(shown.values()), {})):
            parts = np.array([100 * values[view] for values in shown.values() if view in values])
            if not len(parts):
                continue
            axes.barh(labels, parts, left=left, color=_colour(view, names), label=view)
            for place, (start, size) in enumerate(zip(left, parts, strict=True)):
                if size >= 6:
                    axes.text(start + size / 2, place, f"{size:.0f} %", ha="center", va="center", color="white")
            left += parts
        axes.set(xlim=(0, 100), xticks=[])
        axes.set_title(title, loc="left", fontsize=11)
        axes.invert_yaxis()
        axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
        axes.tick_params(left=False, labelsize=10)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=10)
    figure.savefig(path, dpi=DPI, format="png", metadata={"Software": None})
