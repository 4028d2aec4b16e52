#!/usr/bin/env python
"""Kill runs, fill their disks, spoil their numbers, and count what becomes of them; the table of docs/reliability.md.

python scripts/try_faults.py                             88 trials on real processes, written to results/faults.json
python scripts/try_faults.py --seed 1 --out /tmp/x.json  at other moments

Exit status 1 if any trial finds anything but what it demands. Full disks need root, who may mount a small one.
The trials are those of tests/test_faults.py, in tests/faults.py.
"""

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from faults import FAULTS, Fault, can_mount

from training_ume.records.files import write_json
from training_ume.records.machine import environment

ROOT = Path(__file__).resolve().parent.parent


def try_fault(name: str, fault: Fault, seed: int, folder: Path) -> dict:
    """How many trials there were, how many found what they demand, and where the fault met the run."""
    started, met, failed = time.monotonic(), Counter(), 0
    scene = fault.scene(folder)
    for number in range(fault.count):
        try:
            met[fault.trial(scene, random.Random(f"{seed} {name} {number}"), f"trial{number}")] += 1
        except Exception:  # whatever it is, it is counted and shown, and ends in exit status 1
            failed += 1
            traceback.print_exc()
    survived = fault.count - failed
    seconds = round(time.monotonic() - started, 1)
    return {
        "demands": fault.demands,
        "trials": fault.count,
        "survived": survived,
        "met": dict(met),
        "seconds": seconds,
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="draws the moments (default: 0)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "faults.json", help="results file")
    arguments = parser.parse_args(argv)
    if not can_mount():
        print("error: Full disks need root on Linux, who may mount a small one: run this as root.", file=sys.stderr)
        return 2
    results = {"seed": arguments.seed, "faults": {}}
    for name, fault in FAULTS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = results["faults"][name] = try_fault(name, fault, arguments.seed, Path(folder))
        met = ", ".join(f"{count} {where}" for where, count in found["met"].items())
        print(f"{name}: {found['survived']} of {found['trials']} in {found['seconds']:.0f} s ({met})", flush=True)
    write_json(arguments.out, {**results, "environment": environment()})
    return 1 if any(found["survived"] < found["trials"] for found in results["faults"].values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
