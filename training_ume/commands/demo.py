"""Try a model, or two side by side, on a page in the browser; or write that page as a Hub Space.

ume demo runs/easy_vqa --examples pictures
ume demo runs/easy_vqa runs/concat --port 8000
ume demo runs/easy_vqa --examples pictures --space space

The page is served on this machine only and loads nothing from elsewhere. --examples names a folder with images, and
perhaps a questions.txt, one question a line.
"""

import argparse
import sys

from training_ume.commands import add_trust_option, command_parser
from training_ume.serve.judges import load_judges
from training_ume.serve.page import build_demo, launch, need_gradio
from training_ume.serve.space import write_space


def parse(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("demo", __doc__)
    parser.add_argument(
        "models", nargs="+", metavar="model", help="folder that `ume train` wrote, or Hub name; 1 or 2"
    )
    parser.add_argument("--port", type=int, help="port of the page (default: the first free one from 7860)")
    parser.add_argument("--examples", metavar="DIR", help="folder with images to pick from")
    parser.add_argument("--space", metavar="DIR", help="write a new folder that runs as a Space, instead of the page")
    add_trust_option(parser)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    try:
        if args.space is not None:
            files = write_space(args.space, args.models, args.examples, args.trust_remote_code)
            print(f"wrote {args.space}: {len(files)} files; upload it as a Space with the SDK gradio.")
            return 0
        need_gradio()
        launch(build_demo(load_judges(args.models, args.trust_remote_code), args.examples), args.port)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    return 0
