"""Compare trainings, of one folder or of several: scores with intervals, differences, and curves over the epochs.

ume compare runs/rates
ume compare runs/ume runs/concat --plot curves.png --out results/heads.json
"""

import sys
from pathlib import Path

from training_ume.commands import command_parser
from training_ume.evidence.compare import compare_runs
from training_ume.records.files import write_json
from training_ume.records.packages import need_matplotlib
from training_ume.report.compare import compare_notes, compare_table
from training_ume.report.console import print_json, print_table
from training_ume.report.run_plot import draw_runs


def main(argv: list[str]) -> int:
    parser = command_parser("compare", __doc__)
    parser.add_argument(
        "folders", type=Path, nargs="+", help="output folders of `ume train`; the first is the measure"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--plot", type=Path, help="PNG file to draw the losses and scores over the epochs into")
    parser.add_argument("--overwrite", action="store_true", help="replace these files if they exist")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON instead of a table")
    arguments = parser.parse_args(argv)
    try:
        for path in (arguments.out, arguments.plot):
            if path is not None and path.exists() and not arguments.overwrite:
                raise ValueError(f"{path} exists: add --overwrite, or choose another name.")
        if arguments.plot is not None:
            need_matplotlib()
        facts, runs = compare_runs(arguments.folders)
        if arguments.out is not None:
            write_json(arguments.out, facts)
        if arguments.plot is not None:
            seeds = {run.results["seed"] for run in runs}
            draw_runs({run.label + _seed(run, len(seeds)): run.results for run in runs}, arguments.plot)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print_json(facts)
        return 0
    print_table(compare_table(facts))
    for note in compare_notes(facts):
        print(note)
    for path in (arguments.out, arguments.plot):
        if path is not None:
            print(f"Written: {path}")
    return 0


def _seed(run, seeds: int) -> str:
    return f", seed {run.results['seed']}" if seeds > 1 else ""
