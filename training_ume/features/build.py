"""Building a feature cache: encode every distinct question and image once, shard by shard."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.modalities_ume import MODALITIES
from training_ume.data.collator import VQACollator
from training_ume.features.identity import content_key, describe, hashable
from training_ume.features.keys import file_stamps
from training_ume.features.store import begin, finish, save_shard, shard_index, whole_shards
from training_ume.records.files import read_json

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
        collator: of the same modality (`inputs` is its column), as for training.
        rows: with `question_id` and the column of the modality; equal cells are encoded once, empty ones not at all.
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
    kind = MODALITIES[modality]
    rows = [row for row in rows if kind.readable(row[kind.column])]
    items = {hashable(row[kind.column]): row[kind.column] for row in rows}
    files = [item for item, cell in items.items() if kind.names_file(cell)]
    if files:
        stamps = file_stamps(files, (read_json(folder / "files.json") or {}))
    keys = {item: stamps[item][-1] if item in stamps else content_key(cell) for item, cell in items.items()}
    row_of_key: dict[str, dict] = {}
    for row in rows:
        row_of_key.setdefault(keys[hashable(row[kind.column])], row)

    shards = whole_shards(folder)
    held = {key for index in shards.values() for key in index["keys"]}
    todo = [key for key in row_of_key if key not in held]
    free = (number for number in range(len(shards) + len(todo)) if number not in shards)
    plan = [(next(free), part) for part in _pieces(todo, kind.shard_rows)]
    # By number, not by position: a process that starts late and sees fewer open shards still agrees on whose they are.
    mine = {number: part for number, part in plan if number % processes == process}
    if not kind.in_files:  # little padding in a batch
        mine = {n: sorted(part, key=lambda key: len(row_of_key[key][kind.column])) for n, part in mine.items()}
    encoded = sum(map(len, mine.values()))
    batches = [[row_of_key[key] for key in keys] for part in mine.values() for keys in _pieces(part, kind.batch_rows)]
    with (
        tqdm(total=encoded, desc=f"{modality} features", unit="row", disable=process > 0 or None) as progress,
        closing(_encode(modality, model, collator, batches)) as results,
        ThreadPoolExecutor(1) as writer,
    ):
        saved: Future | None = None
        for number, part in mine.items():
            items = [row_of_key[key][kind.column] for key in part]
            count = len(_pieces(part, kind.batch_rows))
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


def _encode(
    modality: str, model: UMEForVisualQuestionAnswering, collator: VQACollator, batches: list[list[dict]]
) -> Iterator[tuple[list[np.ndarray], np.ndarray, tuple[int, int] | None]]:
    """
    The states of each row [N_i, D], the summaries [B, D_p] and the grid of every batch of rows, float16, in order.

    On a CPU several batches are under way at a time with few threads each, which wait for each other less than all
    threads at one batch do, above all while images are decoded.
    """
    model.eval()
    kind = MODALITIES[modality]
    cores = os.cpu_count() or 1
    on_cpu = model.device.type == "cpu"
    all_threads = torch.get_num_threads()
    workers = min(8, all_threads if on_cpu else cores)
    # A tokenizer may only be used by one thread at a time; a GPU has no room for many batches, nor a use for them.
    prepared_alone = nullcontext() if kind.in_files else Lock()
    encoded_alone = nullcontext() if on_cpu else Lock()

    @torch.inference_mode()
    def encode(rows: list[dict]) -> tuple[list[np.ndarray], np.ndarray, tuple[int, int] | None]:
        with prepared_alone:
            batch = collator(rows)
        with encoded_alone:
            batch = {name: value.to(model.device, non_blocking=True) for name, value in batch.items()}
            batch.pop(kind.index, None)  # what is encoded are the distinct ones
            stream = model.ume.encode(modality, **batch)
            if kind.has_grid and not stream.mask.all():
                raise ValueError(
                    "The image processor leaves images their own sizes, which give different numbers of tokens: "
                    "let it resize or crop to one height and width to store features."
                )
            states, pooled, mask = (t.cpu() for t in (stream.states.half(), stream.pooled.half(), stream.mask))
        states = [tokens[real].numpy() for tokens, real in zip(states, mask, strict=True)]
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
