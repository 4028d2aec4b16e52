"""A table named on the command line, the same way for each command that reads one; none is read before it is asked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def add_table_options(group: argparse._ArgumentGroup) -> None:
    """Adds the options that say which table is read, and what its columns are; `load_table` reads it."""
    group.add_argument(
        "--data", nargs="+", help="a table: csv, tsv, jsonl, json, parquet, a folder or the name of a Hub data set"
    )
    group.add_argument(
        "--columns", nargs="+", metavar="ROLE=COLUMN", default=[],
        help="which column is what, where its name does not say: image=img_name question=text answer=label; nothing "
        "behind the = says that there is none",
    )  # fmt: skip
    group.add_argument(
        "--where", nargs="+", metavar="COLUMN=VALUE", default=[],
        help="only rows with this value; of one column several count together",
    )  # fmt: skip


def load_table(args: argparse.Namespace, **options) -> Dataset:
    """The rows of the table that `args` name; `options` are further ones of `load_rows`."""
    from training_ume.data.tables.load import load_rows  # what reads tables is loaded where one is read

    written = pairs("columns", args.columns)
    given = {name: getattr(args, name, None) for name in ("source", "images", "split", "name")}
    columns = {role: names if len(names) > 1 else names[0] or None for role, names in written.items()}
    data = args.data[0] if args.data is not None and len(args.data) == 1 else args.data
    return load_rows(data, columns=columns or None, where=pairs("where", args.where) or None, **given, **options)


def pairs(option: str, written: Sequence[str]) -> dict[str, list[str]]:
    """`a=1 b=2 a=3` as `{"a": ["1", "3"], "b": ["2"]}`; ValueError for one without `=`."""
    found: dict[str, list[str]] = {}
    for pair in written:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--{option} {pair!r} is not understood: write NAME=VALUE, with nothing around the `=`.")
        found.setdefault(name, []).append(value)
    return found
