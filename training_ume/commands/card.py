"""Write the model card of a run, with its pictures, from what the training left behind.

ume card runs/easy_vqa --about model_cards/easy_vqa/about.yaml --out model_cards/easy_vqa
ume card runs/daquar/seed0 --about model_cards/daquar/about.yaml --out model_cards/daquar
"""

import sys
from pathlib import Path

from training_ume.commands import command_parser
from training_ume.hub.card import render_card, write_card
from training_ume.hub.read import read_about


def main(argv: list[str]) -> int:
    parser = command_parser("card", __doc__)
    parser.add_argument("run", type=Path, help="folder of one run of `ume train`")
    parser.add_argument(
        "--about", type=Path, required=True, help="YAML file with what a person says: `license: …` and more"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for README.md and its pictures")
    parser.add_argument("--repo", help="Hub repo OWNER/NAME, for the lines that load the model (default: the title)")
    arguments = parser.parse_args(argv)
    try:
        files = render_card(arguments.run, read_about(arguments.about), arguments.repo)
        write_card(files, arguments.out)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(f"wrote {arguments.out / name}" for name in files))
    return 0
