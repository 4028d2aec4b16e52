"""Splitting rows so that what must not be on both sides is not."""

from __future__ import annotations

import datasets
import numpy as np

from modeling_ume.stored_ume import nearest
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

    Pictures stay together, as in `split_by_image`, whose choice this is where every row has one; so do, of rows
    without a picture, those that ask the same; and with `by` all rows that have one value in that column. The fraction
    is one of these groups, not of the rows.

    Args:
        by (`str`, *optional*): a column, such as `patient`.

    Raises:
        ValueError: for a column that there is not, or that has one value, and a fraction that leaves one side empty.
    """
    plain = dataset.with_format(None)
    image_ids, paths = plain["image_id"][:], plain["image"][:]
    if by is None and all(image_ids):
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
    questions = plain["question"][:]
    kept_together = [
        ("image", picture_of[image_id]) if image_id else ("question", " ".join(question.lower().split()))
        for image_id, question in zip(image_ids, questions, strict=True)
    ]
    values = [None] * len(dataset) if by is None else [("value", str(value)) for value in plain[by][:]]
    parent = {key: key for pair in zip(kept_together, values, strict=True) for key in pair if key is not None}

    def root(key):
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    for first, value in zip(kept_together, values, strict=True):
        if value is not None:
            small, large = sorted((root(first), root(value)))
            parent[large] = small
    group_of_row = [root(key) for key in kept_together]
    groups = sorted(set(group_of_row))
    if len(groups) < 2:
        what = f"values of {by!r}" if by is not None else "pictures or questions"
        raise ValueError(f"There is nothing to hold out: the {what} of these rows leave a single group, all of them.")
    held_out_count = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    chosen = np.random.default_rng(seed).permutation(len(groups))[:held_out_count]
    held_out = {groups[index] for index in chosen}
    is_held_out = np.array([group in held_out for group in group_of_row])
    return dataset.select(np.flatnonzero(~is_held_out)), dataset.select(np.flatnonzero(is_held_out))


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
