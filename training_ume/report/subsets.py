"""What each modality is worth, as tables and as a picture: `score_subsets` for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configuration_ume.scores import LABELS, axis_label, names_in, written
from training_ume.records.packages import need_matplotlib

NOTHING = "nothing"


def called(modalities: list[str]) -> str:
    return " + ".join(modalities)


def subsets_table(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """`score_subsets` as lines of cells, the first being the header: nothing, then a subset a line."""
    name = found["measured_by"]
    further = [other for other in names_in(found["nothing"]) if other != name]
    header = ("given", "rows with it", LABELS[name], "95 %", *(LABELS[other] for other in further))
    lines = [header, (NOTHING, "", written(name, found["nothing"][name]), "", *_written(found["nothing"], further))]
    for entry in found["subsets"]:
        between = "" if entry["interval"] is None else " to ".join(written(name, end) for end in entry["interval"])
        score = written(name, entry[name])
        lines.append((called(entry["modalities"]), f"{entry['rows']:,}", score, between, *_written(entry, further)))
    return lines


def _written(scores: dict, names: list[str]) -> list[str]:
    return [written(name, scores.get(name)) for name in names]


def worth_table(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """What each modality is worth: alone, in addition to all others, and on average over all orders (Shapley)."""
    name, nothing = found["measured_by"], found["nothing"][found["measured_by"]]
    score = {frozenset(): nothing} | {frozenset(entry["modalities"]): entry[name] for entry in found["subsets"]}
    everything = frozenset(found["rows"])
    lines = [("modality", "alone", "to all others", "Shapley value", "share")]
    for modality, value in found["shapley"].items():
        share = "–" if found["share"] is None else f"{100 * found['share'][modality]:.1f} %".replace("-", "−")
        alone, last = score[frozenset([modality])] - nothing, score[everything] - score[everything - {modality}]
        lines.append((modality, *(_signed(name, x) for x in (alone, last, value)), share))
    return lines


def _signed(name: str, difference: float) -> str:
    return f"{'−' if difference < 0 else '+'}{written(name, abs(difference))}"


def plot_subsets(found: dict[str, Any], path: str | Path) -> None:
    """
    Draws the score of every subset, with its interval and that of nothing, and the Shapley values, as a PNG.

    Raises:
        ImportError: without matplotlib.
    """
    need_matplotlib()
    # Not pyplot, which keeps figures alive and looks for a screen.
    from matplotlib.figure import Figure

    name, subsets = found["measured_by"], found["subsets"]
    places, labels = range(len(subsets)), [called(entry["modalities"]) for entry in subsets]
    heights = [max(1.5, 0.7 + 0.24 * len(subsets)), 0.9 + 0.3 * len(found["shapley"])]
    figure = Figure(figsize=(6.4, sum(heights)), layout="constrained")
    scores, worth = figure.subplots(2, 1, height_ratios=heights)
    values = [entry[name] for entry in subsets]
    most = max(len(entry["modalities"]) for entry in subsets)
    shades = [0.3 + 0.5 * len(entry["modalities"]) / most for entry in subsets]
    scores.barh(places, values, color=[(1 - shade, 1 - 0.75 * shade, 1 - 0.45 * shade) for shade in shades])
    for place, entry in zip(places, subsets, strict=True):
        if entry["interval"] is not None:
            scores.plot(entry["interval"], [place, place], color="black", linewidth=1)
    scores.axvline(found["nothing"][name], color="black", linestyle="--", linewidth=1, label=NOTHING)
    scores.set_yticks(places, labels, fontsize=9)
    scores.invert_yaxis()
    scores.set_xlabel(f"{axis_label(name)}, with 95 % intervals")
    scores.legend(fontsize=9)
    worth.barh(list(found["shapley"]), list(found["shapley"].values()), color="#5b8dbd")
    worth.axvline(0, color="black", linewidth=0.8)
    worth.invert_yaxis()
    worth.set_xlabel(f"Shapley value, {axis_label(name)}")
    for axes in (scores, worth):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})  # the same bytes each time
