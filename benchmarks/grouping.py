"""Batches grouped by image against questions in random order: the final score on easy-VQA over several seeds.

python benchmarks/grouping.py                # a quarter of an hour on two cores; goes on where it was cut short
python benchmarks/grouping.py --seeds 0      # the speed of a step is in benchmarks/training.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training_ume.recipes import parse_recipe  # noqa: E402
from training_ume.results import environment, write_json  # noqa: E402
from training_ume.run import train_and_evaluate  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--questions",
        type=int,
        default=10_000,
        help="training questions; in random order each step encodes ten times as many images as when grouped",
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/grouping", help="folder for the trained models")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/grouping.json")
    args = parser.parse_args()
    ways = {}
    for name, grouped in (("grouped", "true"), ("random", "false")):
        folder = args.runs / name
        arguments = ["easy_vqa", "--output_dir", str(folder), "--group_by_image", grouped, "--save_total_limit", "1"]
        arguments += ["--max_train_questions", str(args.questions)]
        if folder.exists():
            arguments.append("--resume_from_checkpoint")
        if len(args.seeds) > 1:
            arguments += ["--seeds", *map(str, args.seeds)]
        else:
            arguments += ["--seed", str(args.seeds[0])]
        [row] = train_and_evaluate(parse_recipe(arguments))["comparison"]
        ways[name] = {key: row[key] for key in ("vqa_accuracy", "seeds", "train_seconds", "train_cpu_seconds")}
    report = {
        "benchmark": "grouping",
        "recipe": "easy_vqa",
        "questions": args.questions,
        "ways": ways,
        "environment": environment(),
    }
    write_json(args.output, report)
    for name, way in ways.items():
        score = way["vqa_accuracy"]
        print(f"{name:8} {score['mean']:.2f} ± {score['sd'] or 0:.2f}, {way['train_cpu_seconds']:.0f} CPU seconds")
    print(f"Written: {args.output}")


if __name__ == "__main__":
    main()
