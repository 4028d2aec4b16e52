#!/usr/bin/env python
"""All fusion heads on equal terms: matched parameters, a tuned learning rate each, seeds, from stored features.

python scripts/cache_features.py daquar --feature_cache features/daquar --train_questions … (see its --help)
python scripts/arena.py daquar --feature_cache features/daquar --output_dir runs/arena --out results/arena_daquar.json
python scripts/arena.py daquar … --heads ume concat co_attention question_only --seeds 0 1 2 --processes 2
"""

import argparse
import sys
from pathlib import Path

# Here lies an evaluate.py, which must not hide the package of that name: look here last.
sys.path.append(sys.path.pop(0))

from modeling_ume import FUSIONS
from training_ume.arena import LEARNING_RATES, run_arena
from training_ume.arena_report import arena_table
from training_ume.evaluation import BLIND
from training_ume.recipes import parse_recipe
from training_ume.results import write_json


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="All other arguments are those of scripts/train.py: a recipe and what is to differ from it.",
    )
    everyone = [*BLIND, *(name for name, head in sorted(FUSIONS.items()) if not head.reads_in_encoder)]
    parser.add_argument("--heads", nargs="+", default=everyone, help="default: all that can read stored features")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--learning_rates", type=float, nargs="+", default=list(LEARNING_RATES))
    parser.add_argument("--budget", type=int, help="trained parameters (default: ume's at the recipe's width)")
    parser.add_argument("--processes", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the summary")
    arguments, recipe_arguments = parser.parse_known_args(argv)
    try:
        recipe = parse_recipe(recipe_arguments)
        summary = run_arena(
            recipe,
            arguments.heads,
            Path(recipe.training.output_dir),
            seeds=arguments.seeds,
            learning_rates=arguments.learning_rates,
            budget=arguments.budget,
            processes=arguments.processes,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept: repeat the command to go on.", file=sys.stderr)
        return 130
    write_json(arguments.out, summary)
    print(arena_table(summary))
    print(f"\nWritten: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
