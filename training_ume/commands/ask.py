"""Ask a checkpoint questions about an image, for what it makes of a sound and the like, or all questions of a table.

ume ask runs/easy_vqa drawing.png
ume ask runs/easy_vqa drawing.png "is there a circle?" "what shape is it?" --top_k 5
ume ask runs/easy_vqa drawing.png "what shape is it?" --choices circle square --min_probability 0.6
ume ask runs/easy_vqa drawing.png - < questions.txt
ume ask runs/spoken_digits three.wav
ume ask runs/houses kitchen.jpg --table '{"bedrooms": 3, "area": 120}'
ume ask runs/easy_vqa --data questions.csv --images pictures --out answers.csv

Without a question, at a terminal, it waits for questions, one a line; an empty line or Ctrl-D ends. Either way the
image is encoded once. With `-` the questions come from elsewhere, one a line. A table's answers go into a CSV file as
they come: the same command goes on where it was interrupted.

A model of other modalities takes what there is of them, in any order: a file is told by its ending, or named by an
option.
"""

import argparse
import sys
from collections.abc import Iterator

from configuration_ume.scores import quantity
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality
from training_ume.commands import add_trust_option, command_parser
from training_ume.commands.tables import add_table_options, load_table
from training_ume.evaluation.asking import QUESTION, ask, ask_any
from training_ume.evaluation.load import check_is_model, reads_others
from training_ume.report.console import print_json


def typed() -> Iterator[str]:
    """The questions that are typed at the terminal."""
    while True:
        try:
            question = input("question: ").strip()
        except EOFError:
            print()
            return
        if not question:
            return
        yield question


def piped() -> Iterator[str]:
    """The questions that another program or a file gives, one a line; empty lines are passed over."""
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def parse(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("ask", __doc__)
    parser.add_argument("model", help="a folder that `ume train` wrote, or a UME model on the Hub")
    parser.add_argument("image", nargs="?", help="path or URL of an image, or of another file that the model reads")
    parser.add_argument(
        "questions", nargs="*", metavar="question",
        help="what to ask, in quotes; several are allowed; - reads them from standard input, one a line; more files",
    )  # fmt: skip
    for kind in further():
        takes = "path or URL" if kind.in_files else "numbers as JSON" + (", or a file" if kind.suffixes else "")
        option, place = f"--{kind.column}", f"given_{kind.column}"
        parser.add_argument(option, dest=place, metavar="WHAT", help=f"{kind.noun}: {takes}")
    parser.add_argument("--top_k", type=int, help="answers a question (default: 3, of a table 1)")
    parser.add_argument(
        "--choices", nargs="+", help="the answers to choose from; what the model does not know is left out, by name"
    )
    parser.add_argument(
        "--min_probability", type=float, metavar="P", help='"I do not know" where no answer has this probability'
    )
    parser.add_argument("--json", action="store_true", help="print a list of questions with their answers as JSON")
    add_trust_option(parser)
    table = parser.add_argument_group("a table of questions, instead of an image")
    add_table_options(table)
    table.add_argument("--images", "--files", help="folder with the images, sounds and other files")
    table.add_argument("--source", help="a data set's name, for a table in its layout")
    table.add_argument("--split", help="the part of a folder, of a Hub data set or of a table with a column split")
    table.add_argument("--out", help="where the answers go, a .csv or .tsv file; what it holds is not asked again")
    table.add_argument("--overwrite", action="store_true", help="begin the file anew")
    table.add_argument("--skipped_log", help="leave out rows that cannot be used, and list them in this file")
    table.add_argument("--batch_size", type=int, default=64, help="questions a batch (default: 64)")
    table.add_argument("--num_workers", type=int, default=0, help="processes that read images (default: 0)")
    args = parser.parse_intermixed_args(argv)  # options may stand between model and image
    args.named = {kind.column: value for kind in further() if (value := getattr(args, f"given_{kind.column}"))}
    args.others = bool(args.named) or (args.image is not None and reads_others(args.model))
    asks_table = args.data is not None or args.source is not None
    if asks_table and (args.image is not None or args.named or args.json):
        parser.error("--data and --source name a table: leave the image, questions and --json out")
    if asks_table and args.out is None:
        parser.error("--out is missing: name the file for the answers, for example --out answers.csv")
    if not asks_table and args.out is not None:
        parser.error("--out is for a table of questions: name it by --data, or leave --out out")
    if not asks_table and args.image is None and not args.named:
        parser.error(
            "there is no image: give one, or what else the model reads, behind the model, or a table of questions by "
            "--data"
        )
    if args.others:
        return args
    if "-" in args.questions and len(args.questions) > 1:
        parser.error("- reads the questions from standard input: give it alone")
    if args.json and not args.questions:
        parser.error("--json needs the questions: give them behind the image, in quotes")
    if not asks_table and not args.questions and not sys.stdin.isatty():
        check_is_model(args.model)  # of which a question would be asked
        parser.error(
            "there is no question: give one behind the image, in quotes, - to read them from standard input, or type "
            "them at a terminal"
        )
    return args


def further() -> list[Modality]:
    """What is given by an option, where it is not told by the ending of its file."""
    return [kind for kind in MODALITIES.values() if kind.column != QUESTION]


def say(text: str) -> None:
    print(text, file=sys.stderr)


def ask_all(args: argparse.Namespace) -> None:
    from training_ume.evaluation.asking_tables import ask_table, check_out  # loads what reads data sets

    check_out(args.out, args.overwrite)
    if args.batch_size < 1:
        raise ValueError(f"batch_size={args.batch_size} is impossible: give 1 or more.")
    skipping = {"on_error": "skip", "skipped_log": args.skipped_log} if args.skipped_log else {}
    if args.source is None and not any(pair.startswith(("answer", "label")) for pair in args.columns):
        args.columns = [*args.columns, "answer="]  # answers that a table has go along as they are
    rows = load_table(args, say=say, **skipping)
    asked = ask_table(
        args.model,
        rows,
        args.out,
        top_k=1 if args.top_k is None else args.top_k,
        choices=args.choices,
        min_probability=args.min_probability,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        overwrite=args.overwrite,
        trust_remote_code=args.trust_remote_code,
        say=say,
    )
    print(f"Asked {asked:,} of {len(rows):,} questions now; all answers are in {args.out}.")


def ask_one(args: argparse.Namespace) -> None:
    """A model of other modalities than images and questions, for what it makes of what was given."""
    things = [] if args.image is None else [args.image, *args.questions]
    top_k = 3 if args.top_k is None else args.top_k
    answered = ask_any(
        args.model, things, args.named, top_k, args.trust_remote_code, args.choices, args.min_probability, say
    )
    show(args, answered, bool(answered[0][0]), False)


def ask_some(args: argparse.Namespace) -> None:
    from_stdin = args.questions == ["-"]
    questions = piped() if from_stdin else args.questions or typed()
    answered = ask(
        args.model,
        args.image,
        list(questions) if args.json else questions,
        3 if args.top_k is None else args.top_k,
        args.trust_remote_code,
        args.choices,
        args.min_probability,
        say,
    )
    show(args, answered, bool(args.questions), from_stdin)


def show(args: argparse.Namespace, answered, with_questions: bool, from_stdin: bool) -> None:
    """Prints answers as they come."""
    if args.json:
        print_json([{"question": question, "answers": answers} for question, answers in answered])
        return
    for question, candidates in answered:
        if with_questions:
            print(question)
        for candidate in candidates:
            if "score" not in candidate:
                print(f"  {candidate['name']}: {quantity(candidate['answer'])}", flush=from_stdin)
            elif "guess" in candidate:
                print(f"  {candidate['answer']} (the best guess is {candidate['guess']}: {candidate['score']:.1%})")
            else:
                print(f"  {candidate['score']:6.1%}  {candidate['answer']}", flush=from_stdin)


def main(argv: list[str]) -> int:
    try:
        args = parse(argv)
        if args.others:
            ask_one(args)
        elif args.image is None:
            ask_all(args)
        else:
            ask_some(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = " What is answered is kept: repeat the command to go on." if args.data or args.source else ""
        print(f"\nInterrupted.{kept}", file=sys.stderr)
        return 130
    return 0
