"""Batches grouped by image against questions in random order: the final score of a recipe over several seeds.

python benchmarks/grouping.py                       # easy-VQA: half an hour on two cores; resumes
python benchmarks/grouping.py --questions 10000 --output benchmarks/results/grouping_quarter.json
python benchmarks/grouping.py daquar --train_questions … --output benchmarks/results/grouping_daquar.json

The speed of a step is in benchmarks/training.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from configuration_ume.parsing import parse_recipe  # noqa: E402
from training_ume.records.files import write_json  # noqa: E402
from training_ume.records.machine import environment  # noqa: E402
from training_ume.training.run import train_and_evaluate  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="All other arguments are those of `ume train`: a recipe (default: easy_vqa) and its fields.",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--questions",
        type=int,
        help="training questions (default: all); in random order each step encodes ten times as many images",
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/grouping", help="folder for the trained models")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/grouping.json")
    args, recipe_arguments = parser.parse_known_args()
    ways = {}
    for name, grouped in (("grouped", "true"), ("random", "false")):
        folder = args.runs / name
        arguments = [*(recipe_arguments or ["easy_vqa"]), "--output_dir", str(folder), "--group_by_image", grouped]
        arguments += ["--save_total_limit", "1"]
        if args.questions is not None:
            arguments += ["--max_train_questions", str(args.questions)]
        if folder.exists():
            arguments.append("--resume_from_checkpoint")
        if len(args.seeds) > 1:
            arguments += ["--seeds", *map(str, args.seeds)]
        else:
            arguments += ["--seed", str(args.seeds[0])]
        recipe = parse_recipe(arguments)
        results = train_and_evaluate(recipe)
        row = results["comparison"][0]
        metric = recipe.training.metric_for_best_model.removeprefix("eval_")
        ways[name] = {
            "score": row[metric],
            **{key: row[key] for key in ("name", "seeds", "train_seconds", "train_cpu_seconds")},
        }
    report = {
        "benchmark": "grouping",
        "recipe": recipe.name,
        "metric": metric,
        "questions": args.questions or results["data"]["train_questions"],
        "ways": ways,
        "environment": environment(),
    }
    write_json(args.output, report)
    for name, way in ways.items():
        score = way["score"]
        print(f"{name:8} {score['mean']:.2f} ± {score['sd'] or 0:.2f}, {way['train_cpu_seconds']:.0f} CPU seconds")
    print(f"Written: {args.output}")


if __name__ == "__main__":
    main()
