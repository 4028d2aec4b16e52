"""From a recipe to a feature cache: which rows it needs, and the encoders that it says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset
from transformers import set_seed

from configuration_ume.arguments import Recipe
from modeling_ume.loading_ume import load_config
from modeling_ume.modalities_ume import MODALITIES
from training_ume.build.model import build_model, cached_commit
from training_ume.build.processor import build_collator, build_processor
from training_ume.build.tokenizer import build_tokenizer
from training_ume.features.build import build_features
from training_ume.features.identity import describe, hashable
from training_ume.features.publish import export_features, fetch_features, push_features
from training_ume.features.store import FeatureCache
from training_ume.training.prepare import load_data


def cache_recipe(
    recipe: Recipe,
    modalities: list[str] | None = None,
    verify: bool = False,
    export: str | None = None,
    push: str | None = None,
    published: str | None = None,
) -> dict[str, FeatureCache]:
    """
    Encodes all questions and images that training from a recipe will look at, and that its cache lacks.

    Under `torchrun` the processes share the work; only the one that finished last returns the caches.

    Args:
        recipe: with `feature_cache`, the folder to write to.
        modalities: keys of `MODALITIES`; defaults to those that the recipe freezes.
        verify: compare every byte with its checksum.
        export: folder to write as a data set (see `export_features`).
        push: Hub repository that the data set is uploaded to (see `push_features`).
        published: data set whose rows are taken instead of encoding them (see `fetch_features`).

    Returns:
        `dict[str, FeatureCache]` by modality.

    Raises:
        ValueError: when no `feature_cache` is given, the folder's features are another encoder's or damaged, or
            several processes were told to verify, export or fetch.
        VQADataError: for an image that cannot be read, naming it.
    """
    args, training = recipe.model, recipe.training
    if training.world_size > 1 and (verify or export or published):
        raise ValueError("--verify, --export and --from go through the whole cache: run them in one process.")
    if push and not export:
        raise ValueError("There is nothing to push: give --export DIR too, where the data set is written first.")
    if args.feature_cache is None:
        raise ValueError("There is nowhere to write to: give --feature_cache DIR.")
    folder = Path(args.feature_cache)
    labels = {"problem_type": args.problem_type, "label_transform": args.label_transform, "task": args.task}
    data = load_data(recipe.data, log_dir=folder, **labels)
    tokenizer = build_tokenizer(args, data.train)
    # As train.py begins a run, so that encoders that start from random weights are the same ones.
    set_seed((training.seeds or [training.seed])[0])
    processor = build_processor(args, tokenizer, data.vocabulary, data.train)
    model = build_model(args, processor, data.vocabulary, data.task).to(training.device)
    caches = {}
    for modality in modalities or args.frozen:
        column = MODALITIES[modality].column
        rows = distinct_rows(data.parts().values(), column)
        collator = build_collator(recipe.data, processor, None, args.problem_type, column)
        if published is not None:
            key = describe(modality, model, collator)
            fetched = fetch_features(published, modality, folder / modality, key=key)
            print(f"{modality}: {len(fetched):,} rows are there, with those of {published}.")
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
        export_features(caches, export)
        print(f"The data set lies in {export}.")
    if push is not None:
        print(f"Pushed: {push_features(export, push)}")
    return caches


def distinct_rows(datasets: Iterable[Dataset], column: str) -> list[dict]:
    """The first row of each distinct value of `column`, in order: `question_id` and what there is of each modality."""
    found: dict[str, dict] = {}
    for dataset in datasets:
        names = ["question_id", *(kind.column for kind in MODALITIES.values() if kind.column in dataset.column_names)]
        for values in zip(*(dataset[name][:] for name in names), strict=True):
            row = dict(zip(names, values, strict=True))
            found.setdefault(hashable(row[column]), row)
    return list(found.values())


def encoder_origin(name: str | None, revision: str | None) -> dict[str, str | None]:
    """Name and commit of a pretrained encoder, as the cache records them; a folder's path stays on this machine."""
    if name is None:
        return {"name": None, "revision": None}
    if Path(name).is_dir():
        return {"name": Path(name).name, "revision": None}
    load_config(name, revision=revision or "main")  # so that it lies in the cache
    return {"name": name, "revision": cached_commit(name, revision)}
