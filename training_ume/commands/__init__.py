"""The `ume` command: one sub-command a module of this package, each with `main(argv) -> exit code`.

A module is imported when its command is called: `ume --help` needs neither torch nor transformers. What a module
imports is what its command costs before it does anything, so `ask` imports nothing that only trains or scores.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Command:
    """A module of this package, a line for the list of commands, and the extra that it cannot be imported without."""

    module: str
    summary: str
    extra: str | None = None


COMMANDS = {
    "train": Command("train", "train a model from a recipe and score it"),
    "data": Command("data", "show what a table holds, and how to train on it"),
    "speak": Command("speak", "speak a table's questions into sound files"),
    "evaluate": Command("evaluate", "score a model on a data set"),
    "ask": Command("ask", "ask a model questions about an image"),
    "explain": Command("explain", "show why a model gives an answer"),
    "arena": Command("arena", "compare fusion heads, or changes of a recipe, on equal terms"),
    "publish": Command("publish", "put a model with its card on the Hugging Face Hub"),
    "export": Command("export", "write a model for other runtimes", extra="export"),
    "demo": Command("demo", "try a model in the browser", extra="demo"),
    "cache": Command("cache_features", "run frozen encoders once, for all trainings to come"),
    "shard": Command("shard", "write data as parquet, to be read while training"),
    "compare": Command("compare", "put runs of several folders into one table"),
    "card": Command("card", "write a model card from what a training left"),
    "thesis": Command("thesis", "train the thesis' rows and compare with its figures"),
}

EXAMPLES = """examples:
  ume train easy_vqa --output_dir runs/easy_vqa
  ume ask runs/easy_vqa drawing.png "what shape is it?"
  ume publish runs/easy_vqa OWNER/ume-easy-vqa --about about.yaml --dry_run

`ume COMMAND --help` says more about each, with examples of its own."""


def command_parser(name: str, doc: str, **options) -> argparse.ArgumentParser:
    """A parser whose help is a command's docstring with its examples; `options` are argparse's."""
    return argparse.ArgumentParser(
        prog=f"ume {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run the fusion head that came with the model, where it has one of its own: its file may do anything on "
        "this machine, so read it first",
    )


def list_commands() -> str:
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items())


def main(argv: list[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        argv (`list[str]`, *optional*): its name and arguments; those of the process by default.

    Returns:
        The exit code: 0, 2 for what cannot be used, 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0].startswith("-"):
        parser = argparse.ArgumentParser(
            prog="ume",
            usage="%(prog)s COMMAND [ARGUMENTS …]",
            description="Encoders of text, images, sound, film, series and tables, joined by a fusion head.\n\n"
            f"commands:\n{list_commands()}",
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--version", action="version", version=f"ume {metadata.version('ume')}")
        parser.parse_args(argv)  # leaves after --help and --version, and for options that there are not
        parser.print_help(sys.stderr)
        return 2
    name, *arguments = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.7)
        advice = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}."
        print(f"error: There is no command {name!r}: {advice}", file=sys.stderr)
        return 2
    # Threads that spin while they wait for one another take a busy machine's processors from the very ones they wait
    # for: one step then took 20 times as long. Read when torch is loaded, so it is set before; what is set stands.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = COMMANDS[name]
    module = f"{__name__}.{command.module}"
    try:
        return importlib.import_module(module).main(arguments)
    except ModuleNotFoundError as error:
        if error.name == module:
            print(f"error: `ume {name}` is not part of this version of ume: update it.", file=sys.stderr)
        elif command.extra is not None:
            print(
                f"error: `ume {name}` needs {error.name}, which is not installed: "
                f'`pip install "ume[{command.extra}]"` brings it.',
                file=sys.stderr,
            )
        else:
            raise
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
