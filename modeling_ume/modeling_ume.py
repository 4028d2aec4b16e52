"""The models: two encoders with a fusion head over their streams, and with a classifier over answers on top of it.

For retrieval the same two encoders stand side by side, each with a projection into one common space.
"""

import functools
import importlib
import math
import os
from dataclasses import fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, __version__
from transformers import initialization as init
from transformers.modeling_utils import LoadStateDictInfo
from transformers.utils import ModelOutput, cached_file, is_peft_available, logging

# Not used here: every saved model shall bring its pipeline along, and transformers 5.0 copies only those files that
# the entry file itself imports.
from .arguments_ume import route_arguments  # noqa: F401
from .configuration_ume import UMEConfig
from .encoders_ume import EncoderAdapter, build_encoder, position_limit
from .fusion_ume import (
    FUSIONS,
    FusionModule,
    Stream,
    build_fusion,
    is_present,
    masked_mean,
    real_first,
    reorder,
    take,
)
from .limits_ume import check_against_weights, loading
from .loading_ume import absent_names, load_encoder, place, shown, split_arguments
from .numerics_ume import cut_off, widen
from .outputs_ume import (
    MODALITIES,
    RECORDED,
    RECORDS,
    UMEFeaturesOutput,
    UMEModelOutput,
    UMERetrievalOutput,
    UMEVQAOutput,
    records,
    refuse_unknown,
)
from .padding_ume import join_streams
from .pairs_triton_ume import fits_kernels  # noqa: F401
from .pairs_ume import pair_mean  # noqa: F401
from .pipeline_ume import UMEVQAPipeline  # noqa: F401
from .processing_ume import decode_logits  # noqa: F401
from .simple_encoders_ume import SIMPLE_ENCODERS  # noqa: F401
from .stored_ume import LOAD_ARGUMENTS, known_fields
from .trust_ume import HUB_ARGUMENTS, load_trusted

MAX_LOGIT_SCALE = math.log(100)
# Newer releases have another name, and call it by the old one.
CHECKPOINTING = "activation_checkpointing_enable"
if not hasattr(PreTrainedModel, CHECKPOINTING):
    CHECKPOINTING = "gradient_checkpointing_enable"


class UMEPreTrainedModel(PreTrainedModel):
    """Initialisation, saving and loading shared by the UME models."""

    config_class = UMEConfig
    base_model_prefix = "ume"
    supports_gradient_checkpointing = True
    # Each encoder decides for itself what it supports; the composite stands in no one's way.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = sorted(head.__name__ for head in FUSIONS.values())
    # The Trainer would otherwise take `forward` to divide by its `num_items_in_batch` and scale the loss itself.
    accepts_loss_kwargs = False

    def post_init(self) -> None:
        # The class can; whether a model can is decided by its encoders.
        self.supports_gradient_checkpointing = any(map(_recomputes, self._encoders()))
        check_against_weights(sum(parameter.numel() for parameter in self.parameters()))
        super().post_init()
        # Of all the names above and in the encoders' classes: accelerate refuses what a model lacks.
        here = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = sorted(here.intersection(self._no_split_modules))

    def _encoders(self) -> list[PreTrainedModel]:
        return [getattr(self.base_model, f"{modality}_model") for modality in MODALITIES]

    def get_encoder(self, modality: str | None = None) -> PreTrainedModel:
        """
        The encoder of `"text"` (the default, as in transformers) or of `"image"`, which is also called `"vision"`.

        Raises:
            ValueError: for another modality.
        """
        return getattr(self.base_model, f"{_modality(modality)}_model")

    def set_encoder(self, encoder: PreTrainedModel, modality: str | None = None) -> None:
        """
        Puts another encoder of the same kind and size in the place of that which `get_encoder` returns; its weights
        count, and the config stays.

        Raises:
            ValueError: for another modality, class or size: what stands behind the encoder was built for the old one.
        """
        own, name = self.get_encoder(modality), f"{_modality(modality)}_model"
        if type(encoder) is not type(own) or encoder.state_dict().keys() != own.state_dict().keys():
            raise ValueError(
                f"{type(encoder).__name__} cannot take the place of the {_modality(modality)} encoder "
                f"({type(own).__name__}), for which the model was built: build one with `from_encoders_pretrained`."
            )
        if any(new.shape != old.shape for new, old in zip(encoder.parameters(), own.parameters(), strict=True)):
            raise ValueError(
                f"The {type(encoder).__name__} has other sizes than the {_modality(modality)} encoder for which the "
                "model was built: build one with `from_encoders_pretrained`."
            )
        encoder.config = own.config
        setattr(self.base_model, name, encoder)

    def _enable_checkpointing(self, *args, **kwargs) -> None:
        """
        As in transformers, for those encoders that can compute their layers again in backward.

        Raises:
            ValueError: when neither can.
        """
        if not self.supports_gradient_checkpointing:
            kinds = " and ".join(repr(encoder.config.model_type) for encoder in self._encoders())
            raise ValueError(
                f"Gradient checkpointing is impossible with the encoders {kinds}: neither can compute its layers "
                "again in backward. Leave it off, and choose a smaller batch with gradient_accumulation_steps."
            )
        getattr(super(), CHECKPOINTING)(*args, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # Scaled by the inputs: a fixed 0.02 starves a head of a few hundred dimensions, and training stalls.
            init.normal_(module.weight, std=(3 * module.in_features) ** -0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, FusionModule):
            module.init_weights()
        elif isinstance(module, UMEForImageTextRetrieval):
            init.constant_(module.logit_scale, math.log(1 / 0.07))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; but without PEFT an adapter beside its base would be passed over in silence, and weights
        are read from safetensors only, unless `use_safetensors=False` asks for a pickle.

        What a head lacks that another class or another config was saved with starts anew, with a warning; so does what
        has another shape, an encoder's included, where `ignore_mismatched_sizes=True` comes with the change that is
        meant: a config or some of its fields.

        Raises:
            ImportError: for such a folder where PEFT is not installed.
            ValueError: for a checkpoint that lacks weights of an encoder, or part of a head's.
        """
        folder = pretrained_model_name_or_path
        if folder is not None and not is_peft_available() and os.path.isfile(f"{folder}/adapter_config.json"):
            raise ImportError(f"{folder} holds a LoRA adapter, which needs the package peft: `pip install peft`.")
        if folder is not None:
            kwargs.setdefault("use_safetensors", True)
        if folder is None:  # weights from memory: whoever gives them knows which
            return load_trusted(super().from_pretrained, folder, *args, **kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        altered = isinstance(kwargs.get("config"), UMEConfig)
        altered = altered or any(name in known_fields(UMEConfig) and name not in LOAD_ARGUMENTS for name in kwargs)
        kwargs["output_loading_info"] = True
        reshaped = altered and kwargs.get("ignore_mismatched_sizes", False)
        with loading(folder):
            model, info = load_trusted(super().from_pretrained, folder, *args, **kwargs)
        model._check_loaded(folder, info, altered, reshaped)
        return (model, info) if wants_info else model

    def _check_loaded(self, folder, info: dict, altered: bool, reshaped: bool) -> None:
        """ValueError where what is missing in a file is no new part of a model, but a hole in one that is there.

        Args:
            info: what was missing, as `output_loading_info=True` gives it.
            altered: whether the model was to be another than the one that was saved.
            reshaped: whether weights that have another shape in it were to start anew.
        """
        prefix = "" if self.base_model is self else f"{self.base_model_prefix}."
        absent, lost = set(info["missing_keys"]) if reshaped else absent_names(info), []
        for modality, adapter in self.base_model._adapters.items():
            start = f"{prefix}{modality}_model."
            within = {name.removeprefix(start) for name in absent if name.startswith(start)}
            lost += [start + name for name in adapter.read_of(self.base_model.encoder(modality), within)]
        if not lost and not altered:
            parts = [f"{modality}_model" for modality in self.base_model._adapters]
            missing, held = ({}, {})
            for name in self.state_dict():
                part = name.removeprefix(prefix).partition(".")[0]
                if part not in parts:
                    (missing if name in info["missing_keys"] else held).setdefault(part, []).append(name)
            saved_as = self.config.architectures or ()
            lost = [
                name
                for part, names in missing.items()
                for name in names
                if part in held or type(self).__name__ in saved_as
            ]
        if lost:
            raise ValueError(
                f"The checkpoint {str(folder)!r} lacks weights of the model that it is of, or has them in other "
                f"shapes: {shown(lost)}. They would be random: its files are not whole, or were changed."
            )

    def load_adapter(self, peft_model_id=None, adapter_name=None, **kwargs):
        """As in transformers; but releases up to 5.17 pass over weights of an adapter, at first all of them, later
        those of the head, which LoRA trains in full. PEFT itself therefore puts them in place once more.

        Raises:
            ValueError: for an adapter that does not fit this model as this release builds it.
        """
        if peft_model_id is None:  # weights from memory: the caller has given them their names
            return super().load_adapter(peft_model_id, adapter_name, **kwargs)
        hub = kwargs["load_config"].download_kwargs if kwargs.get("load_config") else kwargs
        hub = {**(hub or {}), **(kwargs.get("adapter_kwargs") or {})}
        hub = {name: hub[name] for name in HUB_ARGUMENTS if hub.get(name) is not None}
        # Before transformers looks, which would take a pickle where there are no safetensors.
        file = cached_file(peft_model_id, "adapter_model.safetensors", **hub)
        peft, inner = importlib.import_module("peft"), f"{self.base_model_prefix}."
        if self.base_model is self and kwargs.get("peft_config") is None:
            config = peft.PeftConfig.from_pretrained(os.path.dirname(file))
            whole = getattr(config, "modules_to_save", None) or []
            if any(path.startswith(inner) for path in whole):  # paths in the model that was trained around this one
                config.modules_to_save = [path.removeprefix(inner) for path in whole]
                kwargs["peft_config"] = config
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # what it reports as missing is there in a moment
        try:
            loaded = super().load_adapter(peft_model_id, adapter_name, **kwargs)
        finally:
            logging.set_verbosity(verbosity)
        name = adapter_name or "default"
        weights = peft.utils.load_peft_weights(os.path.dirname(file), device=str(self.device))
        weights = {key.removeprefix("base_model.model."): value for key, value in weights.items()}
        if self.base_model is self and any(key.startswith(inner) for key in weights):
            # Trained around this model; what lies outside of it has no place here.
            weights = {key.removeprefix(inner): value for key, value in weights.items() if key.startswith(inner)}
        # PEFT trains whole what is called as it was told, also within an encoder: of that the adapter has nothing.
        for path, module in list(self.named_modules()):
            if isinstance(module, peft.utils.ModulesToSaveWrapper) and not any(
                key.startswith(f"{path}.") for key in weights
            ):
                parent, _, last = path.rpartition(".")
                setattr(self.get_submodule(parent), last, module.original_module)
        try:
            result = peft.set_peft_model_state_dict(self, weights, name)
            strange = result.unexpected_keys + [key for key in result.missing_keys if f".{name}." in key]
        except KeyError as error:
            strange = [error.args[0]]
        if strange:
            raise ValueError(
                f"The adapter in {peft_model_id} does not fit this model: {len(strange)} weights, such as "
                f"{strange[0]}, have no counterpart. Releases of transformers name the layers of some encoders "
                f"differently, and this is {__version__}: load it with the release that it was trained with, or load "
                "the merged model, which all releases read."
            )
        if loaded is None:  # of releases that forget to return it
            loaded = LoadStateDictInfo(**{field.name: set() for field in fields(LoadStateDictInfo)})
        return replace(loaded, missing_keys=set(), unexpected_keys=set())

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """As `nn.Module.load_state_dict`, and also right for weights that `save_pretrained` wrote.

        `save_pretrained` writes some encoders under the names of their original release, which differ from the live
        ones. The Trainer loads such files with `strict=False` on resume and for the best checkpoint, where every
        foreign name would be passed over in silence. Names are therefore mapped back first, as `from_pretrained` does.
        """
        live = self.state_dict()
        if not live.keys() >= state_dict.keys():
            loaded, info = type(self).from_pretrained(
                None, config=self.config, state_dict=dict(state_dict), output_loading_info=True
            )
            if not info["unexpected_keys"]:
                missing = set(info["missing_keys"])
                state_dict = {name: value for name, value in loaded.state_dict().items() if name not in missing}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    @classmethod
    def from_encoders_pretrained(cls, text_name: str, vision_name: str, **kwargs):
        r"""
        Joins two pretrained encoders; what stands between and after them is new.

        Args:
            text_name, vision_name (`str`): Hub names or folders of the encoders; of a dual checkpoint (CLIP, SigLIP)
                the half that fits is taken.
            kwargs: what `from_pretrained` takes (`token`, `revision`, `cache_dir`, `dtype`, `attn_implementation`,
                `use_safetensors`, …) goes to the loading of both encoders, with `text_` or `vision_` before it to that
                of one (`text_revision="…"`), and is not stored. With such a prefix a field of that encoder's config
                is set, too (`text_hidden_dropout_prob=0.0`). `text_pooling`, `vision_pooling` and everything else are
                fields of [`UMEConfig`].

        The model has the wider of its encoders' types, which `dtype` sets for both; without it or with `"auto"` each
        is loaded in the type of its checkpoint. A dict as `attn_implementation` names one for `"text"` and `"vision"`.

        Returns:
            A model in eval mode, as from `from_pretrained`.

        Raises:
            ValueError: for an argument that is none of these, and for a checkpoint that lacks weights which are read.
        """
        loading, fields, attention, placing = split_arguments(kwargs)
        encoders = {}
        for modality, name in zip(MODALITIES, (text_name, vision_name), strict=True):
            pooling = fields.get(field := f"{modality}_pooling", "auto")
            encoders[modality], fields[field] = load_encoder(name, modality, pooling, **loading[modality])
        config = UMEConfig.from_encoder_configs(encoders["text"].config, encoders["vision"].config, **fields)
        chosen = {f"{modality}_config": encoder.config._attn_implementation for modality, encoder in encoders.items()}
        config._attn_implementation = {"": attention, **chosen}
        dtype = functools.reduce(torch.promote_types, [encoder.dtype for encoder in encoders.values()])
        model = cls._from_config(config, dtype=dtype)
        for modality in MODALITIES:
            encoder = encoders[modality].to(dtype)
            # One config object for the model and its encoder, as when the model is built from its config.
            shared = getattr(model.config, f"{modality}_config")
            shared._attn_implementation, shared.dtype = encoder.config._attn_implementation, dtype
            encoder.config = shared
            setattr(model.base_model, f"{modality}_model", encoder)
        return place(model.eval(), **placing)

    def _wants_dict(self, return_dict: bool | None) -> bool:
        return self.config.return_dict if return_dict is None else return_dict

    def _recorded(self, output_attentions: bool | None, output_hidden_states: bool | None) -> dict[str, bool]:
        """What to ask the encoders for; what neither the caller nor this config says, their own configs decide."""
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        asked = {name: getattr(self.config, name) or None if flag is None else flag for name, flag in asked.items()}
        return {name: flag for name, flag in asked.items() if flag is not None}


setattr(UMEPreTrainedModel, CHECKPOINTING, UMEPreTrainedModel._enable_checkpointing)


def _recomputes(encoder: PreTrainedModel) -> bool:
    """Whether an encoder has layers that backward can compute again, instead of keeping what they computed."""
    layers = any(hasattr(module, "gradient_checkpointing") for module in encoder.modules())
    return encoder.supports_gradient_checkpointing and layers


def _modality(name: str | None) -> str:
    """This repository's name for what transformers calls a modality."""
    modality = {None: MODALITIES[0], "image": "vision"}.get(name, name)
    if modality not in MODALITIES:
        raise ValueError(f"modality={name!r} is not known: choose 'text' or 'vision'.")
    return modality


class UMEEncoders(UMEPreTrainedModel):
    """The two encoders side by side and what each gives; a class that inherits says what is made of it."""

    def __init__(self, config: UMEConfig):
        super().__init__(config)
        self.text_model = build_encoder(config.text_config, config.text_pooling)
        self.vision_model = build_encoder(config.vision_config, config.vision_pooling)
        self._adapters = {
            "text": EncoderAdapter(self.text_model, "text", config.text_pooling),
            "vision": EncoderAdapter(self.vision_model, "vision", config.vision_pooling, config.feature_grid),
        }
        self._frozen: set[str] = set()
        self._holds_statistics = False

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def encoder(self, modality: str) -> PreTrainedModel:
        """The encoder of `"text"` or `"vision"`."""
        if modality is None:
            raise ValueError("modality=None is not known: choose 'text' or 'vision'.")
        return self.get_encoder(modality)

    def freeze(self, modality: str) -> None:
        """Takes the encoder of `"text"` or `"vision"` out of training: no gradients, and it stays in eval mode."""
        self.encoder(modality).requires_grad_(False).eval()
        self._frozen.add(modality)

    def hold_statistics(self) -> None:
        """Keeps the running statistics of the encoders' batch norms as they are, also in training."""
        self._holds_statistics = True

    def train(self, mode: bool = True):
        super().train(mode)
        for modality, adapter in self._adapters.items():
            adapter.freeze_unread(self.encoder(modality))  # loading has made everything trainable
        for modality in self._frozen:
            # A frozen BatchNorm would otherwise go on moving its statistics, and dropout disturb fixed features.
            self.encoder(modality).eval()
        if self._holds_statistics:
            for modality in MODALITIES:
                for module in self.encoder(modality).modules():
                    if isinstance(module, nn.modules.batchnorm._NormBase):
                        module.eval()
        return self

    def encode_text(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Stream:
        """input_ids [B, L] and masks alike → the questions' `Stream` of B rows."""
        return self._encode_text(input_ids, attention_mask, token_type_ids)[0]

    def encode_image(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> Stream:
        """pixel_values [U, 3, H, W] and pixel_mask [U, H, W], 0 where padded → the images' `Stream` of U rows."""
        return self._encode_image(pixel_values, pixel_mask=pixel_mask)[0]

    def _encode_text(self, *inputs: Tensor | None, **kwargs) -> tuple[Stream, ModelOutput]:
        """As `encode_text`, and what the encoder returned; takes what [`EncoderAdapter.read_text`] takes."""
        return self._adapters["text"].read_text(self.text_model, *inputs, **kwargs)

    def _encode_image(
        self, pixel_values: Tensor, record: dict[str, bool] | None = None, pixel_mask: Tensor | None = None
    ) -> tuple[Stream, ModelOutput]:
        """As `encode_image`, and what the encoder returned."""
        pixel_values = pixel_values.to(self.vision_model.dtype)
        return self._adapters["vision"].read_image(self.vision_model, pixel_values, record, pixel_mask)


class UMEModel(UMEEncoders):
    r"""
    Two encoders and the fusion head over their streams: text and image in, one fused vector out.

    Args:
        config ([`UMEConfig`]): what to build; the encoders get random weights (`from_pretrained` and
            `from_encoders_pretrained` fill them).
    """

    def __init__(self, config: UMEConfig):
        super().__init__(config)
        head, inputs = FUSIONS[config.fusion], {}
        text, vision = self._adapters.values()
        widths, pooled_widths = [text.width, vision.width], [text.pooled_width, vision.pooled_width]
        if head.reads_in_encoder:
            if "inputs_embeds" not in text.arguments:
                raise ValueError(
                    f"fusion={config.fusion!r} lets the text encoder read image tokens, but the forward of "
                    f"{config.text_config.model_type!r} takes no inputs_embeds: choose another text encoder or head."
                )
            inputs = {"embedding_width": self._embedding_width, "input_widths": [vision.width]}
            widths[1] = pooled_widths[1] = text.width  # the head is given what the text encoder says of the image
            self._text_positions = position_limit(self.text_model)
        self.fusion = build_fusion(config, widths, pooled_widths, **inputs)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_index: Tensor | None = None,
        text_present: Tensor | None = None,
        image_present: Tensor | None = None,
        text_states: Tensor | None = None,
        text_pooled: Tensor | None = None,
        vision_states: Tensor | None = None,
        vision_pooled: Tensor | None = None,
        vision_grid: Tensor | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        pixel_mask: Tensor | None = None,
        vision_mask: Tensor | None = None,
        **unknown,
    ) -> UMEModelOutput | tuple:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): the questions; None: no text at all.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): 1 for real tokens, wherever the
                padding stands. Default: all but the text encoder's padding tokens at either end.
            token_type_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): passed on where the encoder
                takes it.
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`, *optional*): each distinct
                image once; None: no image at all.
            image_index (`torch.LongTensor` of shape `(batch,)`, *optional*): which image each question looks at.
                Default: the i-th question looks at the i-th image.
            text_present, image_present (`torch.BoolTensor` of shape `(batch,)`, *optional*): False where an example
                lacks the modality; what stands in its place is then ignored.
            text_states, text_pooled (`torch.FloatTensor`, *optional*): `(batch, length, width)` and `(batch, width)`,
                what the text encoder once said about the questions, instead of `input_ids`; `attention_mask` says
                which of the states are real.
            vision_states, vision_pooled (`torch.FloatTensor`, *optional*): `(images, tokens, width)` and
                `(images, width)`, the same of each distinct image, instead of `pixel_values`.
            vision_grid (`torch.LongTensor` of shape `(2,)`, *optional*): height and width of the grid that the last
                of `vision_states` form.
            return_dict (`bool`, *optional*): False returns a tuple. Default: what the config says.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, width)`, *optional*): the questions' word
                embeddings, instead of `input_ids`, for the text encoders that take them.
            output_attentions, output_hidden_states (`bool`, *optional*): also return the encoders' inner states, see
                [`EncoderRecords`]. Default: what the config says.
            pixel_mask (`torch.Tensor` of shape `(images, height, width)`, *optional*): 0 where an image was padded on
                the right and at the bottom to the size of the others. Each is then read at its own size, as if it had
                come alone. Default: no image was padded.
            vision_mask (`torch.Tensor` of shape `(images, tokens)`, *optional*): 1 for those of `vision_states` that
                the image has. Default: all.

        Raises:
            ValueError: when neither modality is given, one is given twice, or questions and images do not match in
                number, or one of the tensors has another shape or type than said above.
            TypeError: for an argument that is not above, unless it is None.
        """
        refuse_unknown(self.forward, unknown)
        if not torch.compiler.is_compiling():
            self._check_inputs(input_ids, pixel_values, image_index, inputs_embeds)
            texts = next((x for x in (input_ids, inputs_embeds, text_states) if x is not None), None)
            rows = image_index if image_index is not None else vision_states if pixel_values is None else pixel_values
            rows = texts if texts is not None else rows
            if rows is not None:
                _check_shape("text_present", text_present, rows.shape[:1], "one truth value an example")
                _check_shape("image_present", image_present, rows.shape[:1], "one truth value an example")
            if texts is not None:
                _check_shape("attention_mask", attention_mask, texts.shape[:2], "one value a token")
                _check_shape("token_type_ids", token_type_ids, texts.shape[:2], "one value a token")
            if vision_states is not None:
                _check_shape("vision_mask", vision_mask, vision_states.shape[:2], "one value a token")
        text = image = None
        record, recorded = self._recorded(output_attentions, output_hidden_states), {}
        questions = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "text_states": text_states}
        given = [name for name, value in questions.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} were both given: give the questions once.")
        if text_states is not None:
            if self.fusion.reads_in_encoder:
                raise ValueError(
                    f"fusion={self.config.fusion!r} reads questions and images together, so stored text_states cannot "
                    "be used: give input_ids."
                )
            text = self._stream("text", text_states, text_pooled, attention_mask)
        elif given and self.fusion.reads_in_encoder:
            text = self._embed_text(input_ids, attention_mask, inputs_embeds)
        elif given:
            text, outputs = self._encode_text(input_ids, attention_mask, token_type_ids, inputs_embeds, record)
            recorded.update(records("text", outputs))
        if vision_states is not None:
            if pixel_values is not None:
                raise ValueError("pixel_values and vision_states were both given: give the images once.")
            grid = None if vision_grid is None else tuple(vision_grid.tolist())
            image = self._stream("vision", vision_states, vision_pooled, vision_mask, grid)
        elif pixel_values is not None:
            if image_present is not None:
                # Their gradients pass through the encoder, where zero times what is no number is no number.
                pixel_values = cut_off(pixel_values, looked_at(pixel_values, image_index, image_present))
            image, outputs = self._encode_image(pixel_values, record, pixel_mask)
            recorded.update(records("vision", outputs))
        if text is None and image is None:
            raise ValueError("Neither input_ids nor pixel_values was given: a UME model needs at least one of them.")
        if image is not None:
            image = select_images(image, image_index, batch_size=None if text is None else text.states)
        adapters = self._adapters
        text = text if text is not None else self._absent(adapters["text"], like=image)
        image = image if image is not None else self._absent(adapters["vision"], like=text)
        for stream, present in ((text, text_present), (image, image_present)):
            if present is not None:
                stream.present = stream.present & present.bool()
        if self.training and self.config.modality_dropout > 0:
            drop_modality(text, image, self.config.modality_dropout)
        if self.fusion.reads_in_encoder:
            text, image, outputs = self._read_together(text, image, token_type_ids, record)
            recorded.update(records("text", outputs))
        output = self.fusion([text, image])
        output = UMEModelOutput(
            fused=output.fused,
            fusion_weights=output.weights,
            view_present=output.present,
            view_log_shares=output.log_shares,
            **recorded,
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _check_inputs(
        self,
        input_ids: Tensor | None,
        pixel_values: Tensor | None,
        image_index: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> None:
        """Says what would otherwise fail deep inside an encoder, or not at all."""
        if inputs_embeds is not None:
            if "inputs_embeds" not in self._adapters["text"].arguments:
                raise ValueError(
                    f"inputs_embeds was given, but the text encoder {self.config.text_config.model_type!r} reads only "
                    "token ids: give input_ids."
                )
            width = self._embedding_width
            if (
                not isinstance(inputs_embeds, Tensor)
                or not inputs_embeds.is_floating_point()
                or inputs_embeds.ndim != 3
                or inputs_embeds.shape[1] == 0
                or inputs_embeds.shape[2] != width
            ):
                raise ValueError(
                    f"inputs_embeds is {_described(inputs_embeds)}: give floating-point numbers [batch, length, "
                    f"{width}] of one token or more, as `model.get_input_embeddings()` makes them."
                )
        if input_ids is not None:
            if not isinstance(input_ids, Tensor) or input_ids.ndim != 2 or input_ids.shape[1] == 0:
                raise ValueError(f"input_ids is {_described(input_ids)}: give [batch, length], one token or more.")
            known = getattr(self.text_model.get_input_embeddings(), "num_embeddings", None)
            _check_ids("input_ids", input_ids, known, "the text encoder's tokens")
        if pixel_values is not None:
            channels = getattr(self.config.vision_config, "num_channels", 3)
            if (
                not isinstance(pixel_values, Tensor)
                or not pixel_values.is_floating_point()
                or pixel_values.ndim != 4
                or pixel_values.shape[0] == 0
                or pixel_values.shape[1] != channels
            ):
                raise ValueError(
                    f"pixel_values is {_described(pixel_values)}: give floating-point numbers [images, {channels}, "
                    "height, width] of one image or more, as the image processor makes them."
                )
            if image_index is not None:
                if not isinstance(image_index, Tensor) or image_index.ndim != 1:
                    raise ValueError(f"image_index is {_described(image_index)}: give [batch], an image a question.")
                _check_ids("image_index", image_index, len(pixel_values), "the images")

    def _stream(
        self,
        modality: str,
        states: Tensor,
        pooled: Tensor | None,
        mask: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Stream:
        """The stream of an encoder's stored output, which may have been kept in a shorter type."""
        adapter = self._adapters[modality]
        width, pooled_width = states.shape[-1], None if pooled is None else pooled.shape[-1]
        if (width, pooled_width) != (adapter.width, adapter.pooled_width):
            raise ValueError(
                f"{modality}_states and {modality}_pooled are {width} and {pooled_width or 0} wide, but the encoder's "
                f"are {adapter.width} and {adapter.pooled_width}: give both, as this model's own encoder makes them."
            )
        if mask is None:
            mask = torch.ones(states.shape[:2], device=states.device)
        mask = mask.bool()
        return Stream(states.to(self.dtype), mask, pooled.to(self.dtype), mask.any(1), grid)

    @property
    def _embedding_width(self) -> int:
        return self.text_model.get_input_embeddings().weight.shape[-1]

    def _embed_text(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, embeddings: Tensor | None = None
    ) -> Stream:
        """The questions' stream before the text encoder's layers: their tokens' embeddings, no summary yet."""
        if embeddings is None:
            embeddings = self.text_model.get_input_embeddings()(input_ids)  # [B, L, E]
        given = embeddings if input_ids is None else input_ids
        mask = self._adapters["text"].text_mask(self.text_model, attention_mask, given)
        return Stream(embeddings, mask, embeddings[:, 0], mask.any(1))

    def _read_together(
        self, text: Stream, image: Stream, token_type_ids: Tensor | None, record: dict[str, bool] | None = None
    ) -> tuple[Stream, Stream, ModelOutput]:
        """The text encoder reads the text's embeddings and the image's tokens as one row; what it says of each.

        A row has no gaps: what is not real, or absent, is moved to its end, so that positions are counted over real
        tokens. The text comes first and keeps the positions it was trained at, unless the encoder is causal: then the
        image comes first, for the text to read it.

        Raises:
            ValueError: when the encoder has fewer positions than there are tokens.
        """
        adapter, lengths = self._adapters["text"], [text.states.shape[1], image.states.shape[1]]
        limit = self._text_positions
        if limit is not None and sum(lengths) > limit:
            raise ValueError(
                f"fusion={self.config.fusion!r}: {lengths[0]} text tokens and {lengths[1]} image tokens are more than "
                f"the {limit} positions of the text encoder {self.config.text_config.model_type!r}: shorten the "
                "questions, set feature_grid to average the image's tokens, or choose another encoder."
            )
        masks = [stream.mask & stream.present[:, None] for stream in (text, image)]
        rows = [text.states.masked_fill(~masks[0][..., None], 0.0), *self.fusion.inputs([image])]
        types = [torch.zeros_like(mask, dtype=torch.long) for mask in masks]
        if token_type_ids is not None:
            types[0] = token_type_ids
        turn = -1 if adapter.causal else 1
        embeddings, mask, types = (torch.cat(parts[::turn], dim=1) for parts in (rows, masks, types))
        order = real_first(mask)  # [B, L + N]
        mask = reorder(mask, order)
        # Attention over nothing at all would be NaN, in an example that has neither.
        mask = mask | (torch.arange(mask.shape[1], device=mask.device) == 0)
        inputs = {"inputs_embeds": reorder(embeddings, order), "attention_mask": mask.long()}
        if token_type_ids is not None and "token_type_ids" in adapter.arguments:
            inputs["token_type_ids"] = reorder(types, order)
        if "use_cache" in adapter.arguments:
            inputs["use_cache"] = False
        outputs = adapter.run(self.text_model, inputs, record)
        states = reorder(outputs.last_hidden_state, order.argsort(dim=1)).split(lengths[::turn], dim=1)[::turn]
        order = real_first(text.mask)  # the first token sums up the text, also where padding stands before it
        mask = reorder(text.mask, order)
        text_pooled = adapter._pool(outputs, reorder(states[0], order), mask, content=mask)
        image_pooled = masked_mean(states[1], image.mask)
        return (
            Stream(states[0], text.mask, text_pooled, text.present),
            Stream(states[1], image.mask, image_pooled, image.present, image.grid),
            outputs,
        )

    def _absent(self, adapter: EncoderAdapter, like: Stream) -> Stream:
        """The stream of a modality that no example of the batch has."""
        batch_size = len(like.states)
        absent = like.present.new_zeros(batch_size)
        grid = (1, 1) if adapter.modality == "vision" else None
        width = adapter.width
        if self.fusion.reads_in_encoder and adapter.modality == "text":
            width = self._embedding_width
        return Stream(
            states=like.states.new_zeros(batch_size, 1, width),
            mask=absent[:, None],
            pooled=like.states.new_zeros(batch_size, adapter.pooled_width),
            present=absent,
            grid=grid,
        )


def _described(value) -> str:
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _check_shape(name: str, value: Tensor | None, shape: tuple, what: str) -> None:
    if value is not None and (not isinstance(value, Tensor) or value.shape != shape):
        raise ValueError(f"{name} is {_described(value)}: give {what}, {list(shape)}.")


def _check_ids(name: str, ids: Tensor, number: int | None, what: str) -> None:
    """Raises ValueError for what is no index into `number` things; on a GPU, which would have to be waited for, only
    for a wrong type."""
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} is {_described(ids)}: give whole numbers (torch.long).")
    if number is not None and ids.device.type == "cpu" and ids.numel():
        least, most = (int(bound) for bound in ids.aminmax())
        if least < 0 or most >= number:
            raise ValueError(
                f"{name} holds {least if least < 0 else most}, but {what} are numbered 0 to {number - 1}: do they "
                "belong together?"
            )


def drop_modality(text: Stream, image: Stream, rate: float) -> None:
    """Takes text or image, evenly chosen, from each example that has both, with probability `rate`, as if absent."""
    both = is_present(text) & is_present(image)  # [B]
    draw = torch.rand(both.shape, device=both.device)
    # The two ends of [0, 1) never meet, as rate < 1: no example loses both.
    text.present = text.present & ~(both & (draw < rate / 2))
    image.present = image.present & ~(both & (draw >= 1 - rate / 2))


def select_images(images: Stream, image_index: Tensor | None, batch_size: Tensor | None = None) -> Stream:
    """Gives each question its image: a stream of U images and image_index [B] → a stream of B rows.

    Raises:
        ValueError: when without `image_index` the number of images is not that of the questions (`batch_size` holds
            the question batch), or `image_index` has another length than it.
    """
    if image_index is None:
        if batch_size is not None and batch_size.shape[0] != images.states.shape[0]:
            raise ValueError(
                f"{len(batch_size)} questions came with {len(images.states)} images: pass image_index, which says for "
                "each question the row of its image in pixel_values."
            )
        return images
    if batch_size is not None and batch_size.shape[0] != image_index.shape[0]:
        raise ValueError(f"image_index has {len(image_index)} entries for {len(batch_size)} questions.")
    image_index = image_index.to(images.states.device)  # of a model that is spread over several
    rows = [take(x, image_index) for x in (images.states, images.mask, images.pooled, images.present)]
    return Stream(*rows, images.grid, distinct=images, index=image_index)


def _as_inputs(image: Stream) -> dict[str, Tensor]:
    """A stream of images as what `forward` takes."""
    grid = {} if image.grid is None else {"vision_grid": torch.tensor(image.grid)}
    return {"vision_states": image.states, "vision_pooled": image.pooled, "vision_mask": image.mask, **grid}


def looked_at(images: Tensor, image_index: Tensor | None, image_present: Tensor) -> Tensor:
    """[U] bool: which of the images any example has. Without `image_index` each example has its own."""
    if image_index is None:
        return image_present.bool()
    return torch.zeros(images.shape[0], device=images.device).index_add(0, image_index, image_present.float()) > 0


class ViewClassifiers(nn.Module):
    """A classifier a view, for the heads that combine late: [B, K, D] → [B, K, C]."""

    def __init__(self, num_views: int, hidden_size: int, num_labels: int):
        super().__init__()
        self.views = nn.ModuleList(nn.Linear(hidden_size, num_labels) for _ in range(num_views))

    def forward(self, views: Tensor) -> Tensor:
        return torch.stack([linear(x) for linear, x in zip(self.views, views.unbind(1), strict=True)], dim=1)


class UMEForVisualQuestionAnswering(UMEPreTrainedModel):
    r"""
    [`UMEModel`] with a classifier over the answers of `config.id2label`.

    Example:

    ```python
    >>> from modeling_ume import UMEForVisualQuestionAnswering

    >>> model = UMEForVisualQuestionAnswering.from_encoders_pretrained(
    ...     "bert-base-uncased", "google/vit-base-patch16-224-in21k", fusion="ume", id2label={0: "no", 1: "yes"}
    ... )
    ```"""

    def __init__(self, config: UMEConfig):
        super().__init__(config)
        self.ume = UMEModel(config)
        self.classifier_dropout = nn.Dropout(config.classifier_dropout)
        num_views, sizes = self.ume.fusion.num_views, (config.fusion_hidden_size, config.num_labels)
        self.classifier = nn.Linear(*sizes) if num_views == 1 else ViewClassifiers(num_views, *sizes)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.ume.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.ume.set_input_embeddings(value)

    def freeze(self, modality: str) -> None:
        """See [`UMEModel.freeze`]."""
        self.ume.freeze(modality)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers.

        Raises:
            ValueError: when the config was given other answers than the classifier has, as it could not be loaded.
        """
        views = self.classifier.views if isinstance(self.classifier, ViewClassifiers) else [self.classifier]
        for linear in views:
            if isinstance(linear, nn.Linear) and linear.out_features != self.config.num_labels:
                raise ValueError(
                    f"The config names {self.config.num_labels} answers, but the classifier has "
                    f"{linear.out_features}: load the model with from_pretrained(…, id2label=…, "
                    "ignore_mismatched_sizes=True), which gives it a new classifier, and train that."
                )
        super().save_pretrained(save_directory, *args, **kwargs)

    def encode_images(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> dict[str, Tensor]:
        r"""
        Runs the image encoder alone, for questions that come later: `model(**questions, **encoded, image_index=…)`.

        What comes back is worth something only as long as the encoder's weights stay as they are.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`): each image once.
            pixel_mask (`torch.Tensor` of shape `(images, height, width)`, *optional*): 0 where an image was padded.

        Returns:
            `dict`: what `forward` takes instead of pixels: `vision_states` `(images, tokens, width)`, `vision_pooled`
            `(images, width)`, where the tokens form a grid, `vision_grid` `(2,)`, which lies on the CPU, and, where
            images were padded, `vision_mask` `(images, tokens)`.
        """
        encoded = _as_inputs(self.ume.encode_image(pixel_values, pixel_mask))
        return encoded if pixel_mask is not None else {k: v for k, v in encoded.items() if k != "vision_mask"}

    def join_images(self, encoded: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `encode_images` said of several images one by one → what it says of all of them together."""
        streams = []
        for image in encoded:
            grid = tuple(image["vision_grid"].tolist()) if "vision_grid" in image else None
            mask = image.get("vision_mask")
            mask = torch.ones(image["vision_states"].shape[:2]) if mask is None else mask
            mask = mask.to(image["vision_states"].device).bool()
            streams.append(Stream(image["vision_states"], mask, image["vision_pooled"], mask.any(1), grid))
        return _as_inputs(join_streams(streams))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by part (`"encoders"`, `"fusion"`, `"classifier"`), e.g. for a learning rate each."""
        encoders = [*self.ume.text_model.parameters(), *self.ume.vision_model.parameters()]
        return {
            "encoders": encoders,
            "fusion": list(self.ume.fusion.parameters()),
            "classifier": list(self.classifier.parameters()),
        }

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_index: Tensor | None = None,
        labels: Tensor | None = None,
        text_present: Tensor | None = None,
        image_present: Tensor | None = None,
        text_states: Tensor | None = None,
        text_pooled: Tensor | None = None,
        vision_states: Tensor | None = None,
        vision_pooled: Tensor | None = None,
        vision_grid: Tensor | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        pixel_mask: Tensor | None = None,
        vision_mask: Tensor | None = None,
        **unknown,
    ) -> UMEVQAOutput | tuple:
        r"""
        Args:
            labels (`torch.Tensor`, *optional*): for `"single_label_classification"` the answer's id, `(batch,)` of
                type long, −100 where it is not among the answers (the example then has no loss), or a score for every
                answer, `(batch, num_labels)`, whose shares in their sum are the target; for
                `"multi_label_classification"` the soft score of every answer in [0, 1], `(batch, num_labels)`.

        The other arguments are those of [`UMEModel.forward`].
        """
        refuse_unknown(self.forward, unknown)
        output = self.ume(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            pixel_values=pixel_values,
            image_index=image_index,
            text_present=text_present,
            image_present=image_present,
            text_states=text_states,
            text_pooled=text_pooled,
            vision_states=vision_states,
            vision_pooled=vision_pooled,
            vision_grid=vision_grid,
            return_dict=True,
            inputs_embeds=inputs_embeds,
            pixel_mask=pixel_mask,
            vision_mask=vision_mask,
            **self._recorded(output_attentions, output_hidden_states),
        )
        head = self.ume.fusion
        views = self.classifier(self.classifier_dropout(output.fused))  # [B, K, C]
        shares = {} if output.view_log_shares is None else {"log_shares": output.view_log_shares}
        logits = head.combine(views, output.view_present, self.config.problem_type, **shares)  # [B, C]
        logits = logits.to(views.dtype)
        loss = None
        if labels is not None:
            shares = None
            if head.trains_views:
                counts = widen(output.view_present.to(views.dtype))
                shares = counts / counts.sum(1, keepdim=True)
            loss = self._loss(logits if shares is None else views, labels, shares)
        output = UMEVQAOutput(
            loss=loss,
            logits=logits,
            fused=output.fused,
            fusion_weights=output.fusion_weights,
            **{name: getattr(output, name) for name in RECORDED},
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor, shares: Tensor | None = None) -> Tensor:
        """The mean over the examples; of views [B, K, C], of each view's own loss, weighted by shares [B, K]."""
        if shares is None:
            losses = self._losses(logits, labels)  # [B]
        else:
            views = zip(logits.unbind(1), shares.unbind(1), strict=True)
            losses = sum(share * self._losses(view, labels) for view, share in views)
        if self.config.problem_type == "single_label_classification":
            # Not the built-in mean: it is NaN for a batch in which no answer is known.
            known = labels != -100 if labels.ndim == 1 else labels.sum(1) > 0
            return losses.sum() / known.sum().clamp(min=1)
        return losses.mean()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits [B, C] → each example's loss [B], 0 where its answer is unknown."""
        softmax = self.config.problem_type == "single_label_classification"
        if softmax and labels.ndim == 1 and len(labels) == len(logits):
            if not torch.compiler.is_compiling():
                _check_ids("labels", labels[labels != -100], logits.shape[1], "the answers")
            return F.cross_entropy(widen(logits), labels.long(), ignore_index=-100, reduction="none")
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)} for logits of shape {tuple(logits.shape)}: problem_type="
                f"{self.config.problem_type!r} takes a score for every answer, [batch, num_labels]"
                + (", or one answer id an example, [batch]." if softmax else ".")
            )
        logits = widen(logits)
        scores = labels.to(logits.dtype)
        if softmax:
            shares = scores / scores.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
            return F.cross_entropy(logits, shares, reduction="none")
        # Summed over the answers: the mean over thousands of them would make the gradient depend on their number.
        return F.binary_cross_entropy_with_logits(logits, scores, reduction="none").sum(1)


class UMEForImageTextRetrieval(UMEEncoders):
    r"""
    The two encoders side by side, trained so that a text and its image lie close to each other.

    Both pooled vectors are projected to `fusion_hidden_size` and scaled to length 1. Nothing is fused, so the fields
    of the fusion head and of the answers are not read. A checkpoint of this model gives its encoders to the other two,
    and takes theirs.

    Args:
        config ([`UMEConfig`]): what to build.

    Example:

    ```python
    >>> from modeling_ume import UMEForImageTextRetrieval

    >>> model = UMEForImageTextRetrieval.from_encoders_pretrained(
    ...     "bert-base-uncased", "google/vit-base-patch16-224-in21k", fusion_hidden_size=256
    ... )
    >>> similarity = model.get_text_features(**texts) @ model.get_image_features(pixel_values).T  # [T, U]
    ```"""

    def __init__(self, config: UMEConfig):
        super().__init__(config)
        text, vision = (self._adapters[modality].pooled_width for modality in MODALITIES)
        self.text_projection = nn.Linear(text, config.fusion_hidden_size, bias=False)
        self.vision_projection = nn.Linear(vision, config.fusion_hidden_size, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))  # ln of one over the temperature
        self.post_init()

    def get_text_features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> UMEFeaturesOutput | tuple:
        """
        input_ids [T, L] (or inputs_embeds [T, L, E]) and masks alike → the texts' features [T, D], each of length 1,
        as `pooler_output` of an object that also stands for them in arithmetic, see [`UMEFeaturesOutput`].
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give the texts either as input_ids or as inputs_embeds.")
        record = self._recorded(output_attentions, output_hidden_states)
        features, outputs = self._text_features(input_ids, attention_mask, token_type_ids, inputs_embeds, record)
        return self._features_output(features, outputs, return_dict)

    def get_image_features(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        pixel_mask: Tensor | None = None,
    ) -> UMEFeaturesOutput | tuple:
        """pixel_values [U, 3, H, W] (and pixel_mask [U, H, W], 0 where padded) → the images' features [U, D], as
        `get_text_features` returns those of texts."""
        record = self._recorded(output_attentions, output_hidden_states)
        return self._features_output(*self._image_features(pixel_values, record, pixel_mask), return_dict)

    def _text_features(self, *inputs) -> tuple[Tensor, ModelOutput]:
        text, outputs = self._encode_text(*inputs)
        return F.normalize(self.text_projection(text.pooled), dim=-1), outputs

    def _image_features(
        self, pixel_values: Tensor, record: dict[str, bool], pixel_mask: Tensor | None = None
    ) -> tuple[Tensor, ModelOutput]:
        image, outputs = self._encode_image(pixel_values, record, pixel_mask)
        return F.normalize(self.vision_projection(image.pooled), dim=-1), outputs

    def _features_output(
        self, features: Tensor, outputs: ModelOutput, return_dict: bool | None
    ) -> UMEFeaturesOutput | tuple:
        inner = {record: outputs.get(record) or None for record in RECORDS}
        output = UMEFeaturesOutput(outputs.last_hidden_state, features, **inner)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_index: Tensor | None = None,
        return_loss: bool | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        pixel_mask: Tensor | None = None,
        **unknown,
    ) -> UMERetrievalOutput | tuple:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(texts, length)`): the texts.
            attention_mask, token_type_ids: as in [`UMEModel.forward`].
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`): each distinct image once.
            image_index (`torch.LongTensor` of shape `(texts,)`, *optional*): which image each text belongs to; read
                by the loss only. Default: the i-th text belongs to the i-th image.
            return_loss (`bool`, *optional*): True adds the loss, see [`contrastive_loss`]. The Trainer needs it in
                the batch. Under DDP the negatives of a text or image are those of its own process's batch.
            return_dict, inputs_embeds, output_attentions, output_hidden_states, pixel_mask: as in
                [`UMEModel.forward`].

        Raises:
            ValueError: when there are no texts or no images, or the loss cannot tell which image a text belongs to.
            TypeError: for an argument that is not above, unless it is None.
        """
        refuse_unknown(self.forward, unknown)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Retrieval compares texts with images: give the texts as input_ids or as inputs_embeds.")
        if pixel_values is None:
            raise ValueError("pixel_values was not given: retrieval compares texts with images, so pass both.")
        if self.training:
            # In place: a clamp inside the graph has no gradient beyond its bound, and would never let go again.
            with torch.no_grad():
                self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        record = self._recorded(output_attentions, output_hidden_states)
        texts = (input_ids, attention_mask, token_type_ids, inputs_embeds)
        text, text_outputs = self._text_features(*texts, record)  # [T, D]
        image, image_outputs = self._image_features(pixel_values, record, pixel_mask)  # [U, D]
        # Half precision is too coarse for logits of up to 100.
        with torch.autocast(text.device.type, enabled=False):
            scale = widen(self.logit_scale).clamp(max=MAX_LOGIT_SCALE).exp()
            logits = scale * widen(text) @ widen(image).T  # [T, U]
        loss = None
        if return_loss:
            if image_index is None:
                if len(text) != len(image):
                    raise ValueError(
                        f"{len(text)} texts came with {len(image)} images: pass image_index, which says for each text "
                        "the row of its image in pixel_values."
                    )
                image_index = torch.arange(len(text), device=text.device)
            elif image_index.shape != text.shape[:1]:
                raise ValueError(f"image_index has shape {tuple(image_index.shape)} for {len(text)} texts.")
            loss = contrastive_loss(logits, image_index)
        output = UMERetrievalOutput(
            loss=loss,
            logits_per_image=logits.T,
            logits_per_text=logits,
            text_embeds=text,
            image_embeds=image,
            text_model_output=text_outputs,
            vision_model_output=image_outputs,
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()


def contrastive_loss(logits_per_text: Tensor, image_index: Tensor) -> Tensor:
    r"""
    The mean of the two directions of InfoNCE over a batch, as in CLIP (Radford et al. 2021).

    With s the logits and I(t) the image of text t: text to image −log(exp s_tI(t) / Σ_u exp s_tu), mean over the
    texts; image to text −log(Σ_{t: I(t) = u} exp s_tu / Σ_t exp s_tu), mean over the images that have a text. The sum
    over the several texts of an image, inside the logarithm, is MIL-NCE's (Miech et al. 2020): one of them has to fit.

    Args:
        logits_per_text (`torch.Tensor` of shape `(T, U)`): similarities over the temperature.
        image_index (`torch.LongTensor` of shape `(T,)`): which image each text belongs to; an image without a text is
            only a negative.
    """
    to_image = F.cross_entropy(logits_per_text, image_index)
    logits = logits_per_text.T  # [U, T]
    own = image_index == torch.arange(len(logits), device=logits.device)[:, None]  # [U, T]
    described = own.any(1)  # [U]
    # All texts stand in where an image has none: its loss and gradient are exactly zero, instead of NaN.
    positives = logits.masked_fill(~own & described[:, None], -torch.inf).logsumexp(1)
    to_text = (logits.logsumexp(1) - positives).sum() / described.sum()
    return (to_image + to_text) / 2


UMEModel.register_for_auto_class("AutoModel")
UMEForVisualQuestionAnswering.register_for_auto_class("AutoModelForVisualQuestionAnswering")
UMEForImageTextRetrieval.register_for_auto_class("AutoModelForZeroShotImageClassification")
