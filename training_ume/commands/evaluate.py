"""Score a checkpoint on a data set, and write the results, and answers for the challenge server, as JSON.

ume evaluate runs/easy_vqa --source easy_vqa --baselines question_only image_only --out easy_vqa.json
ume evaluate runs/vqa --questions v2_Questions_Test.zip --images test2015 --challenge_file test.json
ume evaluate runs/own --part validation --by language answer_type
ume evaluate runs/own --data other.csv --images pictures --scores macro_f1 auroc
ume evaluate runs/own --part validation --subsets --out subsets.json
"""

import argparse
import sys
from pathlib import Path

from configuration_ume.scores import FURTHER, LABELS, NUMBERS, measured_by, names_in, written
from training_ume.commands import add_trust_option, command_parser
from training_ume.commands.named_data import add_data_options, asked_in, load_named
from training_ume.commands.tables import add_table_options, check_sources, load_table, table_arguments
from training_ume.data.inputs import BLIND, LEFT, lacked_by_all
from training_ume.data.sources.table import SOURCES
from training_ume.data.tables.load import understand
from training_ume.evaluation.evaluate import DROP_RATES, OPEN_CLOSED, evaluate_checkpoint
from training_ume.evaluation.load import gives_numbers
from training_ume.evaluation.measures import check_scores
from training_ume.evaluation.wups import VARIABLE, find_wordnet
from training_ume.records.files import write_json
from training_ume.records.packages import need_matplotlib
from training_ume.report.console import print_json, print_table
from training_ume.report.curves import plot_robustness
from training_ume.report.subsets import plot_subsets, subsets_table, worth_table
from training_ume.training.parts import PARTS, data_arguments, describe_trained_on, run_part, trained_on

KNOWN_SHARE = 0.5  # of the rows: with fewer whose answer a model can give, scores are of something else


def parse(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("evaluate", __doc__)
    parser.add_argument("model", help="a folder that `ume train` wrote, or a UME model on the Hub")
    data = parser.add_argument_group("data")
    answers = "annotations JSON; left out: answer the questions without scoring"
    add_data_options(data, annotations=answers, source="vqa_v2")
    data.set_defaults(source=None)  # of a table it may be left out
    add_table_options(data)
    data.add_argument(
        "--part", choices=PARTS, help="the rows of the run itself: those that were held out, its test rows, or its own"
    )
    data.add_argument(
        "--skipped_log",
        help="leave out questions that cannot be used (a missing image and the like) and list them in this file; "
        "without it they are an error",
    )
    data.add_argument("--max_questions", type=int, help="only the first so many questions")
    data.add_argument("--max_question_length", type=int, help="longest question in tokens; the rest is cut off")
    further = parser.add_argument_group("scores")
    further.add_argument(
        "--scores",
        nargs="+",
        metavar="SCORE",
        default=None,
        help=f"further ones: {', '.join(FURTHER)}, or wups for both of these (default: those that the data set is "
        "judged by)",
    )
    further.add_argument(
        "--by",
        nargs="+",
        metavar="COLUMN",
        default=None,
        help=f"show every score by the values of these columns, with intervals; {OPEN_CLOSED} tells those with "
        "yes or no from the others (default: the columns that the data set is judged by)",
    )
    further.add_argument(
        "--wordnet", metavar="DIR", help=f"folder with WordNet's files, for WUPS (default: the variable {VARIABLE})"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", help="results JSON: scores, overall and per type of question and answer")
    output.add_argument(
        "--predictions", help="each question's answer and score, one JSON object a line; what a model card reads"
    )
    output.add_argument("--challenge_file", help="answers in the form that the VQA challenge server reads")
    output.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")
    output.add_argument(
        "--baselines", nargs="+", choices=BLIND, default=[], help="score this checkpoint without the other input, too"
    )
    missing = parser.add_argument_group("missing inputs")
    missing.add_argument(
        "--drop",
        nargs="+",
        choices=LEFT,
        default=[],
        help="draw the robustness curve, the score over how many questions lack this input: into --out, and beside it "
        "as a PNG",
    )
    missing.add_argument(
        "--rate",
        nargs="+",
        type=float,
        default=list(DROP_RATES),
        help=f"shares of the questions that lack it (default: {' '.join(map(str, DROP_RATES))})",
    )
    missing.add_argument("--drop_seed", type=int, default=0, help="draws which questions lack it (default: 0)")
    missing.add_argument(
        "--subsets",
        action="store_true",
        help="score every subset of the modalities, and say what each modality is worth (Shapley values): into --out, "
        "and beside it as a picture, NAME_subsets.png",
    )
    speed = parser.add_argument_group("speed")
    speed.add_argument("--batch_size", type=int, default=64, help="questions a batch (default: 64)")
    speed.add_argument("--num_workers", type=int, default=0, help="processes that read images (default: 0)")
    add_trust_option(parser)
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Refuses, before any work, counts below 1 and output files that exist."""
    for name in ("max_questions", "max_question_length", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"{name}={getattr(args, name)} is impossible: give 1 or more.")
    for name in ("out", "predictions", "challenge_file"):
        if getattr(args, name) and Path(getattr(args, name)).exists():
            raise ValueError(f"{name}={getattr(args, name)!r} exists: delete it, or choose another name.")


def evaluate(args: argparse.Namespace) -> dict:
    check(args)
    check_sources(args)
    if args.drop:
        if args.out is None:
            raise ValueError("--drop draws a curve but --out names no file: give --out results.json.")
        need_matplotlib()
    if args.subsets and args.out:
        need_matplotlib()
    skipping = {"on_error": "skip" if args.skipped_log else "raise", "skipped_log": args.skipped_log}
    source, remarks, asked = None, [], None
    if args.part is not None:
        dataset, source, remarks = run_part(args.model, args.part)
        if args.max_question_length is None:
            args.max_question_length = data_arguments(args.model).max_question_length
    elif args.data is not None or args.source in SOURCES.keys() - {"vqa_v2", "easy_vqa"}:
        data, given = table_arguments(args)
        source = understand(data, **given).source
        dataset = load_table(args, **skipping, numbers=gives_numbers(args.model))
        asked = {number: number for number in dataset["question_id"][:]} if args.challenge_file else None
    else:
        args.source = args.source or "vqa_v2"
        dataset = load_named(args, **skipping)
        asked = asked_in(args) if args.skipped_log or args.challenge_file else None
    args.source = source or args.source
    chosen, by, why_not = chosen_scores(args, source, dataset)
    remarks += why_not
    found = None if args.part is not None else trained_on(args.model, dataset)
    remarks += [sentence] if (sentence := describe_trained_on(found)) else []
    left_out = {"unusable": 0 if asked is None else len(asked) - len(dataset)}
    if args.max_questions is not None:
        left_out["beyond_max_questions"] = max(0, len(dataset) - args.max_questions)
        dataset = dataset.select(range(min(args.max_questions, len(dataset))))
    results = evaluate_checkpoint(
        args.model,
        dataset,
        baselines=args.baselines,
        batch_size=args.batch_size,
        max_question_length=args.max_question_length,
        num_workers=args.num_workers,
        challenge_file=args.challenge_file,
        asked=asked,
        predictions_file=args.predictions,
        drop=args.drop,
        drop_rates=args.rate,
        drop_seed=args.drop_seed,
        trust_remote_code=args.trust_remote_code,
        scores=chosen,
        by=by,
        subsets=args.subsets,
        wordnet=args.wordnet,
        may_lack=() if args.part is None and args.data is None else lacked_by_all(dataset),
    )
    remarks += [sentence] if (sentence := describe_unknown(results)) else []
    results |= {"remarks": remarks} | ({} if found is None else {"trained_on": found})
    results["left_out"] = {why: count for why, count in left_out.items() if count}
    return {**results, "data": {key: value for key, value in vars(args).items() if key not in ("model", "json")}}


def describe_unknown(results: dict) -> str | None:
    """A sentence where most of the rows have another answer than the model can give; None otherwise."""
    known = (results.get("coverage") or {}).get("questions")
    if known is None or known >= KNOWN_SHARE:
        return None
    few = "None" if known == 0 else f"Only {known:.1%}"
    return (
        f"WARNING: {few} of these rows have an answer that the model can give, so the scores say little of it: is "
        "--columns answer=… the column that it was trained on, and are its answers spelled as they were then?"
    )


def chosen_scores(args: argparse.Namespace, source: str | None, dataset) -> tuple[list[str], list[str], list[str]]:
    """The further scores, the columns by which to show all of them, and why some are left out (sentences)."""
    if not any(dataset["answers"][:]):
        return args.scores or [], args.by or [], []
    judged, remarks = next((known for known in SOURCES.values() if source in (known.name, known.title)), None), []
    scores, by = args.scores, args.by
    if scores is None:
        scores = [name for name in (judged.scores if judged else ()) if name in FURTHER]
        try:
            if any(name.startswith("wups_") for name in scores):
                find_wordnet(args.wordnet)
        except ValueError as error:
            scores = [name for name in scores if not name.startswith("wups_")]
            remarks.append(f"{judged.title} is judged by WUPS, too, which is left out. {error}")
    if by is None:
        by = [name for name in (judged.by if judged else ()) if name in dataset.column_names]
    return scores if gives_numbers(args.model) else check_scores(scores), by, remarks


def score_table(results: dict) -> list[tuple[str, ...]]:
    """One row for the model and one a baseline: its scores, overall and by type of answer."""
    rows = {"": results["scores"], **results["baselines"]}
    kinds = sorted(results["scores"].get("per_answer_type", {}))
    further = [name for name in FURTHER if name in results["scores"]]
    scored = list(dict.fromkeys([*names_in(results["scores"]), *further]))
    lines = [("", *(label(score) for score in scored), *kinds)]
    for name, scores in rows.items():
        per_type = (f"{scores['per_answer_type'][kind]:.2f}" for kind in kinds)
        called = name.replace("_", " ") or Path(results["model"]).name
        # Of answers, they are told where they were asked for: by the values of a column.
        between = results.get("intervals", {}) if not name and scored[0] in NUMBERS else {}
        lines.append((called, *(shown(score, scores.get(score), between.get(score)) for score in scored), *per_type))
    for name, scores in results["scores"].get("per_number", {}).items():
        lines.append((name, *(shown(score, scores.get(score)) for score in scored)))
    return lines


def label(score: str) -> str:
    return LABELS[score]


def shown(name: str, score: float | None, between: list[float] | None = None) -> str:
    """A score in percent, or as those of numbers are, with its interval where there is one."""
    if score is None or between is None:
        return written(name, score)
    if name in NUMBERS:
        return f"{written(name, score)} ({written(name, between[0])} to {written(name, between[1])})"
    return f"{written(name, score)} ({between[0]:.1f} to {between[1]:.1f})"


def tables_by_column(results: dict) -> dict[str, list[tuple[str, ...]]]:
    """One table a column: one row a value, with how many questions there are, and the scores with their intervals."""
    names = list(results["intervals"]) if results.get("by") else []
    return {
        column: [
            (column, results["called"], *map(label, names)),
            *(
                (
                    value,
                    f"{entry['questions']:,}",
                    *(shown(name, entry[name], entry["intervals"].get(name)) for name in names),
                )
                for value, entry in found.items()
            ),
        ]
        for column, found in results.get("by", {}).items()
    }


def curve_table(curves: dict[str, list[dict]]) -> list[tuple[str, ...]]:
    """One row a rate: the score that fits with each input missing."""
    lines = [("missing", *(f"without {name}" for name in curves))]
    for points in zip(*curves.values(), strict=True):
        lines.append(
            (f"{points[0]['rate']:.0%}", *(written(measured_by(point), point[measured_by(point)]) for point in points))
        )
    return lines


def main(argv: list[str]) -> int:
    args = parse(argv)
    plot = Path(args.out).with_suffix(".png") if args.drop and args.out else None
    subsets = Path(args.out).with_name(f"{Path(args.out).stem}_subsets.png") if args.subsets and args.out else None
    try:
        results = evaluate(args)
        if args.out:
            write_json(args.out, results)
        if plot is not None:
            plot_robustness(results["robustness"]["curves"], plot)
        if subsets is not None:
            plot_subsets(results["subsets"], subsets)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; nothing was written.", file=sys.stderr)
        return 130
    if args.json:
        print_json(results)
        return 0
    called = results["called"]
    about = f" about {results['images']:,} images" if results["images"] else ""
    print(f"{results['questions']:,} {called}{about} in {results['seconds']:.1f} s")
    for why, count in results["left_out"].items():
        where = f" ({args.skipped_log})" if why == "unusable" else ""
        print(f"{count:,} {called} are {why.replace('_', ' ')}{where}: they are left out of all that follows.")
    for remark in results["remarks"]:
        print(remark)
    if "scores" in results:
        print_table(score_table(results))
    for table in tables_by_column(results).values():
        print()
        print_table(table)
    if "robustness" in results:
        print_table(curve_table(results["robustness"]["curves"]))
    if "subsets" in results:
        for table in (subsets_table(results["subsets"]), worth_table(results["subsets"])):
            print()
            print_table(table)
        print(f"Nothing is {results['subsets']['nothing']['what']}; it is what a row gets that has none of a subset.")
    for path in (args.out, args.predictions, args.challenge_file, plot, subsets):
        if path:
            print(f"wrote {path}")
    return 0
