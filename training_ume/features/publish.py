"""A feature cache as a data set: parquet shards and a card to publish, and the same cache again from them.

A parquet file holds the rows of one shard, in its order; the manifest travels along, and with it every checksum.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import yaml
from datasets import load_dataset
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from tqdm.auto import tqdm

from training_ume.features.identity import FORMAT, check_manifest
from training_ume.features.store import FeatureCache, begin, finish, save_shard, shard_index, whole_shards
from training_ume.records.files import read_json, write_json, write_whole

ROWS_PER_GROUP = 64  # a streaming reader holds a group at a time: 57 MB at ViT-B/16-384
SHARD = re.compile(r"shard-(\d{5,})\.bin")


# -------------------------------------------------------------------------------------------------------- publishing


def export_features(caches: dict[str, FeatureCache], folder: str | Path) -> None:
    """
    Writes caches as a data set for the Hub: a configuration a modality, a parquet file a shard, and a card.

    A row holds `key` (SHA-256 of the image file or the question), `pooled` [D_p] and `states` [N, D] in float16. The
    images and the questions themselves are not written. What is whole is not written again, so the same call goes on
    after a kill. Every shard is compared with its checksum on the way.

    Raises:
        ValueError: when the folder holds something else, or a shard is damaged.
    """
    folder = Path(folder)
    manifests = {folder / modality / "manifest.json": cache.manifest for modality, cache in caches.items()}
    begun = folder.is_dir() and any(folder.iterdir())
    if begun and any(read_json(path) != manifest for path, manifest in manifests.items()):
        raise ValueError(f"The folder {folder} holds something else: choose another one for the data set.")
    for path, manifest in manifests.items():
        write_json(path, manifest)
    for modality, cache in caches.items():
        keys, row = cache.keys(), 0
        for shard in tqdm(cache.manifest["shards"], desc=f"{modality} shards", disable=None):
            rows = range(row, row + shard["rows"])
            row += shard["rows"]
            path = folder / modality / _parquet_name(shard)
            if not path.exists():
                cache.verify_shard(shard)
                sink = pa.BufferOutputStream()
                table = _table([keys[i] for i in rows], [cache[i] for i in rows])
                # A dictionary of values that hardly repeat would only cost time.
                parquet.write_table(
                    table, sink, row_group_size=ROWS_PER_GROUP, use_dictionary=False, compression="zstd"
                )
                write_whole(path, sink.getvalue())
        for leftover in (folder / modality).glob(".shard-*"):  # what a kill left half-written
            leftover.unlink()
    (folder / "README.md").write_text(dataset_card(caches, folder), encoding="utf-8")


def _parquet_name(shard: dict) -> str:
    return Path(shard["file"]).with_suffix(".parquet").name


def _table(keys: list[str], rows: list[tuple[np.ndarray, np.ndarray]]) -> pa.Table:
    states, pooled = zip(*rows, strict=True)
    offsets = np.cumsum([0, *map(len, states)], dtype=np.int32)
    tokens = pa.ListArray.from_arrays(offsets, _vectors(np.concatenate(states)))
    return pa.table({"key": pa.array(keys), "pooled": _vectors(np.stack(pooled)), "states": tokens})


def _vectors(values: np.ndarray) -> pa.Array:
    """[rows, D] float16 → an Arrow array of `rows` vectors."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def push_features(folder: str | Path, repository: str) -> str:
    """
    Uploads what `export_features` wrote to a data set repository, a new one being private; returns its address.

    Features tell much about the images behind them, and inherit their terms: whether others may see them is for a
    person to decide, in the repository's settings.

    Raises:
        OSError: when the Hub refuses, or there is no token.
        ValueError: for an impossible name.
    """
    api = HfApi()
    address = api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
    api.upload_folder(
        repo_id=repository,
        repo_type="dataset",
        folder_path=folder,
        delete_patterns="*.parquet",  # shards of an earlier upload that are no longer there
        commit_message="Features of frozen encoders",
    )
    return str(address)


def dataset_card(caches: dict[str, FeatureCache], folder: Path) -> str:
    """The README of an exported data set, whose parquet files lie in `folder`."""
    rows = sum(map(len, caches.values()))
    metadata = {
        "license": "other",
        "license_name": "terms-of-the-source-data",
        "task_categories": ["visual-question-answering", "feature-extraction"],
        "tags": ["ume", "features"],
        "size_categories": [_size_category(rows)],
        "configs": [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in caches],
        "dataset_info": [
            {
                "config_name": name,
                "splits": [{"name": "train", "num_bytes": _bytes(cache), "num_examples": len(cache)}],
                "download_size": sum(path.stat().st_size for path in (folder / name).glob("*.parquet")),
                "dataset_size": _bytes(cache),
            }
            for name, cache in caches.items()
        ],
    }
    lines = ["---", yaml.safe_dump(metadata, sort_keys=False).strip(), "---", "", "# Features of frozen encoders", ""]
    lines += ["| configuration | encoder | revision | weights (SHA-256) | rows | tokens × width | pooled by | bytes |"]
    lines += ["|---|---|---|---|---:|---|---|---:|"]
    for name, cache in caches.items():
        manifest = cache.manifest
        key, origin = manifest["key"], manifest["origin"]
        encoder = origin["name"] or f"a new {key['encoder'].get('model_type', 'encoder')}"
        tokens = manifest["tokens"] or f"{cache.lengths.min()}–{cache.lengths.max()}"
        lines.append(
            f"| {name} | {encoder} | {origin['revision'] or '–'} | `{key['weights'][:16]}…` | {len(cache):,} | "
            f"{tokens} × {cache.width} | {key['pooling']} | {_bytes(cache):,} |"
        )
    lines += [
        "",
        "A row is one image or one question: `key` is the SHA-256 of the image file or of the question in UTF-8, "
        "`pooled` the encoder's summary, `states` its token states (of an image class tokens first, then the grid row "
        "by row), all in float16.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset("REPOSITORY", "{next(iter(caches))}", split="train", streaming=True)',
        "```",
        "",
        "To train heads of UME from it, make the feature cache again, bit for bit and with every checksum compared:",
        "",
        "```bash",
        "ume cache RECIPE --feature_cache DIR --from REPOSITORY",
        "```",
        "",
        "## Terms",
        "",
        "The images and questions are not part of this data set, but what is derived from them inherits their terms: "
        "use, share and cite these features as the licence of the source data says, and the encoder as its own does.",
        "",
        "## Settings",
        "",
    ]
    for name, cache in caches.items():
        settings = json.dumps(cache.manifest["key"], indent=1, ensure_ascii=False)
        lines += [f"What the features of `{name}` depend on:", "", "```json", settings, "```", ""]
    return "\n".join(lines)


def _bytes(cache: FeatureCache) -> int:
    return sum(shard["bytes"] for shard in cache.manifest["shards"])


def _size_category(rows: int) -> str:
    """The Hub's name for a number of rows."""
    limits = [(10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M")]
    below = "n"
    for limit, name in limits:
        if rows < limit:
            return f"{below}<{name}" if below == "n" else f"{below}<n<{name}"
        below = name
    return "n>10M"


# ------------------------------------------------------------------------------------------------------ reading back


def fetch_features(
    source: str | Path, modality: str, folder: str | Path, revision: str | None = None, key: dict | None = None
) -> FeatureCache:
    """
    Makes the cache again from a data set that `export_features` wrote: the same files, bit for bit.

    Shards are streamed one after the other, each compared with its checksums before it is written. What is whole is
    not fetched again, so the same call goes on after a kill. The checksums tell that nothing changed on the way, not
    who computed the features: fetch from those whom you trust.

    Args:
        source: a folder, or the name of a data set on the Hub.
        modality: `"text"` or `"vision"`.
        folder: the cache's folder of this modality. Rows that it already holds in other shards stay.
        revision: branch, tag or commit on the Hub; all files are taken from the one commit it stands for now.
        key: what the features have to be (see `describe`); default: whatever they are.

    Raises:
        ValueError: when the data set holds no such features, other ones than `key` says or than the folder has, or
            damaged ones.
    """
    folder, name = Path(folder), str(source)
    manifest, revision = _manifest(name, modality, revision)
    if key is not None:
        check_manifest(name, manifest, key)
    begin(folder, {name: value for name, value in manifest.items() if name not in _COUNTED})
    there, todo = whole_shards(folder), {}
    for shard in manifest["shards"]:
        number = int(SHARD.fullmatch(shard["file"])[1])
        if number not in there:
            todo[number] = shard
        elif _sha256((folder / f"shard-{number:05d}.json").read_bytes()) != shard["index_sha256"]:
            raise ValueError(f"{folder / shard['file']} is not the shard of that name in {name}: {_ELSEWHERE}.")
    held = {key for index in there.values() for key in index["keys"]}
    if todo:
        files = {_split(number): f"{modality}/{_parquet_name(shard)}" for number, shard in todo.items()}
        try:
            shards = load_dataset(name, data_files=files, streaming=True, revision=revision)
            for number, shard in tqdm(todo.items(), desc=f"{modality} shards", disable=None):
                batches = shards[_split(number)].with_format("arrow").iter(ROWS_PER_GROUP)
                keys, content, index = _read_shard(batches, manifest["grid"])
                if (_sha256(content.data), _sha256(index)) != (shard["sha256"], shard["index_sha256"]):
                    raise ValueError(f"{files[_split(number)]} does not hold what the manifest says")
                if not held.isdisjoint(keys):
                    raise ValueError(f"{folder} has rows of {files[_split(number)]} in another shard: {_ELSEWHERE}")
                save_shard(folder, number, content, index)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise ValueError(
                f"The features of {name} cannot be read ({error}). What was fetched is kept: repeat the command, or "
                "ask whoever published them if it fails again."
            ) from error
    finish(folder, manifest, (), {})
    return FeatureCache(folder)


_COUNTED = {"grid", "tokens", "rows", "shards"}  # of a manifest: what depends on the rows that are there
_ELSEWHERE = "fetch into an empty folder"


def _manifest(source: str, modality: str, revision: str | None) -> tuple[dict, str | None]:
    """The manifest of a data set, and on the Hub the commit that it is of."""
    if Path(source).is_dir():
        path = Path(source, modality, "manifest.json")
    else:
        try:
            path = hf_hub_download(source, f"{modality}/manifest.json", repo_type="dataset", revision=revision)
        except (OSError, ValueError, EntryNotFoundError) as error:
            raise ValueError(
                f"There are no {modality} features in {source!r} ({str(error).splitlines()[0]}): give a folder that "
                "--export wrote, or the name of such a data set on the Hub."
            ) from error
        revision = Path(path).parents[1].name  # …/snapshots/COMMIT/modality/manifest.json
    manifest = read_json(path)
    shards = [] if manifest is None else manifest.get("shards", [])
    if not shards or not all(SHARD.fullmatch(shard["file"]) for shard in shards):
        raise ValueError(f"{source} holds no {modality} features that `ume cache --export` wrote.")
    if manifest["key"]["format"] != FORMAT:
        raise ValueError(
            f"The features of {source} are of format {manifest['key']['format']}, not {FORMAT}: another release of "
            "this package wrote them."
        )
    return manifest, revision


def _split(number: int) -> str:
    return f"shard_{number}"  # `datasets` allows no hyphen


def _sha256(content) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_shard(batches: Iterable[pa.Table], grid: list[int] | None) -> tuple[list[str], np.ndarray, bytes]:
    """The rows of a parquet file → their keys, their features as the cache has them, and the index of the shard."""
    chunks, keys, lengths = [], [], []
    for table in batches:
        keys += table["key"].to_pylist()
        states, pooled = table["states"].combine_chunks(), table["pooled"].combine_chunks()
        counts = states.value_lengths().to_numpy()
        # [tokens of all rows, D]; an Arrow array that begins behind row 0 is cut by `flatten`.
        tokens = states.flatten().flatten().to_numpy().reshape(counts.sum(), -1)
        summaries = pooled.flatten().to_numpy().reshape(len(counts), -1)
        for summary, states_of_row in zip(summaries, np.split(tokens, counts.cumsum()[:-1]), strict=True):
            chunks += [summary, states_of_row.ravel()]
        lengths += counts.tolist()
    content = np.concatenate(chunks)
    return keys, content, shard_index(content, grid, keys, lengths)
