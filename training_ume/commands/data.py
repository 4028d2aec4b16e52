"""What a table holds: rows, what is broken, copies, answers, lengths, unknown words, and a command to train on it.

ume data own.csv --images pictures
ume data frame.parquet --columns image=img_name answer=label --text_model bert-base-uncased --plot data.png
"""

import json
import os
import shlex
import sys

from configuration_ume.parsing import make_recipe
from configuration_ume.values import pairs
from modeling_ume.modalities_ume import MODALITIES, usual
from modeling_ume.trust_ume import load_tokenizer
from training_ume.commands import command_parser
from training_ume.data.profile import profile
from training_ume.records.files import first_line
from training_ume.records.packages import need_matplotlib
from training_ume.report.console import print_json, print_table
from training_ume.report.data import data_lines, data_tables, plot_data

RECIPE = "own_table"


def parse(argv: list[str]):
    parser = command_parser("data", __doc__)
    parser.add_argument("data", nargs="+", metavar="file", help="a table, as --data of `ume train` takes it")
    parser.add_argument(
        "--images", "--files", help="folder that the table's names of images, sounds and other files start from"
    )
    parser.add_argument(
        "--columns", nargs="+", help="which column is what: image=img_name answer=label table=area,rooms audio=wav …"
    )
    parser.add_argument("--where", nargs="+", help="rows to keep, by column: q_lang=en …")
    parser.add_argument("--source", help="layout of a known data set, such as slake (left out: found out)")
    parser.add_argument("--split", help="split of a data set that has several")
    parser.add_argument(
        "--text_model", help=f"whose tokenizer counts tokens: a Hub name or a folder (default: that of {RECIPE})"
    )
    parser.add_argument("--plot", help="PNG file to draw into")
    parser.add_argument("--json", action="store_true", help="print everything that was counted as JSON")
    return parser.parse_args(argv)


def tokenizer_of(name: str | None):
    """The tokenizer to count with, and why there is none: that of the recipe counts where it has been downloaded, as
    nobody has asked for a network yet."""
    wanted = name or make_recipe(RECIPE, {}).model.text_model
    try:
        return load_tokenizer(wanted, local_files_only=name is None), None
    except (OSError, ValueError, ImportError) as error:
        if name is not None:
            raise ValueError(f"No tokenizer can be loaded from {name!r} ({first_line(error)}).") from error
        return (
            None,
            f"Tokens are not counted, as the tokenizer of {wanted} is not on this machine yet: name one with "
            "--text_model.",
        )


def proposed(args, facts: dict) -> str:
    """The command that trains on the table as it was read."""
    words = ["ume", "train", RECIPE, "--data", *args.data]
    for name in ("images", "columns", "where", "source"):
        if (value := getattr(args, name)) is not None:
            words += [f"--{name}", *(value if isinstance(value, list) else [value])]
    words += [] if args.split is None else ["--train_split", args.split]
    # What the recipe has no encoder of gets one; what no row has needs none, where two are left to join.
    for kind in MODALITIES.values():
        if kind.column in facts["further"]:
            config = [f"--{kind.name}_config", json.dumps({"model_type": kind.own_encoder})]
            words += config if kind.own_encoder else [f"--{kind.name}_model", "NAME"]
        elif kind in usual() and kind.name not in facts["modalities"] and len(facts["modalities"]) > 1:
            words += [] if getattr(args, f"{kind.name}_model", None) else [f"--{kind.name}_model", "null"]
    words += [] if args.text_model is None else ["--text_model", args.text_model]
    for advice in facts["advice"]:
        words += [f"--{advice['field']}", advice["value"]] if advice["field"] else []
    return shlex.join(words)


def main(argv: list[str]) -> int:
    args = parse(argv)
    try:
        if args.plot:
            need_matplotlib()
            if os.path.exists(args.plot):
                raise ValueError(f"plot={args.plot!r} exists: delete it, or choose another name.")
        reading = {name: getattr(args, name) for name in ("images", "source", "split")}
        reading |= {name: pairs(name, value) for name in ("columns", "where") if (value := getattr(args, name))}
        tokenizer, missing = tokenizer_of(args.text_model)
        facts = profile(args.data[0] if len(args.data) == 1 else args.data, tokenizer, **reading)
        facts["train"] = proposed(args, facts)
        if args.plot:
            plot_data(facts, args.plot)
    except (ValueError, OSError, ImportError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    if args.json:
        print_json(facts)
        return 0
    for line in data_lines(facts):
        print(line)
    if missing and facts["questions"]["rows"]:
        print(missing)
    for title, table in data_tables(facts):
        print(f"\n{title}")
        print_table(table)
    print()
    for advice in facts["advice"]:
        print(
            f"--{advice['field']} {advice['value']}: {advice['why']}."
            if advice["field"]
            else f"WARNING: {advice['why']}."
        )
    print(f"To train on it:\n  {facts['train']}")
    if args.plot:
        print(f"wrote {args.plot}")
    return 0
