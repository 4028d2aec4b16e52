"""What a frozen encoder says about every image and every question, computed once and read back ever after.

A cache is a folder a modality: `manifest.json` (of which encoder, how, how many rows), shards of float16 rows, and an
index a shard. Rows are found by content (SHA-256 of the image file or the question), never by name or position.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm

from modeling_ume import UMEForVisualQuestionAnswering
from training_ume.collator import VQACollator
from training_ume.feature_keys import file_stamps, tokenizer_digest, weights_digest
from training_ume.results import WriteError, read_json, write_json, writing

# Of the files and of the key. 1: the key did not say to which layer weights belong.
FORMAT = 2
MODALITIES = ("text", "vision")
SHARD_NAME = re.compile(r"shard-\d{5,}\.bin")
# The column of `load_vqa` that a modality encodes, and what the collator and the recipes call it.
COLUMN = {"text": "question", "vision": "image"}
# A shard is what a kill can cost: some 80 MB at ViT-B/16-224, 60 MB of questions at BERT-base.
ROWS_PER_SHARD = {"text": 4096, "vision": 256}
# Rows encoded together. Fixed, so that the same data give the same bits whoever builds them, in whatever pieces.
BATCH_ROWS = {"text": 128, "vision": 32}
# Of an encoder's config: where it came from and what stands behind it, which features do not depend on.
NOT_FEATURES = {
    "_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "id2label", "label2id",
    "num_labels", "problem_type", "auto_map", "finetuning_task", "attn_implementation", "_attn_implementation",
    "_attn_implementation_internal",
}  # fmt: skip
REPAIR = "Delete that file and build the cache again: only this shard is computed anew."


# ---------------------------------------------------------------------------------------------------------- identity


def describe(modality: str, model: UMEForVisualQuestionAnswering, collator: VQACollator) -> dict[str, Any]:
    """
    Everything that decides what the features of an image or a question are.

    The weights count, not the name they were loaded by: a branch moves on, a folder is renamed. Attention kernels and
    batch sizes do not count; they change the last bits only.

    Returns:
        `dict`: `format` (of the files), `modality`, `encoder` (its config), `weights` (SHA-256, see
        `weights_digest`), `pooling`; for vision `feature_grid` and the `processor`'s settings, for text the
        `tokenizer` (SHA-256) and `max_question_length`.
    """
    encoder, adapter = model.ume.encoder(modality), model.ume._adapters[modality]
    config = {name: value for name, value in encoder.config.to_diff_dict().items() if name not in NOT_FEATURES}
    key = {
        "format": FORMAT,
        "modality": modality,
        "encoder": config,
        "weights": weights_digest(encoder),
        "pooling": adapter.pooling,
    }
    if modality == "vision":
        image_processor = collator.processor.image_processor
        settings = {name: value for name, value in image_processor.to_dict().items() if "processor_class" not in name}
        # The class itself: with and without torchvision one name stands for two, whose resizing differs a little.
        key["processor"] = {**settings, "image_processor_type": type(image_processor).__name__}
        key["feature_grid"] = adapter.feature_grid
    else:
        key["tokenizer"] = tokenizer_digest(collator.processor.tokenizer)
        key["max_question_length"] = collator.question_limit
    return json.loads(json.dumps(key, default=str))  # as it reads back from the manifest


def differences(cached: dict, own: dict, prefix: str = "") -> list[str]:
    """One phrase for each setting in which two keys differ."""
    found = []
    for name in sorted(cached.keys() | own.keys()):
        before, now = cached.get(name), own.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            found += differences(before, now, f"{prefix}{name}.")
        elif before != now:
            found.append(f"{prefix}{name} is {_short(before)} in the cache and {_short(now)} here")
    return found


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:12]}…{text[-1]}"


def question_key(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()


# ----------------------------------------------------------------------------------------------------------- reading


def check_manifest(folder: Path | str, manifest: dict, key: dict) -> None:
    """
    Raises:
        ValueError: when the features are not those of the model and the processor that `key` (see `describe`) stands
            for; the message lists what differs.
    """
    written = manifest["key"].get("format")
    if written != key["format"]:
        raise ValueError(
            f"The feature cache {folder} is of format {written}, and this release reads format {key['format']}: the "
            "keys of earlier ones did not tell apart all that changes features. Delete the folder and build the cache "
            "again, or give another --feature_cache."
        )
    found = differences(manifest["key"], key)
    if found:
        origin = manifest["origin"]
        made = f"{origin['name']!r}, revision {origin['revision']}" if origin["name"] else "a new encoder"
        raise ValueError(
            f"The feature cache {folder} (made with {made}) does not match this run: {'; '.join(found)}. Give the "
            "recipe that it was made with, or another --feature_cache."
        )


class FeatureCache:
    """
    The features of one modality, mapped into memory: a row is read when it is asked for.

    Sizes and indices are checked when the cache is opened, which takes no time; the checksums of the features, which
    were written with them, only by `verify`, since that reads every byte.

    Args:
        folder: holds `manifest.json`, as `build_features` writes it.

    Raises:
        ValueError: when there is no cache in the folder, or a shard is missing, cut off or has an index that is not as
            it was written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        manifest = read_json(self.folder / "manifest.json")
        if manifest is None:
            raise ValueError(
                f"There is no feature cache in {self.folder}: make one with scripts/cache_features.py, given the same "
                "recipe and --feature_cache."
            )
        self.manifest = manifest
        try:
            self._open(manifest)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error

    def _damaged(self, reason: str) -> ValueError:
        return ValueError(
            f"The feature cache is damaged: {self.folder / 'manifest.json'} is not as it was written ({reason}). "
            "Delete that file and build the cache again; what is whole is kept."
        )

    def _open(self, manifest: dict) -> None:
        self.modality = manifest["key"]["modality"]
        if self.modality not in MODALITIES:
            raise self._damaged(f"the modality {self.modality!r} is none of {' and '.join(MODALITIES)}")
        self.width, self.pooled_width = manifest["width"], manifest["pooled_width"]
        self._row_of_key: dict[str, int] = {}
        self._row_of_item: dict[str, int] = {}
        lengths, starts, shards = [], [], []
        for number, shard in enumerate(manifest["shards"]):
            index = self._read_index(shard)
            self._row_of_key.update(zip(index["keys"], range(len(self._row_of_key), manifest["rows"]), strict=False))
            lengths.append(np.array(index["lengths"], np.int64))
            values = lengths[-1] * self.width + self.pooled_width
            if 2 * values.sum() != shard["bytes"]:
                raise self._damaged(f"rows of width {self.width} and {self.pooled_width} do not fill {shard['file']}")
            starts.append(np.cumsum(values) - values)
            shards.append(np.full(len(values), number))
        join = np.concatenate if lengths else (lambda _: np.zeros(0, np.int64))
        self.lengths, self._starts, self._shards = join(lengths), join(starts), join(shards)  # [rows] each
        self._maps: dict[int, np.ndarray] = {}
        grid, tokens = manifest["grid"], set(self.lengths.tolist())
        if grid is not None and (
            self.modality != "vision" or len(grid) != 2 or any(grid[0] * grid[1] > n for n in tokens)
        ):
            raise self._damaged(f"the grid {grid} is not that of its rows")
        self._stamps = read_json(self.folder / "files.json") or {}
        self._read_anew: dict[str, list] = {}  # stamps of files that had to be read to know them

    def _read_index(self, shard: dict) -> dict:
        if not SHARD_NAME.fullmatch(shard["file"]):  # nor does a manifest from elsewhere lead out of the folder
            raise self._damaged(f"{shard['file']!r} is no shard's name")
        path = self.folder / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes instead of {shard['bytes']}"
            raise ValueError(f"The feature cache is damaged: {path} {found}. {REPAIR}")
        index = path.with_suffix(".json")
        content = index.read_bytes() if index.is_file() else b""
        if hashlib.sha256(content).hexdigest() != shard["index_sha256"]:
            raise ValueError(f"The feature cache is damaged: {index} is not as it was written. {REPAIR}")
        return json.loads(content)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getstate__(self) -> dict:
        # A worker process maps the files itself; pickled maps would carry the features along.
        return {**self.__dict__, "_maps": {}}

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Row → token states [N, D] and summary [D_p], float16, straight from the mapped file."""
        shard, start = int(self._shards[row]), int(self._starts[row])
        if shard not in self._maps:
            path = self.folder / self.manifest["shards"][shard]["file"]
            self._maps[shard] = np.asarray(np.memmap(path, np.float16, mode="r"))
        between = start + self.pooled_width
        end = between + int(self.lengths[row]) * self.width
        values = self._maps[shard]
        return values[between:end].reshape(-1, self.width), values[start:between]

    def keys(self) -> list[str]:
        """The content hash of every row, in the order of the rows."""
        return list(self._row_of_key)

    def check(self, key: dict) -> None:
        """See `check_manifest`."""
        check_manifest(self.folder, self.manifest, key)

    def locate(self, items: Sequence[str]) -> list[int]:
        """
        The rows of images (paths of files) or questions (texts).

        Raises:
            ValueError: naming the first of those that the cache lacks.
            VQADataError: for an image file that cannot be read.
        """
        new = [item for item in dict.fromkeys(items) if item not in self._row_of_item]
        if new:
            if self.modality == "vision":
                stamps = file_stamps(new, self._stamps)
                keys = [stamp[-1] for stamp in stamps.values()]
                self._read_anew |= {path: stamp for path, stamp in stamps.items() if stamp != self._stamps.get(path)}
            else:
                keys = [question_key(question) for question in new]
            rows = [self._row_of_key.get(key) for key in keys]
            missing = [item for item, row in zip(new, rows, strict=True) if row is None]
            if missing:
                raise ValueError(
                    f"The feature cache {self.folder} lacks {len(missing)} of {len(new)} {COLUMN[self.modality]}s, "
                    f"the first is {missing[0]!r}: complete it with scripts/cache_features.py, given the same recipe "
                    "and --feature_cache; what it holds is kept."
                )
            self._row_of_item.update(zip(new, rows, strict=True))
        return [self._row_of_item[item] for item in items]

    def remember_files(self) -> None:
        """Keeps the stamps of files that `locate` had to read, so that the next run need not; where it may write."""
        if self._read_anew:
            self._stamps = {**(read_json(self.folder / "files.json") or {}), **self._read_anew}
            self._read_anew = {}
            with suppress(OSError, WriteError):
                write_json(self.folder / "files.json", self._stamps)

    def batch(self, items: Sequence[str], padding_side: str = "right") -> dict[str, Tensor]:
        """
        What `UMEForVisualQuestionAnswering.forward` takes instead of tokens or pixels, in float16.

        Returns:
            For text `text_states` [B, L, D], `attention_mask` [B, L] and `text_pooled` [B, D_p]; for vision
            `vision_states` [U, N, D], `vision_pooled` [U, D_p] and, where the image has one, `vision_grid` [2].
        """
        rows = [self[row] for row in self.locate(items)]
        longest = max(1, *(len(states) for states, _ in rows))  # 1: questions without any token
        states = np.zeros((len(rows), longest, self.width), np.float16)
        mask = np.zeros((len(rows), longest), np.int64)
        for i, (tokens, _) in enumerate(rows):
            real = slice(longest - len(tokens), None) if padding_side == "left" else slice(0, len(tokens))
            states[i, real], mask[i, real] = tokens, 1
        batch = {f"{self.modality}_states": torch.from_numpy(states)}
        if self.modality == "text":
            batch["attention_mask"] = torch.from_numpy(mask)
        batch[f"{self.modality}_pooled"] = torch.from_numpy(np.stack([pooled for _, pooled in rows]))
        if self.manifest["grid"] is not None:
            batch["vision_grid"] = torch.tensor(self.manifest["grid"])
        return batch

    def verify(self) -> None:
        """
        Reads every shard and compares its checksum with the one it was written with.

        Raises:
            ValueError: naming the first shard that is not as it was written.
        """
        for shard in self.manifest["shards"]:
            self.verify_shard(shard)

    def verify_shard(self, shard: dict) -> None:
        """The same of one entry of the manifest's `shards`."""
        path = self.folder / shard["file"]
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(2**22):
                digest.update(block)
        if digest.hexdigest() != shard["sha256"]:
            raise ValueError(f"The feature cache is damaged: {path} is not as it was written. {REPAIR}")


def open_features(
    folder: str | Path,
    model: UMEForVisualQuestionAnswering,
    collator: VQACollator,
    frozen: Sequence[str],
    datasets: Sequence[Dataset],
) -> dict[str, FeatureCache]:
    """
    The caches of a folder that stand in for the encoders of a training, checked against all that it needs.

    Args:
        model: with the weights that the encoders have now and, being frozen, keep.
        collator: prepares questions and images for the encoders; its `inputs` say which of them are needed.
        frozen: the modalities whose encoders are not trained; only these can be replaced.
        datasets: rows of `load_vqa` whose questions and images must all be there.

    Raises:
        ValueError: when the folder holds no features of a frozen encoder, or they do not match (see `FeatureCache`).
    """
    there = [modality for modality in MODALITIES if (Path(folder) / modality / "manifest.json").is_file()]
    used = [modality for modality in there if modality in frozen]
    if not used:
        holds = f"holds features of {' and '.join(there)} alone" if there else "is no feature cache"
        raise ValueError(
            f"feature_cache={str(folder)!r} {holds}, while the recipe freezes {' and '.join(frozen) or 'no encoder'}: "
            "features replace frozen encoders only. Make them with scripts/cache_features.py, or set freeze_text or "
            "freeze_vision."
        )
    seen = {"both": MODALITIES, "question": ("text",), "image": ("vision",)}[collator.inputs]
    caches = {}
    for modality in used:
        if modality in seen:
            caches[modality] = FeatureCache(Path(folder) / modality)
            caches[modality].check(describe(modality, model, collator))
            caches[modality].locate([item for dataset in datasets for item in dataset[COLUMN[modality]][:]])
            caches[modality].remember_files()
    return caches


# ---------------------------------------------------------------------------------------------------------- building


def build_features(
    folder: str | Path,
    modality: str,
    model: UMEForVisualQuestionAnswering,
    collator: VQACollator,
    rows: Sequence[dict[str, Any]],
    origin: dict[str, str | None],
    process: int = 0,
    processes: int = 1,
) -> dict[str, Any]:
    """
    Encodes what the cache does not hold yet; to be called by every one of `processes` processes alike.

    A shard appears under its name when it is whole, and what is whole is never computed again: after a kill the same
    call goes on where the last one stood. Processes share nothing but the folder: shard number n belongs to process
    n modulo `processes`, and whichever finds every shard there writes the manifest.

    Args:
        folder: the folder of this modality.
        model: its encoder is run on the model's device, in eval mode.
        collator: of the same modality (`inputs="image"` or `"question"`), as for training.
        rows: `{"question_id", "question", "image"}`; equal ones are encoded once.
        origin: `name` and `revision` of the encoder, for the record.

    Returns:
        `dict`: `rows` of the cache as a whole, `encoded` by this process now, its `seconds`, and whether the cache is
        `complete` (if not, other processes are still at work).

    Raises:
        ValueError: when the folder holds features of another encoder, or features that float16 cannot hold.
        VQADataError: for an image that cannot be read, naming it.
    """
    started = time.perf_counter()
    folder = Path(folder)
    key = describe(modality, model, collator)
    manifest = _begin(folder, key, origin, model)
    stamps: dict[str, list] = {}
    items = dict.fromkeys(row[COLUMN[modality]] for row in rows)
    if modality == "vision":
        stamps = file_stamps(items, (read_json(folder / "files.json") or {}))
        keys = {path: stamp[-1] for path, stamp in stamps.items()}
    else:
        keys = {question: question_key(question) for question in items}
    row_of_key: dict[str, dict] = {}
    for row in rows:
        row_of_key.setdefault(keys[row[COLUMN[modality]]], row)

    shards = whole_shards(folder)
    held = {key for index in shards.values() for key in index["keys"]}
    todo = [key for key in row_of_key if key not in held]
    free = (number for number in range(len(shards) + len(todo)) if number not in shards)
    plan = [(next(free), part) for part in _pieces(todo, ROWS_PER_SHARD[modality])]
    # By number, not by position: a process that starts late and sees fewer open shards still agrees on whose they are.
    mine = {number: part for number, part in plan if number % processes == process}
    if modality == "text":  # little padding in a batch
        mine = {n: sorted(part, key=lambda key: len(row_of_key[key]["question"])) for n, part in mine.items()}
    encoded = sum(map(len, mine.values()))
    batches = [
        [row_of_key[key] for key in keys] for part in mine.values() for keys in _pieces(part, BATCH_ROWS[modality])
    ]
    with (
        tqdm(total=encoded, desc=f"{modality} features", unit="row", disable=process > 0 or None) as progress,
        closing(_encode(modality, model, collator, batches)) as results,
        ThreadPoolExecutor(1) as writer,
    ):
        saved: Future | None = None
        for number, part in mine.items():
            items = [row_of_key[key][COLUMN[modality]] for key in part]
            count = len(_pieces(part, BATCH_ROWS[modality]))
            shard = _join(items, islice(results, count), progress.update)
            if saved is not None:
                saved.result()
            # The encoder goes on while this one is hashed and written.
            saved = writer.submit(_save, folder, number, part, *shard)
        if saved is not None:
            saved.result()
    complete = finish(folder, manifest, row_of_key, stamps)
    rows_held = sum(len(index["keys"]) for index in whole_shards(folder).values())
    seconds = time.perf_counter() - started
    return {"rows": rows_held, "encoded": encoded, "seconds": seconds, "complete": complete}


def _begin(folder: Path, key: dict, origin: dict, model: UMEForVisualQuestionAnswering) -> dict:
    adapter = model.ume._adapters[key["modality"]]
    manifest = {
        "key": key,
        "origin": origin,
        "dtype": "float16",
        "row": "summary [pooled_width], then token states [tokens, width]",
        "width": adapter.width,
        "pooled_width": adapter.pooled_width,
    }
    return begin(folder, manifest)


def begin(folder: Path, manifest: dict) -> dict:
    """The manifest as it is; of a new folder one without rows, which says from the start what belongs there."""
    found = read_json(folder / "manifest.json")
    if found is not None:
        check_manifest(folder, found, manifest["key"])
        return found
    manifest = {**manifest, "grid": None, "tokens": None, "rows": 0, "shards": []}
    write_json(folder / "manifest.json", manifest)
    return manifest


def whole_shards(folder: Path) -> dict[int, dict]:
    """The index of every shard that is whole, by number. The index is written last, after the features."""
    numbers = sorted(int(path.stem.removeprefix("shard-")) for path in folder.glob("shard-*.json"))
    indices = {number: read_json(folder / f"shard-{number:05d}.json") for number in numbers}
    sizes = {path.name: path.stat().st_size for path in folder.glob("shard-*.bin")}
    return {
        number: index for number, index in indices.items() if sizes.get(f"shard-{number:05d}.bin") == index["bytes"]
    }


def _encode(
    modality: str, model: UMEForVisualQuestionAnswering, collator: VQACollator, batches: list[list[dict]]
) -> Iterator[tuple[list[np.ndarray], np.ndarray, tuple[int, int] | None]]:
    """
    The states of each row [N_i, D], the summaries [B, D_p] and the grid of every batch of rows, float16, in order.

    On a CPU several batches are under way at a time with few threads each, which wait for each other less than all
    threads at one batch do, above all while images are decoded.
    """
    model.eval()
    cores = os.cpu_count() or 1
    on_cpu = model.device.type == "cpu"
    all_threads = torch.get_num_threads()
    workers = min(8, all_threads if on_cpu else cores)
    # A tokenizer may only be used by one thread at a time; a GPU has no room for many batches, nor a use for them.
    prepared_alone = Lock() if modality == "text" else nullcontext()
    encoded_alone = nullcontext() if on_cpu else Lock()

    @torch.inference_mode()
    def encode(rows: list[dict]) -> tuple[list[np.ndarray], np.ndarray, tuple[int, int] | None]:
        with prepared_alone:
            batch = collator(rows)
        with encoded_alone:
            batch = {name: value.to(model.device, non_blocking=True) for name, value in batch.items()}
            if modality == "text":
                stream = model.ume.encode_text(**batch)
            else:
                stream = model.ume.encode_image(batch["pixel_values"], batch.get("pixel_mask"))
                if not stream.mask.all():
                    raise ValueError(
                        "The image processor leaves images their own sizes, which give different numbers of tokens: "
                        "let it resize or crop to one height and width to store features."
                    )
            states, pooled, mask = (t.cpu() for t in (stream.states.half(), stream.pooled.half(), stream.mask))
        if modality == "text":
            states = [tokens[real].numpy() for tokens, real in zip(states, mask, strict=True)]
        else:
            states = list(states.numpy())
        return states, pooled.numpy(), stream.grid

    # As many as divide by the workers; at the few others, all threads work together.
    together = len(batches) - len(batches) % workers if on_cpu else len(batches)
    try:
        yield from _ahead(
            encode, batches[:together], workers, partial(torch.set_num_threads, all_threads // workers or 1)
        )
        torch.set_num_threads(all_threads)
        yield from map(encode, batches[together:])
    finally:
        torch.set_num_threads(all_threads)


def _pieces(values: list, size: int) -> list[list]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def _join(
    items: list[str], batches: Iterable[tuple], progress: Callable[[int], Any]
) -> tuple[np.ndarray, list[int], tuple[int, int] | None]:
    """The features of a shard's questions or images as they are stored, the tokens of each, and the grid."""
    chunks, lengths, grid = [], [], None
    for states, pooled, found in batches:
        grid = found
        for tokens, summary in zip(states, pooled, strict=True):
            chunks += [summary, tokens.ravel()]
            lengths.append(len(tokens))
        progress(len(states))
    content = np.concatenate(chunks)
    if not np.isfinite(content).all():
        ends = np.cumsum([len(chunk) for chunk in chunks])[1::2]
        item = items[np.searchsorted(ends, np.isfinite(content).argmin(), side="right")]
        raise ValueError(
            f"The features of {item!r} do not fit into float16, which ends at 65,504: this encoder cannot be cached."
        )
    return content, lengths, grid


def _save(folder: Path, number: int, keys: list[str], content: np.ndarray, lengths: list[int], grid) -> None:
    save_shard(folder, number, content, shard_index(content, grid, keys, lengths))


def shard_index(content: np.ndarray, grid: Sequence[int] | None, keys: list[str], lengths: list[int]) -> bytes:
    """The index of a shard, as it is written: size and checksum of its features, and whose they are."""
    index = {
        "bytes": content.nbytes,
        "sha256": hashlib.sha256(content.data).hexdigest(),
        "grid": grid,
        "keys": keys,
        "lengths": lengths,
    }
    return json.dumps(index).encode()


def save_shard(folder: Path, number: int, content: np.ndarray, index: bytes) -> None:
    """Writes features and then their index, without which they do not count."""
    write_whole(folder / f"shard-{number:05d}.bin", content.data)
    write_whole(folder / f"shard-{number:05d}.json", index)


def _ahead(function: Callable, parts: list, threads: int, begin_thread: Callable[[], Any]) -> Iterator:
    """`map(function, parts)` in order, with the next ones at work in threads while the caller uses one."""
    with ThreadPoolExecutor(threads, initializer=begin_thread) as pool:
        waiting = deque(pool.submit(function, part) for part in parts[: threads + 1])
        rest = iter(parts[threads + 1 :])
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, part) for part in islice(rest, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def write_whole(path: Path, content) -> None:
    """Writes a file that appears under its name when the disk has all of it."""
    with writing(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep others from reading it
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def finish(folder: Path, manifest: dict, wanted: Iterable[str], stamps: dict[str, list]) -> bool:
    """Writes the manifest if every row is there. Two processes that both find it so write the same."""
    shards = whole_shards(folder)
    held = {key for index in shards.values() for key in index["keys"]}
    if not held.issuperset(wanted):
        return False
    grids = {tuple(index["grid"]) for index in shards.values() if index["grid"]}
    tokens = {length for index in shards.values() for length in index["lengths"]}
    if manifest["key"]["modality"] == "vision" and (len(grids) > 1 or len(tokens) > 1):
        raise ValueError(
            f"The images give different numbers of tokens ({', '.join(map(str, sorted(tokens)))}): let the image "
            "processor resize or crop to one height and width."
        )
    entries = [
        {
            "file": f"shard-{number:05d}.bin",
            "rows": len(index["keys"]),
            "bytes": index["bytes"],
            "sha256": index["sha256"],
            "index_sha256": hashlib.sha256((folder / f"shard-{number:05d}.json").read_bytes()).hexdigest(),
        }
        for number, index in shards.items()
    ]
    if stamps:
        write_json(folder / "files.json", {**(read_json(folder / "files.json") or {}), **stamps})
    manifest = {
        **manifest,
        "grid": list(grids.pop()) if grids else None,
        "tokens": tokens.pop() if manifest["key"]["modality"] == "vision" and tokens else None,
        "rows": sum(entry["rows"] for entry in entries),
        "shards": entries,
    }
    write_json(folder / "manifest.json", manifest)
    for leftover in folder.glob(".shard-*"):  # what a kill left half-written
        leftover.unlink(missing_ok=True)
    return True
