"""What models of other modalities than text and images score: a table a results file of `ume train`."""

from __future__ import annotations

import json
from pathlib import Path

from training_ume.records.comparison import comparison_table
from training_ume.report.markdown import markdown, measured_on


def beyond_tables(folder: Path) -> str:
    """
    Args:
        folder (path): with index.json, a list of `{"file": …, "title": …, "said": …}` in the order of the page; each
            `file` beside it is the results.json of a run of several seeds.
    """
    index = folder / "index.json"
    if not index.is_file():
        return "Not measured yet."
    parts = []
    for entry in json.loads(index.read_text(encoding="utf-8")):
        results = json.loads((folder / entry["file"]).read_text(encoding="utf-8"))
        header, *rows = comparison_table(results["comparison"], results["baselines"])
        table = markdown(list(header), [list(row) for row in rows], right=tuple(range(1, len(header))))
        parts.append(f"**{entry['title']}**\n\n{table}\n\n{entry['said']} {scored(results)}")
    return "\n\n".join(parts)


def scored(results: dict) -> str:
    """On which rows, and on which machine."""
    data, part = results["data"], results["scored_on"]
    also = "" if part == "test" else ", which also chose the epoch"
    on = f"Scored on {data[f'{part}_questions']:,} {part} rows{also}."
    return f"{on} {measured_on([results['environment']], 'torch', 'transformers')}"
