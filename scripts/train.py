#!/usr/bin/env python
"""Train a model from a recipe and score it; every field of the recipe can be given on the command line.

python scripts/train.py easy_vqa --output_dir runs/easy_vqa --beside concat question_only
python scripts/train.py easy_vqa --output_dir runs/easy_vqa --beside concat question_only --resume_from_checkpoint
"""

import sys

# Here lies an evaluate.py, which must not hide the package of that name: look here last.
sys.path.append(sys.path.pop(0))

from training_ume.recipes import parse_recipe
from training_ume.run import how_to_resume, train_and_evaluate


def main(argv: list[str]) -> int:
    try:
        recipe = parse_recipe(argv, description=__doc__)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        train_and_evaluate(recipe)
    except KeyboardInterrupt:
        print(f"\n{how_to_resume(recipe)}", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\nThe model and results.json lie in {recipe.training.output_dir}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
