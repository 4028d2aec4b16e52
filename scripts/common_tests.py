#!/usr/bin/env python
"""Run transformers' own common tests over UME models; `bash scripts/test_common.sh` makes the environment.

bash scripts/test_common.sh --processes 2       all, written to results/common_tests.json
bash scripts/test_common.sh -k "BERT and ume"   a selection as of pytest; nothing is written

The tests of the installed release come out of its source distribution, which is fetched from the package index once
and kept in .common. Exit status 1 if a test fails for which tests/common_not_applicable.yaml has no reason, or if an
entry of that file is not needed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import pytest
import transformers

from training_ume.records.files import write_json
from training_ume.records.machine import environment
from training_ume.report.common_tests import FAILED, PASSED, SKIPPED, Outcome, judge, read_rules

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".common"
RULES = ROOT / "tests" / "common_not_applicable.yaml"
WANTED = ("test_modeling_common.py", "test_configuration_common.py", "test_processing_common.py")
PACKAGE = "transformers_tests"
RANK = {PASSED: 0, SKIPPED: 1, FAILED: 2}
SUBTESTS = re.compile(r"contains \d+ failed subtest")


def fetch(version: str) -> Path:
    """
    The folder that holds a release's tests as the package `transformers_tests`; fetched where it is not there yet.

    Raises:
        SystemExit: when the package index gives no archive of this version, or one without these tests.
    """
    folder = KEPT / version
    if (folder / PACKAGE / "__init__.py").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    archives = folder / "archive"
    print(f"Fetching the source distribution of transformers {version}", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--no-binary", "transformers", "--dest", str(archives), f"transformers=={version}"]  # fmt: skip
    if subprocess.run(command).returncode:
        sys.exit(f"error: The package index gives no source distribution of transformers {version}.")
    (archive,) = archives.glob("transformers-*.tar.gz")
    top = f"transformers-{version}"
    with tarfile.open(archive) as tar:
        members = {member.name: member for member in tar.getmembers()}
        info = members.get(f"{top}/PKG-INFO")
        text = "" if info is None else tar.extractfile(info).read().decode("utf-8")
        if not re.search(rf"^Version: {re.escape(version)}$", text, re.MULTILINE):
            sys.exit(f"error: {archive.name} is not transformers {version}.")
        missing = [name for name in WANTED if f"{top}/tests/{name}" not in members]
        if missing:
            sys.exit(f"error: {archive.name} lacks {', '.join(missing)} in tests/, which releases leave out or not.")
        target = folder / f"{PACKAGE}.part"
        target.mkdir()
        for name, member in members.items():
            path = Path(name)
            if member.isfile() and path.parent == Path(top, "tests"):
                (target / path.name).write_bytes(tar.extractfile(member).read())
    (target / "__init__.py").touch()
    target.rename(folder / PACKAGE)
    return folder


class Recorder:
    """A pytest plugin that keeps each test's outcome, the worst of its phases and subtests, and all that these say.

    Args:
        part, parts: of all classes of tests run every `parts`-th, from this one on.
    """

    def __init__(self, part: int = 0, parts: int = 1) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.part, self.parts = part, parts

    def pytest_collection_modifyitems(self, items: list) -> None:
        rows = list(dict.fromkeys(item.cls for item in items))
        kept = set(rows[self.part :: self.parts])
        items[:] = [item for item in items if item.cls in kept]

    def pytest_runtest_logreport(self, report) -> None:
        name = report.nodeid.partition("::")[2]
        if report.skipped:
            text = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else "skipped"
        elif report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = str(report.longrepr) if crash is None else crash.message
        else:
            text = ""
        known = self.outcomes.get(name)
        if known is None or RANK[report.outcome] > RANK[known.result]:
            self.outcomes[name] = Outcome(name, report.outcome, (" ".join(text.split()),) if text else ())
        # Of a test whose subtests failed pytest says no more than that.
        elif text and RANK[report.outcome] == RANK[known.result] and not SUBTESTS.match(text):
            self.outcomes[name] = Outcome(name, known.result, (*known.texts, " ".join(text.split())))


def run_part(options: list[str], part: int, parts: int) -> list[Outcome]:
    """
    Runs a part of the tests in this process.

    Raises:
        RuntimeError: when pytest comes to no end.
    """
    # Read when the tests are imported: without it "test is slow" would stand before the reason why one cannot run.
    os.environ.setdefault("RUN_SLOW", "1")
    sys.path[:0] = [str(ROOT / "tests"), str(fetch(transformers.__version__))]
    recorder = Recorder(part, parts)
    status = pytest.main([str(ROOT / "tests" / "common_testers.py"), *options], plugins=[recorder])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest ended with {status!r}.")
    return list(recorder.outcomes.values())


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "common_tests.json", help="results file")
    parser.add_argument("-k", metavar="SELECTION", help="only these tests, in pytest's words; writes nothing")
    parser.add_argument("--processes", type=int, default=1, help="share the work among so many (default: 1)")
    parser.add_argument("--tb", default="no", help="how much pytest says of a failure (default: no)")
    arguments = parser.parse_args(argv)
    rules = read_rules(RULES)
    fetch(transformers.__version__)  # once, before several processes look for it
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", f"--tb={arguments.tb}", "--no-header",
               "--no-summary" if arguments.tb == "no" else "-ra", "-W", "ignore", "--rootdir", str(ROOT)]  # fmt: skip
    options += ["-k", arguments.k] if arguments.k else []
    if arguments.processes == 1:
        outcomes = run_part(options, 0, 1)
    else:
        with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
            parts = range(arguments.processes)
            outcomes = [*chain(*pool.map(partial(run_part, options, parts=len(parts)), parts))]
    if not outcomes:
        sys.exit(f"error: No test is named by {arguments.k!r}.")
    results = judge(outcomes, rules)
    for row in results["not_applicable"]:
        for test, count in row["tests"].items():
            print(f"not applicable ({row['by']}): {count} × {test}: {row['reason']}")
    failed = Counter((row["test"].partition("::")[2], row["error"]) for row in results["failures"])
    for (test, error), count in failed.items():
        print(f"FAILED: {count} × {test}: {error}")
    for name, counts in results["groups"].items():
        print(f"{name}: {sum(counts.values())} ran, " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    if arguments.k:
        return int(bool(results["failures"]))
    for pattern in results["unused"]:
        print(f"error: {RULES.name} has an entry {pattern!r} that no test needed: remove it.")
    write_json(arguments.out, {"transformers": transformers.__version__, **results, "environment": environment()})
    return int(bool(results["failures"] or results["unused"]))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(sys.argv[1:]))
