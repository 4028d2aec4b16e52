"""What runs leave in their folders, told from what somebody else put there: only the former is ever cleared away."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

# A saved model with its processor and its code.
MODEL = (
    r"(adapter_)?model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin|adapter_model\.bin"
    r"|(model\.safetensors|pytorch_model\.bin)\.index\.json|(adapter_|generation_)?config\.json"
    r"|(pre|video_pre)?processor_config\.json|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json"
    r"|chat_template\.(jinja|json)|vocab\.(txt|json)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model"
    r"|tokenizer\.model|\w+_ume\.py|training_args\.bin"
)

# What a run adds to it: its records, the card's picture, the marks of its checkpoints.
RUN = re.compile(
    rf"{MODEL}|(results|arguments)\.json|predictions\.jsonl|skipped_(train|eval)\.tsv|(learning_curve|predicted|confusion)\.png"
    r"|_checkpoint-\d+\.unfinished"
)

CHECKPOINT = re.compile(
    rf"{MODEL}|README\.md|trainer_state\.json|trained_weights\.safetensors|(optimizer|scheduler|scaler)\.(pt|bin)"
    r"|rng_state(_\d+)?\.pth|pytorch_model_fsdp\.bin|latest|zero_to_fp32\.py|.*\.distcp|\.metadata"
    r"|(\w+_)*(mp|zero_pp)_rank_\w+\.pt"
)

EVENTS = re.compile(r"events\.out\.tfevents\..*")
CARD = re.compile(r"\A---\n.*^(pipeline_tag: visual-question-answering|- ume)$", re.DOTALL | re.MULTILINE)


def files_of_runs(folder: str | Path) -> dict[Path, int]:
    """
    The files and folders that earlier runs left in an output folder, other seeds and heads included.

    Returns:
        `dict[Path, int]`: their times of change, each folder after what it holds.
    """
    folder = Path(folder)
    return {path: path.lstat().st_mtime_ns for path in _of_run(folder)} if folder.is_dir() else {}


def _of_run(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.is_symlink():  # what a link leads to is not a run's
            if (RUN.fullmatch(path.name) and not path.is_dir()) or (path.name == "README.md" and _is_card(path)):
                yield path
        elif re.fullmatch(r"checkpoint-\d+|adapter|base", path.name):
            yield from _below(path, CHECKPOINT)
        elif re.fullmatch(r"seed\d+", path.name):
            yield from _of_run(path)
            yield path
        elif path.name in ("beside", "sweep"):
            for name in sorted(path.iterdir()):
                if name.is_dir() and not name.is_symlink():
                    yield from _of_run(name)
                    yield name
            yield path
        elif path.name == "runs":
            yield from _below(path, EVENTS)


def _below(folder: Path, names: re.Pattern) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _below(path, names)
        elif names.fullmatch(path.name):
            yield path
    yield folder


def _is_card(path: Path) -> bool:
    try:
        return CARD.search(path.read_text(encoding="utf-8")) is not None
    except (OSError, ValueError):
        return False


def clear(found: dict[Path, int]) -> None:
    """Deletes what `files_of_runs` found, but for what was written anew since; folders only where nothing is left."""
    for path, changed in found.items():
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif os.path.lexists(path) and path.lstat().st_mtime_ns == changed:
            path.unlink()


def not_of_runs(folder: str | Path) -> list[str]:
    """The files in an output folder, and in its runs' folders, that no run wrote."""
    folder = Path(folder)
    of_runs = files_of_runs(folder)
    left = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink() or not path.is_dir() or path not in of_runs:
            left += [path] if path not in of_runs else []
        else:
            left += [file for file in sorted(path.rglob("*")) if not file.is_dir() and file not in of_runs]
    return [path.relative_to(folder).as_posix() + "/" * path.is_dir() for path in left]
