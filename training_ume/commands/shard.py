"""Write a recipe's data as parquet shards with the images inside, to be read from disk or Hub while training.

ume shard daquar --out shards/daquar --train_questions … --train_annotations … --train_images …
ume shard VQA.yaml --out shards/vqa --shards 256

Then train from them: ume train daquar --source stream --dataset_name shards/daquar
To train from the Hub, upload the folder (hf upload NAME shards/daquar --repo-type dataset) and give NAME instead.
The same command goes on where it was interrupted. Nothing is ever overwritten.
"""

import argparse
import sys

from configuration_ume.parsing import parse_recipe
from training_ume.commands import command_parser
from training_ume.training.prepare import shard_data


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = command_parser(
        "shard",
        __doc__,
        allow_abbrev=False,
        usage="%(prog)s RECIPE --out DIR [--shards N] [--FIELD VALUE …]",
        epilog="Every field of a recipe can be given, as for `ume train`: --validation_fraction 0.1 and so on.",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the shards and their index")
    parser.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help="how many a part; the processes that train must divide it (default: a multiple of 64, 500 MB at most)",
    )
    return parser.parse_known_args(argv)


def main(argv: list[str]) -> int:
    args, recipe_argv = parse(argv)
    try:
        index = shard_data(parse_recipe(recipe_argv).data, args.out, args.shards)
    except KeyboardInterrupt:
        print("\nInterrupted. To go on, repeat the command: whole shards are kept.", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, part in index["parts"].items():
        size = sum(shard["bytes"] for shard in part["shards"])
        print(
            f"{name}: {part['questions']:,} questions about {part['images']:,} images in {len(part['shards'])} "
            f"shards, {size / 1e9:.3f} GB."
        )
    print(f"\nThey lie in {args.out}. Train with --source stream --dataset_name {args.out}")
    return 0
