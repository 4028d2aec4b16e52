"""What a config may ask for: sizes that no memory holds are refused with a sentence before anything is built."""

import math
import os
import re
from contextlib import contextmanager
from contextvars import ContextVar

MAX_PARAMETERS, MAX_PARAMETERS_VARIABLE = 10**11, "UME_MAX_PARAMETERS"
# Of UME's own fields. VQA v2 has some 200,000 different answers, the widest encoders 16,384 dimensions.
OWN = {
    "fusion_hidden_size": 2**16,
    "fusion_num_heads": 2**12,
    "fusion_num_layers": 2**10,
    "fusion_num_members": 2**8,
    "fusion_rank": 2**16,
    "feature_grid": 2**10,
    "num_labels": 2**20,
}
# Of an encoder's: how often something is built, and how wide it is, by what the field is called.
REPEATED = re.compile(r"(^|_)n?_?(layers?|depths?|heads?|blocks?|stages|experts|groups|repeats)$")
MAX_REPEATED = 2**15
MAX_SIZE = 2**26
SPECIAL = {"num_labels": OWN["num_labels"], "image_size": 2**14}
WIDTH = re.compile(
    r"(^|_)(hidden_sizes?|d_model|dim|n_embd|d_ff|ffn_dim|hidden_dim|intermediate_size|embedding_size)$"
)
LAYERS = re.compile(r"(^|_)n?_?(layers?|depths?)$")
WEIGHTS = (".safetensors", ".bin")
# Bytes of the weights that are being loaded; None: none are.
_weights: ContextVar[int | None] = ContextVar("ume_weights", default=None)
# Parameters that a model may have beyond those of the file that it starts from, such as a new classifier.
ADDED = 5 * 10**8


def max_parameters() -> int:
    """The most parameters that a model may have, which the environment can change."""
    given = os.environ.get(MAX_PARAMETERS_VARIABLE, "")
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 20 else MAX_PARAMETERS


def check_own_size(field: str, value: int) -> None:
    """Raises ValueError for a field of `UMEConfig` that asks for more than any memory holds."""
    if value > OWN[field]:
        raise ValueError(f"{field}={_number(value)} is impossible: it must be {OWN[field]:,} or less.")


def check_head_size(hidden_size: int, layers: int, members: int) -> None:
    """Raises ValueError for fields that ask for too much together."""
    wanted = hidden_size**2 * layers * members
    if wanted > max_parameters():
        raise ValueError(
            f"fusion_hidden_size={hidden_size}, fusion_num_layers={layers} and fusion_num_members={members} together "
            f"ask for more than {wanted:.1e} parameters: make one of them smaller, or set the environment variable "
            f"{MAX_PARAMETERS_VARIABLE} beyond {max_parameters():,}."
        )


def check_encoder_size(field: str, config: dict) -> None:
    """
    Looks for what would fill the memory in an encoder's config, halves and backbones included.

    Args:
        field: `text_config` or `vision_config`.
        config: the config as a dict.

    Raises:
        ValueError: naming the field inside.
    """
    stack = [(field, config)]
    while stack:
        place, fields = stack.pop()
        widest = layers = 1
        for name, value in fields.items():
            if not isinstance(name, str):  # the answers that a config names, which are as many as the file holds
                continue
            if isinstance(value, dict):
                stack.append((f"{place}.{name}", value))
                continue
            values = value if isinstance(value, (list, tuple)) else [value]
            if len(values) > MAX_REPEATED and REPEATED.search(name):
                raise ValueError(f"{place}.{name} has {len(values):,} entries: it may have {MAX_REPEATED:,}.")
            numbers = [number for number in values if type(number) is int]
            limit = MAX_REPEATED if REPEATED.search(name) else MAX_SIZE if _is_size(name) else math.inf
            limit = SPECIAL.get(name, limit)
            for number in numbers:
                if number > limit:
                    raise ValueError(f"{place}.{name}={_number(number)} is impossible: it must be {limit:,} or less.")
            if WIDTH.search(name):
                widest = max([widest, *numbers])
            if LAYERS.search(name):
                # A list of depths says how many there are; another one may hold the numbers of some layers.
                layers = max(layers, sum(numbers) if values is not value or "depth" in name else len(values))
        rows = sum(_largest(fields.get(name)) for name in ("vocab_size", "max_position_embeddings"))
        rows += (_largest(fields.get("image_size")) // max(1, _largest(fields.get("patch_size")) or 16)) ** 2
        wanted = widest * (widest * layers + rows)
        if wanted > max_parameters():
            raise ValueError(
                f"{place} asks for some {wanted:.1e} parameters ({layers} layers of up to {widest}): make it smaller, "
                f"or set the environment variable {MAX_PARAMETERS_VARIABLE} beyond {max_parameters():,}."
            )


def _largest(value) -> int:
    return max((n for n in (value if isinstance(value, (list, tuple)) else [value]) if type(n) is int), default=0)


def _is_size(name: str) -> bool:
    return bool(WIDTH.search(name)) or name.endswith(("_size", "_sizes", "_channels", "_embeddings", "_dim", "_width"))


def _number(value: int) -> str:
    return f"{value:,}" if value < 10**15 else f"a number of {value.bit_length()} bits"


@contextmanager
def loading(folder: str | os.PathLike | None):
    """Within it, models that want far more parameters than a folder's weights hold are refused."""
    size = None
    if folder is not None and os.path.isdir(folder):
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(WEIGHTS)}
        if any(not name.startswith("adapter_") for name in sizes):  # the base of an adapter may lie elsewhere
            size = sum(sizes.values())
    before = _weights.set(size)
    try:
        yield
    finally:
        _weights.reset(before)


def check_against_weights(parameters: int) -> None:
    """
    Raises ValueError for a model of so many parameters that the weights which are being loaded cannot be its own; at
    this point nothing has been allocated.
    """
    size = _weights.get()
    if size is not None and parameters > size + ADDED:  # a parameter takes a byte or more
        raise ValueError(
            f"The config.json asks for a model of {parameters:,} parameters, and the weights beside it have {size:,} "
            "bytes: they do not belong together, and what is missing would fill the memory."
        )
