"""The thesis' tables: its rows, its steps and the references beside them."""

from __future__ import annotations

from pathlib import Path

from configuration_ume.thesis_rows import NAMES, OFFICIAL, REFERENCES, ROWS, THESIS
from training_ume.report.markdown import align, measured_on

# ----------------------------------------------------------------------------------------------------------- tables

UNKNOWN = "—"


def _score(row: dict | None, metric: str) -> str:
    return UNKNOWN if row is None else f"{row['scores'][metric]:.2f}"


def summary(rows: list[dict]) -> str:
    """Rows of the results file as text for a terminal."""
    lines = [("", "VQA accuracy", "exact match", "")]
    for row in rows:
        title = f"{row['data_set']}: {row['row']}"
        stand_in = "stand-in, no reproduction" if row["stand_in"] else ""
        lines.append((title, _score(row, "vqa_accuracy"), _score(row, "exact_match"), stand_in))
    return align(lines)


def rows_table(results: dict) -> str:
    """All rows of the thesis in Markdown: its figure, and ours on VQA v2 with the thesis' own kinds of encoders."""
    ours = {row["row"]: row for row in results["rows"] if row["data_set"] == OFFICIAL and not row["stand_in"]}
    lines = ["| | the thesis | ours, VQA accuracy | ours, exact match | what ran |", "|---|---:|---:|---:|---|"]
    for name, row in ROWS.items():
        run = ours.get(name)
        thesis = "{:.3f} ± {:.2f}".format(*THESIS[name]) if name in THESIS else UNKNOWN
        note = "not run yet" if run is None else "; ".join([*_replaced(run), *_changed(run)]) or "the recipe"
        scores = [_score(run, metric) for metric in ("vqa_accuracy", "exact_match")]
        lines.append(f"| {row.title} | {thesis} | {' | '.join(scores)} | {note} |")
    lines += [
        "",
        f"In percent. The thesis' figures are VQA accuracies as it prints them, each with the ± that stands there; "
        f"{UNKNOWN} under the thesis: a row that it plans and gives no figure for ({len(ROWS) - len(THESIS)} of "
        f"{len(ROWS)}).",
    ]
    return "\n".join(lines)


def references_table() -> str:
    """What others report on VQA v2, and what follows for the thesis' figures."""
    lines = ["| | VQA accuracy | scored on | source |", "|---|---:|---|---|"]
    lines += [f"| {r.model} | {r.vqa_accuracy:.1f} | {r.scored_on} | {r.source} |" for r in REFERENCES.values()]
    blind, lstm, bottom_up, meter = REFERENCES.values()
    best = max(score for score, _ in THESIS.values())
    blind_rows = [ROWS[name].title for name, (score, _) in THESIS.items() if score < blind.vqa_accuracy]
    lines += [
        "",
        f"- **{len(blind_rows)} of the thesis' rows are below the language-only baseline** "
        f"({blind.vqa_accuracy:.1f}), although they see the image: {'; '.join(blind_rows)}. {lstm.model}, a model of "
        f"their kind, reaches {lstm.vqa_accuracy:.1f}, more than any of its LSTM rows. So its training differs from "
        "the references', and these rows are comparable among themselves only.",
        f"- **Its best figure, {best:.1f}, is inside what encoder pairs without joint pretraining reach**: "
        f"above {bottom_up.model} ({bottom_up.vqa_accuracy:.1f}), below {meter.model} ({meter.vqa_accuracy:.1f} on "
        f"{meter.scored_on}, which is not the split of the other figures).",
    ]
    return "\n".join(lines)


def proof_tables(results: dict) -> str:
    """Rows on other data and rows with stand-ins: that the command runs, not how good a model is."""
    by_data: dict[str, list[dict]] = {}
    for row in results["rows"]:
        if row["data_set"] != OFFICIAL or row["stand_in"]:
            by_data.setdefault(row["data_set"], []).append(row)
    return "\n\n".join(_proof_table(name, rows) for name, rows in by_data.items())


def _proof_table(data_set: str, rows: list[dict]) -> str:
    lines = [f"**{data_set}**", ""]
    lines += ["| | VQA accuracy | exact match | what ran | training, s | CPU s |", "|---|---:|---:|---|---:|---:|"]
    for row in rows:
        kind = "**stand-in, no reproduction**" if row["stand_in"] else "other encoders" if _replaced(row) else ""
        title = ROWS[row["row"]].title + (f" ({kind})" if kind else "")
        scores = [_score(row, metric) for metric in ("vqa_accuracy", "exact_match")]
        ran = "; ".join([*_replaced(row), *_changed(row)])
        times = f"{row['train_seconds']:.0f} | {row['train_cpu_seconds']:.0f}"
        lines.append(f"| {title} | {' | '.join(scores)} | {ran} | {times} |")
    facts = dict.fromkeys(
        f"{row['data']['train_questions']:,} training questions, {row['data'][row['scored_on'] + '_questions']:,} "
        f"{row['scored_on']} questions about other images, {row['data']['answers']:,} answers; looking the question "
        f"up, without a model, scores {row['baselines']['question_lookup']['vqa_accuracy']:.2f}."
        for row in rows
    )
    return "\n".join([*lines, "", *facts, measured_on([row["environment"] for row in rows])])


def _replaced(row: dict) -> list[str]:
    """The encoders that are not the recipe's own."""
    pair = ROWS[row["row"]]
    said = []
    for name, encoder in ((pair.text, row["encoders"]["text"]), (pair.vision, row["encoders"]["vision"])):
        if encoder["stand_in"]:
            said.append(f"{NAMES[name]}: tiny, random weights")
        elif "instead_of" in encoder:
            said.append(f"{NAMES[name]}: {Path(encoder['name']).name}")
    return said


def _changed(row: dict) -> list[str]:
    """The fields that differ from the recipe."""
    return [", ".join(f"`{name}: {value}`" for name, value in row["changes"].items())] if row["changes"] else []
