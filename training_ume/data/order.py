"""The order of rows: those about one image side by side, long questions beside long ones."""

from __future__ import annotations

from datasets import Dataset

from training_ume.data.inputs import paths_in


def words(questions: list[str]) -> list[int]:
    """How many words each question has: as good as tokens for telling long ones from short ones."""
    return [len(question.split()) for question in questions]


def shared_files(dataset: Dataset) -> list[str]:
    """What rows may have in common that is encoded once a batch: the image, or else the first other file of a row."""
    files = paths_in(dataset)
    images = files.pop("image", [""] * len(dataset))
    for paths in files.values():
        images = [image or path for image, path in zip(images, paths, strict=True)]
    return images


def in_image_order(dataset: Dataset) -> tuple[Dataset, list[int]]:
    """
    Rows sorted by image (questions about one image in their old order), and the old index of each row.

    Images whose longest questions are alike stand together, so that batches have little padding.
    """
    images, longest = shared_files(dataset), {}
    for image, length in zip(images, words(dataset["question"][:]), strict=True):
        longest[image] = max(length, longest.get(image, 0))
    order = sorted(range(len(images)), key=lambda row: (longest[images[row]], images[row]))
    return dataset.select(order), order
