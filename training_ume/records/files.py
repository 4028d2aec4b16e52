"""Files that are written whole or not at all: JSON, text, anything; and the sentence where there was no room.

Every number in a README or a model card comes from such a file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def write_whole(path: Path, content) -> None:
    """Writes a file that appears under its name when the disk has all of it."""
    with writing(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep others from reading it
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


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
