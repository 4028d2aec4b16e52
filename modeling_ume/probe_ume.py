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

from .text_ume import text_inputs
from .vision_ume import image_inputs, image_size, image_tokens


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
    config = copy.deepcopy(encoder.config)
    kind = f"The {modality} encoder {config.model_type!r}"
    main_input = "input_ids" if modality == "text" else "pixel_values"
    arguments = set(inspect.signature(encoder.forward).parameters)
    if main_input not in arguments:
        raise ValueError(f"{kind} takes no {main_input}: choose {_WANTED[modality]}.")
    if modality == "text" and "attention_mask" not in arguments:
        raise ValueError(f"{kind} takes no attention_mask, so padding would change its answers: choose another.")
    # The fused attentions may need real memory; what comes out has the same shape.
    config._attn_implementation = "eager"
    config._experts_implementation = "batched_mm"
    config.return_dict = True
    # In inference mode there would be no graph to look at.
    with torch.inference_mode(False), torch.device("meta"), torch.no_grad():
        twin = type(encoder)._from_config(config, **_constructor_kwargs(encoder)).eval()
    no_mode = torch.inference_mode(False)
    with no_mode, torch.device("cpu"), _WeightsUnknown(), _autocast_unasked(), torch.enable_grad():
        if modality == "text":
            tokens = torch.ones(1, 8, dtype=torch.long)
            inputs = text_inputs(arguments, tokens, torch.ones_like(tokens))
        else:
            size = image_size(config) or (224, 224)
            pixels = torch.empty(1, getattr(config, "num_channels", 3), *size, device="meta")
            inputs = image_inputs(twin, arguments, pixels)
        try:
            outputs = twin(**inputs)
        except Exception as error:  # anything may go wrong in a model that reads something else
            given = "input_ids and attention_mask" if modality == "text" else f"pixel_values {list(pixels.shape)}"
            raise ValueError(
                f"{kind} does not run on {given} alone ({type(error).__name__}: {error}): choose {_WANTED[modality]}."
            ) from error
    states = getattr(outputs, "last_hidden_state", None)
    if not isinstance(states, Tensor) or states.ndim not in ((3,) if modality == "text" else (3, 4)):
        found = "none" if states is None else f"one of shape {list(getattr(states, 'shape', []))}"
        raise ValueError(f"{kind} must return its tokens as last_hidden_state, but there is {found}: choose another.")
    num_special = 0
    if modality == "vision":
        states, num_special, _ = image_tokens(config, outputs, size)
    elif states.shape[1] != 8:
        raise ValueError(f"{kind} returns {states.shape[1]} states for 8 tokens: choose one that keeps every token.")
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


_WANTED = {"text": "a model that reads text", "vision": "a model that reads single pictures"}


def _constructor_kwargs(encoder: PreTrainedModel) -> dict:
    """How to build the encoder's like: without a pooler if it has none."""
    if "add_pooling_layer" not in inspect.signature(type(encoder).__init__).parameters:
        return {}
    return {"add_pooling_layer": getattr(encoder, "pooler", None) is not None}
