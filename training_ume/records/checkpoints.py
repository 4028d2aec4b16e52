"""Which of a run's checkpoints it can go on from, and what may be deleted of them.

The Trainer writes checkpoints in place, and a run may be killed while it does. Only what is known to be a run's own is
ever deleted: checkpoints that were written to their end, and what a mark beside them says was being written. Folders
of other layouts or names are left alone.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

STATE = "trainer_state.json"
# Weights in one file, or an index that names the files.
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# FSDP's weights and optimizer, whole or cut into folders; DeepSpeed names its folder in `latest`.
FSDP_WEIGHTS, FSDP_OPTIMIZER, DEEPSPEED = "pytorch_model_fsdp*", "optimizer_*", "latest"
NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


def step_of(folder: Path) -> int | None:
    """The step that a folder's name stands for; None where it is not the name of a checkpoint (`checkpoint-old`)."""
    named = NAME.fullmatch(folder.name)
    return int(named[1]) if named else None


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """The folders with names of checkpoints, by step."""
    folders = [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    return sorted((path for path in folders if step_of(path) is not None), key=lambda path: (step_of(path), path))


def last_whole_checkpoint(output_dir: str | Path) -> tuple[Path | None, list[Path]]:
    """
    Finds where a run can go on.

    Returns:
        `(checkpoint, others)`: the newest checkpoint folder that was written to its end (None: there is none), with
        the optimizer or, see `holds_weights_only`, without; and the folders that were not, or are not the Trainer's.
    """
    folders = checkpoint_folders(output_dir)
    whole = [path for path in folders if is_whole(path)]
    return (whole[-1] if whole else None), [path for path in folders if path not in whole]


def is_whole(checkpoint: Path) -> bool:
    """The Trainer writes trainer_state.json last; a deletion that was cut short may have left it behind alone."""
    if _step_in(checkpoint) != step_of(checkpoint) or not _has_weights(checkpoint):
        return False
    return holds_weights_only(checkpoint) or all(_parts(checkpoint).values())


def holds_weights_only(checkpoint: Path) -> bool:
    """Whether a whole checkpoint is one of `save_only_model`: none of what else training needs to go on exactly."""
    return not any(_parts(checkpoint).values())


def _step_in(checkpoint: Path) -> int | None:
    try:
        return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _has_weights(checkpoint: Path) -> bool:
    for name in INDICES:
        try:
            files = set(json.loads((checkpoint / name).read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if all((checkpoint / file).is_file() for file in files):
            return True
    if any((checkpoint / name).is_file() for name in (*WEIGHTS, DEEPSPEED)):
        return True
    adapters = any(file.is_file() for name in WEIGHTS[2:] for file in checkpoint.glob(f"*/{name}"))
    return adapters or any(checkpoint.glob(FSDP_WEIGHTS))


def _parts(checkpoint: Path) -> dict[str, bool]:
    deepspeed = (checkpoint / DEEPSPEED).is_file()
    optimizer = any((checkpoint / name).is_file() for name in ("optimizer.pt", "optimizer.bin"))
    return {
        "optimizer": deepspeed or optimizer or any(path.is_dir() for path in checkpoint.glob(FSDP_OPTIMIZER)),
        "scheduler": deepspeed or (checkpoint / "scheduler.pt").is_file(),
        "random numbers": any(checkpoint.glob("rng_state*.pth")),
    }


def _mark(checkpoint: Path) -> Path:
    # Not inside, which uploads send along; they leave out what begins with an underscore.
    return checkpoint.parent / f"_{checkpoint.name}.unfinished"


@contextmanager
def unfinished(checkpoint: Path) -> Iterator[None]:
    """Within it, the folder is one that a run writes and not whole; that stays so when the process dies."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    _mark(checkpoint).touch()
    (checkpoint / STATE).unlink(missing_ok=True)  # what is written last is what is deleted first
    yield
    _mark(checkpoint).unlink(missing_ok=True)


def delete(checkpoint: Path) -> None:
    """Deletes a checkpoint of a run, so that nothing takes what a kill may leave of it for whole."""
    with suppress(OSError):  # a full disk has no room for the mark; then the missing state has to do
        _mark(checkpoint).touch()
    (checkpoint / STATE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
    _mark(checkpoint).unlink(missing_ok=True)


def remove_unfinished(output_dir: str | Path) -> list[Path]:
    """Deletes the folders that were being written or deleted when their run was cut short; those that it deleted."""
    found = [path for path in checkpoint_folders(output_dir) if _mark(path).exists() and not is_whole(path)]
    for path in found:
        delete(path)
    for mark in Path(output_dir).glob(f"_{PREFIX_CHECKPOINT_DIR}-*.unfinished"):
        mark.unlink(missing_ok=True)  # of one that is gone, or that was killed after its last file
    return found


def passed_over(output_dir: str | Path) -> list[Path]:
    """What looks like a checkpoint and is not one to go on from: of another name, or not whole."""
    folders = sorted(path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir())
    return [path for path in folders if step_of(path) is None or not is_whole(path)]


def keep_newest(output_dir: str | Path, limit: int | None, protected: list[str | Path | None]) -> None:
    """
    Deletes the oldest whole checkpoints beyond `limit`; the Trainer's own takes every folder that begins so.

    Args:
        protected: those to keep in any case, such as the best one and the one just written.
    """
    if limit is None or limit <= 0:
        return
    whole = [path for path in checkpoint_folders(output_dir) if is_whole(path)]
    whole.sort(key=lambda path: ((path / STATE).stat().st_mtime_ns, step_of(path)))
    names = {Path(path).name for path in protected if path is not None}
    excess = len(whole) - max(limit, len(names))
    for path in [path for path in whole if path.name not in names][: max(excess, 0)]:
        delete(path)
