"""What a feature cache is of: encoder, weights, processor and inputs, in a manifest that is compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from modeling_ume import UMEForVisualQuestionAnswering
from training_ume.data.collator import VQACollator
from training_ume.features.keys import tokenizer_digest, weights_digest

# Of the files and of the key. 1: the key did not say to which layer weights belong.
FORMAT = 2
MODALITIES = ("text", "vision")

# Of an encoder's config: where it came from and what stands behind it, which features do not depend on.
NOT_FEATURES = {
    "_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "id2label", "label2id",
    "num_labels", "problem_type", "auto_map", "finetuning_task", "attn_implementation", "_attn_implementation",
    "_attn_implementation_internal",
}  # fmt: skip


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
