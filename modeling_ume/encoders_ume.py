"""The encoders: building any `AutoModel`, and the one adapter that turns what it returns into a `Stream`.

What decides is what an encoder shows (the rank of its output, its arguments, the tokens beyond its patch grid), never
its name.
"""

import copy
import importlib
import inspect
import math
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
)
from transformers.utils import ModelOutput

from .fusion_ume import Stream, masked_mean, real_first, reorder
from .numerics_ume import cut_off
from .padding_ume import in_given_order, is_padded, read_each_size, real_tokens
from .simple_encoders_ume import SIMPLE_ENCODERS


def encoder_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that reads tokens or pixels for `config`; of an encoder-decoder, its encoder.

    Raises:
        ValueError: when there is no such model.
        ImportError: when a package that it needs is missing.
    """
    if config.model_type in SIMPLE_ENCODERS:
        return SIMPLE_ENCODERS[config.model_type]
    found = None
    # In this order: of T5 and its like the second has the whole encoder-decoder.
    for mapping in (MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING):
        if found is None and type(config) in mapping:
            try:
                found = mapping[type(config)]
            except ImportError as error:
                cause = error
                while cause.__cause__ is not None:
                    cause = cause.__cause__
                raise ImportError(
                    f"The encoder model_type={config.model_type!r} needs a package that is not installed ({cause}): "
                    f"`pip install {getattr(cause, 'name', None) or 'the package'}` and try again."
                ) from error
    if config.is_encoder_decoder and type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
        raise ValueError(
            f"The encoder-decoder model_type={config.model_type!r} has no encoder that transformers can build alone: "
            "choose another."
        )
    if found is None:
        found = _class_named_after(config)
    if isinstance(found, (tuple, list)):
        found = found[0]
    return found


def _class_named_after(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Halves of dual models that the auto classes leave out: `SiglipTextConfig` is of `SiglipTextModel`, beside it."""
    config_class = type(config)
    name = config_class.__name__.removesuffix("Config") + "Model"
    try:
        found = getattr(importlib.import_module(config_class.__module__.replace("configuration_", "modeling_")), name)
    except (ImportError, AttributeError):
        raise ValueError(
            f"transformers has no encoder for model_type={config.model_type!r}: choose a text or image model that "
            "AutoModel can build."
        ) from None
    return found


def as_encoder(config: PretrainedConfig) -> PretrainedConfig:
    """The config, changed in place where it describes more or other than an encoder that reads its whole input."""
    if config.is_encoder_decoder and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        config.is_encoder_decoder = False
    # An encoder that is given `noise` hides patches by it, which only its pretraining wants.
    if "noise" in inspect.signature(encoder_class(config).forward).parameters:
        config.mask_ratio = 0.0
    return config


def pooling_kwargs(config: PretrainedConfig, pooling: str) -> dict:
    """Leaves a removable pooler out unless it is asked for: unused parameters break DDP and checkpoints lack them."""
    removable = "add_pooling_layer" in inspect.signature(encoder_class(config).__init__).parameters
    return {"add_pooling_layer": pooling == "pooler"} if removable else {}


def build_encoder(config: PretrainedConfig, pooling: str) -> PreTrainedModel:
    """An encoder with random weights that shares `config` (not a copy of it)."""
    config = as_encoder(config)
    encoder = encoder_class(config)._from_config(config, **pooling_kwargs(config, pooling))
    encoder.config = config
    return encoder


@dataclass
class Shape:
    """What an encoder gives, found by running it: token width, whether it pools and how wide, special tokens."""

    width: int
    pooled_width: int | None  # None: no pooled vector
    num_special: int  # tokens that are not content; of text encoders 0, their special tokens are content
    unread: set[str]  # parameters that the tokens do not depend on, by name
    unread_pooled: set[str]  # those that the pooled vector does not depend on


class EncoderAdapter:
    """Turns one encoder's output into a `Stream`.

    Args:
        encoder: the text or image model.
        modality: `"text"` or `"vision"`.
        pooling: `"auto"`, `"cls"`, `"mean"`, `"pooler"` or `"last"`.
        feature_grid: side g of the g×g grid over which image tokens are averaged; None leaves them as they are.

    Attributes:
        width, pooled_width: D_m of the tokens and of the summary.
        causal: of a text encoder, that a token reads only what stands before it.
        without_pooler: the pooling that does without the encoder's own.
        unread, unread_by_states: parameters that the stream, or its states, do not depend on, by name.

    Raises:
        ValueError: when the encoder cannot give the pooling that was asked for.
    """

    def __init__(self, encoder: PreTrainedModel, modality: str, pooling: str, feature_grid: int | None = None):
        self.modality = modality
        self.feature_grid = feature_grid
        parameters = inspect.signature(encoder.forward).parameters
        self.arguments = set(parameters)
        self.takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        shape = _shape(encoder, modality)
        self.width = shape.width
        self.pooling = self._choose_pooling(encoder, pooling, shape)
        self.pooled_width = shape.pooled_width if self.pooling == "pooler" else shape.width
        self.unread_by_states = shape.unread
        self.unread = shape.unread & shape.unread_pooled if self.pooling == "pooler" else shape.unread
        self.freeze_unread(encoder)

    def freeze_unread(self, encoder: PreTrainedModel) -> None:
        """Takes parameters out of training that have no part in what is read from the encoder.

        Such as the mask token of a pretraining that is over, or a segment embedding where there are no segments: they
        get no gradient, for which `DistributedDataParallel` would wait. Loading makes them trainable again.
        """
        for name, parameter in encoder.named_parameters():
            if name in self.unread:
                parameter.requires_grad_(False)

    def read_of(self, encoder: PreTrainedModel, names: Iterable[str]) -> list[str]:
        """Those of the encoder's weights that what it gives depends on; numbers that are counted or computed anew are
        no weights."""
        held = encoder.state_dict()
        return [
            name
            for name in sorted(names)
            if name in held
            and name not in self.unread
            and held[name].is_floating_point()
            and not name.endswith(("inv_freq", "num_batches_tracked"))
        ]

    def _choose_pooling(self, encoder: PreTrainedModel, pooling: str, shape: Shape) -> str:
        name = f"{self.modality}_pooling"
        kind = encoder.config.model_type
        is_text = self.modality == "text"
        # An encoder whose models predict masked tokens reads both ways and has a summary token in front.
        masked_lm = type(encoder.config) in MODEL_FOR_MASKED_LM_MAPPING
        causal = type(encoder.config) in MODEL_FOR_CAUSAL_LM_MAPPING and not masked_lm
        self.causal = causal
        # SigLIP's text half pools what stands at the last position, be it padding.
        pools_padding = is_text and hasattr(encoder.config, "projection_size")
        self.without_pooler = "cls" if (masked_lm if is_text else shape.num_special > 0) else "mean"
        if pooling == "auto":
            if (is_text and causal) or pools_padding:
                return "last"
            if shape.pooled_width is not None:
                return "pooler"
            return self.without_pooler
        if pooling == "pooler" and pools_padding:
            raise ValueError(f"{name}='pooler': the encoder {kind!r} pools padding too; use 'auto' or 'last'.")
        if pooling == "pooler" and shape.pooled_width is None:
            raise ValueError(f"{name}='pooler': the encoder {kind!r} has no pooled output; use 'auto' or 'mean'.")
        if pooling == "cls" and not is_text and not shape.num_special:
            raise ValueError(f"{name}='cls': the encoder {kind!r} has no class token; use 'auto' or 'mean'.")
        if pooling == "last" and not is_text:
            raise ValueError(f"{name}='last': image tokens have no last word; use 'auto', 'cls', 'mean' or 'pooler'.")
        return pooling

    def text(self, encoder, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Stream:
        """input_ids [B, L] (and masks alike) → Stream of B rows; tokens with mask 0 are not real."""
        return self.read_text(encoder, input_ids, attention_mask, token_type_ids)[0]

    def read_text(
        self,
        encoder,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        record: dict[str, bool] | None = None,
    ) -> tuple[Stream, ModelOutput]:
        """As `text`, of ids or in their place of embeddings [B, L, E], and what the encoder returned; see `run`."""
        given = input_ids if inputs_embeds is None else inputs_embeds
        mask = self.text_mask(encoder, attention_mask, given)
        order = real_first(mask)
        front = reorder(mask, order)
        if token_type_ids is not None:
            token_type_ids = reorder(token_type_ids, order)
        if inputs_embeds is not None:
            inputs_embeds = cut_off(reorder(inputs_embeds, order), front)
        else:
            input_ids = reorder(input_ids, order)
            padding = getattr(encoder.config, "pad_token_id", None)
            if padding is not None and padding >= 0:
                # RoBERTa counts positions, and CLIP looks for the end, by the ids themselves.
                input_ids = input_ids.masked_fill(~front, padding)
        # Attention over nothing at all would be NaN, in a question without any token.
        attended = (front | (torch.arange(front.shape[1], device=front.device) == 0)).long()
        try:
            inputs = _text_inputs(self.arguments, input_ids, attended, token_type_ids, inputs_embeds)
            outputs = self.run(encoder, inputs, record)
        except (RuntimeError, IndexError) as error:
            limit, length = position_limit(encoder), given.shape[1]
            if limit is None or length <= limit:
                raise
            raise ValueError(
                f"A question has {length} tokens, but the text encoder {encoder.config.model_type!r} reads {limit}: "
                f"cut it with the processor's max_length={limit}, or set the tokenizer's model_max_length."
            ) from error
        pooled = self._pool(outputs, outputs.last_hidden_state, front, content=front)
        states = in_given_order(outputs, order)  # [B, L, D]
        return Stream(states, mask, pooled, mask.any(1)), outputs

    @staticmethod
    def text_mask(encoder, attention_mask: Tensor | None, given: Tensor) -> Tensor:
        """[B, L] bool, of ids [B, L] or embeddings [B, L, E]: the mask, or without one all but padding at the ends."""
        if attention_mask is not None:
            return attention_mask.bool()
        if given.ndim == 2:
            return real_tokens(encoder.config, given)
        return torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)

    def vision(self, encoder, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> Stream:
        """pixel_values [U, 3, H, W] → Stream of U rows whose last H·W tokens are the grid, where there is one.

        pixel_mask [U, H, W]: 0 where an image was padded to the size of the others; each is read at its own size.
        """
        return self.read_image(encoder, pixel_values, pixel_mask=pixel_mask)[0]

    def read_image(
        self,
        encoder,
        pixel_values: Tensor,
        record: dict[str, bool] | None = None,
        pixel_mask: Tensor | None = None,
    ) -> tuple[Stream, ModelOutput]:
        """As `vision`, and what the encoder returned; see `run`; of padded images, their states on one grid."""
        if is_padded(pixel_values, pixel_mask):
            if any((record or {}).values()):
                raise ValueError(
                    "Inner states of images of different sizes do not fit into one tensor: ask for "
                    "output_hidden_states and output_attentions with images of one size."
                )
            stream = read_each_size(lambda x: self.read_image(encoder, x)[0], pixel_values, pixel_mask)
            return stream, BaseModelOutput(last_hidden_state=stream.states)
        outputs = self._look(encoder, pixel_values, record)
        states, num_special, grid = _image_tokens(encoder.config, outputs, pixel_values.shape[-2:])
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        content = mask.clone()
        content[:, :num_special] = False
        pooled = self._pool(outputs, states, mask, content)
        if self.feature_grid is not None:
            states, grid = average_grid(states, grid, self.feature_grid)
            mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        present = torch.ones(states.shape[0], dtype=torch.bool, device=states.device)
        return Stream(states, mask, pooled, present, grid), outputs

    def _look(self, encoder, pixel_values: Tensor, record: dict[str, bool] | None = None):
        """Runs the image encoder; one that cannot take images of this size says so."""
        inputs = _image_inputs(encoder, self.arguments, pixel_values)
        made_for, size = _image_size(encoder.config), tuple(pixel_values.shape[-2:])
        if made_for in (None, size):
            return self.run(encoder, inputs, record)
        try:
            return self.run(encoder, inputs, record)
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            raise ValueError(
                f"The image encoder {encoder.config.model_type!r} was made for images of {made_for[0]}×{made_for[1]} "
                f"pixels and cannot read {size[0]}×{size[1]} ({error}): let the image processor resize and crop to "
                f"{made_for[0]}×{made_for[1]}."
            ) from error

    def run(self, encoder, inputs: dict, record: dict[str, bool] | None = None) -> ModelOutput:
        """Runs the encoder.

        Args:
            record: `output_attentions` and `output_hidden_states`, as far as anyone has said; an encoder that knows
                no such thing is not asked. Attentions come from the eager implementation, for this one call, where
                the encoder uses another, which never has them in memory.

        Raises:
            ValueError: when attentions are asked for that the encoder's implementation cannot give.
        """
        asked = dict(record or {})
        if encoder.config.output_attentions:
            asked.setdefault("output_attentions", True)
        if encoder.config.return_dict is False:
            asked["return_dict"] = True  # what is read here has names
        asked = {name: flag for name, flag in asked.items() if self.takes_any or name in self.arguments}
        if not asked.get("output_attentions"):
            return encoder(**inputs, **asked)
        with _eager(encoder):
            outputs = encoder(**inputs, **asked)
        if not outputs.get("attentions") and encoder.config._attn_implementation not in (None, "eager"):
            raise ValueError(
                f"The {self.modality} encoder {encoder.config.model_type!r} gives no attentions with "
                f"attn_implementation={encoder.config._attn_implementation!r}: load the model with "
                "attn_implementation='eager'."
            )
        return outputs

    def _pool(self, outputs, states: Tensor, mask: Tensor, content: Tensor) -> Tensor:
        if self.pooling == "pooler":
            return outputs.pooler_output.flatten(1)  # feature maps pool to [B, C, 1, 1]
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "last":
            # The last real token, wherever the tokenizer put the padding.
            positions = torch.arange(mask.shape[1], device=mask.device)
            return states[torch.arange(states.shape[0], device=states.device), (positions * mask).argmax(1)]
        return masked_mean(states, content)


@contextmanager
def _eager(encoder: PreTrainedModel):
    """The encoder computes attention step by step; where it decides that once and for all, it stays as it is."""
    configs = {id(m.config): m.config for m in encoder.modules() if isinstance(m, PreTrainedModel)}.values()
    kept = [(config, config._attn_implementation) for config in configs]
    # What is computed again in backward must be computed the same way then.
    again = encoder.training and any(getattr(m, "gradient_checkpointing", False) for m in encoder.modules())
    try:
        for config, implementation in kept:
            if implementation is not None and not again:
                config._attn_implementation = "eager"
        yield
    finally:
        for config, implementation in kept:
            config._attn_implementation = implementation


def position_limit(encoder: PreTrainedModel) -> int | None:
    """How many tokens an encoder can read that has a table of positions; None: it has no such table."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Embedding) and ("position" in name or "wpe" in name):
            limit = getattr(encoder.config, "max_position_embeddings", module.num_embeddings)
            # The table may begin with rows that stand for no position, up to that of the padding.
            return limit if module.padding_idx is None else limit - module.padding_idx - 1
    return None


def _text_inputs(
    arguments: set[str],
    input_ids: Tensor | None,
    mask: Tensor,
    token_type_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
) -> dict:
    inputs = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
    inputs["attention_mask"] = mask
    if token_type_ids is not None and "token_type_ids" in arguments:
        inputs["token_type_ids"] = token_type_ids
    if "use_cache" in arguments:
        inputs["use_cache"] = False  # a question is read once, nothing is generated
    return inputs


def _image_inputs(encoder: PreTrainedModel, arguments: set[str], pixel_values: Tensor) -> dict:
    inputs = {"pixel_values": pixel_values}
    size = _image_size(encoder.config)
    if size is not None and size != tuple(pixel_values.shape[-2:]) and "interpolate_pos_encoding" in arguments:
        inputs["interpolate_pos_encoding"] = True
    if "noise" in arguments:
        # Patches are sorted by their noise: ascending numbers leave them in place.
        (height, width), (rows, columns) = pixel_values.shape[-2:], _pair(encoder.config.patch_size)
        patches = (height // rows) * (width // columns)
        inputs["noise"] = torch.arange(patches, device=pixel_values.device).expand(pixel_values.shape[0], -1)
    return inputs


def _image_tokens(config, outputs, image_size: tuple[int, int]) -> tuple[Tensor, int, tuple[int, int] | None]:
    """Returns tokens [U, N, D] with those that are not content first, their number, and the grid (H, W)."""
    states = outputs.last_hidden_state
    if states.ndim == 4:  # a feature map [U, C, H, W]
        pooled = outputs.get("pooler_output")
        if pooled is not None and states.shape[1] != pooled.flatten(1).shape[1] == states.shape[3]:
            states = states.permute(0, 3, 1, 2)  # it was [U, H, W, C], as timm's Swin gives it
        return states.flatten(2).transpose(1, 2), 0, tuple(states.shape[-2:])
    num_tokens = states.shape[1]
    # Detection tokens stand behind the patches (YOLOS); everything else that is not a patch stands before them.
    behind = getattr(config, "num_detection_tokens", 0)
    patch_size = getattr(config, "patch_stride", None) or getattr(config, "patch_size", None)
    grid = _find_grid(num_tokens - behind, image_size, _pair(patch_size))
    if grid is None:
        return states, 0, None
    num_special = num_tokens - math.prod(grid)
    if behind:
        before, patches, behind = states.split([num_special - behind, math.prod(grid), behind], dim=1)
        states = torch.cat([before, behind, patches], dim=1)
    return states, num_special, grid


def _find_grid(num_tokens: int, image_size: tuple[int, int], patch_size: tuple[int, int] | None):
    """The grid (H, W) that leaves the fewest of `num_tokens` over, or None where nothing comes close.

    It is that of the patches, which hierarchical encoders halve from stage to stage; where the config has none, or
    their grid does not fit, one of the image's aspect ratio.
    """
    of_patches = []
    if patch_size is not None:
        for up in (0, 1):  # some encoders cut what is left of a patch at the border, some pad it
            rows, columns = ((s + up * (p - 1)) // p for s, p in zip(image_size, patch_size, strict=True))
            while rows * columns > num_tokens and (rows > 1 or columns > 1):
                rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
            of_patches.append((rows, columns))
    height, width = image_size
    most_rows = math.isqrt(num_tokens * height // width) + 1
    of_its_shape = [(rows, round(rows * width / height)) for rows in range(1, most_rows + 1)]
    for grids in (of_patches, of_its_shape):
        fitting = [grid for grid in grids if max(num_tokens - MAX_SPECIAL_TOKENS, 1) <= math.prod(grid) <= num_tokens]
        if fitting:
            return max(fitting, key=math.prod)
    return None


def average_grid(states: Tensor, grid: tuple[int, int] | None, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Averages the last H·W of the tokens [U, N, D] over side × side cells; the tokens before them stay.

    Returns:
        The tokens [U, N − H·W + side², D] and their grid (side, side).

    Raises:
        ValueError: when the image has no grid, or a coarser one.
    """
    if grid is None or side > min(grid):
        has = "no grid of tokens" if grid is None else f"a grid of {grid[0]}×{grid[1]} tokens"
        raise ValueError(f"feature_grid={side} is impossible: the image encoder gives {has}.")
    num_special = states.shape[1] - math.prod(grid)
    cells = states[:, num_special:].transpose(1, 2).unflatten(2, grid)  # [U, D, H, W]
    cells = F.adaptive_avg_pool2d(cells, side).flatten(2).transpose(1, 2)  # [U, side², D]
    return torch.cat([states[:, :num_special], cells], dim=1), (side, side)


MAX_SPECIAL_TOKENS = 16  # class, distillation and register tokens of one image; no encoder has more


def _image_size(config) -> tuple[int, int] | None:
    """The image size (height, width) that the encoder was made for, where its config says one."""
    size = getattr(config, "image_size", None)
    if size is None:
        size = (getattr(config, "pretrained_cfg", None) or {}).get("input_size")  # timm's: channels, height, width
    return _pair(size)


def _pair(size) -> tuple[int, int] | None:
    """A size as configs write it (a number, a pair, None) as (height, width)."""
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else tuple(size)[-2:]


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


def _shape(encoder: PreTrainedModel, modality: str) -> Shape:
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
            inputs = _text_inputs(arguments, tokens, torch.ones_like(tokens))
        else:
            size = _image_size(config) or (224, 224)
            pixels = torch.empty(1, getattr(config, "num_channels", 3), *size, device="meta")
            inputs = _image_inputs(twin, arguments, pixels)
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
        states, num_special, _ = _image_tokens(config, outputs, size)
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
