"""Show why a checkpoint gives an answer, as a PNG and a JSON; or, over a data set, what each modality does for it.

ume explain runs/easy_vqa drawing.png "what shape is in the image?" --out explanation
ume explain runs/spoken_digits seven.wav noisy.png --faithfulness
ume explain runs/machines gauge.png hum.wav "nothing to report" --table temperature=61 hours=900 maker=north
ume explain runs/easy_vqa --source easy_vqa --max_questions 1000 --out modalities
ume explain runs/machines --part test --out modalities
ume explain runs/memes --data memes.csv --images pictures --out modalities

One row shows where the model looked, which words, which part of a sound, which stretch of a series, which column and
which frame mattered, and which modality did. What a row lacks may be left out.
"""

import argparse
import sys
from pathlib import Path

from datasets import Dataset

from configuration_ume.scores import quantity
from modeling_ume.modalities_ume import MODALITIES
from training_ume.commands import add_trust_option, command_parser
from training_ume.commands.given import add_row_options, named_any, row_of
from training_ume.commands.named_data import add_data_options, load_named
from training_ume.commands.tables import add_table_options, check_sources, load_table
from training_ume.data.sources.table import SOURCES
from training_ume.evaluation.load import gives_numbers, load_checkpoint
from training_ume.explain.explanation import explain, need_captum
from training_ume.explain.shapley import explain_dataset
from training_ume.records.explanation import Explanation
from training_ume.records.files import write_json
from training_ume.records.machine import environment
from training_ume.records.packages import need_matplotlib
from training_ume.report.console import print_json, print_table, working
from training_ume.report.explanation import modality_table, plot_explanation, plot_modalities
from training_ume.training.parts import PARTS, run_part

SHOWN_PARTS = 8  # of each input at the terminal


def parse(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("explain", __doc__)
    parser.add_argument("model", help="a folder that `ume train` wrote, or a UME model on the Hub")
    add_row_options(parser)
    parser.add_argument("--answer", help="the answer to explain (default: the one that the model gives)")
    parser.add_argument(
        "--out", default="explanation", help="name of the two files without .png and .json (default: explanation)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files if they exist")
    parser.add_argument(
        "--faithfulness", action="store_true",
        help="find out, too, what becomes of the answer without the parts that are said to matter, and with them "
        "alone, beside parts drawn by chance",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print what the JSON file holds instead of tables")
    add_trust_option(parser)
    data = parser.add_argument_group("data set, instead of one row")
    add_data_options(data, annotations="annotations JSON, which has the types of the answers")
    add_table_options(data)
    data.add_argument(
        "--part", choices=PARTS, help="the rows of the run itself: those that were held out, its test rows, or its own"
    )
    data.add_argument(
        "--max_questions", type=int, default=1000, help="so many, drawn from all of them by chance (default: 1000)"
    )
    data.add_argument("--batch_size", type=int, default=64, help="questions a batch (default: 64)")
    return parser.parse_intermixed_args(argv)  # options may stand between model and inputs


def check(args: argparse.Namespace, files: list[Path]) -> None:
    """Refuses, before any work, what cannot come to an end."""
    if named_any(args) == many(args):
        raise ValueError(
            "Give either an image and a question, or a data set by --source, --data or --part; what a model reads "
            "besides or instead, --help says."
        )
    if many(args):
        check_sources(args)
    if many(args) and args.answer is not None:
        raise ValueError("--answer names one answer of one row: leave it out with --source, --data and --part.")
    for name in ("max_questions", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name}={getattr(args, name)} is impossible: give 1 or more.")
    for file in files:
        if file.exists() and not args.overwrite:
            raise ValueError(f"{file} exists: add --overwrite, or choose another name by --out.")
    need_matplotlib()
    need_captum()


def many(args: argparse.Namespace) -> bool:
    """Whether a data set was named."""
    return any(value is not None for value in (args.source, args.data, args.part))


def load_any(args: argparse.Namespace) -> Dataset:
    if args.part is not None:
        return run_part(args.model, args.part)[0]
    if args.data is not None or args.source in SOURCES.keys() - {"vqa_v2", "easy_vqa"}:
        return load_table(args, numbers=gives_numbers(args.model))
    return load_named(args)


def explain_one(args: argparse.Namespace, plot: Path) -> dict:
    model, processor = load_checkpoint(args.model, args.trust_remote_code)
    row = row_of(args, model.config.modalities)
    check_row(row, model.config.modalities)
    with working("Asking the model about parts of what it is given"):
        explanation = explain(model, processor, answer=args.answer, faithfulness=args.faithfulness, **row)
    plot_explanation(explanation, plot)
    if not args.json:
        print_explanation(explanation)
    return {"model": args.model, **row, **explanation.as_json()}


def check_row(row: dict, modalities: list[str]) -> None:
    """Refuses a row of one input where the model reads a question besides: nothing was asked."""
    lacking = [kind for kind in map(MODALITIES.get, modalities) if kind.ordered and kind.column not in row]
    if len(row) == 1 and lacking:
        (kind,) = lacking
        given = next(kind.noun for kind in MODALITIES.values() if kind.column in row)
        raise ValueError(f"There is no {kind.noun}: give one behind the {given}, in quotes.")


def print_explanation(explanation: Explanation) -> None:
    if explanation.chooses:
        print(f"{explanation.question}\n  {explanation.probability:6.1%}  {explanation.answer}".lstrip("\n"))
    else:
        print(f"{explanation.answer}: {quantity(explanation.probability)}")
    if explanation.words:
        words = ((word["word"], f"{word['score']:+.3f}") for word in explanation.words)
        print_table([("", "adds to the logit"), *words])
    for scores in explanation.parts.values():
        best = ((name, f"{score:+.4g}") for name, score in scores.best(SHOWN_PARTS))
        print_table([(scores.noun, "adds to the logit" if explanation.chooses else "adds"), *best])
    values = ((name, f"{value:+.3f}") for name, value in explanation.shapley.items())
    print_table([("", "Shapley value"), *values])
    if explanation.faithfulness:
        kinds = ("deletion", "random_deletion", "insertion", "random_insertion")
        rows = ((name, *(f"{found[kind]:.3f}" for kind in kinds)) for name, found in explanation.faithfulness.items())
        print_table([("", "without: low", "by chance", "with alone: high", "by chance"), *rows])


def explain_many(args: argparse.Namespace, plot: Path) -> dict:
    dataset = load_any(args)
    model, processor = load_checkpoint(args.model, args.trust_remote_code)
    # By chance: the first questions of a file are about few images.
    dataset = dataset.shuffle(seed=0).select(range(min(args.max_questions, len(dataset))))
    found = explain_dataset(model, processor, dataset, args.batch_size)
    plot_modalities(found["kinds"], plot)
    if not args.json:
        about = [f"{found[kind.nouns]:,} {kind.nouns}" for kind in MODALITIES.values() if kind.nouns in found]
        print(f"{found['questions']:,} questions{' about ' * bool(about)}{' and '.join(about)}")
        print_table(modality_table(found["kinds"]))
    return {"model": args.model, **found}


def main(argv: list[str]) -> int:
    args = parse(argv)
    out = args.out.removesuffix(".png").removesuffix(".json")
    plot, file = Path(f"{out}.png"), Path(f"{out}.json")
    try:
        check(args, [plot, file])
        plot.parent.mkdir(parents=True, exist_ok=True)
        found = explain_many(args, plot) if many(args) else explain_one(args, plot)
        found["environment"] = environment()
        write_json(file, found)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    if args.json:
        print_json(found)
    else:
        print(f"wrote {plot}\nwrote {file}")
    return 0
