"""Faults done to real processes: kill -9, full disks, dead workers, a loss that is no number, and what comes of them.

A trial returns what it found, or raises AssertionError. `tests/test_faults.py` and `scripts/try_faults.py` share them.
Processes are forked from one that has imported everything: a tiny run then takes a second, most of which is work.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from vqa_files import write_tiny_recipe, write_vqa_files

from modeling_ume.modalities_ume import usual
from training_ume.records.checkpoints import last_whole_checkpoint
from training_ume.records.files import read_json
from training_ume.records.predictions import PREDICTIONS

# What questions about images are made of; others have tests of their own.
MODALITIES = {kind.name: kind for kind in usual()}

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["training_ume.commands.train", "training_ume.commands.cache_features"])
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
CHECKPOINT_FILES = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
WITHIN = 120  # seconds, in which what has to end ends


def call(module: str, argv: list[str], log: str) -> None:
    """In a process of its own: one command of the `ume` package, its output written to a file."""
    import importlib

    handle = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if module == "cache_features":  # so small that a tiny data set has many shards
        for kind, rows in zip(MODALITIES.values(), (2, 3), strict=False):
            kind.shard_rows, kind.batch_rows = rows, 1
    sys.exit(importlib.import_module(f"training_ume.commands.{module}").main(argv))


class Command:
    """A command in a process that can be killed."""

    def __init__(self, module: str, argv: list[str], log: Path):
        self.log = log
        self.started = time.monotonic()
        self.process = PROCESSES.Process(target=call, args=(module, [str(a) for a in argv], str(log)))
        with environment(ENVIRONMENT):
            self.process.start()

    def kill_after(self, seconds: float) -> bool:
        """kill -9 so long after the start; False: it had ended by then."""
        self.process.join(max(0.0, self.started + seconds - time.monotonic()))
        return self.kill()

    def kill_inside(self, is_inside: Callable[[], bool]) -> bool:
        """kill -9 in a moment for which `is_inside` holds while the process stands still; False: there was none."""
        while self.process.exitcode is None:
            if is_inside():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.process.pid, signal.SIGSTOP)
                if is_inside():
                    return self.kill()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.process.pid, signal.SIGCONT)
        return False

    def kill(self) -> bool:
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def finish(self) -> tuple[int, str]:
        """Its exit code and all that it printed."""
        self.process.join()
        return self.process.exitcode, self.log.read_text()


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def succeed(module: str, argv: list[str], log: Path) -> float:
    """Runs a command to its end; how many seconds it took."""
    command = Command(module, argv, log)
    code, printed = command.finish()
    assert code == 0, printed
    return time.monotonic() - command.started


def can_mount() -> bool:
    """Whether this process may make a disk of a given size: root on Linux, mostly."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with contextlib.suppress(subprocess.CalledProcessError):
        folder = Path("/tmp") / f"ume-mount-{os.getpid()}"
        with small_disk(folder, 100_000):
            return True
    return False


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], None]]:
    """A disk of so many bytes, mounted at `folder`; what it yields gives it another size."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder), "-o", f"size={size}"]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield lambda new: subprocess.run(["mount", "-o", f"remount,size={new}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


# ---------------------------------------------------------------------------------------------------------- training


class Training:
    """
    A tiny training, what it ends with when nothing happens to it, and how long that takes.

    Args:
        often: a checkpoint at every step instead of every epoch.
    """

    def __init__(self, folder: Path, often: bool = False):
        self.folder = folder
        files = write_vqa_files(folder / "data", num_images=16)
        fields = {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": False} if often else {}
        fields |= {"num_train_epochs": 4, "save_total_limit": 3}
        self.recipe = write_tiny_recipe(folder / "tiny.yaml", files, **fields)
        self.whole = folder / "whole"
        self.seconds = succeed("train", self.argv(self.whole), folder / "whole.log")
        self.seconds = succeed("train", [*self.argv(self.whole), "--overwrite_output"], folder / "whole.log")

    def argv(self, output: Path, resume: bool = False) -> list[str]:
        argv = [str(self.recipe), "--output_dir", str(output)]
        return [*argv, "--resume_from_checkpoint"] if resume and output.exists() else argv

    def start(self, output: Path, resume: bool = False) -> Command:
        return Command("train", self.argv(output, resume), output.with_suffix(".log"))

    def resume(self, output: Path) -> None:
        """Goes on to the end and compares what is there then with what the run without a fault ended with."""
        succeed("train", self.argv(output, resume=True), output.with_suffix(".log"))
        assert_same_run(self.whole, output)

    def bytes_of_a_checkpoint(self) -> int:
        newest, _ = last_whole_checkpoint(self.whole)
        return sum(path.stat().st_size for path in newest.iterdir())


def often(folder: Path) -> Training:
    return Training(folder, often=True)


def assert_same_run(first: Path, second: Path) -> None:
    """The same weights, bit for bit, and the same scores."""
    weights = [load_file(folder / "model.safetensors") for folder in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    different = [name for name, value in weights[0].items() if not value.equal(weights[1][name])]
    assert not different, f"{len(different)} of {len(weights[0])} weights differ, the first is {different[0]}"
    results = [read_json(folder / "results.json") for folder in (first, second)]
    assert results[0]["scores"] == results[1]["scores"]
    losses = [[epoch["validation_loss"] for epoch in result["epochs"]] for result in results]
    assert losses[0] == losses[1]


def state_of(output: Path) -> str:
    """Where a killed training stood."""
    whole, broken = last_whole_checkpoint(output) if output.is_dir() else (None, [])
    if broken:
        return "in a checkpoint"
    return "before the first checkpoint" if whole is None else "between checkpoints"


def training_killed_at_random(training: Training, rng: random.Random, name: str) -> str:
    output, killed = training.folder / name, False
    while not killed:
        shutil.rmtree(output, ignore_errors=True)
        killed = training.start(output).kill_after(rng.uniform(0, training.seconds))
    state = state_of(output)
    training.resume(output)
    return state


def training_killed_in_a_checkpoint(training: Training, rng: random.Random, name: str) -> str:
    """Of a training that saves at every step; the file of the checkpoint that was there last."""
    output, killed = training.folder / name, False
    file = rng.choice(CHECKPOINT_FILES)

    def is_inside() -> bool:
        checkpoints = list(output.glob("checkpoint-*"))
        newest = max(checkpoints, key=lambda path: int(path.name.split("-")[1]), default=None)
        return newest is not None and (newest / file).exists() and not (newest / "trainer_state.json").exists()

    while not killed:
        shutil.rmtree(output, ignore_errors=True)
        skipped = rng.randrange(1, 30)
        command = training.start(output)
        while not (output / f"checkpoint-{skipped}").exists() and command.process.exitcode is None:
            time.sleep(0.001)
        killed = command.kill_inside(is_inside)
    newest, broken = last_whole_checkpoint(output)
    assert broken, "a half-written checkpoint was taken for a whole one"
    assert newest not in broken
    training.resume(output)
    return f"after the beginning of {file}"


def training_on_a_full_disk(training: Training, rng: random.Random, name: str) -> str:
    output = training.folder / name / "run"
    size = int(training.bytes_of_a_checkpoint() * rng.uniform(0.3, 4.5))
    with small_disk(output.parent, size) as resize:
        code, printed = training.start(output).finish()
        assert code == 2, f"it ended with {code}: {printed}"
        assert "cannot be written: " in printed, printed
        assert "Traceback" not in printed, printed
        assert "repeat the command with --resume_from_checkpoint" in printed, printed
        checkpoint, broken = last_whole_checkpoint(output)
        assert not broken, "a half-written checkpoint is left"
        where = f"The last checkpoint is {checkpoint}." if checkpoint else "There is no checkpoint of this run yet."
        assert where in printed, printed
        resize(100 * size)
        succeed("train", training.argv(output, resume=True), training.folder / f"{name}.log")
        assert_same_run(training.whole, output)
    return "with a checkpoint" if checkpoint else "without a checkpoint"


# ------------------------------------------------------------------------------------------------------------- cache


class Caching:
    """A tiny feature cache of both modalities, as it is when nothing happens while it is built."""

    def __init__(self, folder: Path):
        self.folder = folder
        files = write_vqa_files(folder / "data", num_images=60)
        for number, path in enumerate(sorted(Path(files["train_images"]).iterdir())):
            shutil.copyfile(path, path.with_suffix(".old"))
            path.write_bytes(path.with_suffix(".old").read_bytes() + bytes([number]))  # each its own content
            path.with_suffix(".old").unlink()
        questions = read_json(files["train_questions"])
        for question in questions["questions"]:
            question["question"] += f" {question['question_id'] % 40}"
        Path(files["train_questions"]).write_text(json.dumps(questions))
        frozen = {"freeze_text": True, "freeze_vision": True, "max_question_length": 12, "seed": 0}
        self.recipe = write_tiny_recipe(folder / "tiny.yaml", files, **frozen)
        self.whole = folder / "whole"
        self.seconds = succeed("cache_features", self.argv(self.whole), folder / "whole.log")
        shutil.rmtree(self.whole)
        self.seconds = succeed("cache_features", self.argv(self.whole), folder / "whole.log")

    def argv(self, output: Path) -> list[str]:
        return [str(self.recipe), "--feature_cache", str(output)]

    def start(self, output: Path) -> Command:
        return Command("cache_features", self.argv(output), output.with_suffix(".log"))

    def resume(self, output: Path, log: Path | None = None) -> None:
        succeed("cache_features", self.argv(output), log or output.with_suffix(".log"))
        self.assert_same(output)

    def assert_same(self, output: Path) -> None:
        for modality in MODALITIES:
            expected, found = (contents(folder / modality) for folder in (self.whole, output))
            assert expected.keys() == found.keys()
            different = [name for name in expected if expected[name] != found[name]]
            assert not different, f"{modality}/{different[0]} differs"


def contents(folder: Path) -> dict[str, bytes]:
    """What is in a cache's files, without those that a kill left under another name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def shards(output: Path) -> int:
    return len(list(output.glob("*/shard-*.json")))


def cache_killed_at_random(caching: Caching, rng: random.Random, name: str) -> str:
    output, killed = caching.folder / name, False
    while not killed:
        shutil.rmtree(output, ignore_errors=True)
        killed = caching.start(output).kill_after(rng.uniform(0, caching.seconds))
    state = "before the first shard" if shards(output) == 0 else "with shards"
    caching.resume(output)
    return state


def cache_killed_in_a_shard(caching: Caching, rng: random.Random, name: str) -> str:
    output, killed = caching.folder / name, False

    def is_inside() -> bool:
        """Features that are being written, or have no index yet."""
        names = {path.name for modality in MODALITIES for path in (output / modality).glob("*shard-*")}
        return any(n.startswith(".") or (n.endswith(".bin") and f"{n[:-4]}.json" not in names) for n in names)

    while not killed:
        shutil.rmtree(output, ignore_errors=True)
        skipped = rng.randrange(shards(caching.whole))
        command = caching.start(output)
        while shards(output) < skipped and command.process.exitcode is None:
            time.sleep(0.001)
        killed = command.kill_inside(is_inside)
    caching.resume(output)
    return "inside a shard"


def cache_on_a_full_disk(caching: Caching, rng: random.Random, name: str) -> str:
    output = caching.folder / name / "cache"
    # A disk gives room page by page.
    needed = sum(-(-path.stat().st_size // 4096) * 4096 for path in caching.whole.glob("*/*"))
    with small_disk(output.parent, int(needed * rng.uniform(0.05, 0.9))) as resize:
        code, printed = Command("cache_features", caching.argv(output), caching.folder / f"{name}.log").finish()
        assert code == 2, f"it ended with {code}: {printed}"
        assert "cannot be written: No space left on device" in printed, printed
        assert "repeat the command: whole shards are kept" in printed, printed
        assert "Traceback" not in printed, printed
        kept = shards(output)
        resize(10 * needed)
        caching.resume(output, caching.folder / f"{name}.log")
    return f"{'with' if kept else 'before the first'} shards"


# ------------------------------------------------------------------------------------------------- several processes

# Runs `ume train`; of a question that the environment names, the image has a pixel that is no number.
WORKER = """
import os, sys
sys.argv = sys.argv[1:]
from training_ume.data.collator import VQACollator
from training_ume.commands.train import main

def poisoned(self, rows, original=VQACollator.__call__):
    batch = original(self, rows)
    if any(str(row["question_id"]) == os.environ.get("POISON") for row in rows):
        batch["pixel_values"][0, 0, 0, 0] = float("nan")
    return batch

VQACollator.__call__ = poisoned
sys.exit(main(sys.argv[1:]))
"""


class Workers:
    """A tiny training of two processes under torchrun, and what it ends with when both live."""

    def __init__(self, folder: Path):
        self.folder = folder
        files = write_vqa_files(folder / "data", num_images=16)
        fields = {"num_train_epochs": 30, "ddp_backend": "gloo", "save_total_limit": 2}
        self.recipe = write_tiny_recipe(folder / "tiny.yaml", files, **fields)
        (folder / "worker.py").write_text(WORKER)
        self.whole = folder / "whole"
        self.succeed(self.whole)
        evaluated = {json.loads(line)["question_id"] for line in (self.whole / PREDICTIONS).read_text().splitlines()}
        self.trained = {q["question_id"] for q in read_json(files["train_questions"])["questions"]} - evaluated

    def start(self, output: Path, *more: str, **variables: str) -> subprocess.Popen:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        argv = [str(self.folder / "worker.py"), "ume", str(self.recipe), "--output_dir", str(output), *more]
        with output.with_suffix(".log").open("a") as log:
            return subprocess.Popen(
                [*launcher, *argv], env={**os.environ, **ENVIRONMENT, **variables}, stdout=log, stderr=log
            )

    def succeed(self, output: Path, *more: str) -> None:
        assert self.start(output, *more).wait(timeout=600) == 0, output.with_suffix(".log").read_text()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def worker_killed(workers: Workers, rng: random.Random, name: str) -> str:
    """kill -9 of one of two processes: both and their launcher end in time."""
    output, number = workers.folder / name, rng.randrange(2)
    launcher = workers.start(output)
    while len(list(output.glob("checkpoint-*"))) < 2:
        assert launcher.poll() is None, output.with_suffix(".log").read_text()
        time.sleep(0.01)
    time.sleep(rng.random())
    pids = children(launcher.pid)
    assert len(pids) == 2
    os.kill(pids[number], signal.SIGKILL)
    code = launcher.wait(timeout=WITHIN)
    printed = output.with_suffix(".log").read_text()
    assert code != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "a process is still there"
    assert f"Signal 9 (SIGKILL) received by PID {pids[number]}" in printed, printed
    assert not (output / "results.json").exists()
    workers.succeed(output, "--resume_from_checkpoint")
    assert_same_run(workers.whole, output)
    return f"process {number}"


def worker_meets_no_number(workers: Workers, rng: random.Random, name: str) -> str:
    """An image of one process holds no numbers; that process is named, and the question."""
    output, question = workers.folder / name, rng.choice(sorted(workers.trained))
    code = workers.start(output, POISON=str(question)).wait(timeout=WITHIN)
    printed = output.with_suffix(".log").read_text()
    assert code != 0
    message = r"The loss is nan in step (\d+), in the batch of process (\d) with the question_ids (.*?)\."
    messages = re.findall(message, printed)
    assert messages, printed
    assert len(set(messages)) == 1, messages  # nobody blames what came after
    assert str(question) in messages[0][2].split(", "), printed
    assert not (output / "results.json").exists()
    return f"process {messages[0][1]}"


@dataclass(frozen=True)
class Fault:
    """What it is done to (made once, in a folder), what does it once, how often the command does it, and in words what
    each trial demands."""

    scene: Callable[[Path], object]
    trial: Callable[[object, random.Random, str], str]
    count: int
    demands: str
    needs_disk: bool = False


RESUMED = (
    "the same command with --resume_from_checkpoint ends with the weights, bit for bit, and the scores of a run "
    "without a fault"
)
WHOLE = "the same command again ends with the files, byte for byte, of a build without a fault"

FAULTS = {
    "kill -9 at a random moment of training": Fault(Training, training_killed_at_random, 20, RESUMED),
    "kill -9 inside the writing of a checkpoint": Fault(
        often,
        training_killed_in_a_checkpoint,
        10,
        f"the half-written checkpoint is not taken for a whole one; {RESUMED}",
    ),
    "training, and the disk is full": Fault(
        Training,
        training_on_a_full_disk,
        8,
        "exit status 2, a sentence that names the last whole checkpoint, nothing half-written; with more room "
        f"{RESUMED}",
        needs_disk=True,
    ),
    "kill -9 at a random moment of building a feature cache": Fault(Caching, cache_killed_at_random, 20, WHOLE),
    "kill -9 inside the writing of its features": Fault(Caching, cache_killed_in_a_shard, 10, WHOLE),
    "building a feature cache, and the disk is full": Fault(
        Caching, cache_on_a_full_disk, 8, f"exit status 2, a sentence; with more room {WHOLE}", needs_disk=True
    ),
    "kill -9 of one of two processes that train together": Fault(
        Workers,
        worker_killed,
        6,
        f"all processes end within {WITHIN} s, torchrun names the killed one and the signal; {RESUMED}",
    ),
    "a pixel that is no number, in one of two processes": Fault(
        Workers,
        worker_meets_no_number,
        6,
        f"all processes end within {WITHIN} s, and say in which step and process the loss was nan, and with which "
        "question_ids; those of the pixel are among them",
    ),
}
