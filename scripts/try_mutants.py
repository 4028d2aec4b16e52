#!/usr/bin/env python
"""Change one line at a time and see whether a test notices; the table of docs/reliability.md.

python scripts/try_mutants.py                                       400 changes, written to results/mutants.json
python scripts/try_mutants.py --files training_ume/data/answers.py  of one file, shown and not written
python scripts/try_mutants.py --fresh                               begin again; else what was tried is not repeated

Exit status 1 if a change is neither noticed nor explained in tests/mutants_explained.yaml. Needs the extra
`mutation`; `bash scripts/mutants.sh` installs it first. The changes are drawn by tests/mutants.py and tried by
tests/mutant_runs.py, in copies of the project as it is when the script starts.
"""

import argparse
import functools
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from mutant_runs import Worker, copy_tree, explanations
from mutants import ROOT, draw_mutants, find_mutants, mutated_files, shares

from training_ume.records.files import read_json, write_json
from training_ume.records.machine import environment

# Tests that are far from the lines that are changed, or start processes of their own at length.
NOT_THESE = {
    "ablations", "arena", "benchmark_tables", "card", "challenge", "cli", "common_tests", "compare", "ddp", "demo",
    "explain", "export", "faults", "inputs", "lora_checkpoint", "matrix", "mutants", "notebook", "publish", "recipes",
    "releases", "retrieval", "scripts", "thesis", "trainer", "trainer_api", "vqa_accuracy",
}  # fmt: skip
# The tests of one change may take so long, the likeliest and the quickest first.
SECONDS = 15


def digest(*contents: bytes) -> str:
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:24]


find = functools.cache(find_mutants)


def drawn(file: str, number: int, seed: int, folder: Path) -> dict:
    """How many mutants a file has and those drawn of it: {"all": int, "mutants": [dict]}."""
    root, program = folder / "project", (ROOT / "tests" / "mutants.py").read_bytes()
    stored = folder / "drawn" / f"{digest((root / file).read_bytes(), program, f'{number} {seed}'.encode())}.json"
    if not stored.is_file():
        found = find(file, root)
        mutants = [
            {
                "file": file, "in": m.definition, "kind": m.kind, "before": m.before, "after": m.after,
                "lines": m.lines, "scope": m.scope, "code": m.code,
            }
            for m in draw_mutants(found, number, seed)
        ]  # fmt: skip
        stored.parent.mkdir(parents=True, exist_ok=True)
        write_json(stored, {"all": len(found), "mutants": mutants})
    return read_json(stored)


def count(file: str, folder: Path) -> int:
    return drawn(file, 0, 0, folder)["all"]


def _joined(known: dict, new: dict) -> dict:
    """What the tests of one file reach, from what some of them were seen to reach before and the rest now."""
    there = set(known["passed"]) & set(new["collected"]) | set(new["passed"])
    lines: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for found in (known, new):
        for file, reached in found["lines"].items():
            for line, contexts in reached.items():
                lines[file][line] += contexts
    return {
        "passed": sorted(there),
        "seconds": {**known["seconds"], **new["seconds"]},
        "lines": lines,
        "modules": sorted({*known["modules"], *new["modules"]}),
        "cpu": known["cpu"] + new["cpu"],
    }


class Map:
    """Which tests reach a line, and how long each takes."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.there: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.imported: dict[str, set[int]] = defaultdict(set)  # the lines that run when a file is imported

    def add(self, found: dict) -> None:
        passed = set(found["passed"])
        for test in passed:
            self.seconds[test] = found["seconds"][test]
        for file, lines in found["lines"].items():
            for line, contexts in lines.items():
                for context in contexts:
                    when, _, test = context.partition(" ")
                    if not when:
                        self.imported[file].add(int(line))
                    elif when == "setup":  # a fixture may be made by one test and used by all of its file
                        own = test.partition("::")[0] + "::"
                        self.there[file][int(line)].update(t for t in passed if t.startswith(own))
                    elif test in passed:
                        self.there[file][int(line)].add(test)

    def tests(self, mutant: dict, noticed: Counter) -> list[str]:
        """Those that could notice it, the likeliest first."""
        lines = self.there[mutant["file"]]
        first, last = mutant["lines"]
        found = set().union(*(lines[n] for n in range(first, last + 1)))
        # Of what runs when the file is imported, such as a default, the tests that import it tell nothing; a line
        # without any is within a statement that began above.
        if not found or self.imported[mutant["file"]].intersection(range(first, last + 1)):
            first, last = mutant["scope"]
            found = found.union(*(lines[n] for n in range(first, last + 1)), *([] if last else lines.values()))
        own = Path(mutant["file"]).stem.removesuffix("_ume")
        order = sorted(found, key=lambda t: (-noticed[t], f"test_{own}" not in t, self.seconds[t], t))
        chosen, seconds = [], 0.0
        for test in order:
            seconds += self.seconds[test]
            if chosen and seconds > SECONDS:
                break
            chosen.append(test)
        return chosen


class Trial:
    """All that is kept between two calls of this script, in one folder."""

    def __init__(self, folder: Path, workers: int):
        self.folder, self.root = folder, folder / "project"
        shutil.rmtree(self.root, ignore_errors=True)
        copy_tree(ROOT, self.root)
        self.files = mutated_files(self.root)
        modules = read_json(folder / "modules.json") or ["torch", "transformers", "datasets", "pytest", "PIL.Image"]
        self.workers = SimpleQueue()
        self.all_workers = []
        for number in range(workers):
            place = folder / f"worker{number}"
            place.mkdir(parents=True, exist_ok=True)
            self.all_workers.append(Worker(place, self.root, modules))
            self.workers.put(self.all_workers[-1])
        self.pool = ThreadPoolExecutor(workers)
        self.map = Map()
        self.noticed: dict[str, Counter] = defaultdict(Counter)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        for worker in self.all_workers:
            worker.close()

    def with_worker(self, function, *args):
        worker = self.workers.get()
        try:
            return function(worker, *args)
        finally:
            self.workers.put(worker)

    def measure(self) -> float:
        """Runs every test once and remembers what it reached; seconds of a processor that took in all."""
        tests = [path for path in sorted((self.root / "tests").glob("test_*.py")) if path.stem[5:] not in NOT_THESE]
        sources = b"".join((self.root / file).read_bytes() for file in self.files)
        found = list(self.pool.map(lambda path: self.with_worker(self._measure, path, sources), tests))
        for one in found:
            self.map.add(one)
        modules = sorted(set().union(*(one["modules"] for one in found)))
        write_json(self.folder / "modules.json", modules)
        return sum(one["cpu"] for one in found)

    def _measure(self, worker: Worker, path: Path, sources: bytes) -> dict:
        stored, content = self.folder / "map" / f"{path.stem}-{digest(sources)}.json", digest(path.read_bytes())
        known = read_json(stored)
        if known is not None and known["content"] == content:
            return known
        # Of a file that has new tests, the others reach what they did before.
        found = worker.run([f"tests/{path.name}"], 600, measure=self.files, known=known["passed"] if known else [])
        if found["code"] not in (0, 1, 5):
            raise RuntimeError(f"{path.name} could not be run: see {worker.folder / 'run' / 'output.txt'}.")
        failed = f", failed: {found['failed']}" if found["failed"] else ""
        print(f"{path.name}: {len(found['passed'])} tests, {found['cpu']:.0f} s{failed}", flush=True)
        if known is not None:
            found = {**found, **_joined(known, found)}
        stored.parent.mkdir(parents=True, exist_ok=True)
        write_json(stored, {**found, "content": content})
        return found

    def try_all(self, mutants: list[dict]) -> list[dict]:
        return list(self.pool.map(lambda mutant: self.with_worker(self._try, mutant), mutants))

    def _try(self, worker: Worker, mutant: dict) -> dict:
        tests = self.map.tests(mutant, self.noticed[mutant["file"]])
        with_these = digest(
            *((self.root / name).read_bytes() for name in sorted({t.partition("::")[0] for t in tests}))
        )
        stored = self.folder / "outcomes" / f"{digest(mutant['code'].encode())}.json"
        found = read_json(stored)
        # What was noticed once is noticed; the rest is tried again when there are other tests.
        if found is None or (found["outcome"] != "noticed" and found["with"] != with_these):
            found = {**self._run(worker, mutant, tests), "with": with_these}
            stored.parent.mkdir(parents=True, exist_ok=True)
            write_json(stored, found)
            print(f"{found['outcome']}: {mutant['file']}, {mutant['in']}: {mutant['before']} → {mutant['after']}"
                  f" ({found.get('by')}, {found['cpu']} s)", flush=True)  # fmt: skip
        if found["outcome"] == "noticed" and found["by"]:
            self.noticed[mutant["file"]][found["by"]] += 1
        return {**mutant, **found}

    def _run(self, worker: Worker, mutant: dict, tests: list[str]) -> dict:
        if not tests:
            return {"outcome": "unnoticed", "by": "no test reaches it", "cpu": 0.0}
        # Those of the likeliest file first and alone: most others need not even be read.
        file_of = {test: test.partition("::")[0] for test in tests}
        first = [test for test in tests if file_of[test] == file_of[tests[0]]]
        cpu = 0.0
        with worker.changed(mutant["file"], mutant["code"]):
            for part in filter(None, (first, [test for test in tests if test not in set(first)])):
                files = list(dict.fromkeys(file_of[test] for test in part))
                run = worker.run(files, sum(self.map.seconds[test] for test in part), order=part)
                cpu = round(cpu + run["cpu"], 2)
                if run["code"] == "stopped":
                    return {"outcome": "noticed", "by": None, "endless": True, "cpu": cpu}
                if run["code"] != 0:
                    return {"outcome": "noticed", "by": (run["failed"] or [None])[0], "cpu": cpu}
        return {"outcome": "unnoticed", "by": f"{len(tests)} tests", "cpu": cpu}


def lines_of(files: list[str]) -> str:
    """The commit that last changed these files, whatever has changed in the tests since."""

    def git(*words: str) -> str:
        command = ["git", "-C", ROOT, *words, "--", *files]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return git("log", "-1", "--format=%h", "--abbrev=10") + ("+changes" if git("status", "--porcelain") else "")


def summary(mutants: list[dict], counts: dict[str, int], reasons: dict) -> dict:
    """The contents of results/mutants.json but for what does not follow from the trials."""
    for mutant in mutants:
        reason = reasons.get((mutant["in"], mutant["before"], mutant["after"]))
        if mutant["outcome"] == "unnoticed" and reason:
            mutant.update(outcome="explained", reason=reason)

    def tally(chosen: list[dict]) -> dict:
        found = Counter(mutant["outcome"] for mutant in chosen)
        return {"tried": len(chosen), **{name: found[name] for name in ("noticed", "explained", "unnoticed")}}

    def listed(outcome: str, *names: str) -> list[dict]:
        fields = "file", "in", "before", "after", *names
        return [{name: mutant[name] for name in fields} for mutant in mutants if mutant["outcome"] == outcome]

    kinds = sorted({mutant["kind"] for mutant in mutants})
    return {
        "files": {
            file: {"mutants": counts[file], **tally([m for m in mutants if m["file"] == file])} for file in counts
        },
        "kinds": {kind: tally([m for m in mutants if m["kind"] == kind]) for kind in kinds},
        "endless": sum(bool(mutant.get("endless")) for mutant in mutants),
        "explained": listed("explained", "reason"),
        "unnoticed": listed("unnoticed"),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=400, help="how many to draw from all files (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="draws them (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="processes at work (default: 2)")
    parser.add_argument("--files", nargs="+", help="of these files only; nothing is written")
    parser.add_argument("--fresh", action="store_true", help="forget what was tried before")
    parser.add_argument("--work", type=Path, default=ROOT / ".mutants", help="what is kept between two calls")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mutants.json", help="results file")
    arguments = parser.parse_args(argv)
    if arguments.fresh:
        shutil.rmtree(arguments.work, ignore_errors=True)
    started, trial = time.monotonic(), Trial(arguments.work, arguments.workers)
    try:
        measured = trial.measure()
        counts = {file: count(file, arguments.work) for file in trial.files}
        numbers = shares(counts, arguments.number)
        chosen = arguments.files or trial.files
        mutants = {file: drawn(file, numbers[file], arguments.seed, arguments.work)["mutants"] for file in chosen}
        # From all files by turns, so that a run that is stopped has tried what a smaller number would.
        turns = [(place / len(own), mutant) for own in mutants.values() for place, mutant in enumerate(own)]
        mutants = trial.try_all([mutant for _, mutant in sorted(turns, key=lambda turn: turn[0])])
        mutants.sort(key=lambda mutant: mutant["file"])
    finally:
        trial.close()
    results = summary(mutants, {file: counts[file] for file in chosen}, explanations())
    results["seconds"] = {
        "cpu_tests": round(measured),
        "cpu_mutants": round(sum(mutant["cpu"] for mutant in mutants)),
        "clock": round(time.monotonic() - started),
    }
    if arguments.files is None:
        results = {
            "seed": arguments.seed,
            "lines": lines_of(trial.files),
            "mutmut": metadata.version("mutmut"),
            **results,
        }
        write_json(arguments.out, {**results, "environment": environment()})
    print(json.dumps({name: results[name] for name in ("files", "endless", "unnoticed", "seconds")}, indent=1))
    return 1 if results["unnoticed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
