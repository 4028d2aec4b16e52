"""Runs tests on changed copies of the project: which tests reach a line, and whether any of them notices a change.

A process imports torch, transformers and all else that is not ours once, and forks for every run: a fork imports our
few files anew, from a copy of the tree in which one line may be another, and costs a second instead of ten.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

import yaml

EXPLAINED = Path(__file__).with_name("mutants_explained.yaml")
# What every run imports anew from its own tree, like all that lies there.
OURS = (
    "ume", "modeling_ume", "configuration_ume", "training_ume", "metrics", "model_cards", "transformers_modules",
    "tests",
)  # fmt: skip
# Seconds of a processor that a run may take beyond a few times what its tests take; and of a clock, many times that,
# since other work may be going on.
SPARE_CPU, SPARE_CLOCK = 20, 300


def copy_tree(root: Path, to: Path) -> None:
    """The files of the project as they are now, with what git does not ignore."""
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)


# ------------------------------------------------------------------------------------------------- inside of the fork


class _Chosen:
    """A pytest plugin: only these tests, in this order; what they take and, with `coverage`, what they reach."""

    def __init__(self, order: list[str] | None = None, without: Iterable[str] = (), coverage=None):
        self.without = set(without)
        self.collected: list[str] = []
        self.order = None if order is None else {test: place for place, test in enumerate(order)}
        self.coverage = coverage
        self.seconds: dict[str, float] = {}
        self.passed: set[str] = set()
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, config, items):
        self.collected = [item.nodeid for item in items]
        items[:] = [item for item in items if item.nodeid not in self.without]
        if self.order is not None:
            config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self.order])
            items[:] = sorted(
                (item for item in items if item.nodeid in self.order), key=lambda item: self.order[item.nodeid]
            )

    def pytest_runtest_logstart(self, nodeid):
        self._started = sum(os.times()[:4])

    def pytest_runtest_logfinish(self, nodeid):
        self.seconds[nodeid] = round(sum(os.times()[:4]) - self._started, 2)
        if self.coverage is not None:
            self.coverage.switch_context("")

    def pytest_runtest_setup(self, item):
        if self.coverage is not None:
            self.coverage.switch_context("setup " + item.nodeid)

    def pytest_runtest_call(self, item):
        if self.coverage is not None:
            self.coverage.switch_context("call " + item.nodeid)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
        if report.failed:
            self.failed.append(report.nodeid)
            self.passed.discard(report.nodeid)

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed.append(f"{report.nodeid} (collection)")


def _run_tests(task: dict) -> dict:
    """In the fork: the tests of `task` in its tree, with the working directory and the path set to it."""
    import pytest

    if early := sorted(name for name in sys.modules if name.partition(".")[0] in OURS):
        raise RuntimeError(f"Changed lines of what is imported already would not be seen: {', '.join(early[:5])}.")
    os.chdir(task["tree"])
    sys.path[:0] = [task["tree"], str(Path(task["tree"]) / "tests")]
    os.environ["PYTHONPATH"] = task["tree"]
    resource.setrlimit(resource.RLIMIT_CPU, (task["cpu"], task["cpu"] + 5))
    coverage = None
    if task.get("measure"):
        from coverage import Coverage

        coverage = Coverage(data_file=None, include=[str(Path(task["tree"]) / name) for name in task["measure"]])
        coverage.start()
    else:
        # The bytecode of a changed file could pass for that of another change of the same second and size.
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    chosen = _Chosen(task["order"], task["known"], coverage)
    options = ["-q", "-p", "no:cacheprovider", "--no-header", f"--basetemp={task['temporary']}/pytest"]
    code = pytest.main([*options, *([] if coverage else ["-x"]), *task["files"]], plugins=[chosen])
    found = {"code": int(code), "failed": chosen.failed, "seconds": chosen.seconds, "passed": sorted(chosen.passed)}
    if coverage is not None:
        coverage.stop()
        data = coverage.get_data()
        found["lines"] = {
            str(Path(file).relative_to(task["tree"])): data.contexts_by_lineno(file) for file in data.measured_files()
        }
        found["collected"] = chosen.collected
        found["modules"] = sorted(
            name for name, module in sys.modules.items() if not _ours(name, module, task["tree"])
        )
    return found


def _ours(name: str, module, tree: str) -> bool:
    first, file = name.partition(".")[0], getattr(module, "__file__", None)
    if first in (*OURS, "conftest", "coverage", "__main__", "mutants") or first.startswith(("test_", "mutant")):
        return True
    return isinstance(file, str) and Path(file).is_relative_to(tree)


def _fork(task: dict) -> dict:
    """Runs a task in a fork, and ends it when it takes too long."""
    shutil.rmtree(task["temporary"], ignore_errors=True)
    Path(task["temporary"]).mkdir(parents=True)
    answer = Path(task["temporary"]) / "answer.json"
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            output = os.open(Path(task["temporary"]) / "output.txt", os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1), os.dup2(output, 2)
            answer.write_text(json.dumps(_run_tests(task)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    late = False
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        late = time.monotonic() - started > task["clock"]
        if late:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):  # whatever its tests left running
        os.killpg(child, signal.SIGKILL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(answer.read_text()) if answer.is_file() and not late else {"code": "stopped", "failed": []}
    found["cpu"] = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)
    found["clock"] = round(time.monotonic() - started, 1)
    return found


def serve() -> None:
    """In the process that forks: imports what the first line of standard input names, then runs a task a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in json.loads(sys.stdin.readline()):
        with contextlib.suppress(Exception):  # some are there only once others have been asked for something
            importlib.import_module(name)
    for line in sys.stdin:
        answers.write(json.dumps(_fork(json.loads(line))) + "\n")
        answers.flush()


# ---------------------------------------------------------------------------------------------- outside, one a worker


class Worker:
    """A process that forks for every run, with a copy of the tree of its own."""

    def __init__(self, folder: Path, root: Path, modules: list[str]):
        self.folder, self.tree = folder, folder / "tree"
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(root, self.tree)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_MODULES_CACHE": str(folder / "modules"),
            "PYTHONPATH": str(Path(__file__).parent),
        }
        log = (folder / "log.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import mutant_runs; mutant_runs.serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=folder,
        )  # fmt: skip
        self._send(modules)

    def run(
        self,
        files: list[str],
        seconds: float,
        order: list[str] | None = None,
        measure: list[str] | None = None,
        known: Iterable[str] = (),
    ) -> dict:
        """
        Args:
            files: of tests.
            seconds: that the tests are known to take.
            order: the tests, if not all, in the order in which they are to run until the first fails.
            measure: the files of which to say what each test reaches; all tests are then run.
            known: tests that are not to be run.

        Returns:
            `dict`: `code` of pytest or "stopped", `failed`, `passed` and `seconds` by test, `cpu` and `clock` seconds;
            with `measure` `lines` (file → line → who was there), the tests `collected`, the `modules` imported.
        """
        shutil.rmtree(self.folder / "modules", ignore_errors=True)
        task = {
            "tree": str(self.tree), "temporary": str(self.folder / "run"), "files": files, "order": order,
            "measure": measure, "known": list(known),
            "cpu": int(SPARE_CPU + 4 * seconds), "clock": SPARE_CLOCK + 20 * seconds,
        }  # fmt: skip
        self._send(task)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"The process that forks has ended: see {self.folder / 'log.txt'}.")
        return json.loads(answer)

    def _send(self, message) -> None:
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    @contextlib.contextmanager
    def changed(self, file: str, code: str):
        """The worker's tree with one file changed."""
        path = self.tree / file
        whole = path.read_bytes()
        try:
            self._write(path, code.encode())
            yield
        finally:
            self._write(path, whole)

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        for bytecode in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            bytecode.unlink()
        path.write_bytes(content)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


# ---------------------------------------------------------------------------------------------------------- explained


def explanations(path: Path = EXPLAINED) -> dict[tuple[str, str, str], str]:
    """Why nothing can be seen of a mutant, by its key.

    Raises:
        ValueError: for a mutant without a reason, or one that is there twice.
    """
    found: dict[tuple[str, str, str], str] = {}
    for group in yaml.safe_load(path.read_text(encoding="utf-8")) or []:
        reason = " ".join(str(group.get("reason") or "").split())
        for entry in group["mutants"]:
            key = tuple("\n".join(line.strip() for line in entry[name].strip().splitlines()) for name in
                        ("in", "before", "after"))  # fmt: skip
            if not reason:
                raise ValueError(f"{path.name} gives no reason for {key}: write one, or a test that notices it.")
            if key in found:
                raise ValueError(f"{path.name} has {key} twice: remove one.")
            found[key] = reason
    return found
