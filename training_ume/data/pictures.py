"""Which image files hold the same picture, told by their bytes and not by their names.

A file is read only as far as it may be a copy: sizes are compared first, then the files' last 4 kB, and what is still
alike is hashed whole. Copies are files with equal bytes; a picture that was saved anew is another file.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

from datasets import Dataset

END_BYTES = 4096


def copies(paths: Iterable[str]) -> dict[str, str]:
    """
    What each path's picture is known by.

    Args:
        paths: image files; `""` (no image), and files that are not there, are known by themselves.

    Returns:
        `{path: the smallest path among those with the same bytes}`.
    """
    distinct = sorted(set(paths))
    file_of: dict[str, Hashable] = {}
    sizes: dict[int, dict[Hashable, str]] = defaultdict(dict)  # {size: {file: one path to it}}
    for path in distinct:
        try:
            found = os.stat(path)
        except OSError:
            file_of[path] = path  # whoever opens it says what is wrong
            continue
        # Links lead to one file, which need not be read to know it; some file systems number none.
        file_of[path] = (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
        sizes[found.st_size].setdefault(file_of[path], path)
    groups = [list(files.values()) for files in sizes.values() if len(files) > 1]
    for told_apart_by in (_end, _digest):
        groups = [part for group in groups for part in _split(group, told_apart_by)]
    same = {file_of[path]: number for number, group in enumerate(groups) for path in group}
    first: dict[Hashable, str] = {}
    return {path: first.setdefault(same.get(file_of[path], file_of[path]), path) for path in distinct}


def shared_pictures(part: Dataset, other: Dataset) -> int:
    """How many of the pictures of `load_vqa`'s rows are also among those of other rows."""
    paths, others = (set(rows["image"][:]) - {""} for rows in (part, other))
    picture = copies(paths | others)
    return len({picture[path] for path in paths} & {picture[path] for path in others})


def _split(paths: list[str], told_apart_by: Callable[[str], Hashable]) -> list[list[str]]:
    """The groups of several paths that are still alike."""
    alike = defaultdict(list)
    for path in paths:
        try:
            alike[told_apart_by(path)].append(path)
        except OSError:
            continue  # whoever opens it says what is wrong
    return [group for group in alike.values() if len(group) > 1]


def _end(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - END_BYTES))
        return file.read(END_BYTES)


def _digest(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()
