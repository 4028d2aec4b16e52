"""Tables for people: drawn by rich where a person reads, at a terminal; plain text in a pipe, a log or a test."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich import box
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from training_ume.report.markdown import align


def print_table(lines: list[tuple[str, ...]]) -> None:
    """Prints rows of cells under a header, the first row: the first column to the left, the others to the right."""
    if not sys.stdout.isatty():
        print(align(lines))
        return
    header, *rows = lines
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    terminal().print(table)


def print_markdown(text: str) -> None:
    """Prints Markdown as it is, or as it looks."""
    if sys.stdout.isatty():
        terminal().print(Markdown(text))
    else:
        print(text)


def print_json(value: Any) -> None:
    """Prints what `--json` asks for; nothing else may then go to stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def terminal() -> Console:
    """Takes square brackets, colons and numbers in answers and names for what they are."""
    return Console(markup=False, emoji=False, highlight=False)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows at a terminal, on stderr, that something of unknown length goes on."""
    with Console(stderr=True).status(what) if sys.stderr.isatty() else nullcontext():
        yield
