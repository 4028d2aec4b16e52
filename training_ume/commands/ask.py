"""Ask a checkpoint questions about an image.

ume ask runs/easy_vqa drawing.png
ume ask runs/easy_vqa drawing.png "is there a circle?" "what shape is it?" --top_k 5

Without a question, at a terminal, it waits for questions, one a line; an empty line or Ctrl-D ends. Either way the
image is encoded once.
"""

import sys
from collections.abc import Iterator

from training_ume.commands import add_trust_option, command_parser
from training_ume.evaluation.asking import ask
from training_ume.report.console import print_json


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
    parser = command_parser("ask", __doc__)
    parser.add_argument("model", help="a folder that `ume train` wrote, or a UME model on the Hub")
    parser.add_argument("image", help="path or URL of an image")
    parser.add_argument("questions", nargs="*", metavar="question", help="what to ask, in quotes; several are allowed")
    parser.add_argument("--top_k", type=int, default=3, help="answers a question (default: 3)")
    parser.add_argument("--json", action="store_true", help="print a list of questions with their answers as JSON")
    add_trust_option(parser)
    args = parser.parse_args(argv)
    if args.json and not args.questions:
        parser.error("--json needs the questions: give them behind the image, in quotes")
    if not args.questions and not sys.stdin.isatty():
        parser.error("there is no question: give one behind the image, in quotes, or type them at a terminal")
    try:
        answered = ask(args.model, args.image, args.questions or typed(), args.top_k, args.trust_remote_code)
        if args.json:
            print_json([{"question": question, "answers": answers} for question, answers in answered])
            return 0
        for question, candidates in answered:
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
