"""A comparison of runs as a table."""

from __future__ import annotations

from training_ume.evaluation.scores import NAMES, in_order, measured_by


def comparison_table(rows: list[dict], baselines: dict[str, dict]) -> list[tuple[str, ...]]:
    """The rows of `comparison_rows` and the scores of simple baselines as lines of cells, scores in percent, the one
    that fits the data first."""
    scored = in_order(measured_by(rows[0]) if rows else "vqa_accuracy")
    lines = [("", *(NAMES[score] for score in scored), "seconds", "parameters (trained)")]
    for name, scores in baselines.items():
        lines.append((name.replace("_", " "), *(f"{scores[score]:.2f}" for score in scored), "", ""))
    for row in rows:
        total, trained = row["parameters"]["total"], row["parameters"]["trainable"]
        lines.append(
            (
                row["name"].replace("_", " "),
                *(_score_text(row[score]) for score in scored),
                f"{row['train_seconds']:.0f}",
                f"{total:,} ({trained:,})",
            )
        )
    return lines


def _score_text(summary: dict) -> str:
    if summary["sd"] is None:
        return f"{summary['mean']:.2f}"
    return f"{summary['mean']:.2f} ± {summary['sd']:.2f} ({len(summary['each'])} seeds)"
