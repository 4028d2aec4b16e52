"""What a table holds, as words, tables and a picture, from what `training_ume.data.profile` counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training_ume.records.packages import need_matplotlib

DRAWN = 15  # answers


def data_lines(facts: Mapping[str, Any]) -> list[str]:
    """A sentence each: what it was taken for, how much there is, what cannot be used, what is there twice."""
    understood = facts["understood"]
    uses = [("column", "is", "because", "holds", "for example")]
    uses += [
        (u["name"], u["role"] or "kept", u["why"], u["holds"], _short(u["example"])) for u in understood["columns"]
    ]
    layout = f", in the layout of {understood['source']}" if understood["source"] else ""
    lines = [f"{understood['name']}: {understood['container']}{layout}.", *_left(uses)]
    lines += [*understood["made"], *understood["remarks"], ""]
    questions, pictures, unusable = facts["questions"], facts["pictures"], facts["unusable"]
    further = "".join(f"{one['rows']:,} with {one['noun']}, " for one in facts.get("further", {}).values())
    lines.append(
        f"{facts['rows']:,} rows can be used: {questions['rows']:,} with a question ({questions['distinct']:,} "
        f"different ones), {pictures['rows']:,} with a picture ({pictures['distinct']:,} different ones), {further}"
        f"{facts['answers']['rows']:,} with an answer."
    )
    if unusable["count"]:
        kinds = ", ".join(f"{count:,} × {kind.replace('_', ' ')}" for kind, count in unusable["kinds"].items())
        lines.append(f"WARNING: {unusable['count']:,} cannot be used ({kinds}), for example:")
        lines += [f"  {example}" for example in unusable["examples"]]
    if pictures["copies"]:
        lines.append(
            f"{pictures['copies']:.0%} of the {pictures['files']:,} picture files are copies of another one: they "
            "stay on one side of a split."
        )
    for name, count in facts["columns"].items():
        lines.append(f"The column {name} goes along: {count:,} different values, for --where and --split_by.")
    return lines


def data_tables(facts: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """(title, lines of cells): lengths, coverage, the most common answers."""
    tables = []
    questions, answers = facts["questions"], facts["answers"]
    lengths = [(unit, questions.get(unit)) for unit in ("words", "tokens") if questions.get(unit)]
    if lengths:
        header = ("", "shortest", "median", "95 % up to", "longest")
        names = ("shortest", "median", "of_95_percent", "longest")
        tables.append(
            ("Questions", [header, *((unit, *(f"{found[name]:g}" for name in names)) for unit, found in lengths)])
        )
    if answers["distinct"]:
        coverage = [(f"{point['answers']:,}", f"{point['share']:.1%}") for point in answers["coverage"]]
        once = f"{answers['once']:,} are given once"
        title = f"Rows that the most frequent of {answers['distinct']:,} answers cover ({once})"
        tables.append((title, [("answers", "rows"), *coverage]))
        common = [(one["answer"], f"{one['rows']:,}", f"{one['share']:.1%}") for one in answers["most_common"][:10]]
        tables.append(("The most common answers", [("answer", "rows", "share"), *common]))
    return tables


def plot_data(facts: Mapping[str, Any], path: str | Path) -> None:
    """
    Draws the most common answers, what vocabularies of each size cover, and how long the questions are, as a PNG.

    Raises:
        ImportError: without matplotlib.
    """
    need_matplotlib()
    from matplotlib.figure import Figure  # not pyplot, which keeps figures alive and looks for a screen

    questions, answers = facts["questions"], facts["answers"]
    figure = Figure(figsize=(11, 6), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    listed = answers["most_common"][:DRAWN][::-1]
    axes = figure.add_subplot(grid[:, 0])
    axes.barh([_short(one["answer"], 24) for one in listed], [one["rows"] for one in listed], color="C0")
    axes.set(title=f"{len(listed)} of {answers['distinct']:,} answers", xlabel="rows")
    axes = figure.add_subplot(grid[0, 1])
    sizes = [point["answers"] for point in answers["coverage"]]
    axes.plot(sizes, [100 * point["share"] for point in answers["coverage"]], marker="o")
    axes.set(title="what the most frequent answers cover", xlabel="answers", ylabel="rows (%)", ylim=(0, 103))
    if len(sizes) > 1:
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
    axes = figure.add_subplot(grid[1, 1])
    unit = "tokens" if questions.get("tokens") else "words"
    counts = (questions.get(unit) or {"counts": {}})["counts"]
    axes.bar([int(length) for length in counts], list(counts.values()), color="C2")
    axes.xaxis.get_major_locator().set_params(integer=True)
    of = "different questions" if unit == "tokens" else "questions"
    axes.set(title="how long the questions are" if counts else "no questions", xlabel=unit, ylabel=of)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    pictures = facts["pictures"]
    figure.suptitle(
        f"{facts['understood']['name']}: {facts['rows']:,} rows, {pictures['distinct']:,} pictures, "
        f"{facts['unusable']['count']:,} unusable"
    )
    figure.savefig(path, dpi=120, format="png", metadata={"Software": None})  # the same bytes each time


def _left(lines: list[tuple[str, ...]]) -> list[str]:
    """All columns to the left, as they are read and not added up."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
