"""One row named on the command line: a file, a text or a few columns of each modality that a model reads."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from configuration_ume.values import pairs
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality


def add_row_options(parser: argparse.ArgumentParser) -> None:
    """Adds what names a row: files and a text one behind the other, and an option for each modality."""
    parser.add_argument(
        "inputs", nargs="*", metavar="input",
        help="what the model is given: paths or addresses of files, and a text in quotes",
    )  # fmt: skip
    group = parser.add_argument_group("what the model is given, by what it is")
    for kind in MODALITIES.values():
        option, name = f"--{kind.column}", kind.column.upper()
        if kind.by_name:
            group.add_argument(option, nargs="+", metavar="COLUMN=VALUE", help=f"columns of a {kind.noun}")
        elif in_files(kind):
            endings = f", such as {', '.join(kind.suffixes[:4])}" if kind.suffixes else ""
            group.add_argument(option, metavar=name, help=f"file or address of {kind.noun}{endings}")
        else:
            group.add_argument(option, metavar=name, help=f"the {kind.noun}, in quotes")


def in_files(kind: Modality) -> bool:
    """Whether files hold such a thing."""
    return kind.in_files or bool(kind.suffixes)


def named_any(args: argparse.Namespace) -> bool:
    """Whether anything of a row was named."""
    return bool(args.inputs) or any(getattr(args, kind.column) is not None for kind in MODALITIES.values())


def row_of(args: argparse.Namespace, modalities: Sequence[str]) -> dict[str, Any]:
    """
    The cells of the row that `args` name, by their columns, for a model of these modalities.

    What is there, is an address or ends as files of the model's modalities do, is a file: of the modality that its
    ending says, or else the first that is still open. Everything else is the text.

    Raises:
        ValueError: for what the model does not read, what was named twice, or what no modality is left for.
    """
    kinds = [MODALITIES[name] for name in modalities]
    row: dict[str, Any] = {}
    for kind in MODALITIES.values():
        cell = getattr(args, kind.column)
        if cell is not None and kind not in kinds:
            reads = ", ".join(own.nouns for own in kinds)
            raise ValueError(f"--{kind.column} was given, but this model reads {reads}: leave it out.")
        if cell is not None:
            row[kind.column] = pairs(kind.column, cell) if kind.by_name else cell
    for word in args.inputs:
        kind = _kind_of(word, kinds, row)
        if kind.column in row:
            raise ValueError(
                f"There are two {kind.nouns}, {str(row[kind.column])[:80]!r} and {word[:80]!r}: give one, or say what "
                f"each is ({', '.join(f'--{own.column}' for own in kinds)})."
            )
        row[kind.column] = word
    return row


def _kind_of(word: str, kinds: list[Modality], row: dict[str, Any]) -> Modality:
    texts = [kind for kind in kinds if kind.ordered]
    files = [kind for kind in kinds if in_files(kind)]
    files = [kind for kind in files if kind.column not in row] or files
    is_address = word.startswith(("http://", "https://"))
    ending = os.path.splitext(word.partition("?")[0] if is_address else word)[1].lower()
    fitting = [kind for kind in kinds if ending in kind.suffixes]
    there = is_address or os.path.exists(word)
    if fitting and (there or not any(map(str.isspace, word))):
        return next((kind for kind in fitting if kind in files), fitting[0])
    if files and (there or not texts):
        folders = [kind for kind in files if kind.as_folder and os.path.isdir(word)]
        return [*folders, *files][0]
    if texts:
        return texts[0]
    options = ", ".join(f"--{kind.column}" for kind in kinds)
    raise ValueError(f"This model reads no file and no text, and was given {word[:80]!r}: give {options}.")
