"""What stored features are known by: the encoder's weights, the tokenizer, and the content of image files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from training_ume.data.json_entries import VQADataError


def weights_digest(encoder: torch.nn.Module) -> str:
    """
    SHA-256 over all weights and buffers and where each belongs: two layers that exchange theirs give another digest.

    Releases of transformers rename the layers of some encoders, so that the names are those under which checkpoints
    are saved, which stay; what all of them begin with does not count.
    """
    state = saved_names(encoder)
    places = {name: name.split(".") for name in state}
    start = 0
    if len(places) > 1:  # what the first and the last of all have in common, all have
        ends = zip(min(places.values()), max(places.values()), strict=False)
        start = sum(1 for _ in takewhile(lambda parts: parts[0] == parts[1], ends))
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        place = ".".join(places[name][start:])
        digest.update(f"{place} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().data).digest())
    return digest.hexdigest()


def saved_names(encoder: torch.nn.Module) -> dict[str, Tensor]:
    """The encoder's state dict under the names that `save_pretrained` gives it."""
    state = encoder.state_dict()
    if not isinstance(encoder, PreTrainedModel):
        return state
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # releases that rename nothing
        return state
    # By what its class is saved as, not by the file that this one was loaded from: the same weights are in many.
    loaded_by = encoder.__dict__.pop("_weight_conversions", None)
    try:
        return revert_weight_conversion(encoder, state)
    finally:
        if loaded_by is not None:
            encoder._weight_conversions = loaded_by


def tokenizer_digest(tokenizer) -> str:
    """SHA-256 over what turns a question into token ids, token types and the place where it is cut."""
    if tokenizer.is_fast:
        settings = json.loads(tokenizer.backend_tokenizer.to_str())
        # These two follow the last call, and are given anew with every one.
        settings["padding"] = settings["truncation"] = None
    else:
        plain = {name: value for name, value in tokenizer.init_kwargs.items() if isinstance(value, (bool, int, float))}
        settings = [type(tokenizer).__name__, tokenizer.get_vocab(), str(tokenizer.special_tokens_map), plain]
        settings.append(_vocabulary_files(tokenizer))
    types = "token_type_ids" in tokenizer.model_input_names
    settings = [settings, tokenizer.truncation_side, types]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _vocabulary_files(tokenizer) -> list[str]:
    """SHA-256 of the files that a tokenizer in Python is made of: merges and pieces are not in its vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(Path(file) for file in tokenizer.save_vocabulary(folder) or ())
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def file_stamps(paths: Iterable[str], known: dict[str, list]) -> dict[str, list]:
    """
    The content of files: {path: [bytes, modified, changed, inode, SHA-256]}, both times in ns.

    Args:
        known: earlier stamps. A file of which all but the last is still the same is not read again. Whoever puts
            another file in its place may set its size and the time when it was modified as they were, but neither the
            time when its status changed nor, by moving it there, its inode.

    Raises:
        VQADataError: for a file that cannot be read, naming it.
    """

    def stamp(path: str) -> tuple[str, list]:
        try:
            status = os.stat(path)
            now = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            before = known.get(path)
            is_folder = Path(path).is_dir()  # of frames: one may change while the folder's own times stay
            if before is not None and before[:-1] == now and not is_folder:
                return path, before
            if is_folder:
                digest = hashlib.sha256()
                for file in sorted(file for file in Path(path).iterdir() if file.is_file()):
                    digest.update(f"{file.name}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
                return path, [*now, digest.hexdigest()]
            content = Path(path).read_bytes()
        except OSError as error:
            raise VQADataError(
                f"The image {path!r} cannot be read ({error.strerror}). Restore it, or load the data again."
            ) from error
        return path, [*now, hashlib.sha256(content).hexdigest()]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(pool.map(stamp, paths))
