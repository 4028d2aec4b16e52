"""Put the results of runs that were trained apart, in several folders or on several machines, into one comparison.

ume compare runs/heads_a runs/heads_b --out results/easy_vqa_heads.json
ume compare runs/daquar --out daquar.json
"""

import sys
from pathlib import Path

from training_ume.commands import command_parser
from training_ume.records.comparison import comparison_rows, comparison_table, merge_runs
from training_ume.records.files import write_json
from training_ume.report.console import print_json, print_table


def main(argv: list[str]) -> int:
    parser = command_parser("compare", __doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of `ume train`")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON instead of a table")
    arguments = parser.parse_args(argv)
    try:
        if arguments.out.exists() and not arguments.overwrite:
            raise ValueError(f"{arguments.out} exists: add --overwrite, or choose another name.")
        shared, runs = merge_runs(arguments.folders)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = comparison_rows(runs)
    write_json(arguments.out, {**shared, "comparison": rows})
    if arguments.json:
        print_json({**shared, "comparison": rows})
        return 0
    print_table(comparison_table(rows, shared["baselines"]))
    print(f"\nWritten: {arguments.out}")
    return 0
