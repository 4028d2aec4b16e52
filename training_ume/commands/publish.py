"""Put a trained model with its processor, code and card on the Hugging Face Hub, and check the copy there.

ume publish runs/easy_vqa OWNER/ume-easy-vqa --about model_cards/easy_vqa/about.yaml --dry_run
ume publish runs/easy_vqa OWNER/ume-easy-vqa --about model_cards/easy_vqa/about.yaml --private
"""

import argparse
import sys
from pathlib import Path

from training_ume.commands import command_parser
from training_ume.hub.publish import publish


def parse(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "publish", __doc__, epilog="The token is that of `hf auth login` or of the variable HF_TOKEN."
    )
    parser.add_argument("model", type=Path, help="folder of one run of `ume train`")
    parser.add_argument("repo", help="OWNER/NAME; it is made if it is not there")
    parser.add_argument(
        "--about", type=Path, help="YAML file for the card (`license: …` and more), for a folder without README.md"
    )
    parser.add_argument(
        "--new_card", action="store_true", help="render the card anew, over the README.md that is there"
    )
    parser.add_argument("--adapter", action="store_true", help="publish the LoRA adapter instead of the merged model")
    parser.add_argument("--private", action="store_true", help="make a new repo private")
    parser.add_argument("--replace", action="store_true", help="overwrite files of the same names that the repo holds")
    parser.add_argument("--dry_run", action="store_true", help="check and show everything, upload nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask before the upload")
    return parser.parse_args(argv)


def confirm(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ValueError("Nobody can be asked here whether to upload: add --yes.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def main(argv: list[str]) -> int:
    options = vars(parse(argv))
    options["confirm"] = (lambda question: True) if options.pop("yes") else confirm
    try:
        address = publish(options.pop("model"), options.pop("repo"), **options)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; look at the repo before you repeat the command.", file=sys.stderr)
        return 130
    return 0 if address or options["dry_run"] else 1
