"""What a run leaves behind: JSON files written whole or not at all, the machine it ran on, and tables to read.

Every number in a README or a model card comes from such a file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from training_ume.recipes import DataArguments, ModelArguments
from training_ume.scoring import NAMES, in_order, measured_by

PACKAGES = (
    "ume",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "evaluate",
    "accelerate",
    "peft",
    "numpy",
    "pillow",
)


# How torch.save says that the disk is full: its check of the file's length, or the C++ library's stream.
TORCH_COULD_NOT_WRITE = re.compile("inline_container|iostream")


class WriteError(OSError):
    """Something could not be written; the message is a sentence with the place and the reason."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """
    Within it, a file or a folder is written.

    Raises:
        WriteError: for a full disk and whatever else Python, safetensors or torch say that keeps `path` from being
            written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # Of a write that fails torch knows only that the file is not as long as it should be, or less.
        from_torch = isinstance(error, RuntimeError)
        if isinstance(error, WriteError) or (from_torch and not TORCH_COULD_NOT_WRITE.search(str(error))):
            raise
        reason = "not all of it fits" if from_torch else getattr(error, "strerror", None) or str(error)
        folder = next(parent for parent in Path(path).absolute().parents if parent.is_dir())
        raise WriteError(
            f"{path} cannot be written: {reason}. {shutil.disk_usage(folder).free / 1e6:,.0f} MB are free there; make "
            "room, or choose another place."
        ) from error


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as JSON, in one step."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Writes a file in one step: a reader sees the old file or the new one, also after a kill."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep others from reading it
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def read_json(path: str | Path) -> Any:
    """
    Reads a JSON file; None if there is none.

    Raises:
        ValueError: if the file is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}): delete it, or restore it from where it came."
        ) from error


def environment() -> dict:
    """Versions, source revision and hardware of this process, for the record of a run."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions["torch"] = str(torch.__version__)  # which says what it was built for; the package's own does not always
    hardware = {"system": platform.platform(), "cpu": _cpu_name(), "cores": os.cpu_count()}
    hardware["torch_threads"] = torch.get_num_threads()
    hardware["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": versions,
        "git_revision": _git_revision(),
        "hardware": hardware,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git_revision() -> str | None:
    """The commit of the source tree, with `+changes` where files differ from it; None outside a git clone."""

    def git(*arguments: str) -> str:
        root = Path(__file__).parent.parent
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def merge_runs(folders: Iterable[str | Path]) -> tuple[dict, list[dict]]:
    """
    Gathers the results of single runs under folders of `scripts/train.py`.

    Returns:
        `(shared, runs)`: what they have in common (`recipe`, `scored_on`, `baselines`, `data`, and of the first
        `arguments` and `environment`), and the results of each run.

    Raises:
        ValueError: where there is none, the same run is there twice, or runs differ in more than head, inputs and
            seed: their data or their training.
    """
    runs: dict[tuple, dict] = {}
    for folder in folders:
        found = [read_json(path) for path in sorted(Path(folder).rglob("results.json"))]
        found = [results for results in found if "scores" in results]
        if not found:
            raise ValueError(f"{folder} holds no results.json of a finished run.")
        for results in found:
            key = (results["name"], results["seed"])
            if key in runs:
                raise ValueError(f"{folder} holds {key[0]} with seed {key[1]}, which another folder holds, too.")
            runs[key] = results
    first, *rest = runs.values()
    for results in rest:
        for part, of_first, of_this in (
            ("data", first["data"], results["data"]),
            ("training", _what_must_agree(first), _what_must_agree(results)),
        ):
            if of_first != of_this:
                names = sorted(k for k in {**of_first, **of_this} if of_first.get(k) != of_this.get(k))
                raise ValueError(
                    f"{results['name']} (seed {results['seed']}) and {first['name']} (seed {first['seed']}) differ in "
                    f"their {part} ({', '.join(names)}): only runs on equal terms can be compared."
                )
    shared = {name: first[name] for name in ("recipe", "scored_on", "baselines", "data", "arguments", "environment")}
    return shared, list(runs.values())


def _what_must_agree(results: dict) -> dict:
    arguments, merged = results["arguments"], {}
    for part, fields in (("model", ModelArguments), ("data", DataArguments)):
        # A run of an older version lacks the fields that are newer; it did what their defaults do.
        merged |= {field.name: field.default for field in dataclasses.fields(fields)} | arguments[part]
    merged |= arguments["training"]
    return {name: value for name, value in merged.items() if name not in ("fusion", "inputs", "seed")}


def comparison_rows(runs: Iterable[dict]) -> list[dict]:
    """
    Sums up the results of several runs: one row a name, over its seeds.

    Args:
        runs: the runs' results, each with `name`, `seed`, `scores`, `train_seconds`, `train_cpu_seconds`,
            `parameters`, `arguments`.

    Returns:
        `list[dict]` in the order of first appearance: `measured_by`, `vqa_accuracy` and `exact_match`, each as
        `{"each", "mean", "sd"}` (in percent; the sample standard deviation, None for a single seed), mean
        `train_seconds` and `train_cpu_seconds`, `parameters`.
    """
    by_name: dict[str, list[dict]] = {}
    for run in runs:
        by_name.setdefault(run["name"], []).append(run)
    return [
        {
            "name": name,
            "fusion": group[0]["arguments"]["model"]["fusion"],
            "inputs": group[0]["arguments"]["data"]["inputs"],
            "seeds": [run["seed"] for run in group],
            "measured_by": measured_by(group[0]["scores"]),
            "vqa_accuracy": _summary([run["scores"]["vqa_accuracy"] for run in group]),
            "exact_match": _summary([run["scores"]["exact_match"] for run in group]),
            "train_seconds": statistics.mean(run["train_seconds"] for run in group),
            "train_cpu_seconds": statistics.mean(run["train_cpu_seconds"] for run in group),
            "parameters": group[0]["parameters"],
        }
        for name, group in by_name.items()
    ]


def _summary(values: list[float]) -> dict:
    return {
        "each": values,
        "mean": statistics.mean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }


def comparison_table(rows: list[dict], baselines: dict[str, dict]) -> list[tuple[str, ...]]:
    """The rows of `comparison_rows` and the scores of simple baselines as lines of cells, scores in percent, the one
    that fits the data first."""
    scored = in_order(measured_by(rows[0]) if rows else "vqa_accuracy")
    lines = [("", *(NAMES[score] for score in scored), "seconds", "parameters (trained)")]
    for name, scores in baselines.items():
        lines.append((name.replace("_", " "), *(f"{scores[score]:.2f}" for score in scored), "", ""))
    for row in rows:
        total, trained = row["parameters"]["total"], row["parameters"]["trainable"]
        lines.append(
            (
                row["name"].replace("_", " "),
                *(_score_text(row[score]) for score in scored),
                f"{row['train_seconds']:.0f}",
                f"{total:,} ({trained:,})",
            )
        )
    return lines


def _score_text(summary: dict) -> str:
    if summary["sd"] is None:
        return f"{summary['mean']:.2f}"
    return f"{summary['mean']:.2f} ± {summary['sd']:.2f} ({len(summary['each'])} seeds)"


def align(lines: list[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell: the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
