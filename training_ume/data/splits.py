"""Splitting rows so that what must not be on both sides is not."""

from __future__ import annotations

import datasets
import numpy as np

from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.stored_ume import nearest
from training_ume.data.inputs import paths_in
from training_ume.data.pictures import copies

# ------------------------------------------------------------------------------------------------------------ splits


def split_by_image(dataset: datasets.Dataset, fraction: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Splits off `fraction` of the *images*, with all their questions: (train, held_out).

    No image is on both sides, whether it is known by its `image_id`, by its path or by its file's bytes: copies of a
    picture under several names are one (see `copies` for what is read of the files). Without copies the choice
    depends on the image ids and the seed alone; never on the order of the rows, which stays as it is within each part.

    Raises:
        ValueError: when `fraction` is not between 0 and 1, or leaves one side without an image.
    """
    if isinstance(fraction, bool) or not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction={fraction!r} must lie between 0 and 1: the share of the images to hold out.")
    image_ids, paths = dataset.with_format(None)["image_id"][:], dataset.with_format(None)["image"][:]
    group_of = _image_groups(image_ids, paths)
    groups = sorted(set(group_of.values()))
    held_out_count = round(fraction * len(groups))
    if 0 < round(fraction * len(group_of)) < len(group_of) and len(groups) > 1:
        # It is the copies that make them few, not the fraction: both sides get a picture at least.
        held_out_count = min(max(held_out_count, 1), len(groups) - 1)
    if not 0 < held_out_count < len(groups):
        raise ValueError(
            f"fraction={fraction!r} of {len(groups)} images puts {held_out_count} on one side. Use another fraction, "
            "or more images."
        )
    chosen = np.random.default_rng(seed).permutation(len(groups))[:held_out_count]
    held_out = {groups[index] for index in chosen}
    is_held_out = np.array([group_of[image_id] in held_out for image_id in image_ids])
    return dataset.select(np.flatnonzero(~is_held_out)), dataset.select(np.flatnonzero(is_held_out))


def split_rows(
    dataset: datasets.Dataset, fraction: float, seed: int, by: str | None = None
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Splits off `fraction` of what must stay together: (train, held_out).

    Pictures stay together, as in `split_by_image`, whose choice this is where every row has one and no other file; so
    do the files of every other modality, sounds say; of rows without any, those that ask the same, unless they have
    more than a question; and with `by` all rows that have one value in that column. The fraction
    is one of these groups, not of the rows.

    Args:
        by (`str`, *optional*): a column, such as `patient`; or the column of a modality that stands in files, such as
            `image`, whose files alone then stay together, also where sounds are shared by many pictures.

    Raises:
        ValueError: for a column that there is not, or that has one value, and a fraction that leaves one side empty.
    """
    plain = dataset.with_format(None)
    image_ids, paths = plain["image_id"][:], plain["image"][:]
    files = {column: paths for column, paths in paths_in(plain).items() if column != "image"}
    only = by if by in {kind.column for kind in MODALITIES.values() if kind.in_files} else None
    if only is not None:
        by, files = None, {column: paths for column, paths in files.items() if column == only}
        image_ids = image_ids if only == "image" else [""] * len(image_ids)
    if by is None and all(image_ids) and not any(map(any, files.values())):
        return split_by_image(dataset, fraction, seed)
    if by is not None and by not in dataset.column_names:
        raise ValueError(
            f"split_by={by!r} is no column of the rows: choose from {', '.join(dataset.column_names)}."
            f"{nearest(by, dataset.column_names)}"
        )
    if isinstance(fraction, bool) or not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction={fraction!r} must lie between 0 and 1: the share of the groups to hold out.")
    shown = [(image_id, path) for image_id, path in zip(image_ids, paths, strict=True) if image_id]
    picture_of = _image_groups([image_id for image_id, _ in shown], [path for _, path in shown])
    keys: list[list[tuple]] = [[("image", picture_of[i])] if i else [] for i in image_ids]
    for column, paths in files.items():
        same = copies(paths)
        for of_row, path in zip(keys, paths, strict=True):
            of_row += [(column, same[path])] if path else []
    further = _have_more(plain)
    for row, (of_row, question) in enumerate(zip(keys, plain["question"][:], strict=True)):
        if not of_row:
            of_row.append(("row", row) if further[row] else ("question", " ".join(question.lower().split())))
    if by is not None:
        for of_row, value in zip(keys, plain[by][:], strict=True):
            of_row.append(("value", str(value)))
    parent = {key: key for of_row in keys for key in of_row}

    def root(key):
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    for first, *others in keys:
        for other in others:
            small, large = sorted((root(first), root(other)))
            parent[large] = small
    group_of_row = [root(of_row[0]) for of_row in keys]
    groups = sorted(set(group_of_row))
    if len(groups) < 2:
        what = f"values of {by!r}" if by is not None else "pictures, other files or questions"
        shared = [column for column, paths in paths_in(plain).items() if any(paths)]
        advice = f" Keep the files of one column together: split_by={shared[0]}." if len(shared) > 1 else ""
        raise ValueError(
            f"There is nothing to hold out: the {what} of these rows leave a single group, all of them.{advice}"
        )
    held_out_count = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    chosen = np.random.default_rng(seed).permutation(len(groups))[:held_out_count]
    held_out = {groups[index] for index in chosen}
    is_held_out = np.array([group in held_out for group in group_of_row])
    return dataset.select(np.flatnonzero(~is_held_out)), dataset.select(np.flatnonzero(is_held_out))


def _have_more(rows: datasets.Dataset) -> list[bool]:
    """Which rows have what is neither a question nor a file: numbers of their own, by which they differ."""
    found = [False] * len(rows)
    for kind in MODALITIES.values():
        if kind.column != "question" and kind.column in rows.column_names and not kind.in_files:
            for row, cell in enumerate(rows[kind.column][:]):
                found[row] = found[row] or not kind.lacks(cell)
    return found


def _image_groups(image_ids: list[str], paths: list[str]) -> dict[str, str]:
    """{image id: the smallest id that shows the same image}; ids are joined when they share a file or its bytes."""
    parent = {image_id: image_id for image_id in image_ids}

    def root(image_id: str) -> str:
        while parent[image_id] != image_id:
            parent[image_id] = image_id = parent[parent[image_id]]
        return image_id

    picture = copies(paths)
    first_of_picture: dict[str, str] = {}
    for image_id, path in dict.fromkeys(zip(image_ids, paths, strict=True)):
        if path:
            small, large = sorted((root(image_id), root(first_of_picture.setdefault(picture[path], image_id))))
            parent[large] = small
    return {image_id: root(image_id) for image_id in parent}
