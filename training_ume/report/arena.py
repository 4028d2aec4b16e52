"""The arena's summary for people: a Markdown table, four plots and one HTML page that needs nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable

from configuration_ume.scores import NAMES, measured_by
from training_ume.records.packages import need_matplotlib
from training_ume.report.markdown import markdown, measured_on

BLIND_COLOUR, HEAD_COLOUR, REFERENCE_COLOUR = "#b0b0b0", "#5b8dbd", "#d1603d"


def arena_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table, the best head first."""
    metric = summary["metric"]
    header = [
        "", f"{NAMES[metric]} (sd)", "95 % over images", "`ume` ahead by", "image missing", "other images",
        "learning rate", "width", "parameters", "CPU s",
    ]  # fmt: skip
    rows = []
    for row in summary["rows"]:
        score, ahead = row[metric], row.get("behind")
        rows.append(
            [
                row["name"].replace("_", " "),
                f"{score['mean']:.2f}" + ("" if score["sd"] is None else f" ± {score['sd']:.2f}"),
                "{:.1f} – {:.1f}".format(*score["interval"]),
                "" if ahead is None else "{:+.2f} ({:+.2f} … {:+.2f})".format(ahead["mean"], *ahead["interval"]),
                *(f"{row[name][metric]:.2f}" if name in row else "" for name in ("image_missing", "image_shuffled")),
                f"{row['learning_rate']:g}",
                str(row["hidden_size"]),
                f"{row['parameters']:,}",
                f"{row['train_cpu_seconds']:.0f}",
            ]
        )
    return header, rows


def kind_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the scores by type of answer, the best head first, and with the question left out."""
    metric = summary["metric"]
    kinds = sorted({kind for row in summary["rows"] for kind in row["per_answer_type"]})
    rows = []
    for row in summary["rows"]:
        scores = [row["per_answer_type"].get(kind) for kind in kinds]
        if "text_missing" in row:
            scores.append(row["text_missing"][metric])
        rows.append([row["name"].replace("_", " "), *("" if score is None else f"{score:.2f}" for score in scores)])
        rows[-1] += [""] * (len(kinds) + 2 - len(rows[-1]))
    by_type = NAMES[measured_by(summary["rows"][0])]  # of one data set, so the same in all rows
    header = ["", *(f"{kind}, {by_type}" for kind in kinds), f"question missing, {NAMES[metric]}"]
    return header, rows


def arena_overview(summaries: dict[str, dict]) -> str:
    """
    All arenas in one Markdown table, a row a contender, the best on average of those that took part in most on top.

    A score stands with its deviation over seeds; ▼ behind it: the 95 % interval of the paired difference lies below
    `ume`, ▲: above. The best of an arena is bold.
    """
    names = dict.fromkeys(row["name"] for summary in summaries.values() for row in summary["rows"])
    cells, places = {name: [] for name in names}, {name: [] for name in names}
    for summary in summaries.values():
        metric = summary["metric"]
        by_name = {row["name"]: (place, row) for place, row in enumerate(summary["rows"], 1)}
        for name in names:
            if name not in by_name:
                cells[name].append("")
                continue
            place, row = by_name[name]
            places[name].append(place / len(by_name))
            score = f"{row[metric]['mean']:.2f}" + ("" if row[metric]["sd"] is None else f" ± {row[metric]['sd']:.2f}")
            low, high = row.get("behind", {"interval": (0.0, 0.0)})["interval"]
            mark = " ▼" if low > 0 else " ▲" if high < 0 else ""
            cells[name].append((f"**{score}**" if place == 1 else score) + mark)
    order = sorted(names, key=lambda name: (-len(places[name]), sum(places[name]) / len(places[name])))
    header = ["", *(f"{title} ({NAMES[summary['metric']]})" for title, summary in summaries.items())]
    rows = [[name.replace("_", " "), *cells[name]] for name in order]
    return markdown(header, rows, right=tuple(range(1, len(header))))


def arena_caption(summary: dict) -> str:
    data = summary["data"]
    baselines = data["baselines"]["question_lookup"][summary["metric"]]
    rates = ", ".join(f"{rate:g}" for rate in summary["learning_rates"])
    return (
        f"{data['test_questions']:,} test questions about {data['test_images']:,} images seen in neither training nor "
        f"selection; {data['train_questions']:,} training questions, {data['answers']:,} answers; looking the "
        f"question up scores {baselines:.2f}. {len(summary['seeds'])} seeds, {summary['epochs']:g} epochs; learning "
        f"rate of {rates} chosen on {data['selection_questions']:,} questions about other images; about "
        f"{summary['budget']:,} trained parameters each. {measured_on([summary['environment']])}"
    )


def arena_table(summary: dict) -> str:
    """The summary as a Markdown table with what it was measured on under it."""
    header, rows = arena_rows(summary)
    return markdown(header, rows, right=tuple(range(1, len(header)))) + "\n\n" + arena_caption(summary)


def draw_scores(figure, summary: dict) -> None:
    """A bar a contender with its interval."""
    metric, rows = summary["metric"], summary["rows"][::-1]
    figure.set_size_inches(7, 0.8 + 0.28 * len(rows))
    axes = figure.add_subplot()
    means = [row[metric]["mean"] for row in rows]
    errors = [
        [mean - row[metric]["interval"][0] for mean, row in zip(means, rows, strict=True)],
        [row[metric]["interval"][1] - mean for mean, row in zip(means, rows, strict=True)],
    ]
    names = [row["name"].replace("_", " ") for row in rows]
    axes.barh(names, means, xerr=errors, color=[colour(row) for row in rows], error_kw={"lw": 1, "ecolor": "#444"})
    axes.axvline(summary["data"]["baselines"]["question_lookup"][metric], color="#444", ls=":", lw=1)
    axes.set(xlabel=f"{NAMES[metric]} (%), 95 % interval over images\n(dotted: looking the question up)")
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="x", alpha=0.3)


def draw_against(figure, summary: dict, field: str, label: str) -> None:
    """Score over parameters or seconds, a point a contender."""
    metric = summary["metric"]
    figure.set_size_inches(6.5, 4.5)
    axes = figure.add_subplot()
    for row in summary["rows"]:
        axes.scatter(row[field], row[metric]["mean"], color=colour(row), s=28)
        axes.annotate(
            row["name"].replace("_", " "), (row[field], row[metric]["mean"]), xytext=(4, 2),
            textcoords="offset points", fontsize=6.5,
        )  # fmt: skip
    axes.set(xlabel=label, ylabel=f"{NAMES[metric]} (%)", xscale="log" if field != "parameters" else "linear")
    axes.grid(alpha=0.3)


def draw_missing(figure, summary: dict) -> None:
    """Score over the share of questions whose image is missing: a mixture of two answers, so a straight line each."""
    metric = summary["metric"]
    figure.set_size_inches(6.5, 4.5)
    axes = figure.add_subplot()
    for row in summary["rows"]:
        if "image_missing" in row:
            ends = [row[metric]["mean"], row["image_missing"][metric]]
            axes.plot([0, 100], ends, color=colour(row), lw=2 if row["name"] == "ume" else 1, alpha=0.8)
            axes.annotate(
                row["name"].replace("_", " "), (100, ends[1]), xytext=(3, -2), textcoords="offset points", fontsize=6.5
            )
    axes.set(xlabel="questions whose image is missing (%)", ylabel=f"{NAMES[metric]} (%)", xlim=(0, 128))
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.grid(alpha=0.3)


def colour(row: dict) -> str:
    return BLIND_COLOUR if row["inputs"] != "both" else REFERENCE_COLOUR if row["name"] == "ume" else HEAD_COLOUR


PLOTS: dict[str, Callable] = {
    "scores": draw_scores,
    "parameters": lambda figure, summary: draw_against(figure, summary, "parameters", "trained parameters"),
    "seconds": lambda figure, summary: draw_against(figure, summary, "train_cpu_seconds", "CPU seconds of training"),
    "missing": draw_missing,
}


def arena_plot(summary: dict, name: str) -> bytes:
    """
    One of `PLOTS` as a PNG.

    Raises:
        ImportError: without matplotlib.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    figure, content = Figure(layout="constrained"), io.BytesIO()
    PLOTS[name](figure, summary)
    figure.savefig(content, dpi=130, format="png", metadata={"Software": None})  # the same bytes each time
    return content.getvalue()


def html_table(header: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{html.escape(cell.replace('`', ''))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'


def arena_page(summaries: dict[str, dict]) -> str:
    """
    All summaries as one HTML page, plots inside.

    Args:
        summaries: by title.
    """
    sections = []
    for title, summary in summaries.items():
        header, rows = arena_rows(summary)
        images = "".join(
            f'<img alt="{html.escape(title)}: {name}" '
            f'src="data:image/png;base64,{base64.b64encode(arena_plot(summary, name)).decode()}">\n'
            for name in PLOTS
        )
        sections.append(
            f"<h2>{html.escape(title)}</h2>\n<p>{html.escape(arena_caption(summary))}</p>\n"
            f"{html_table(header, rows)}{images}<h3>By type of answer</h3>\n{html_table(*kind_rows(summary))}"
        )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>UME: the arena of fusion heads</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
.scroll {{ overflow-x: auto; }}
img {{ max-width: 100%; }}
</style></head><body>
<h1>The arena: fusion heads on equal terms</h1>
<p>Same encoders, questions, order and schedule; matched numbers of trained parameters; one learning rate grid.
Intervals are bootstraps over images; “ume ahead by” is paired, question by question.</p>
{"".join(sections)}</body></html>
"""
