"""The table of ablations."""

from __future__ import annotations

from configuration_ume.scores import NAMES
from training_ume.report.arena import arena_caption
from training_ume.report.markdown import markdown


def verdict(row: dict) -> str:
    """Whether the interval of a row's gain excludes 0, and on which side."""
    low, high = row["gain"]["interval"]
    return "pays" if low > 0 else "harms" if high < 0 else "undecided"


def ablations_table(summary: dict) -> str:
    """The summary as a Markdown table, the recipe as it is on top, with what it was measured on under it."""
    metric = summary["metric"]
    header = ["", "change", f"{NAMES[metric]} (sd)", "gain (95 %)", "", "learning rate", "CPU s"]
    rows = []
    for row in sorted(summary["rows"], key=lambda row: "gain" in row):  # stable: then the best first
        score, gain = row[metric], row.get("gain")
        rows.append(
            [
                row["name"].replace("_", " "),
                ", ".join(f"`{name}: {value}`" for name, value in row["changes"].items()),
                f"{score['mean']:.2f}" + ("" if score["sd"] is None else f" ± {score['sd']:.2f}"),
                "" if gain is None else "{:+.2f} ({:+.2f} … {:+.2f})".format(gain["mean"], *gain["interval"]),
                "" if gain is None else verdict(row),
                f"{row['learning_rate']:g}",
                f"{row['train_cpu_seconds']:.0f}",
            ]
        )
    return markdown(header, rows, right=(2, 3, 5, 6)) + "\n\n" + arena_caption(summary)
