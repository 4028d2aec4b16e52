"""From a recipe to a feature cache, and from a feature cache to a data set that can be published."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from datasets import Dataset
from transformers import AutoConfig, set_seed

from training_ume.features import COLUMN, FeatureCache, build_features
from training_ume.recipes import Recipe
from training_ume.run import build_collator, build_model, build_processor, build_tokenizer, load_data


def cache_recipe(
    recipe: Recipe, modalities: list[str] | None = None, verify: bool = False, export: str | None = None
) -> dict[str, FeatureCache]:
    """
    Encodes all questions and images that training from a recipe will look at, and that its cache lacks.

    Under `torchrun` the processes share the work; only the one that finished last returns the caches.

    Args:
        recipe: with `feature_cache`, the folder to write to.
        modalities: `"text"`, `"vision"`; defaults to those that the recipe freezes.
        verify: compare every byte with its checksum.
        export: folder to write as a data set (see `export_parquet`).

    Returns:
        `dict[str, FeatureCache]` by modality.

    Raises:
        ValueError: when no `feature_cache` is given, the folder's features are another encoder's or damaged, or
            several processes were told to verify or export.
        VQADataError: for an image that cannot be read, naming it.
    """
    args, training = recipe.model, recipe.training
    if training.world_size > 1 and (verify or export):
        raise ValueError("--verify and --export read the whole cache: run them in one process when it is built.")
    if args.feature_cache is None:
        raise ValueError("There is nowhere to write to: give --feature_cache DIR.")
    folder = Path(args.feature_cache)
    data = load_data(recipe.data, log_dir=folder)
    tokenizer = build_tokenizer(args, data.train)
    # As train.py begins a run, so that encoders that start from random weights are the same ones.
    set_seed((training.seeds or [training.seed])[0])
    processor = build_processor(args, tokenizer, data.vocabulary)
    model = build_model(args, processor).to(training.device)
    caches = {}
    for modality in modalities or args.frozen:
        rows = distinct_rows(data.parts().values(), COLUMN[modality])
        collator = build_collator(recipe.data, processor, None, args.problem_type, COLUMN[modality])
        origin = encoder_origin(getattr(args, f"{modality}_model"), getattr(args, f"{modality}_revision"))
        built = build_features(
            folder / modality, modality, model, collator, rows, origin, training.process_index, training.world_size
        )
        rate = built["encoded"] / built["seconds"]
        print(f"{modality}: {built['encoded']:,} rows encoded in {built['seconds']:.0f} s ({rate:,.1f} a second).")
        if built["complete"]:
            caches[modality] = cache = FeatureCache(folder / modality)
            size = sum(shard["bytes"] for shard in cache.manifest["shards"])
            print(f"{modality}: {cache.folder} is complete: {len(cache):,} rows, {size / 1e9:.3f} GB.")
            if verify:
                cache.verify()
                print(f"{modality}: every byte is as it was written.")
    if export is not None:
        export_parquet(caches, export)
        print(f"The data set lies in {export}.")
    return caches


def distinct_rows(datasets: Iterable[Dataset], column: str) -> list[dict]:
    """The first row of each distinct value of `column`, in order: `question_id`, `question` and `image`."""
    found: dict[str, dict] = {}
    names = ("question_id", "question", "image")
    for dataset in datasets:
        for values in zip(*(dataset[name][:] for name in names), strict=True):
            row = dict(zip(names, values, strict=True))
            found.setdefault(row[column], row)
    return list(found.values())


def encoder_origin(name: str | None, revision: str | None) -> dict[str, str | None]:
    """Name and commit of a pretrained encoder, as the cache records them; a folder's path stays on this machine."""
    if name is None:
        return {"name": None, "revision": None}
    if Path(name).is_dir():
        return {"name": Path(name).name, "revision": None}
    return {"name": name, "revision": AutoConfig.from_pretrained(name, revision=revision or "main")._commit_hash}


# -------------------------------------------------------------------------------------------------------- publishing


def export_parquet(caches: dict[str, FeatureCache], folder: str | Path) -> None:
    """
    Writes caches as a data set for the Hub: a configuration a modality, a parquet file a shard, and a card.

    A row holds `key` (SHA-256 of the image file or the question), `pooled` [D_p] and `states` [N, D] in float16. The
    images and the questions themselves are not written.

    Raises:
        ValueError: when the folder is not empty.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"The folder {folder} is not empty: choose another one for the data set.")
    for modality, cache in caches.items():
        (folder / modality).mkdir(parents=True)
        keys, row = cache.keys(), 0
        for shard in cache.manifest["shards"]:
            rows = range(row, row + shard["rows"])
            row += shard["rows"]
            states, pooled = zip(*(cache[i] for i in rows), strict=True)
            offsets = np.cumsum([0, *map(len, states)], dtype=np.int32)
            columns = {
                "key": pa.array([keys[i] for i in rows]),
                "pooled": _vectors(np.stack(pooled)),
                "states": pa.ListArray.from_arrays(offsets, _vectors(np.concatenate(states))),
            }
            name = Path(shard["file"]).with_suffix(".parquet").name
            # Few rows a group: a streaming reader holds a group at a time.
            parquet.write_table(pa.table(columns), folder / modality / name, row_group_size=64)
        (folder / modality / "manifest.json").write_text(json.dumps(cache.manifest["key"], indent=1) + "\n")
    (folder / "README.md").write_text(dataset_card(caches), encoding="utf-8")


def _vectors(values: np.ndarray) -> pa.Array:
    """[rows, D] float16 → an Arrow array of `rows` vectors."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def dataset_card(caches: dict[str, FeatureCache]) -> str:
    """The README of an exported data set."""
    lines = ["---", "tags:", "- feature-extraction", "- visual-question-answering", "configs:"]
    for modality in caches:
        lines += [f"- config_name: {modality}", f"  data_files: {modality}/*.parquet"]
    lines += ["---", "", "# Features of frozen encoders", ""]
    lines += ["| configuration | encoder | revision | weights (SHA-256) | rows | tokens × width | pooled by |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for modality, cache in caches.items():
        manifest = cache.manifest
        key, origin = manifest["key"], manifest["origin"]
        name = origin["name"] or f"a new {key['encoder'].get('model_type', 'encoder')}"
        tokens = manifest["tokens"] or f"{cache.lengths.min()}–{cache.lengths.max()}"
        lines.append(
            f"| {modality} | {name} | {origin['revision'] or '–'} | `{key['weights'][:16]}…` | {len(cache):,} | "
            f"{tokens} × {cache.width} | {key['pooling']} |"
        )
    lines += [
        "",
        "A row is one image or one question: `key` is the SHA-256 of the image file or of the question in UTF-8, "
        "`pooled` the encoder's summary, `states` its token states (of an image class tokens first, then the grid row "
        "by row), all in float16. `manifest.json` beside the files has every setting they depend on.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset("REPOSITORY", "{next(iter(caches))}", split="train", streaming=True)',
        "```",
        "",
        "The images and questions are not part of this data set; their own licences apply to what is derived from "
        "them.",
        "",
    ]
    return "\n".join(lines)
