"""A data set from the Hugging Face Hub, or saved with `save_to_disk`."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from glob import escape as glob_escape
from glob import glob

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
from tqdm.auto import tqdm

from training_ume.data.images import _inside, _Listing
from training_ume.data.json_entries import VQADataError, check_count
from training_ume.data.rows import (
    ANSWER_KEYS,
    _add_row,
    _answers,
    _BadEntry,
    _empty_rows,
    _image_id,
    _label,
    _Problems,
    _question_id,
    _question_text,
    _select,
    _short,
    _type_name,
    logger,
)


def _named_rows(source: str, name, split: str, images, cache_dir, problems: _Problems) -> dict[str, list]:
    table = _open_named(source, name, split, cache_dir)
    missing = {"question_id", "image", "question"} - set(table.column_names)
    if missing:
        raise VQADataError(
            f"{source} lacks the column(s) {', '.join(sorted(missing))}: it has {', '.join(table.column_names)}. "
            "Rename its columns to VQAv2's."
        )
    given = [column for column in ANSWER_KEYS if column in table.column_names][:1]
    if not given:
        logger.warning(
            "%s has no column 'answers': its rows can be answered, but neither trained on nor scored.", source
        )
    optional = ["image_id", "question_type", "answer_type"]
    columns = ["question_id", "question", *given, *(column for column in optional if column in table.column_names)]
    check_count(len(table), source)
    if isinstance(table.features["image"], datasets.Image):
        table = table.cast_column("image", datasets.Image(decode=False))
    image_store = _ImageStore(source, images, cache_dir)
    batches = table.select_columns([*columns, "image"]).with_format("arrow").iter(batch_size=128)
    progress = tqdm(total=len(table), desc="images", unit="row", disable=None, leave=False)
    rows, seen, annotated, position = _empty_rows(), set(), [], 0
    for batch in batches:
        for entry in batch.to_pylist():
            try:
                question_id = _question_id(entry)
                if question_id in seen:
                    raise _BadEntry("duplicate_question_id", "this id came before; the first entry counts")
                seen.add(question_id)
                question = _question_text(entry)
                path, origin = image_store.path(entry["image"])
                image_id = origin if entry.get("image_id") is None else _image_id(entry)
                answers = _answers(entry) if given and entry[given[0]] is not None else []
                types = (_type_name(entry, "question_type"), _type_name(entry, "answer_type"))
                _add_row(rows, question_id, image_id, question, path, answers, *types)
                annotated.append(bool(answers))
            except _BadEntry as bad:
                problems.add(bad.kind, source, _label(entry, position), bad.reason)
            position += 1
        progress.update(batch.num_rows)
    progress.close()

    if any(annotated) and not all(annotated):
        # A test set has no answers at all; single rows without them are an accident.
        for question_id, has_answers in zip(rows["question_id"], annotated, strict=True):
            if not has_answers:
                reason = "the row has no answers although others have"
                problems.add("question_without_annotation", source, f"question_id {question_id}", reason)
        rows = _select(rows, annotated)
    return rows


def _open_named(source: str, name: str | None, split: str, cache_dir) -> datasets.Dataset:
    if os.path.isfile(os.path.join(source, "dataset_dict.json")):
        parts = datasets.load_from_disk(source)
        if split not in parts:
            raise VQADataError(f"{source} has the splits {', '.join(parts)}, not {split!r}.")
        return parts[split]
    if os.path.isfile(os.path.join(source, "state.json")):
        return datasets.load_from_disk(source)
    if os.path.isdir(source):
        # Of these, files of a few kB hold any number of equal rows, which `datasets` first writes out in full.
        with suppress(OSError, pa.ArrowInvalid):
            files = glob(os.path.join(glob_escape(source), "**", "*.parquet"), recursive=True)
            check_count(sum(parquet.read_metadata(file).num_rows for file in files), source)
    try:
        return datasets.load_dataset(source, name, split=split, cache_dir=cache_dir and os.fspath(cache_dir))
    # RuntimeError: a script lies there, which `datasets` no longer runs.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetGenerationError) as error:
        raise VQADataError(
            f"The data set {source!r} (configuration {name!r}, split {split!r}) cannot be loaded: {error} "
            "A source is 'vqa_v2' (official files), 'easy_vqa', a folder, or a name on the Hub."
        ) from error


class _ImageStore:
    """Gives every image of a named data set a path; embedded ones are written once, as their original bytes."""

    SUFFIXES = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"))

    def __init__(self, source: str, images, cache_dir, suffixes: Sequence[str] = ()):
        self.local, self.images_given = os.path.isdir(source), bool(images)
        self.root = os.path.abspath(images or source) if images or self.local else None
        self.folder = os.path.join(os.path.abspath(cache_dir or datasets.config.HF_DATASETS_CACHE), "ume_images")
        self.listing, self.suffixes = _Listing(), suffixes

    def path(self, image: dict | str | bytes | None) -> tuple[str, str]:
        """(absolute path, what identifies the image when the data set itself has no image_id)."""
        if isinstance(image, dict):
            image = image.get("path") if image.get("bytes") is None else image["bytes"]
        if isinstance(image, bytes) and image:
            digest = hashlib.sha256(image).hexdigest()
            return self._write(image, digest), digest
        if not isinstance(image, str) or not image:
            raise _BadEntry("missing_image", f"the row has no image ({_short(image)})")
        # Only one's own folder may name files anywhere; a downloaded table must not, nor one with a folder of its own.
        if os.path.isabs(image) and self.local and not self.images_given:
            path = os.path.normpath(image)
        elif self.root is None:
            reason = f"the image is only the name {_short(image)}; give the folder that holds it as images"
            raise _BadEntry("missing_image", reason)
        else:
            path = _inside(self.root, image)
        if not self.listing.has_file(path):
            raise _BadEntry("missing_image", f"the image {path} does not exist")
        return path, path

    def kept(self, digest: str) -> str | None:
        """The path of an image that was written under this name before."""
        ends = dict.fromkeys((*(end for _, end in self.SUFFIXES), ".image", *self.suffixes))
        paths = (os.path.join(self.folder, digest[:2], digest + end) for end in ends)
        return next(filter(os.path.isfile, paths), None)

    def _write(self, content: bytes, digest: str, said: str = "") -> str:
        """Keeps a file's content; its suffix is that of what it begins with, or else the one that is `said`."""
        own = said if said and said in self.suffixes else ".image"
        suffix = next((suffix for magic, suffix in self.SUFFIXES if content.startswith(magic)), own)
        path = os.path.join(self.folder, digest[:2], digest + suffix)
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            # Several processes may write the same image: each its own file, then one atomic rename.
            with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
                file.write(content)
            os.replace(file.name, path)
        return path
