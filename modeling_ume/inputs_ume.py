"""What a model's `forward` takes, by the table of modalities, and what it makes of arguments that it does not know;
what an encoder once said as a stream, and as these inputs."""

import functools
import inspect
from collections.abc import Iterable

import torch
from torch import Tensor

from .modalities_ume import MODALITIES, usual
from .modality_base_ume import Modality
from .stored_ume import nearest
from .streams_ume import Stream


def positional_inputs(labels: tuple[str, ...] = ()) -> list[str]:
    """
    What a model's `forward` may be given without names, in this order: of the usual modalities what an encoder reads
    and which row an example has, `labels`, who has a modality, what encoders once said, and `return_dict`.
    """
    kinds = usual()
    read = [name for kind in kinds for name in (*kind.inputs, *([kind.index] if kind.in_files else []))]
    stored = [name for kind in kinds for name in kind.stored]
    return [*read, *labels, *(kind.present for kind in kinds), *stored, "return_dict"]


def named_inputs() -> list[str]:
    """All that `forward` takes of any modality."""
    return list(dict.fromkeys(name for kind in MODALITIES.values() for name in kind.all_inputs))


def takes_inputs(labels: tuple[str, ...] = ()):
    """
    Gives a `forward(self, inputs, …)` the signature of all that the table of modalities says it takes, and hands it
    those inputs in one dict, under their names.

    Args:
        labels: what it takes besides, in the order in which it may be given without names.
    """

    def decorate(forward):
        @functools.wraps(forward)
        def named(self, *values, **inputs):
            if values:
                order = positional_inputs(labels)
                if len(values) > len(order):
                    raise TypeError(f"forward() takes {len(order)} inputs without their names, not {len(values)}.")
                twice = [name for name in order[: len(values)] if name in inputs]
                if twice:
                    raise TypeError(f"forward() got {twice[0]} twice: give it once.")
                inputs |= dict(zip(order, values, strict=False))
            own = {name: inputs.pop(name) for name in list(inputs) if name in own_names}
            known = {name: value for name, value in inputs.items() if value is not None}
            there = named_inputs()
            unknown = [name for name in known if name not in there]
            if unknown:
                refuse_unknown([*positional_inputs(labels), *own_names, *there], unknown)
            return forward(self, known, **own)

        parameters = inspect.signature(forward).parameters
        own_names = [name for name in parameters if name not in ("self", "inputs")]
        kinds = inspect.Parameter
        order = positional_inputs(labels)
        later = [name for name in (*own_names, *named_inputs()) if name not in order]
        named.__signature__ = inspect.Signature(
            [
                parameters["self"],
                *(kinds(name, kinds.POSITIONAL_OR_KEYWORD, default=None) for name in order),
                *(kinds(name, kinds.KEYWORD_ONLY, default=None) for name in dict.fromkeys(later)),
            ],
            return_annotation=inspect.signature(forward).return_annotation,
        )
        return named

    return decorate


def refuse_unknown(known: list[str], unknown: Iterable[str]) -> None:
    """
    Raises TypeError for arguments that `forward` does not have, and names the nearest that it has.

    Args:
        known: what it takes.
        unknown: what was given besides and is not None: what is asks for nothing, as callers that serve many kinds of
            models, such as PEFT, pass all they know.
    """
    for name in unknown:
        hint = nearest(name, known) or f" It takes {', '.join(dict.fromkeys(known))}."
        raise TypeError(f"forward() has no argument {name!r}.{hint}")


def as_inputs(stream: Stream) -> dict[str, Tensor]:
    """A stream of distinct rows as what `forward` takes."""
    kind = MODALITIES[stream.modality]
    grid = {} if stream.grid is None else {kind.grid: torch.tensor(stream.grid)}
    return {kind.states: stream.states, kind.pooled: stream.pooled, kind.mask: stream.mask, **grid}


def as_stream(kind: Modality, encoded: dict[str, Tensor]) -> Stream:
    """The reverse of `as_inputs`."""
    states, mask, grid = encoded[kind.states], encoded.get(kind.mask), encoded.get(kind.grid)
    mask = torch.ones(states.shape[:2]) if mask is None else mask
    mask, grid = mask.to(states.device).bool(), None if grid is None else tuple(grid.tolist())
    return Stream(states, mask, encoded[kind.pooled], mask.any(1), grid, modality=kind.name)
