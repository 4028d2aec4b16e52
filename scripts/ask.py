#!/usr/bin/env python
"""Ask a checkpoint questions about an image.

python scripts/ask.py runs/easy_vqa drawing.png
python scripts/ask.py runs/easy_vqa drawing.png "is there a circle?" "what shape is it?" --top_k 5

Without a question, at a terminal, it waits for questions, one a line; an empty line or Ctrl-D ends. Either way the
image is encoded once.
"""

import argparse
import sys
from collections.abc import Iterator

# Here lies an evaluate.py, which must not hide the package of that name: look here last.
sys.path.append(sys.path.pop(0))

from training_ume.evaluation import ask


def typed() -> Iterator[str]:
    """The questions that are typed at the terminal."""
    while True:
        try:
            question = input("question: ").strip()
        except EOFError:
            print()
            return
        if not question:
            return
        yield question


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder that scripts/train.py wrote, or a UME model on the Hub")
    parser.add_argument("image", help="path or URL of an image")
    parser.add_argument("questions", nargs="*", metavar="question", help="what to ask, in quotes; several are allowed")
    parser.add_argument("--top_k", type=int, default=3, help="answers a question (default: 3)")
    args = parser.parse_args(argv)
    if not args.questions and not sys.stdin.isatty():
        parser.error("there is no question: give one behind the image, in quotes, or type them at a terminal")
    try:
        for question, candidates in ask(args.model, args.image, args.questions or typed(), args.top_k):
            if args.questions:
                print(question)
            for candidate in candidates:
                print(f"  {candidate['score']:6.1%}  {candidate['answer']}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
