#!/usr/bin/env python
"""Ask a checkpoint questions about an image.

python scripts/ask.py runs/easy_vqa drawing.png "what color is the shape?"
python scripts/ask.py runs/easy_vqa drawing.png "is there a circle?" "what shape is it?" --top_k 5
"""

import argparse
import sys

# Here lies an evaluate.py, which must not hide the package of that name: look here last.
sys.path.append(sys.path.pop(0))

from training_ume.evaluation import ask


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder that scripts/train.py wrote, or a UME model on the Hub")
    parser.add_argument("image", help="path or URL of an image")
    parser.add_argument("questions", nargs="+", metavar="question", help="what to ask, in quotes; several are allowed")
    parser.add_argument("--top_k", type=int, default=3, help="answers a question (default: 3)")
    args = parser.parse_args(argv)
    try:
        answers = ask(args.model, args.image, args.questions, args.top_k)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    for question, candidates in zip(args.questions, answers, strict=True):
        print(question)
        for candidate in candidates:
            print(f"  {candidate['score']:6.1%}  {candidate['answer']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
