"""Run a recipe's frozen encoders over all its images and questions once; training then reads what they said.

ume cache daquar --feature_cache features/daquar --train_questions … --train_images …
ume cache daquar --feature_cache features/daquar --train_questions … --from me/daquar-features

Then train with the same recipe and fields: ume train daquar --feature_cache features/daquar …
Several processes share the work: torchrun --nproc_per_node 4 --no-python ume cache …
The same command goes on where it was interrupted, and completes a cache when the data have grown.
--export and --push publish a cache as a data set; --from makes it again from there.
"""

import argparse
import sys

from configuration_ume.parsing import parse_recipe
from modeling_ume.modalities_ume import MODALITIES
from training_ume.commands import command_parser
from training_ume.records.files import WriteError
from training_ume.training.feature_sets import cache_recipe


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = command_parser(
        "cache",
        __doc__,
        allow_abbrev=False,
        usage="%(prog)s RECIPE --feature_cache DIR [--FIELD VALUE …] [options]",
        epilog="Every field of a recipe can be given, as for `ume train`: --feature_grid 7 and so on.",
    )
    parser.add_argument(
        "--modalities", nargs="+", choices=MODALITIES, help="what to encode (default: what the recipe freezes)"
    )
    parser.add_argument("--verify", action="store_true", help="compare every byte of the cache with its checksum")
    parser.add_argument("--export", metavar="DIR", help="write the cache as a data set to publish: parquet and a card")
    parser.add_argument(
        "--push", metavar="REPO", help="upload what --export wrote to the Hub; a new repository is private"
    )
    parser.add_argument(
        "--from", metavar="DATA_SET", dest="published",
        help="take rows from such a data set, a folder or a name on the Hub, and encode only what it lacks",
    )  # fmt: skip
    return parser.parse_known_args(argv)


def main(argv: list[str]) -> int:
    args, recipe_argv = parse(argv)
    try:
        recipe = parse_recipe(recipe_argv)
        cache_recipe(
            recipe,
            args.modalities,
            verify=args.verify,
            export=args.export,
            push=args.push,
            published=args.published,
        )
    except KeyboardInterrupt:
        print("\nInterrupted. To go on, repeat the command: whole shards are kept.", file=sys.stderr)
        return 130
    except WriteError as error:
        print(f"error: {error} To go on, repeat the command: whole shards are kept.", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
