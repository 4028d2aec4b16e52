"""What a feature cache is of: encoder, weights, processor and inputs, in a manifest that is compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.cells_ume import missing
from modeling_ume.modalities_ume import MODALITIES
from training_ume.data.collator import VQACollator
from training_ume.features.keys import tokenizer_digest, weights_digest

# Of the files and of the key. 1: the key did not say to which layer weights belong.
FORMAT = 2

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
        `weights_digest`), `pooling`; where its tokens may form a grid `feature_grid`; and what prepares it: of a
        tokenizer its SHA-256 and `max_question_length`, of any other `processor` its settings.
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
    kind = MODALITIES[modality]
    part = None if kind.part is None else getattr(collator.processor, kind.part)
    if isinstance(part, PreTrainedTokenizerBase):
        key["tokenizer"] = tokenizer_digest(part)
        key["max_question_length"] = collator.question_limit
    elif part is not None:
        settings = {name: value for name, value in part.to_dict().items() if "processor_class" not in name}
        # The class itself: with and without torchvision one name stands for two, whose resizing differs a little.
        key["processor"] = {**settings, f"{kind.part}_type": type(part).__name__}
    if kind.has_grid:
        key["feature_grid"] = adapter.feature_grid
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


def content_key(cell) -> str:
    """What a cell that is no file is known by: SHA-256 of a text, of columns, or of numbers and their shape."""
    if isinstance(cell, dict):
        cell = json.dumps({name: value for name, value in cell.items() if not missing(value)}, sort_keys=True)
    if isinstance(cell, str):
        return hashlib.sha256(cell.encode()).hexdigest()
    numbers = np.ascontiguousarray(cell, np.float32)
    return hashlib.sha256(f"{numbers.shape}\n".encode() + numbers.tobytes()).hexdigest()


def hashable(cell):
    """A cell as a key of a dict; what stands in a file, or is a text, is one."""
    return cell if isinstance(cell, str) else content_key(cell)


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
