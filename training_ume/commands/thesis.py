"""The thesis, row by row: train its rows on VQA v2, or on a sample in its layout, and put their scores into one file.

ume thesis --data vqa_v2
ume thesis --data vqa_v2 --rows lstm_vgg deberta_v3_beit/ume --bf16 true
ume thesis --data sample --stand_ins --encoder bert=MiniLM vit=vit-tiny --use_cpu true

Finished rows are not run again, an interrupted one goes on from its last checkpoint: repeat the command.
"""

import sys
from pathlib import Path

from training_ume.commands import command_parser
from training_ume.evidence.thesis import (
    OFFICIAL_FILES,
    SAMPLE_FILES,
    choose_rows,
    find_data,
    make_jobs,
    parse_encoders,
    reproduce,
)
from training_ume.report.thesis import summary

EPILOG = """All other arguments change all recipes, as those of `ume train` do (--max_train_questions 400).

DIR holds VQA v2's files,
  {official}
or a sample, a fifth of whose images is held out and scored:
  {sample}""".format(
    official="\n  ".join(" or ".join(names) for names in OFFICIAL_FILES.values()),
    sample="\n  ".join(name for (name,) in SAMPLE_FILES.values()),
)


def main(argv: list[str]) -> int:
    parser = command_parser("thesis", __doc__, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data, see below")
    parser.add_argument("--rows", nargs="+", help="pairs or single rows (default: all 17)")
    parser.add_argument(
        "--stand_ins",
        action="store_true",
        help="replace every encoder that --encoder does not name by a tiny one with random weights (64 pixels, one "
        "epoch): shows that the command runs, is no reproduction, and the results say so",
    )
    parser.add_argument(
        "--encoder", nargs="+", default=[], metavar="NAME=FOLDER", help="pretrained encoders to read from folders"
    )
    parser.add_argument("--output_dir", type=Path, default=Path("runs/thesis"), help="models (default: runs/thesis)")
    parser.add_argument(
        "--out", type=Path, default=Path("results/thesis.json"), help="scores (default: results/thesis.json)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace rows of --out that come from other runs")
    arguments, fields = parser.parse_known_args(argv)
    try:
        jobs = make_jobs(
            choose_rows(arguments.rows),
            find_data(arguments.data),
            arguments.output_dir,
            stand_ins=arguments.stand_ins,
            encoders=parse_encoders(arguments.encoder),
            fields=fields,
        )
        results = reproduce(jobs, arguments.out, overwrite=arguments.overwrite)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept: repeat the command to go on.", file=sys.stderr)
        return 130
    print(summary(results["rows"]))
    print(f"\nWritten: {arguments.out}")
    return 0
