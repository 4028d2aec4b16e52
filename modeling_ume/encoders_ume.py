"""The encoders: building any `AutoModel`, and the one adapter that turns what it returns into a `Stream`.

What decides is what an encoder shows (the rank of its output, its arguments, the tokens beyond its patch grid), never
its name.
"""

import copy
import inspect
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
)

from .fusion_ume import Stream


def encoder_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that reads tokens or pixels for `config`; of an encoder-decoder, its encoder.

    Raises:
        ValueError: when transformers knows no such model.
    """
    mapping = MODEL_FOR_TEXT_ENCODING_MAPPING if config.is_encoder_decoder else MODEL_MAPPING
    if type(config) not in mapping:
        raise ValueError(
            f"transformers has no encoder for model_type={config.model_type!r}: choose a text or image model that "
            f"{'AutoModelForTextEncoding' if config.is_encoder_decoder else 'AutoModel'} can build."
        )
    found = mapping[type(config)]
    return found[0] if isinstance(found, (tuple, list)) else found


def pooling_kwargs(config: PretrainedConfig, pooling: str) -> dict:
    """Leaves a removable pooler out unless it is asked for: unused parameters break DDP and checkpoints lack them."""
    removable = "add_pooling_layer" in inspect.signature(encoder_class(config).__init__).parameters
    return {"add_pooling_layer": pooling == "pooler"} if removable else {}


def build_encoder(config: PretrainedConfig, pooling: str) -> PreTrainedModel:
    """An encoder with random weights that shares `config` (not a copy of it)."""
    auto = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
    encoder = auto.from_config(config, **pooling_kwargs(config, pooling))
    encoder.config = config
    return encoder


def load_encoder(name: str, modality: str, pooling: str, **kwargs) -> PreTrainedModel:
    """A pretrained encoder by Hub name or folder; of a dual checkpoint such as CLIP's, the half for `modality`.

    Args:
        modality: `"text"` or `"vision"`.
        kwargs: passed to `from_pretrained` (`revision`, `dtype`, `attn_implementation`, `config`, …).
    """
    config = kwargs.pop("config", None)
    if config is None:
        hub = {key: kwargs[key] for key in ("revision", "cache_dir", "token", "subfolder") if key in kwargs}
        config = AutoConfig.from_pretrained(name, **hub)
    config = getattr(config, f"{modality}_config", config)
    return encoder_class(config).from_pretrained(name, config=config, **pooling_kwargs(config, pooling), **kwargs)


@dataclass
class Shape:
    """What an encoder gives, found by running it: token width, whether it pools and how wide, special tokens."""

    width: int
    pooled_width: int | None  # None: no pooled vector
    num_special: int  # tokens that are not content; of text encoders 0, their special tokens are content
    is_map: bool  # a feature map [B, C, H, W] instead of tokens


class EncoderAdapter:
    """Turns one encoder's output into a `Stream`.

    Args:
        encoder: the text or image model.
        modality: `"text"` or `"vision"`.
        pooling: `"auto"`, `"cls"`, `"mean"`, `"pooler"` or `"last"`.

    Attributes:
        width, pooled_width: D_m of the tokens and of the summary.

    Raises:
        ValueError: when the encoder cannot give the pooling that was asked for.
    """

    def __init__(self, encoder: PreTrainedModel, modality: str, pooling: str):
        self.modality = modality
        self.arguments = set(inspect.signature(encoder.forward).parameters)
        shape = _probe(encoder, modality)
        self.width, self.is_map = shape.width, shape.is_map
        self.pooling = self._choose_pooling(encoder, pooling, shape)
        self.pooled_width = shape.pooled_width if self.pooling == "pooler" else shape.width

    def _choose_pooling(self, encoder: PreTrainedModel, pooling: str, shape: Shape) -> str:
        name = f"{self.modality}_pooling"
        kind = encoder.config.model_type
        is_text = self.modality == "text"
        # An encoder whose models predict masked tokens reads both ways and has a summary token in front.
        masked_lm = type(encoder.config) in MODEL_FOR_MASKED_LM_MAPPING
        causal = type(encoder.config) in MODEL_FOR_CAUSAL_LM_MAPPING and not masked_lm
        if pooling == "auto":
            if is_text and causal:
                return "last"
            if shape.pooled_width is not None:
                return "pooler"
            return "cls" if (masked_lm if is_text else shape.num_special > 0) else "mean"
        if pooling == "pooler" and shape.pooled_width is None:
            raise ValueError(f"{name}='pooler': the encoder {kind!r} has no pooled output; use 'auto' or 'mean'.")
        if pooling == "cls" and not is_text and not shape.num_special:
            raise ValueError(f"{name}='cls': the encoder {kind!r} has no class token; use 'auto' or 'mean'.")
        if pooling == "last" and not is_text:
            raise ValueError(f"{name}='last': image tokens have no last word; use 'auto', 'cls', 'mean' or 'pooler'.")
        return pooling

    def text(self, encoder, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Stream:
        """input_ids [B, L] (and masks alike) → Stream of B rows; tokens with mask 0 are not real."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if token_type_ids is not None and "token_type_ids" in self.arguments:
            inputs["token_type_ids"] = token_type_ids
        if "use_cache" in self.arguments:
            inputs["use_cache"] = False  # a question is read once, nothing is generated
        outputs = encoder(**inputs)
        states, mask = outputs.last_hidden_state, mask.bool()  # [B, L, D], [B, L]
        return Stream(states, mask, self._pool(outputs, states, mask, content=mask), mask.any(1))

    def vision(self, encoder, pixel_values: Tensor) -> Stream:
        """pixel_values [U, 3, H, W] → Stream of U rows whose last H·W tokens are the grid, where there is one."""
        outputs = encoder(**_image_inputs(encoder, self.arguments, pixel_values))
        states, num_special, grid = _image_tokens(encoder.config, outputs, pixel_values.shape[-2:])
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        content = mask.clone()
        content[:, :num_special] = False
        pooled = self._pool(outputs, states, mask, content)
        present = torch.ones(len(states), dtype=torch.bool, device=states.device)
        return Stream(states, mask, pooled, present, grid)

    def _pool(self, outputs, states: Tensor, mask: Tensor, content: Tensor) -> Tensor:
        if self.pooling == "pooler":
            return outputs.pooler_output.flatten(1)  # feature maps pool to [B, C, 1, 1]
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "last":
            # The last real token, wherever the tokenizer put the padding.
            positions = torch.arange(mask.shape[1], device=mask.device)
            return states[torch.arange(len(states), device=states.device), (positions * mask).argmax(1)]
        share = content / content.sum(1, keepdim=True).clamp(min=1)
        return torch.einsum("bn,bnd->bd", share.to(states.dtype), states)


def _image_inputs(encoder: PreTrainedModel, arguments: set[str], pixel_values: Tensor) -> dict:
    inputs = {"pixel_values": pixel_values}
    size = _pair(getattr(encoder.config, "image_size", None))
    if size is not None and size != tuple(pixel_values.shape[-2:]) and "interpolate_pos_encoding" in arguments:
        inputs["interpolate_pos_encoding"] = True
    return inputs


def _image_tokens(config, outputs, image_size: tuple[int, int]) -> tuple[Tensor, int, tuple[int, int] | None]:
    """Returns tokens [U, N, D] with those that are not content first, their number, and the grid (H, W)."""
    states = outputs.last_hidden_state
    if states.ndim == 4:  # a feature map [U, C, H, W]
        return states.flatten(2).transpose(1, 2), 0, tuple(states.shape[-2:])
    num_tokens = states.shape[1]
    grid = _find_grid(num_tokens, image_size, _pair(getattr(config, "patch_size", None)))
    if grid is None:
        return states, 0, None
    # Detection tokens stand behind the patches (YOLOS); everything else that is not a patch stands before them.
    behind = getattr(config, "num_detection_tokens", 0)
    if behind:
        states = torch.cat([states[:, num_tokens - behind :], states[:, : num_tokens - behind]], dim=1)
    return states, num_tokens - math.prod(grid), grid


def _find_grid(num_tokens: int, image_size: tuple[int, int], patch_size: tuple[int, int] | None):
    """The finest patch grid that fits into `num_tokens`; hierarchical encoders halve it from stage to stage."""
    if patch_size is None:
        # Unknown patches: a grid of the image's aspect ratio that leaves the fewest tokens over.
        height, width = image_size
        for rows in range(math.isqrt(num_tokens * height // width) + 1, 0, -1):
            columns = round(rows * width / height)
            if columns and rows * columns <= num_tokens <= rows * columns + MAX_SPECIAL_TOKENS:
                return rows, columns
        return None
    rows, columns = (size // patch for size, patch in zip(image_size, patch_size, strict=True))
    while rows * columns > num_tokens and (rows > 1 or columns > 1):
        rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
    return (rows, columns) if 0 < rows * columns <= num_tokens else None


MAX_SPECIAL_TOKENS = 16  # class, distillation and register tokens of one image; no encoder has more


def _pair(size) -> tuple[int, int] | None:
    """A size as configs write it (a number, a pair, None) as (height, width)."""
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else tuple(size)[-2:]


class _ValuesUnknown(TorchDispatchMode):
    """Answers 0 or no to every question about values, such as "is any token masked?": the meta device has none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 0
        return func(*args, **(kwargs or {}))


def _probe(encoder: PreTrainedModel, modality: str) -> Shape:
    """Runs a twin of the encoder on the meta device, where shapes are computed and nothing else."""
    config = copy.deepcopy(encoder.config)
    # The fused attentions may need real memory; what comes out has the same shape.
    config._attn_implementation = "eager"
    with torch.device("meta"), _ValuesUnknown(), torch.no_grad():
        twin = type(encoder)._from_config(config, **_constructor_kwargs(encoder)).eval()
        if modality == "text":
            outputs = twin(input_ids=torch.ones(1, 8, dtype=torch.long))
            states, num_special = outputs.last_hidden_state, 0
        else:
            size = _pair(getattr(config, "image_size", None)) or (224, 224)
            pixels = torch.zeros(1, getattr(config, "num_channels", 3), *size)
            outputs = twin(**_image_inputs(twin, set(inspect.signature(twin.forward).parameters), pixels))
            states, num_special, _ = _image_tokens(config, outputs, size)
    pooled = outputs.get("pooler_output")
    return Shape(
        width=states.shape[-1],
        pooled_width=None if pooled is None else pooled.flatten(1).shape[-1],
        num_special=num_special,
        is_map=outputs.last_hidden_state.ndim == 4,
    )


def _constructor_kwargs(encoder: PreTrainedModel) -> dict:
    """How to build the encoder's like: without a pooler if it has none."""
    if "add_pooling_layer" not in inspect.signature(type(encoder).__init__).parameters:
        return {}
    return {"add_pooling_layer": getattr(encoder, "pooler", None) is not None}
