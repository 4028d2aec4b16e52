"""What a frozen encoder says about every image and every question, computed once and read back ever after.

A cache is a folder a modality: `manifest.json` (of which encoder, how, how many rows), shards of float16 rows, and an
index a shard. Rows are found by content (SHA-256 of the image file or the question), never by name or position.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.modalities_ume import MODALITIES, seen_by
from training_ume.data.collator import VQACollator
from training_ume.features.identity import check_manifest, content_key, describe, hashable
from training_ume.features.keys import file_stamps
from training_ume.records.files import WriteError, read_json, write_json, write_whole

SHARD_NAME = re.compile(r"shard-\d{5,}\.bin")
REPAIR = "Delete that file and build the cache again: only this shard is computed anew."


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
                f"There is no feature cache in {self.folder}: make one with `ume cache`, given the same "
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
        self.kind = MODALITIES[self.modality]
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
            not self.kind.has_grid or len(grid) != 2 or any(grid[0] * grid[1] > n for n in tokens)
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
        The rows of cells: paths of files, texts or numbers.

        Raises:
            ValueError: naming the first of those that the cache lacks.
            VQADataError: for an image file that cannot be read.
        """
        asked = [hashable(item) for item in items]
        new = {key: item for key, item in zip(asked, items, strict=True) if key not in self._row_of_item}
        if new:
            files = [key for key, item in new.items() if self.kind.names_file(item)]
            stamps = file_stamps(files, self._stamps) if files else {}
            self._read_anew |= {path: stamp for path, stamp in stamps.items() if stamp != self._stamps.get(path)}
            keys = [stamps[key][-1] if key in stamps else content_key(item) for key, item in new.items()]
            rows = [self._row_of_key.get(key) for key in keys]
            missing = [item for item, row in zip(new.values(), rows, strict=True) if row is None]
            if missing:
                raise ValueError(
                    f"The feature cache {self.folder} lacks {len(missing)} of {len(new)} {self.kind.nouns}, "
                    f"the first is {missing[0]!r}: complete it with `ume cache`, given the same recipe "
                    "and --feature_cache; what it holds is kept."
                )
            self._row_of_item.update(zip(new, rows, strict=True))
        return [self._row_of_item[key] for key in asked]

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
            `vision_states` [U, N, D], `vision_pooled` [U, D_p] and, where the image has one, `vision_grid` [2]; of any
            other modality likewise, with the mask of its states where their numbers differ.
        """
        rows = [self[row] for row in self.locate(items)]
        longest = max(1, *(len(states) for states, _ in rows))  # 1: questions without any token
        states = np.zeros((len(rows), longest, self.width), np.float16)
        mask = np.zeros((len(rows), longest), np.int64)
        for i, (tokens, _) in enumerate(rows):
            real = slice(longest - len(tokens), None) if padding_side == "left" else slice(0, len(tokens))
            states[i, real], mask[i, real] = tokens, 1
        batch = {self.kind.states: torch.from_numpy(states)}
        if self.kind.mask in self.kind.inputs or not mask.all():
            batch[self.kind.mask] = torch.from_numpy(mask)
        batch[self.kind.pooled] = torch.from_numpy(np.stack([pooled for _, pooled in rows]))
        if self.manifest["grid"] is not None:
            batch[self.kind.grid] = torch.tensor(self.manifest["grid"])
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
            "features replace frozen encoders only. Make them with `ume cache`, or set freeze_text or "
            "freeze_vision."
        )
    seen = seen_by(collator.inputs)
    caches = {}
    for modality in used:
        if modality in seen:
            caches[modality] = FeatureCache(Path(folder) / modality)
            caches[modality].check(describe(modality, model, collator))
            kind = MODALITIES[modality]
            cells = [cell for dataset in datasets for cell in dataset[kind.column][:]]
            caches[modality].locate([cell for cell in cells if kind.readable(cell)])
            caches[modality].remember_files()
    return caches


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


def finish(folder: Path, manifest: dict, wanted: Iterable[str], stamps: dict[str, list]) -> bool:
    """Writes the manifest if every row is there. Two processes that both find it so write the same."""
    shards = whole_shards(folder)
    held = {key for index in shards.values() for key in index["keys"]}
    if not held.issuperset(wanted):
        return False
    grids = {tuple(index["grid"]) for index in shards.values() if index["grid"]}
    tokens = {length for index in shards.values() for length in index["lengths"]}
    kind = MODALITIES[manifest["key"]["modality"]]
    if kind.has_grid and (len(grids) > 1 or len(tokens) > 1):
        raise ValueError(
            f"The {kind.nouns} give different numbers of tokens ({', '.join(map(str, sorted(tokens)))}): let the "
            "image processor resize or crop to one height and width."
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
        "tokens": tokens.pop() if kind.has_grid and tokens else None,
        "rows": sum(entry["rows"] for entry in entries),
        "shards": entries,
    }
    write_json(folder / "manifest.json", manifest)
    for leftover in folder.glob(".shard-*"):  # what a kill left half-written
        leftover.unlink(missing_ok=True)
    return True
