"""The table of the data sets that are known by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from configuration_ume.scores import FURTHER, NAMES


def sources_table(sources: Iterable[Any]) -> str:
    """The sources of `training_ume.data.sources.table`, as Markdown."""
    lines = ["| `source` | what it is | size | licence | scored by | by |", "|---|---|---|---|---|---|"]
    published = ["| | who | score | where |", "|---|---|---|---|"]
    pictures = []
    for source in sources:
        title = f"[{source.title}]({source.url})" if source.url.startswith("https://") else source.title
        scores = ", ".join({**NAMES, **FURTHER}[name] for name in source.scores)
        columns = ", ".join(f"`{column}`" for column in source.by)
        lines.append(f"| `{source.name}` | {title} | {source.size} | {source.licence} | {scores} | {columns} |")
        pictures.append(f"- {source.title}: {source.pictures}")
        published += [f"| {source.title} | {who} | {score} | {where} |" for who, score, where in source.references]
    where = "Where their pictures are from:"
    return "\n".join([*lines, "", where, "", *pictures, "", "What is published:", "", *published])
