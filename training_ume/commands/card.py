"""Write the model card of a run, with its pictures, from what the training left behind, or look at it first.

ume card runs/easy_vqa --preview
ume card runs/easy_vqa --about model_cards/easy_vqa/about.yaml --out model_cards/easy_vqa
ume card runs/daquar/seed0 --about model_cards/daquar/about.yaml --out model_cards/daquar
"""

import sys
import tempfile
from pathlib import Path

from training_ume.commands import command_parser
from training_ume.hub.card import render_card, write_card
from training_ume.hub.preview import preview, show
from training_ume.hub.read import NO_LICENCE, About, read_about

PAGE = "preview.html"


def main(argv: list[str]) -> int:
    parser = command_parser("card", __doc__)
    parser.add_argument("run", type=Path, help="folder of one run of `ume train`")
    parser.add_argument(
        "--about", type=Path, help="YAML file with what a person says: `license: …` and more; a preview does without"
    )
    parser.add_argument("--out", type=Path, help="folder for README.md and its pictures, or for the page")
    parser.add_argument("--repo", help="Hub repo OWNER/NAME, for the title and the lines that load the model")
    parser.add_argument(
        "--preview", action="store_true", help=f"write the card as a page, {PAGE}, and open it in the browser"
    )
    args = parser.parse_args(argv)
    if not args.preview and (args.about is None or args.out is None):
        parser.error("--about and --out are needed to write the card; --preview does without")
    try:
        if args.about is None:
            print(NO_LICENCE)
        about = About("unknown") if args.about is None else read_about(args.about)
        files = render_card(args.run, about, args.repo)
        folder = args.out or Path(tempfile.mkdtemp(prefix="ume-card-"))
        if args.preview:
            files = {PAGE: preview(files).encode()}
        write_card(files, folder)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(f"wrote {folder / name}" for name in files))
    if args.preview and not show(folder / PAGE):
        print("There is no browser here to open it in: open that file elsewhere.")
    return 0
