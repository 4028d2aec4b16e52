"""Train a model from a recipe and score it; every field of the recipe can be given on the command line.

ume train easy_vqa --output_dir runs/easy_vqa --beside concat question_only
ume train easy_vqa --output_dir runs/easy_vqa --beside concat question_only --resume_from_checkpoint
ume train easy_vqa --output_dir runs/rates --learning_rate 1e-3 2e-3
"""

import sys

from configuration_ume.parsing import parse_recipe
from training_ume.records.files import WriteError
from training_ume.training.plan import how_to_resume
from training_ume.training.run import train_and_evaluate
from training_ume.training.trainer import LossError


def main(argv: list[str]) -> int:
    try:
        recipe = parse_recipe(argv, description=__doc__, prog="ume train", several=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        train_and_evaluate(recipe)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {how_to_resume(recipe)}", file=sys.stderr)
        return 130
    except (WriteError, LossError) as error:
        print(f"error: {error} {how_to_resume(recipe)}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\nThe model and results.json lie in {recipe.training.output_dir}.")
    return 0
