"""Spoken digits beside handwritten ones: recordings of the Free Spoken Digit Dataset, paired with MNIST's images.

In the manner of AV-MNIST, of which the literature has several variants; this one is what `SpokenDigitsSource` says.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from PIL import Image

from training_ume.data.json_entries import VQADataError
from training_ume.data.rows import _Problems
from training_ume.data.sources.base import Layout, Source
from training_ume.data.tables.memory import from_entries
from training_ume.data.tables.table import Table

RECORDING = re.compile(r"(\d)_([A-Za-z]+)_(\d+)\.(?:wav|flac)")
IMAGES = re.compile(r".*images.*idx3-ubyte(?:\.gz)?")
TEST_BELOW = 5  # of each speaker and digit the recordings 0 to 4 are the data set's own test part
PAIRS = {"train": 4, "test": 1}  # images to a recording
TEST_IMAGES = 0.2  # of the images: none of them is trained on
NOISE = 1.5  # its deviation, where a pixel is 0 to 1
LOWEST, HIGHEST = -4.5, 5.5  # what black and white of the stored images stand for: three deviations on both sides


@dataclass(frozen=True)
class SpokenDigitsSource(Source):
    """
    `data` is a folder with `recordings/` and MNIST's idx files (images and labels, `.gz` or not). `split` is train or
    test (the recordings 0 to 4 of each speaker and digit). `name` is the noise on the images, `"1.5"` by default.

    Every recording stands beside images of its digit, four in training and one in the test part; a fifth of the
    images are kept for the test part. Which ones, and the noise on them, are drawn with a fixed seed. Noise takes a
    pixel out of 0 … 1; the stored images hold -4.5 … 5.5 in 256 steps.
    """

    def recognises_path(self, path: str) -> bool:
        return os.path.isdir(os.path.join(path, "recordings")) and bool(_idx_files(path))

    def open(self, data: Any, split: str | None, name: str | None, cache_dir, problems: _Problems) -> Table:
        split, folder = split or "train", os.path.abspath(os.path.expanduser(os.fspath(data)))
        if split not in PAIRS:
            raise ValueError(f"Spoken digits have the splits {' and '.join(PAIRS)}, not {split!r}.")
        try:
            noise = NOISE if name is None else float(name)
        except ValueError as error:
            raise ValueError(
                f"The name of spoken digits is the noise on the images, a number: not {name!r}."
            ) from error
        recordings = _recordings(folder, problems)
        images, labels = _images(folder)
        order = np.random.default_rng(0).permutation(len(images))
        held_out = int(TEST_IMAGES * len(images))
        chosen = order[:held_out] if split == "test" else order[held_out:]
        by_digit = {digit: chosen[labels[chosen] == digit] for digit in range(10)}
        place = os.path.join(
            os.path.abspath(cache_dir or datasets.config.HF_DATASETS_CACHE), "spoken_digits", f"noise_{noise:g}"
        )
        os.makedirs(place, exist_ok=True)
        rows, taken = [], dict.fromkeys(by_digit, 0)
        for digit, speaker, number, path in recordings:
            if (number < TEST_BELOW) != (split == "test"):
                continue
            if not len(by_digit[digit]):
                problems.add("missing_image", path, f"digit {digit}", "there is no image of this digit")
                continue
            for _ in range(PAIRS[split]):
                image = int(by_digit[digit][taken[digit] % len(by_digit[digit])])
                taken[digit] += 1
                rows.append(
                    {
                        "audio": path, "image": _written(images[image], image, noise, place), "digit": str(digit),
                        "image_id": str(image), "speaker": speaker,
                    }
                )  # fmt: skip
        if not rows:
            raise VQADataError(f"{folder} has no recording of the {split} part.")
        # Not digit by digit, as the files are named: the first rows of a table shall be like all of them.
        table = from_entries([rows[i] for i in np.random.default_rng(2).permutation(len(rows))])
        table.name, table.container, table.took_split = f"{folder}, {split}", "recordings and idx files", True
        return table


def _recordings(folder: str, problems: _Problems) -> Iterable[tuple[int, str, int, str]]:
    """(digit, speaker, number, path) of each recording, in the order of their names."""
    place = os.path.join(folder, "recordings")
    if not os.path.isdir(place):
        raise VQADataError(
            f"{folder} has no folder recordings, which holds files such as 3_jackson_12.wav: give the folder of the "
            "Free Spoken Digit Dataset, with MNIST's idx files beside recordings."
        )
    found = []
    for file in sorted(os.listdir(place)):
        if match := RECORDING.fullmatch(file):
            found.append((int(match[1]), match[2].lower(), int(match[3]), os.path.join(place, file)))
        elif file.lower().endswith((".wav", ".flac")):
            reason = "a recording is named by its digit, speaker and number, such as 3_jackson_12.wav"
            problems.add("malformed_entry", os.path.join(place, file), file, reason)
    return found


def _idx_files(folder: str) -> list[str]:
    return sorted(file for file in os.listdir(folder) if IMAGES.fullmatch(file))


def _images(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """All images [n, height, width] of 0 … 255 in the folder, and their digits [n]."""
    files = _idx_files(folder)
    if not files:
        raise VQADataError(
            f"{folder} has no images of MNIST beside recordings: files such as t10k-images-idx3-ubyte.gz and "
            "t10k-labels-idx1-ubyte.gz."
        )
    images, labels = [], []
    for file in files:
        images.append(_idx(os.path.join(folder, file), 3))
        labels.append(_idx(os.path.join(folder, file.replace("images", "labels").replace("idx3", "idx1")), 1))
        if len(images[-1]) != len(labels[-1]):
            raise VQADataError(f"{file} has {len(images[-1])} images, and its labels are {len(labels[-1])}.")
    return np.concatenate(images), np.concatenate(labels)


def _idx(path: str, dimensions: int) -> np.ndarray:
    """The bytes of an idx file: a magic number whose last byte counts dimensions, their sizes, the values."""
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise VQADataError(f"{path} cannot be read ({error}). Download it again.") from error
    sizes = np.frombuffer(content[4 : 4 + 4 * dimensions], ">i4")
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) - start != int(np.prod(sizes)):
        raise VQADataError(f"{path} is no idx file of {dimensions} dimensions, or not all of it: download it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _written(pixels: np.ndarray, number: int, noise: float, place: str) -> str:
    """The file of an image with noise that is its own, which is made once."""
    path = os.path.join(place, f"{number}.png")
    if not os.path.isfile(path):
        noisy = pixels / 255 + np.random.default_rng((1, number)).normal(0, noise, pixels.shape)
        stored = (noisy.clip(LOWEST, HIGHEST) - LOWEST) / (HIGHEST - LOWEST) * 255
        part = f"{path}.{os.getpid()}"  # several processes may make the same
        Image.fromarray(stored.round().astype(np.uint8)).save(part, "PNG")
        os.replace(part, path)
    return path


SPOKEN_DIGITS = SpokenDigitsSource(
    name="spoken_digits",
    title="Spoken digits × MNIST",
    layouts=(
        Layout(
            {"audio": "audio", "image": "image", "image_id": "image_id", "answers": "digit"},
            marks=frozenset({"speaker"}),
            tells=False,
        ),
    ),
    scores=("exact_match",),
    by=("speaker",),
    url="https://github.com/Jakobovski/free-spoken-digit-dataset and MNIST's idx files",
    licence="CC BY-SA 4.0 (recordings)",
    size="3,000 recordings of six speakers, 70,000 images",
    pictures="MNIST's idx files beside the folder recordings; noise is drawn on them into the cache.",
)
