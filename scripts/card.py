#!/usr/bin/env python
"""Write the model card of a run, with its pictures, from what the training left behind.

python scripts/card.py runs/easy_vqa --about model_cards/easy_vqa/about.yaml --out model_cards/easy_vqa
python scripts/card.py runs/daquar/seed0 --about model_cards/daquar/about.yaml --out model_cards/daquar
"""

import argparse
import sys
from pathlib import Path

# Here lies an evaluate.py, which must not hide the package of that name: look here last.
sys.path.append(sys.path.pop(0))

from training_ume.hub.card import render_card, write_card
from training_ume.hub.read import read_about


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of one run of scripts/train.py")
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
