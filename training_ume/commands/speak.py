"""Speak a table's questions into sound files by espeak-ng, beside a table that names them: questions to be heard.

ume speak own.csv --images pictures --out spoken
ume speak questions.jsonl --columns question=asked --voice en-gb --speed 140 --out slow
ume train spoken_daquar --data spoken
"""

import json
import sys
from pathlib import Path

from training_ume.commands import command_parser
from training_ume.commands.tables import add_table_options, table_arguments
from training_ume.data.json_entries import VQADataError
from training_ume.data.speech import speak
from training_ume.data.tables.load import load_rows
from training_ume.records.files import write_text

TABLE, SPEECH = "metadata.jsonl", "speech"


def parse(argv: list[str]):
    parser = command_parser("speak", __doc__)
    parser.add_argument("table", nargs="+", metavar="file", help="a table with questions, as `ume train --data` reads")
    parser.add_argument("--out", required=True, help="folder for the sound files and the table; goes on with one")
    parser.add_argument("--images", help="folder that the table's names of pictures start from")
    parser.add_argument("--source", help="layout of a known data set (left out: found out)")
    parser.add_argument("--split", help="split of a data set that has several")
    parser.add_argument("--voice", default="en-us", help="a voice of `espeak-ng --voices` (default: en-us)")
    parser.add_argument("--speed", type=int, default=160, help="words a minute (default: 160)")
    add_table_options(parser.add_argument_group("what the table's columns are"), data=False)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    args.data = args.table  # what `table_arguments` calls it
    try:
        data, given = table_arguments(args)
        rows = load_rows(data, **given)
        if not any(text.strip() for text in rows["question"][:]):
            raise VQADataError(
                "No row has a question to speak: say with --columns question=… which column they are in."
            )
        out = Path(args.out)
        paths = speak(rows["question"][:], out / SPEECH, args.voice, args.speed)
        lines = []
        for row in rows:
            path = paths.get(row["question"])
            row["audio"] = "" if path is None else path.relative_to(out).as_posix()
            lines.append(json.dumps(row, ensure_ascii=False))
        write_text(out / TABLE, "\n".join(lines) + "\n")
    except (ValueError, OSError, ImportError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. To go on, repeat the command: what was spoken is kept.", file=sys.stderr)
        return 130
    print(f"{len(rows):,} rows, {len(paths):,} different questions spoken by the voice {args.voice}: {out / TABLE}")
    return 0
