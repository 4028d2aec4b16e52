"""An order of questions in which those about one image stand together, so that a batch encodes fewer images.

The collator encodes each distinct image of a batch once; `GroupedByImageSampler` makes batches with few distinct
images, and `ProcessBatches` deals them to the processes that train together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise, repeat

import numpy as np
from torch.utils.data import Sampler

# How many images ahead may be preferred because they just fill a batch. Small, so that the order stays random.
LOOK_AHEAD = 32
# How many batches' images are sorted by length: enough for most of what sorting all would save, few of an epoch.
WINDOW = 8


class GroupedByImageSampler(Sampler[int]):
    """Yields every index once an epoch, the questions of one image next to one another.

    The images come in an order that is random in (seed, epoch), and so do the questions of an image. When the next
    image has more questions than the batch has room, the largest of the following images that fits goes first; when
    none fits, the image is continued in the next batch. Batches are cut from the order by `ProcessBatches`, or by an
    ordinary `BatchSampler`.

    Args:
        image_ids (`Sequence` of hashable): the image of each row of the data set, e.g. `dataset["image"]`.
        batch_size (`int`): questions of one step, of all processes together, at least 1.
        seed (`int`, *optional*, defaults to 0): not negative.
        lengths (`Sequence[int]`, *optional*): how long each question is. Of every `WINDOW` batches' images those whose
            longest questions are alike then share a batch, and these batches come in random order.
    """

    def __init__(self, image_ids: Sequence, batch_size: int, seed: int = 0, lengths: Sequence[int] | None = None):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1.")
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative.")
        number_of_image: dict = {}
        # The slice reads a column of a data set at once; iterating over it would read row by row.
        images = image_ids[:]
        numbers = np.fromiter((number_of_image.setdefault(image, len(number_of_image)) for image in images), np.int64)
        if not len(numbers):
            raise ValueError("image_ids is empty: there is nothing to sample.")
        # Rows sorted by image, and where each image's rows begin and end: [N], [U + 1].
        self._rows = np.argsort(numbers, kind="stable")
        self._bounds = np.concatenate([[0], np.cumsum(np.bincount(numbers))])
        self._longest = None  # of each image: [U]
        if lengths is not None:
            self._longest = np.maximum.reduceat(np.asarray(lengths)[self._rows], self._bounds[:-1])
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass; without it every pass has the same order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        images = random.permutation(len(self._bounds) - 1)
        if self._longest is not None:
            counts = np.diff(self._bounds)[images]
            window = (np.cumsum(counts) - counts) // (WINDOW * self.batch_size)
            images = images[np.lexsort((self._longest[images], window))]
        waiting = deque(
            random.permutation(self._rows[self._bounds[image] : self._bounds[image + 1]]).tolist() for image in images
        )
        rows = chain.from_iterable(fill(waiting, repeat(self.batch_size)))
        if self._longest is None:
            yield from rows
            return
        while batches := [batch for _ in range(WINDOW) if (batch := list(islice(rows, self.batch_size)))]:
            # One that is not full stays the last of all.
            short = batches.pop() if len(batches[-1]) < self.batch_size else []
            for k in random.permutation(len(batches)):
                yield from batches[k]
            yield from short


def fill(waiting: deque[Sequence], sizes: Iterable[int]) -> Iterator[Sequence]:
    """Orders groups of rows, so that few of them are cut where batches of these sizes end; empties `waiting`."""
    sizes = iter(sizes)
    size = room = next(sizes)
    while waiting:
        chosen = 0
        # An empty batch takes the image whose turn it is, so none waits for ever.
        if len(waiting[0]) > room and room < size:
            fitting = (k for k in range(min(LOOK_AHEAD, len(waiting))) if len(waiting[k]) <= room)
            chosen = max(fitting, key=lambda k: len(waiting[k]), default=0)
        rows = waiting[chosen]
        del waiting[chosen]
        yield rows
        left = len(rows)
        while left >= room and waiting:
            left -= room
            size = room = next(sizes)
        room -= left


class ProcessBatches(Sampler[list[int]]):
    """The batches of one of several processes that train together, cut from one order of rows.

    Each step takes the next rows of the order, split evenly over the processes, so that n processes learn from the
    same rows at each step as one process with n times the batch size. Every row comes exactly once: none is repeated
    to fill the last step, which is split evenly too. Should it have fewer rows than there are processes, the step
    before gives it some of its own. Only with batches of one row there is none to give: then the first rows of the
    order come once more, at most one fewer than there are processes. No batch has more than `batch_size` rows.

    Args:
        sampler (`Sampler[int]`): the order, the same in every process.
        batch_size (`int`): the most rows in one batch of one process.
        processes (`int`, *optional*, defaults to 1), process (`int`, *optional*, defaults to 0): how many there are,
            and which of them this is.
        drop_last (`bool`, *optional*, defaults to `False`): leave out the last step where it is not full.

    Raises:
        ValueError: if there are fewer rows than processes, or no full step with `drop_last`.
    """

    def __init__(
        self, sampler: Sampler[int], batch_size: int, processes: int = 1, process: int = 0, drop_last: bool = False
    ):
        self.sampler = sampler
        self.processes = processes
        self.process = process
        step, rows = batch_size * processes, len(sampler)
        if rows < (step if drop_last else processes):
            raise ValueError(
                f"{rows} rows are too few for {processes} processes with batches of {batch_size}: use fewer processes "
                "or smaller batches."
            )
        # Where the steps begin and end: [steps + 1].
        self._bounds = list(range(0, rows + 1, step))
        left = rows - self._bounds[-1]
        if left and not drop_last:
            short = max(0, processes - left)  # in the last step, of one row for each process
            if batch_size > 1:
                self._bounds[-1] -= short
                short = 0
            self._bounds.append(rows + short)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self.sampler)
        rows += rows[: max(0, self._bounds[-1] - len(rows))]
        for start, end in pairwise(self._bounds):
            first, last = (start + (end - start) * k // self.processes for k in (self.process, self.process + 1))
            yield rows[first:last]
