"""The machine: what it is, for every results file, and how memory is kept on it."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

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
        root = Path(__file__).parent.parent.parent
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


# Numbers of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """
    Lets this process keep the memory that tensors free, for training on a CPU under Linux.

    glibc hands every block over 32 MB back to the system at once, which has to find and zero its pages anew at the
    next step. For pair tensors of a few hundred MB that takes twice as long as the arithmetic itself.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)
    mallopt(M_ARENA_MAX, 1)  # forward and backward run in different threads and shall share what is kept
