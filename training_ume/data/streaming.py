"""Data that outgrow a disk: parquet shards with the images inside, read from a folder or from the Hub while training.

`write_shards` makes them, `StreamedQuestions` reads one part of them. Which question comes when is planned from the
counts in the shards' index before anything is read, so that a resumed run reads on from where it stopped.
"""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate, chain, groupby, islice, pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from datasets.distributed import split_dataset_by_node
from huggingface_hub import hf_hub_download
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm

from training_ume.data.images import open_image
from training_ume.data.json_entries import VQADataError, check_count
from training_ume.data.rows import FEATURES
from training_ume.data.sampler import fill
from training_ume.records.files import read_json, write_json, writing

FORMAT = 1
INDEX = "index.json"
# Shards are dealt to processes whole: a multiple of 64 suits 1, 2, 4, 8, 16, 32 and 64 of them.
SHARDS, BYTES_PER_SHARD = 64, 500_000_000
# Images that are read together: some 5 MB, what a reader holds and what one request to the Hub brings.
GROUP_IMAGES = 64
# Images from among which the next one is drawn in training; they are held as files' bytes, some 100 MB.
SHUFFLE_IMAGES = 1024
PER_QUESTION = ("question_id", "question", "answers", "question_type", "answer_type")

SHARD_FEATURES = datasets.Features(
    {
        "image_id": datasets.Value("string"),
        "image": datasets.Image(),
        "questions": datasets.List({name: FEATURES[name] for name in PER_QUESTION}),
    }
)


# ---------------------------------------------------------------------------------------------------------- writing


def write_shards(
    parts: dict[str, datasets.Dataset], facts: dict[str, Any], folder: str | Path, shards: int | None = None
) -> dict:
    """
    Writes rows of `load_vqa` as parquet shards: a row an image, with its file's bytes and all its questions.

    The images of the part `train` come in a random order, the same every time; the questions are spread evenly over
    the shards. A shard appears under its name when it is whole; shards that are there already are compared with what
    they should hold and kept, so that the same call goes on where it was cut short.

    Args:
        parts (`dict[str, Dataset]`): rows by the part's name.
        facts: whatever else the reader needs; it must be JSON.
        folder: where to write.
        shards (`int`, *optional*): how many a part; defaults to a multiple of 64 with at most 500 MB in each.

    Returns:
        `dict`: the index: `format`, `facts`, and in `parts` by name `images`, `questions` and `shards` (`file`,
        `bytes`, and in `questions` how many there are about each image).

    Raises:
        ValueError: when the folder holds shards of anything else, or there are fewer images than shards.
        VQADataError: for an image that cannot be read, naming it.
    """
    folder = Path(folder)
    images = {name: _by_image(rows, shuffle=name == "train") for name, rows in parts.items()}
    if shards is None:
        size = sum(os.path.getsize(path) for groups in images.values() for path, _ in groups)
        shards = SHARDS * -(-size // (SHARDS * BYTES_PER_SHARD))
    for name, groups in images.items():
        if not 1 <= shards <= len(groups):
            raise ValueError(
                f"The {len(groups)} {name} images cannot fill {shards} shards: give a number between 1 and "
                f"{min(map(len, images.values()))} as --shards."
            )
    plan = [
        (f"{name}-{number:05d}-of-{shards:05d}.parquet", groups[start:end])
        for name, groups in images.items()
        for number, (start, end) in enumerate(pairwise(_bounds(groups, shards)))
    ]
    foreign = {path.name for path in folder.glob("*.parquet")} - {name for name, _ in plan}
    if foreign:
        raise ValueError(f"{folder} holds {min(foreign)}, which is no shard of these data: choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for file, groups in tqdm(plan, desc="shards", disable=None, leave=False):
        if (folder / file).exists():
            _check_same(folder / file, groups)
        else:
            _write_shard(folder / file, groups)
    written = {
        file: {
            "file": file,
            "bytes": (folder / file).stat().st_size,
            "questions": [len(rows) for _, rows in groups],
        }
        for file, groups in plan
    }
    index = {
        "format": FORMAT,
        "facts": facts,
        "parts": {
            name: {
                "images": len(groups),
                "questions": sum(len(rows) for _, rows in groups),
                "shards": [shard for file, shard in written.items() if file.startswith(f"{name}-")],
            }
            for name, groups in images.items()
        },
    }
    index = json.loads(json.dumps(index))  # as it reads back
    before = read_json(folder / INDEX)
    if before is None:
        write_json(folder / INDEX, index)  # last: it says that all is there
    elif before != index:
        raise ValueError(
            f"{folder / INDEX} describes the same rows prepared in another way (other answers, for example): choose "
            "another folder, or delete that file to write it anew."
        )
    return index


def _by_image(dataset: datasets.Dataset, shuffle: bool) -> list[tuple[str, list[dict]]]:
    """(path, its rows) of each image; two ids of one path count as two images."""
    rows = sorted(dataset.to_list(), key=lambda row: (row["image_id"], row["image"]))
    groups = [(path, list(rows)) for (_, path), rows in groupby(rows, key=lambda r: (r["image_id"], r["image"]))]
    without = next((rows[0]["question_id"] for path, rows in groups if not path), None)
    if without is not None:
        raise ValueError(f"question_id {without} has no image: shards hold images, so give the image folder.")
    if shuffle:
        groups = [groups[i] for i in np.random.default_rng(0).permutation(len(groups))]
    return groups


def _bounds(groups: Sequence, shards: int) -> list[int]:
    """Where to cut the images so that every shard has an image, and as many questions as the others: [shards + 1]."""
    before = np.cumsum([0, *(len(rows) for _, rows in groups)])
    cuts = [int(np.abs(before - before[-1] * k / shards).argmin()) for k in range(shards + 1)]
    for k in range(1, shards):
        cuts[k] = min(max(cuts[k], cuts[k - 1] + 1), len(groups) - (shards - k))
    return cuts


def _record(rows: list[dict]) -> dict:
    return {"image_id": rows[0]["image_id"], "questions": [{name: row[name] for name in PER_QUESTION} for row in rows]}


def _write_shard(path: Path, groups: Sequence[tuple[str, list[dict]]]) -> None:
    schema = SHARD_FEATURES.arrow_schema
    part = path.with_name(path.name + ".part")
    with (
        writing(path),
        parquet.ParquetWriter(part, schema) as writer,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        for start in range(0, len(groups), GROUP_IMAGES):
            some = groups[start : start + GROUP_IMAGES]
            contents = pool.map(_checked_bytes, [image for image, _ in some])
            table = [
                {**_record(rows), "image": {"bytes": content, "path": Path(image).name}}
                for (image, rows), content in zip(some, contents, strict=True)
            ]
            writer.write_table(pa.Table.from_pylist(table, schema=schema))
    os.replace(part, path)


def _checked_bytes(path: str) -> bytes:
    """A file's bytes, after decoding it once: no training run shall meet a broken image after days."""
    open_image(path)
    return Path(path).read_bytes()


def _check_same(path: Path, groups: Sequence[tuple[str, list[dict]]]) -> None:
    held = parquet.read_table(path, columns=["image_id", "questions"]).to_pylist()
    if held != [_record(rows) for _, rows in groups]:
        raise ValueError(f"{path} holds other rows than these data would put there: choose another folder.")


# ---------------------------------------------------------------------------------------------------------- reading


def open_shards(name: str | Path) -> tuple[dict[str, Any], dict[str, StreamedQuestions]]:
    """
    The facts and the parts of what `write_shards` wrote.

    Args:
        name: the folder, or the name of a data set on the Hub that holds its files.

    Raises:
        VQADataError: when there is no such index, or it is of another format.
    """
    root = str(name)
    if os.path.isdir(root):
        root = os.path.abspath(root)
        index = read_json(os.path.join(root, INDEX))
    else:
        try:
            index = read_json(hf_hub_download(root, INDEX, repo_type="dataset"))
        except (OSError, ValueError) as error:  # the Hub's own errors are among these
            raise VQADataError(
                f"{root!r} is neither a folder nor a data set on the Hub with an {INDEX} ({error}). Give what "
                "`ume shard` wrote."
            ) from error
        root = f"hf://datasets/{root}"
    if index is None:
        raise VQADataError(
            f"{root} has no {INDEX}: it is not from `ume shard`, or that was cut short. Repeat its command."
        )
    if index.get("format") != FORMAT:
        raise VQADataError(
            f"{root}/{INDEX} has format {index.get('format')!r}, this version reads {FORMAT}: write the shards again."
        )
    try:
        counts = [shard["questions"] for part in index["parts"].values() for shard in part["shards"]]
        whole = all(type(count) is int and count > 0 for count in chain.from_iterable(counts))
        check_count(sum(chain.from_iterable(counts)) if whole else 0, f"{root}/{INDEX}")
    except (AttributeError, KeyError, TypeError) as error:
        raise VQADataError(f"{root}/{INDEX} is damaged ({error!r}): fetch it, or write the shards, again.") from error
    if not whole:
        raise VQADataError(
            f"{root}/{INDEX} is damaged (a number of questions is no positive whole number): fetch it, or write the "
            "shards, again."
        )
    return index["facts"], {
        part: StreamedQuestions(root, part, content["shards"]) for part, content in index["parts"].items()
    }


class StreamedQuestions:
    """
    One part of the shards, read as a stream: `batches` gives its rows, images included, `part["question"]` a column.

    Rows have the columns of `load_vqa` and `image_bytes`; `image` is then only a name, unique in the part, that says
    where the image stands. As a data set for a `DataLoader` it takes what `batches` yields.

    Args:
        root: the folder, or `hf://datasets/…`.
        part: its name, for messages.
        shards: their entries in the index.
    """

    def __init__(self, root: str, part: str, shards: list[dict[str, Any]]):
        self.root, self.part, self.shards = root, part, shards

    def __len__(self) -> int:
        return sum(sum(shard["questions"]) for shard in self.shards)

    def __getitem__(self, column: str) -> datasets.arrow_dataset.Column:
        return self.table[column]

    def __getitems__(self, rows: list[dict]) -> list[dict]:
        return rows

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "table"}  # workers need no text

    @cached_property
    def table(self) -> datasets.Dataset:
        """All rows in the shards' order, without the images: of the files only the columns with text are read."""
        columns: dict[str, list] = {name: [] for name in FEATURES}
        for place, record in self.records(range(len(self.shards)), columns=["image_id", "questions"]):
            for question in range(len(record["questions"])):
                for name, value in self._row(place, record, question).items():
                    if name in columns:
                        columns[name].append(value)
        return datasets.Dataset(pa.Table.from_pydict(columns, schema=FEATURES.arrow_schema))

    def batches(self, batch_size: int, processes: int = 1, process: int = 0, seed: int | None = None) -> BatchStream:
        """Batches of rows for one of several processes; see [`BatchStream`]."""
        return BatchStream(self, batch_size, processes, process, seed)

    def loader(self, batches: BatchStream, collator, **options) -> DataLoader:
        """Collated batches. This process reads; the workers, where there are any, decode the images."""
        return DataLoader(self, batch_sampler=batches, collate_fn=collator, **options)

    def _stream(self, files: Iterable[str], columns: list[str] | None = None) -> datasets.IterableDataset:
        features = SHARD_FEATURES.copy()
        features["image"] = datasets.Image(decode=False)
        if columns is not None:
            features = datasets.Features({name: features[name] for name in columns})
        return datasets.load_dataset(
            "parquet",
            data_files=[f"{self.root}/{file}" for file in files],
            split="train",
            streaming=True,
            columns=columns,
            features=features,
        )

    def records(
        self, order: Sequence[int], processes: int = 1, process: int = 0, columns: list[str] | None = None
    ) -> Iterator[tuple[tuple[int, int], dict]]:
        """
        One process's images: ((shard, row), its record), shard after shard.

        Args:
            order: numbers of shards for all processes, whose `order[process::processes]` this process reads.
        """
        stream = self._stream([self.shards[number]["file"] for number in order], columns)
        records = iter(split_dataset_by_node(stream, rank=process, world_size=processes))
        for number in order[process::processes]:
            for row, count in enumerate(self.shards[number]["questions"]):
                record = next(records, None)
                if record is None or len(record["questions"]) != count:
                    raise VQADataError(
                        f"{self.root}/{self.shards[number]['file']} does not hold what {INDEX} says at row {row}: "
                        "fetch both again, or write the shards again."
                    )
                yield (number, row), record

    def _row(self, place: tuple[int, int], record: dict, question: int) -> dict:
        """One question of an image as a row."""
        number, row = place
        image = record.get("image") or {"path": None, "bytes": None}
        return {
            "image_id": record["image_id"],
            "image": f"{self.shards[number]['file']}#{row}",
            "image_bytes": image["bytes"],
            **record["questions"][question],
        }


class BatchStream(Sampler[list[dict]]):
    """
    The batches of one of several processes, read from the stream as they are asked for.

    Every process reads the same shards in every epoch, its equal share of them. They make the same number of steps,
    as many as the one with the most questions needs for batches of `batch_size`; each spreads its questions evenly
    over these steps, so that none is repeated or left out and a batch may be a question or two short. Questions about
    one image stand together, as in [`GroupedByImageSampler`].

    Args:
        part (`StreamedQuestions`): what to read.
        batch_size (`int`): the most questions in one batch of one process.
        processes (`int`, *optional*, defaults to 1), process (`int`, *optional*, defaults to 0): how many there are,
            and which of them this is.
        seed (`int`, *optional*): for an order that is random in (seed, epoch): of the shards, of the images among the
            next `SHUFFLE_IMAGES` that are read, and of each image's questions. Without it they come as they stand.

    Raises:
        ValueError: if the shards cannot be dealt evenly, or a process gets fewer questions than it has steps.
    """

    def __init__(self, part: StreamedQuestions, batch_size: int, processes: int, process: int, seed: int | None):
        self.part, self.processes, self.process, self.seed = part, processes, process, seed
        self.epoch = 0
        self._skipped = 0
        counts = [sum(shard["questions"]) for shard in part.shards]
        if len(counts) % processes:
            raise ValueError(
                f"{len(counts)} {part.part} shards cannot be dealt evenly to {processes} processes: start a number of "
                f"processes that divides {len(counts)}, or write shards anew with --shards, a multiple of {processes}."
            )
        self._questions = [sum(counts[p::processes]) for p in range(processes)]
        self._steps = -(-max(self._questions) // batch_size)
        if min(self._questions) < self._steps:
            raise ValueError(
                f"A process has {min(self._questions)} {part.part} questions for {self._steps} steps: use fewer "
                "processes, fewer shards or larger batches."
            )

    def __len__(self) -> int:
        return self._steps

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass; without it every pass has the same order."""
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Yields so many empty batches at the start of the next pass, for whoever throws them away unseen anyway."""
        self._skipped = batches

    def plan(self, process: int) -> list[list[tuple[int, int, int]]]:
        """(shard, row, question) of every question in every batch of a process in this epoch."""
        places = [
            (number, row)
            for number in self._order()[process :: self.processes]
            for row in range(len(self.part.shards[number]["questions"]))
        ]
        random = None if self.seed is None else np.random.default_rng((self.seed, self.epoch, 1, process))
        if random is not None:
            places = shuffled(places, SHUFFLE_IMAGES, random)
        images: deque[list[tuple[int, int, int]]] = deque()
        for number, row in places:
            questions = range(self.part.shards[number]["questions"][row])
            if random is not None:
                questions = random.permutation(len(questions)).tolist()
            images.append([(number, row, question) for question in questions])
        bounds = [self._questions[process] * k // self._steps for k in range(self._steps + 1)]
        sizes = [end - start for start, end in pairwise(bounds)]
        questions = (question for image in fill(images, sizes) for question in image)
        return [list(islice(questions, size)) for size in sizes]

    def positions(self) -> list[list[list[int]]]:
        """Where the questions of each batch stand in `part.table`: by step and process."""
        ends = accumulate((count for shard in self.part.shards for count in shard["questions"]), initial=0)
        places = ((n, row) for n, shard in enumerate(self.part.shards) for row in range(len(shard["questions"])))
        starts = dict(zip(places, ends, strict=False))  # one end more than places
        plans = [self.plan(process) for process in range(self.processes)]
        return [
            [[starts[number, row] + question for number, row, question in batch] for batch in step]
            for step in zip(*plans, strict=True)
        ]

    def _order(self) -> list[int]:
        """The numbers of the shards; each process has its own, every `processes`-th, in an order of its own."""
        order = list(range(len(self.part.shards)))
        if self.seed is not None:
            for process in range(self.processes):
                random = np.random.default_rng((self.seed, self.epoch, 0, process))
                order[process :: self.processes] = random.permutation(order[process :: self.processes]).tolist()
        return order

    def __iter__(self) -> Iterator[list[dict]]:
        skipped, self._skipped = self._skipped, 0
        plan = self.plan(self.process)[skipped:]
        uses = Counter((number, row) for batch in plan for number, row, _ in batch)
        order = self._order()
        # Shards of which nothing is needed any more are not read.
        needed = {number for number, _ in uses}
        own = order[self.process :: self.processes]
        first = next((k for k, number in enumerate(own) if number in needed), len(own))
        yield from ([] for _ in range(skipped))
        records = self.part.records(order[first * self.processes :], self.processes, self.process)
        held: dict[tuple[int, int], dict] = {}
        for batch in plan:
            rows = []
            for number, row, question in batch:
                while (number, row) not in held:
                    place, record = next(records)
                    if place in uses:
                        held[place] = record
                rows.append(self.part._row((number, row), held[number, row], question))
                uses[number, row] -= 1
                if not uses[number, row]:
                    del held[number, row]
            yield rows


def shuffled(items: Iterable, size: int, random: np.random.Generator) -> Iterator:
    """Draws the next item from `size` held ones and takes in another: an order that can be read from a stream."""
    held: list = []
    for item in items:
        if len(held) < size:
            held.append(item)
            continue
        k = int(random.integers(size))
        yield held[k]
        held[k] = item
    yield from (held[k] for k in random.permutation(len(held)))
