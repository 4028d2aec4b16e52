"""Write a checkpoint as ONNX graphs, its encoders and the rest, and compare them with the model.

ume export runs/easy_vqa exported
ume export runs/easy_vqa exported --int8 --source easy_vqa
"""

import argparse
import sys
from pathlib import Path

from configuration_ume.scores import LABELS, measured_by, written
from training_ume.commands import add_trust_option, command_parser
from training_ume.commands.named_data import add_data_options, load_named
from training_ume.evaluation.load import load_checkpoint
from training_ume.report.console import print_json, print_table
from training_ume.serve.onnx_export import PARITY, check_folder, export_onnx
from training_ume.serve.onnx_graphs import ABOUT, QUESTION_FUSION, need_onnx

NAMED = {QUESTION_FUSION: "rest"}  # how the table calls a graph


def parse(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("export", __doc__)
    parser.add_argument("model", help="a folder that `ume train` wrote, or a UME model on the Hub")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--int8", action="store_true", help="also write graphs with 8-bit weights")
    parser.add_argument(
        "--parity", type=float, default=PARITY, help=f"greatest difference of a logit from the model ({PARITY:g})"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    parser.add_argument("--json", action="store_true", help="print what onnx.json holds instead of a table")
    data = parser.add_argument_group("data set, to score the graphs on")
    add_data_options(data, annotations="annotations JSON")
    data.add_argument("--max_questions", type=int, help="only the first so many questions")
    data.add_argument("--batch_size", type=int, default=64, help="questions a batch (default: 64)")
    data.add_argument("--num_workers", type=int, default=0, help="processes that read images (default: 0)")
    add_trust_option(parser)
    return parser.parse_args(argv)


def read_data(args: argparse.Namespace):
    if args.source is None:
        return None
    dataset = load_named(args)
    return dataset if args.max_questions is None else dataset.select(range(min(args.max_questions, len(dataset))))


def export(args: argparse.Namespace) -> dict:
    for name in ("max_questions", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"{name}={getattr(args, name)} is impossible: give 1 or more.")
    # Before the work of loading what could not be written.
    need_onnx()
    check_folder(args.out, args.overwrite)
    dataset = read_data(args)
    model, processor = load_checkpoint(args.model, args.trust_remote_code)
    return export_onnx(
        model,
        processor,
        args.out,
        int8=args.int8,
        parity=args.parity,
        dataset=dataset,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        overwrite=args.overwrite,
        name=args.model,
    )


def report(about: dict) -> list[tuple[str, ...]]:
    """One row a precision."""
    scored = "scores" in about
    graphs = next(iter(about["bytes"].values()))
    lines = [("", *(f"{NAMED.get(graph, graph.replace('_', ' '))}, MB" for graph in graphs), "a logit differs by")]
    if scored:
        lines = [(*lines[0], LABELS[measured_by(next(iter(about["scores"].values())))], "seconds")]
    for precision, sizes in about["bytes"].items():
        row = [precision, *(f"{size / 1e6:.2f}" for size in sizes.values())]
        row.append(f"{about['parity'][precision]['logits']:.1e}")
        if scored:
            scores = about["scores"][precision]
            row += [written(measured_by(scores), scores[measured_by(scores)]), f"{scores['seconds']:.1f}"]
        lines.append(tuple(row))
    return lines


def main(argv: list[str]) -> int:
    args = parse(argv)
    try:
        about = export(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; nothing was written.", file=sys.stderr)
        return 130
    if args.json:
        print_json(about)
    else:
        print_table(report(about))
        print(
            f"wrote {args.out}: {len(next(iter(about['bytes'].values())))} graphs a precision, the processor, {ABOUT}"
        )
    return 0
