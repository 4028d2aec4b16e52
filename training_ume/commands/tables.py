"""A table named on the command line, the same way for each command that reads one; none is read before it is asked."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def add_table_options(group: argparse._ArgumentGroup, data: bool = True) -> None:
    """Adds the options that say which table is read (but with `data=False`), and what its columns are; `load_table`
    reads it."""
    if data:
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

    data, given = table_arguments(args)
    return load_rows(data, **given, **options)


def table_arguments(args: argparse.Namespace) -> tuple[str | list[str] | None, dict]:
    """What `load_rows` and `understand` are to be called with: columns that a model was trained on are read as they
    were then, where nothing else is said of them."""
    from configuration_ume.values import pairs
    from training_ume.data.tables.roles import role_words
    from training_ume.evaluation.load import columns_read

    given = {name: getattr(args, name, None) for name in ("source", "images", "split", "name")}
    columns = {role: column or None for role, column in pairs("columns", args.columns).items()}
    words = role_words()
    said = {words.get(role, role) for role in columns}
    trained = {} if getattr(args, "model", None) is None or given["source"] else columns_read(args.model)
    columns |= {role: names for role, names in trained.items() if role not in said}
    data = args.data[0] if args.data is not None and len(args.data) == 1 else args.data
    return data, {**given, "columns": columns or None, "where": pairs("where", args.where) or None}


def check_sources(args: argparse.Namespace) -> None:
    """ValueError where rows are named in two ways, or in none: by --part, a table, or the options of `named_data`."""
    from training_ume.data.sources.table import SOURCES

    table = args.data is not None
    files = [name for name in ("questions", "annotations", "image_pattern") if getattr(args, name)]
    if args.part is not None and (table or files or args.source or args.images or args.where or args.columns):
        raise ValueError("--part names rows of the run itself: leave other data out.")
    if table and files:
        raise ValueError(f"--data names a table: leave --{' and --'.join(files)} out.")
    if not table and (args.where or args.columns) and args.source not in SOURCES:
        raise ValueError("--columns and --where are about a table: name it by --data.")
    if args.part is None and not table and not files and args.source is None:
        raise ValueError(
            "There are no rows to score: name the run's own by --part validation, a table by --data, or --source and "
            "--questions."
        )
