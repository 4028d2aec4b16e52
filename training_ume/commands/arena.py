"""All fusion heads on equal terms: matched parameters, a tuned learning rate each, seeds, from stored features.

ume cache daquar --feature_cache features/daquar --train_questions … (see its --help)
ume arena daquar --feature_cache features/daquar --output_dir runs/arena --out results/arena_daquar.json
ume arena daquar … --heads ume concat co_attention question_only --seeds 0 1 2 --processes 2
ume arena daquar … --ablations --higher_resolution 384 features/daquar384 --out results/ablations.json

With --ablations the contenders are not heads but changes of the recipe, one at a time, against the recipe as it is.
"""

import sys
from pathlib import Path

from configuration_ume.parsing import parse_recipe
from modeling_ume import FUSIONS
from training_ume.commands import command_parser
from training_ume.data.inputs import BLIND
from training_ume.evidence.ablations import ABLATIONS, RESOLUTION, run_ablations
from training_ume.evidence.arena import LEARNING_RATES, run_arena
from training_ume.records.files import write_json
from training_ume.report.ablations import ablations_table
from training_ume.report.arena import arena_table
from training_ume.report.console import print_json, print_markdown


def main(argv: list[str]) -> int:
    parser = command_parser(
        "arena",
        __doc__,
        epilog="All other arguments are those of `ume train`: a recipe and what is to differ from it.",
    )
    changes = [*ABLATIONS, RESOLUTION]
    everyone = [*BLIND, *(name for name, head in sorted(FUSIONS.items()) if not head.reads_in_encoder)]
    taking_part = parser.add_mutually_exclusive_group()
    taking_part.add_argument("--heads", nargs="+", default=everyone, help="default: all that can read stored features")
    taking_part.add_argument("--ablations", nargs="*", help=f"default: all ({', '.join(changes)})")
    parser.add_argument(
        "--higher_resolution", nargs=2, metavar=("PIXELS", "CACHE"),
        help=f"of {RESOLUTION}: the image size, and the feature cache made with it (null: none)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--learning_rates", type=float, nargs="+", default=list(LEARNING_RATES))
    parser.add_argument("--budget", type=int, help="trained parameters (default: ume's at the recipe's width)")
    parser.add_argument("--processes", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the summary")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON instead of a table")
    arguments, recipe_arguments = parser.parse_known_args(argv)
    try:
        if arguments.out.exists() and not arguments.overwrite:
            raise ValueError(f"{arguments.out} exists: add --overwrite, or choose another name.")
        if arguments.ablations is not None and arguments.budget is not None:
            raise ValueError("--budget is for heads of several kinds: the ablations all have the recipe's own.")
        recipe = parse_recipe(recipe_arguments)
        folder = Path(recipe.training.output_dir)
        common = {
            "seeds": arguments.seeds,
            "learning_rates": arguments.learning_rates,
            "processes": arguments.processes,
        }
        if arguments.ablations is None:
            summary = run_arena(recipe, arguments.heads, folder, budget=arguments.budget, **common)
        else:
            higher = arguments.higher_resolution
            summary = run_ablations(recipe, arguments.ablations, folder, higher_resolution=higher, **common)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept: repeat the command to go on.", file=sys.stderr)
        return 130
    write_json(arguments.out, summary)
    if arguments.json:
        print_json(summary)
        return 0
    print_markdown(arena_table(summary) if arguments.ablations is None else ablations_table(summary))
    print(f"\nWritten: {arguments.out}")
    return 0
