"""Tables that are folders: ImageFolder with or without its metadata, `save_to_disk`, or files of one table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import datasets
import pyarrow as pa

from modeling_ume.modalities_ume import MODALITIES
from training_ume.data.json_entries import VQADataError
from training_ume.data.tables.files import SUFFIXES, from_files
from training_ume.data.tables.memory import from_dataset, from_entries
from training_ume.data.tables.table import PART_NAMES, Table
from training_ume.data.tables.text import suffix_of

TABLES = tuple(suffix for suffix in SUFFIXES if suffix != ".txt")  # a text beside pictures is mostly a note
NO_TABLES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def readers_of(file: str) -> list[str]:
    """What the files are called that some modality reads which end as this one does; none: no modality does."""
    end = os.path.splitext(file)[1].lower()
    return [kind.file_nouns for kind in MODALITIES.values() if kind.in_files and end in kind.suffixes]


def part_of(parts: Mapping, split: str | None, name: str):
    if split is None and len(parts) == 1:
        return next(iter(parts.values()))
    if (split or "train") not in parts:
        raise VQADataError(f"{name} has the splits {', '.join(parts)}, not {split or 'train'!r}. Name one with split.")
    return parts[split or "train"]


def from_folder(path: str, split: str | None, cache_dir) -> Table:
    saved = [os.path.isfile(os.path.join(path, file)) for file in ("dataset_dict.json", "state.json")]
    if any(saved):
        try:
            data = datasets.load_from_disk(path)
        except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
            raise VQADataError(
                f"{path} cannot be read as a folder of save_to_disk ({error}). Save it again."
            ) from error
        data = part_of(data, split, path) if saved[0] else data
        table = from_dataset(data, path, "a folder of save_to_disk")
        table.folder, table.took_split = os.path.abspath(path), saved[0]
        return table
    described = split is None and any(os.path.isfile(os.path.join(path, metadata)) for metadata in METADATA)
    root = path if described else _part_folder(path, split)
    table = _from_root(root, split, cache_dir)
    table.took_split = table.took_split or root != path
    return table


def _from_root(root: str, split: str | None, cache_dir) -> Table:
    for metadata in METADATA:
        if os.path.isfile(os.path.join(root, metadata)):
            table = from_files([os.path.join(root, metadata)], cache_dir)
            table.container = f"an ImageFolder with {metadata}"
            _say_unlisted(table, root, metadata)
            return table
    beside = sorted(entry.path for entry in os.scandir(root) if entry.is_file() and _is_table(entry.path))
    tables = beside or _tables_below(root)
    listed = ", ".join(os.path.relpath(table, root) for table in tables[:10])
    if not beside and (labelled := _labelled(root)):
        if tables:
            raise VQADataError(
                f"{root} holds pictures, and tables in its folders: {listed}. Give the path of a table."
            )
        return labelled
    if not tables:
        raise VQADataError(
            f"{root} holds neither a table ({', '.join(TABLES)}) nor pictures in folders named by their label."
        )
    # As `datasets` names them: train.csv, data/train-00000-of-00002.parquet.
    wanted = next((names for names in PART_NAMES if (split or "train") in names), (split,))
    parts = [table for table in tables if set(wanted) & set(re.split(r"[^a-z]+", os.path.basename(table).lower()))]
    if len(tables) > 1 and (not parts or len({suffix_of(part) for part in parts}) > 1):
        found = "several" if parts else f"none for {split or 'train'!r} by its name among several"
        raise VQADataError(f"{root} holds {found} tables: {listed}. Give the path of one of them.")
    table = from_files(parts or tables, cache_dir)
    table.took_split = bool(parts)
    return table


def _is_table(path: str) -> bool:
    return suffix_of(path) in TABLES and os.path.basename(path) not in NO_TABLES


def _tables_below(root: str) -> list[str]:
    walked = sorted(os.path.join(folder, file) for folder, _, files in os.walk(root) for file in files)
    return [file for file in walked if _is_table(file)]


def _part_folder(path: str, split: str | None) -> str:
    """The folder of a split, where a folder has one for each; the names that `datasets` knows are one another's."""
    inside = {entry.name.lower(): entry.path for entry in os.scandir(path) if entry.is_dir()}
    parts = [name for name in inside if any(name in names for names in PART_NAMES)]
    wanted = next((names for names in PART_NAMES if (split or "train") in names), (split,))
    found = [inside[name] for name in wanted if name in inside]
    if split and split.lower() in inside:
        return inside[split.lower()]
    if found and (split or len(parts) == len(inside)):
        return found[0]
    if split and parts and len(parts) == len(inside):
        raise VQADataError(f"{path} has the parts {', '.join(sorted(parts))}, not {split!r}. Name one of these.")
    return path


def _labelled(root: str) -> Table | None:
    """Files in folders named by their label, or files alone, that some modality reads; None where there are none."""
    rows, others, nouns = [], 0, set()
    for folder, folders, files in os.walk(root):
        folders.sort()
        label = os.path.relpath(folder, root).split(os.sep)[0]
        for file in sorted(files):
            if file.startswith("."):
                continue
            if read_by := readers_of(file):
                nouns.update(read_by)
                name = os.path.relpath(os.path.join(folder, file), root)
                rows.append({"file_name": name, "label": None if label == "." else label})
            else:
                others += 1
    if not rows:
        return None
    named = any(row["label"] for row in rows)
    table = from_entries(rows if named else [{"file_name": row["file_name"]} for row in rows])
    table.name, table.folder = root, os.path.abspath(root)
    what = " and ".join(sorted(nouns))
    table.container = f"{what} in folders named by their label" if named else f"a folder of {what}"
    if others:
        table.notes.append(f"{others:,} files of the folder are no {what} by their suffix and are not read.")
    return table


def _say_unlisted(table: Table, root: str, metadata: str) -> None:
    """Notes how many pictures of a folder are in no row."""
    listed = set()
    for (_, cells), _ in table.batches():
        for values in cells.values():
            listed.update(os.path.normpath(cell) for cell in values if isinstance(cell, str))
    pictures = [
        os.path.relpath(os.path.join(folder, file), root)
        for folder, _, files in os.walk(root)
        for file in files
        if readers_of(file)
    ]
    unlisted = sum(picture not in listed for picture in pictures)
    if unlisted:
        what = " and ".join(sorted({noun for picture in pictures for noun in readers_of(picture)}))
        table.notes.append(f"{unlisted:,} of the {len(pictures):,} {what} in {root} are in no row of {metadata}.")
