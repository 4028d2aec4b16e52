"""The encoders: building any `AutoModel`, and the one adapter that turns what it returns into a `Stream`.

What decides is what an encoder shows (the rank of its output, its arguments, the tokens beyond its patch grid), never
its name.
"""

import importlib
import inspect
from collections.abc import Iterable
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING
from transformers.utils import ModelOutput

from .modalities_ume import MODALITIES
from .probe_ume import shape_of
from .simple_encoders_ume import SIMPLE_ENCODERS
from .streams_ume import Stream, masked_mean


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
    if isinstance(found, (tuple, list)):
        found = found[0]
    if found is not None and (alone := _encoder_of_sounds(found)) is not None:
        return alone
    if config.is_encoder_decoder and type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
        raise ValueError(
            f"The encoder-decoder model_type={config.model_type!r} has no encoder that transformers can build alone: "
            "choose another."
        )
    return found or _class_named_after(config)


def _encoder_of_sounds(model: type[PreTrainedModel]) -> type[PreTrainedModel] | None:
    """The encoder alone of an encoder-decoder that reads sounds, such as Whisper's, where it is a model by itself."""
    if model.main_input_name != "input_features":
        return None
    name = model.__name__.removesuffix("Model") + "Encoder"
    found = getattr(importlib.import_module(model.__module__), name, None)
    return found if isinstance(found, type) and issubclass(found, PreTrainedModel) else None


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
    found = encoder_class(config)
    if config.is_encoder_decoder:
        config.is_encoder_decoder = False
    # An encoder that is given `noise` hides patches by it, which only its pretraining wants.
    if "noise" in inspect.signature(found.forward).parameters:
        config.mask_ratio = 0.0
    # Stretches of a sound are hidden likewise, and a short one has none that is long enough.
    if getattr(config, "apply_spec_augment", False):
        config.apply_spec_augment = False
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


class EncoderAdapter:
    """Turns one encoder's output into a `Stream`.

    Args:
        encoder: the model of one modality.
        modality: its key in `MODALITIES`, such as `"text"`.
        pooling: `"auto"`, `"cls"`, `"mean"`, `"pooler"` or `"last"`.
        feature_grid: side g of the g×g grid over which image tokens are averaged; None leaves them as they are.

    Attributes:
        kind: the entry in `MODALITIES`.
        width, pooled_width: D_m of the tokens and of the summary.
        causal: of a text encoder, that a token reads only what stands before it.
        without_pooler: the pooling that does without the encoder's own.
        unread, unread_by_states: parameters that the stream, or its states, do not depend on, by name.

    Raises:
        ValueError: when the encoder cannot give the pooling that was asked for.
    """

    def __init__(self, encoder: PreTrainedModel, modality: str, pooling: str, feature_grid: int | None = None):
        self.modality = modality
        self.kind = MODALITIES[modality]
        self.feature_grid = feature_grid
        parameters = inspect.signature(encoder.forward).parameters
        self.arguments = set(parameters)
        self.takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        shape = shape_of(encoder, modality)
        self.width = shape.width
        found = (shape.pooled_width, shape.num_special)
        own, self.without_pooler, self.causal = self.kind.own_pooling(encoder, *found)
        self.kind.check_pooling(encoder, pooling, *found)
        self.pooling = own if pooling == "auto" else pooling
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

    def read(self, encoder, inputs: dict, record: dict[str, bool] | None = None) -> tuple[Stream, ModelOutput]:
        """What `forward` takes of this modality → the stream of its rows, and what the encoder returned; see `run`."""
        return self.kind.read(self, encoder, self.kind.prepare(encoder, inputs), record)

    def text(self, encoder, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Stream:
        """input_ids [B, L] (and masks alike) → Stream of B rows; tokens with mask 0 are not real."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self.read(encoder, inputs)[0]

    def vision(self, encoder, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> Stream:
        """pixel_values [U, 3, H, W] → Stream of U rows whose last H·W tokens are the grid, where there is one.

        pixel_mask [U, H, W]: 0 where an image was padded to the size of the others; each is read at its own size.
        """
        return self.read(encoder, {"pixel_values": pixel_values, "pixel_mask": pixel_mask})[0]

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

    def pool(self, outputs, states: Tensor, mask: Tensor, content: Tensor) -> Tensor:
        """The summary of each row, [rows, D_p], of tokens [rows, N, D]: which are real, and which of these count."""
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
