#!/usr/bin/env python
"""Try odd and hostile inputs by the thousand and count what becomes of them; the table of docs/reliability.md.

python scripts/try_inputs.py                             2,000 cases, written to results/inputs.json
python scripts/try_inputs.py --seed 1 --out /tmp/x.json  other cases

Each case must give the right result or one clear exception of this project. Exit status 1 if any gives anything else.
The cases and the checks are those of tests/test_inputs.py, in tests/odd_inputs.py.
"""

import argparse
import logging
import sys
import traceback
import warnings
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

import hypothesis
from odd_inputs import KINDS, REFUSED, RIGHT, Kind, outcome
from transformers.utils import logging as transformers_logging

from training_ume.records.files import write_json
from training_ume.records.machine import environment

ROOT = Path(__file__).resolve().parent.parent
ELSE = "anything else"


def try_kind(kind: Kind, seed: int) -> tuple[Counter, list[str]]:
    """How often each outcome came, and up to three tracebacks of anything else."""
    counts, told = Counter({RIGHT: 0, REFUSED: 0, ELSE: 0}), []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=kind.count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(kind.cases)
    def each(case):
        try:
            counts[outcome(kind, case)] += 1
        except Exception:  # whatever it is, it is counted and shown, and ends in exit status 1
            counts[ELSE] += 1
            if len(told) < 3:
                told.append(f"{str(case)[:500]}\n{traceback.format_exc()}")

    each()
    return counts, told


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="draws the cases (default: 0)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "inputs.json", help="results file")
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)  # of what was skipped and the like, thousands of times
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    results = {"seed": arguments.seed, "hypothesis": hypothesis.__version__, "kinds": {}}
    for name, kind in KINDS.items():
        counts, told = try_kind(kind, arguments.seed)
        results["kinds"][name] = dict(counts)
        print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.items()), flush=True)
        for text in told:
            print(text, file=sys.stderr)
    write_json(arguments.out, {**results, "environment": environment()})
    failed = sum(counts[ELSE] for counts in results["kinds"].values())
    print(f"{sum(sum(counts.values()) for counts in results['kinds'].values()):,} cases, {failed} {ELSE}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
