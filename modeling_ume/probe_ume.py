"""What an encoder gives, found by running a twin without weights: widths, a summary, tokens beyond the grid.

What decides is what an encoder shows, never its name.
"""

import copy
import inspect
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PreTrainedModel

from .modalities_ume import MODALITIES


@dataclass
class Shape:
    """What an encoder gives, found by running it: token width, whether it pools and how wide, special tokens."""

    width: int
    pooled_width: int | None  # None: no pooled vector
    num_special: int  # tokens that are not content; of text encoders 0, their special tokens are content
    unread: set[str]  # parameters that the tokens do not depend on, by name
    unread_pooled: set[str]  # those that the pooled vector does not depend on


class _WeightsUnknown(TorchDispatchMode):
    """Computes what weights and pixels have no part in, such as masks and positions; of the rest, only the shape.

    Weights and pixels live on the meta device. Where they meet numbers that exist, the result has no values either; a
    question about its values, such as "is any masked?", is answered with 0 or no.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        unknown = any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves((args, kwargs)))
        if not unknown:
            return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 0
        try:
            return func(*args, **kwargs)
        except (RuntimeError, NotImplementedError):
            args, kwargs = tree_map(_without_values, (args, kwargs))
            return func(*args, **kwargs)


@contextmanager
def _autocast_unasked():
    """Says that autocast is off: torch refuses the question for the meta device, and transformers 5.0 asks it."""
    ask = torch.is_autocast_enabled
    torch.is_autocast_enabled = lambda *device: False
    try:
        yield
    finally:
        torch.is_autocast_enabled = ask


def _without_values(leaf):
    if isinstance(leaf, Tensor):
        return leaf.to("meta")
    return torch.device("meta") if isinstance(leaf, torch.device) else leaf


_SHAPES: dict[tuple, Shape] = {}  # loading builds a model twice, and a run may build many alike


def shape_of(encoder: PreTrainedModel, modality: str) -> Shape:
    """What `_probe` finds, once for every class and config."""
    settings = tuple(_constructor_kwargs(encoder).items())
    key = type(encoder), encoder.config.to_json_string(use_diff=False), settings, modality
    if key not in _SHAPES:
        _SHAPES[key] = _probe(encoder, modality)
    return _SHAPES[key]


def _probe(encoder: PreTrainedModel, modality: str) -> Shape:
    """Runs a twin of the encoder whose weights are on the meta device: shapes are computed and nothing else.

    Raises:
        ValueError: when the encoder is of another modality, or does not return tokens.
    """
    config, kind = copy.deepcopy(encoder.config), MODALITIES[modality]
    called = f"The {kind.name} encoder {config.model_type!r}"
    arguments = set(inspect.signature(encoder.forward).parameters)
    if kind.own_input(config, arguments) is None:
        raise ValueError(f"{called} takes no {kind.main_input}: choose {kind.reads}.")
    if kind.mask in kind.inputs and kind.mask not in arguments:
        raise ValueError(f"{called} takes no {kind.mask}, so padding would change its answers: choose another.")
    # The fused attentions may need real memory; what comes out has the same shape.
    config._attn_implementation = "eager"
    config._experts_implementation = "batched_mm"
    config.return_dict = True
    # In inference mode there would be no graph to look at.
    with torch.inference_mode(False), torch.device("meta"), torch.no_grad():
        twin = type(encoder)._from_config(config, **_constructor_kwargs(encoder)).eval()
    no_mode = torch.inference_mode(False)
    with no_mode, torch.device("cpu"), _WeightsUnknown(), _autocast_unasked(), torch.enable_grad():
        given = kind.example(config)
        try:
            outputs = twin(**kind.encoder_inputs(twin, arguments, given))
        except Exception as error:  # anything may go wrong in a model that reads something else
            shapes = " and ".join(
                f"{name} {list(value.shape)}" if value.is_floating_point() else name for name, value in given.items()
            )
            raise ValueError(
                f"{called} does not run on {shapes} alone ({type(error).__name__}: {error}): choose {kind.reads}."
            ) from error
    states = getattr(outputs, "last_hidden_state", None)
    if not isinstance(states, Tensor) or states.ndim not in ((3, 4) if kind.feature_maps else (3,)):
        found = "none" if states is None else f"one of shape {list(getattr(states, 'shape', []))}"
        raise ValueError(
            f"{called} must return its tokens as last_hidden_state, but there is {found}: choose another."
        )
    states, num_special, _ = kind.tokens(config, outputs, given)
    pooled = outputs.get("pooler_output")
    return Shape(
        width=states.shape[-1],
        pooled_width=None if pooled is None else pooled.flatten(1).shape[-1],
        num_special=num_special,
        unread=_unread(twin, outputs.last_hidden_state),
        unread_pooled=set() if pooled is None else _unread(twin, pooled),
    )


def _unread(model: PreTrainedModel, output: Tensor) -> set[str]:
    """Names of the trainable parameters that are nowhere in the graph that computed `output`."""
    nodes, seen, read = [output.grad_fn], set(), set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # a leaf: where the gradient of a parameter accumulates
            read.add(id(node.variable))
        nodes += [following for following, _ in node.next_functions]
    return {name for name, p in model.named_parameters() if p.requires_grad and id(p) not in read}


def _constructor_kwargs(encoder: PreTrainedModel) -> dict:
    """How to build the encoder's like: without a pooler if it has none."""
    if "add_pooling_layer" not in inspect.signature(type(encoder).__init__).parameters:
        return {}
    return {"add_pooling_layer": getattr(encoder, "pooler", None) is not None}
