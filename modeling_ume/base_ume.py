"""What the models share: saving, loading, joining pretrained encoders, and the encoders side by side."""

import functools
import importlib
import os
from dataclasses import fields, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, __version__
from transformers import initialization as init
from transformers.modeling_utils import LoadStateDictInfo
from transformers.utils import ModelOutput, cached_file, is_peft_available, logging

from .configuration_ume import UMEConfig
from .encoders_ume import EncoderAdapter, build_encoder
from .fusion_base_ume import FusionHead, FusionModule
from .fusion_ume import FUSIONS
from .limits_ume import check_against_weights, loading
from .loading_ume import absent_names, load_encoder, named_encoders, place, shown, split_arguments
from .modalities_ume import MODALITIES, modality_named
from .modality_base_ume import Modality
from .own_heads_ume import find_head_of
from .stored_ume import LOAD_ARGUMENTS, known_fields
from .streams_ume import Stream
from .trust_ume import HUB_ARGUMENTS, load_trusted

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
        heads = {type(module).__name__ for module in self.modules() if isinstance(module, FusionHead)}
        self._no_split_modules = sorted(here.intersection({*self._no_split_modules, *heads}))

    def _encoders(self) -> list[PreTrainedModel]:
        return [getattr(self.base_model, f"{modality}_model") for modality in self.config.modalities]

    def get_encoder(self, modality: str | None = None) -> PreTrainedModel:
        """
        The encoder of a modality; by default of the first that the model has, which is its text where it has one, as
        in transformers. `"vision"` is also called `"image"`.

        Raises:
            ValueError: for another modality.
        """
        return getattr(self.base_model, f"{self._modality(modality)}_model")

    def set_encoder(self, encoder: PreTrainedModel, modality: str | None = None) -> None:
        """
        Puts another encoder of the same kind and size in the place of that which `get_encoder` returns; its weights
        count, and the config stays.

        Raises:
            ValueError: for another modality, class or size: what stands behind the encoder was built for the old one.
        """
        own, name = self.get_encoder(modality), f"{self._modality(modality)}_model"
        if type(encoder) is not type(own) or encoder.state_dict().keys() != own.state_dict().keys():
            raise ValueError(
                f"{type(encoder).__name__} cannot take the place of the {self._modality(modality)} encoder "
                f"({type(own).__name__}), for which the model was built: build one with `from_encoders_pretrained`."
            )
        if any(new.shape != old.shape for new, old in zip(encoder.parameters(), own.parameters(), strict=True)):
            raise ValueError(
                f"The {type(encoder).__name__} has other sizes than the {self._modality(modality)} encoder for which "
                "the model was built: build one with `from_encoders_pretrained`."
            )
        encoder.config = own.config
        setattr(self.base_model, name, encoder)

    def _modality(self, name: str | None) -> str:
        return modality_named(name, self.config.modalities)

    def _enable_checkpointing(self, *args, **kwargs) -> None:
        """
        As in transformers, for those encoders that can compute their layers again in backward.

        Raises:
            ValueError: when none can.
        """
        if not self.supports_gradient_checkpointing:
            encoders = self._encoders()
            kinds = " and ".join(repr(encoder.config.model_type) for encoder in encoders)
            none = "neither" if len(encoders) == 2 else "none"
            raise ValueError(
                f"Gradient checkpointing is impossible with the encoders {kinds}: {none} can compute its layers "
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

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; but without PEFT an adapter beside its base would be passed over in silence, and weights
        are read from safetensors only, unless `use_safetensors=False` asks for a pickle.

        What a head lacks that another class or another config was saved with starts anew, with a warning; so does what
        has another shape, an encoder's included, where `ignore_mismatched_sizes=True` comes with the change that is
        meant: a config or some of its fields.

        Raises:
            ImportError: for such a folder where PEFT is not installed.
            ForeignCodeError: for a fusion head of the checkpoint's own, without `trust_remote_code=True`.
            ValueError: for a checkpoint that lacks weights of an encoder, or part of a head's.
        """
        folder = pretrained_model_name_or_path
        if folder is not None and not is_peft_available() and os.path.isfile(f"{folder}/adapter_config.json"):
            raise ImportError(f"{folder} holds a LoRA adapter, which needs the package peft: `pip install peft`.")
        if folder is not None:
            kwargs.setdefault("use_safetensors", True)
        if folder is None:  # weights from memory: whoever gives them knows which
            return load_trusted(super().from_pretrained, folder, *args, **kwargs)
        find_head_of(folder, kwargs.get("config"), kwargs)
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
    def from_encoders_pretrained(cls, *names: str, **kwargs):
        r"""
        Joins pretrained encoders; what stands between and after them is new.

        Args:
            names (`str`): Hub names or folders of the text encoder and of the image encoder, in this order; of a dual
                checkpoint (CLIP, SigLIP) the half that fits is taken.
            text_name, vision_name, …_name (`str`, *optional*): the same by name, of any modality of `MODALITIES`.
            …_config (`PretrainedConfig`, *optional*): of a modality without a name, a new encoder with this config.
            kwargs: what `from_pretrained` takes (`token`, `revision`, `cache_dir`, `dtype`, `attn_implementation`,
                `use_safetensors`, …) goes to the loading of all encoders, with `text_`, `vision_` … before it to that
                of one (`text_revision="…"`), and is not stored. With such a prefix a field of that encoder's config
                is set, too (`text_hidden_dropout_prob=0.0`). `text_pooling`, `vision_pooling` and everything else are
                fields of [`UMEConfig`].

        The model has the wider of its encoders' types, which `dtype` sets for all; without it or with `"auto"` each
        is loaded in the type of its checkpoint. A dict as `attn_implementation` names one for each modality.

        Returns:
            A model in eval mode, as from `from_pretrained`.

        Raises:
            ValueError: for an argument that is none of these, and for a checkpoint that lacks weights which are read.
        """
        names, kwargs = named_encoders(names, kwargs)
        loading, fields, attention, placing = split_arguments(kwargs)
        encoders = {}
        for modality, name in names.items():
            pooling = fields.get(field := MODALITIES[modality].pooling_field, "auto")
            encoders[modality], fields[field] = load_encoder(name, modality, pooling, **loading[modality])
        new = {
            MODALITIES[modality].config_field: given["config"]
            for modality, given in loading.items()
            if modality not in names and given.get("config") is not None
        }
        configs = {MODALITIES[modality].config_field: encoder.config for modality, encoder in encoders.items()}
        config = UMEConfig.from_encoder_configs(**configs, **new, **fields)
        chosen = {f"{modality}_config": encoder.config._attn_implementation for modality, encoder in encoders.items()}
        config._attn_implementation = {"": attention, **chosen}
        dtype = functools.reduce(torch.promote_types, [encoder.dtype for encoder in encoders.values()])
        model = cls._from_config(config, dtype=dtype)
        for modality in encoders:
            encoder = encoders[modality].to(dtype)
            # One config object for the model and its encoder, as when the model is built from its config.
            shared = model.config.encoder_config(modality)
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


class UMEEncoders(UMEPreTrainedModel):
    """The encoders side by side and what each gives; a class that inherits says what is made of it."""

    def __init__(self, config: UMEConfig):
        super().__init__(config)
        self._adapters: dict[str, EncoderAdapter] = {}
        for modality in config.modalities:
            pooling = getattr(config, MODALITIES[modality].pooling_field)
            encoder = build_encoder(config.encoder_config(modality), pooling)
            setattr(self, f"{modality}_model", encoder)
            grid = config.feature_grid if MODALITIES[modality].has_grid else None
            self._adapters[modality] = EncoderAdapter(encoder, modality, pooling, grid)
        self._frozen: set[str] = set()
        self._holds_statistics = False

    def get_input_embeddings(self) -> nn.Module:
        return self.get_encoder().get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.get_encoder().set_input_embeddings(value)

    def encoder(self, modality: str) -> PreTrainedModel:
        """The encoder of a modality that the model has."""
        if modality is None:
            raise ValueError(f"modality=None is not known: choose {' or '.join(map(repr, self.config.modalities))}.")
        return self.get_encoder(modality)

    def freeze(self, modality: str) -> None:
        """Takes the encoder of a modality out of training: no gradients, and it stays in eval mode."""
        self.encoder(modality).requires_grad_(False).eval()
        self._frozen.add(self._modality(modality))

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
            for modality in self._adapters:
                for module in self.encoder(modality).modules():
                    if isinstance(module, nn.modules.batchnorm._NormBase):
                        module.eval()
        return self

    def encode(self, modality: str, **inputs: Tensor) -> Stream:
        """
        Runs the encoder of one modality.

        Args:
            modality: its key in `MODALITIES`, or another name that it has.
            inputs: what `forward` takes of it, such as `pixel_values` [U, 3, H, W].

        Returns:
            The `Stream` of its rows.
        """
        return self._encode(self._modality(modality), inputs)[0]

    def _encode(
        self, modality: str, inputs: dict, record: dict[str, bool] | None = None
    ) -> tuple[Stream, ModelOutput]:
        """As `encode`, and what the encoder returned."""
        return self._adapters[modality].read(getattr(self, f"{modality}_model"), inputs, record)

    def _stored_stream(self, kind: Modality, given: dict[str, Tensor]) -> Stream:
        """The stream of an encoder's stored output, which may have been kept in a shorter type."""
        adapter = self._adapters[kind.name]
        states, pooled, mask, grid = (given.get(name) for name in (kind.states, kind.pooled, kind.mask, kind.grid))
        width, pooled_width = states.shape[-1], None if pooled is None else pooled.shape[-1]
        if (width, pooled_width) != (adapter.width, adapter.pooled_width):
            raise ValueError(
                f"{kind.states} and {kind.pooled} are {width} and {pooled_width or 0} wide, but the encoder's "
                f"are {adapter.width} and {adapter.pooled_width}: give both, as this model's own encoder makes them."
            )
        if mask is None:
            mask = torch.ones(states.shape[:2], device=states.device)
        mask, grid = mask.bool(), None if grid is None else tuple(grid.tolist())
        return Stream(states.to(self.dtype), mask, pooled.to(self.dtype), mask.any(1), grid, modality=kind.name)

    def encode_text(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Stream:
        """input_ids [B, L] and masks alike → the questions' `Stream` of B rows."""
        return self.encode("text", input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)

    def encode_image(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> Stream:
        """pixel_values [U, 3, H, W] and pixel_mask [U, H, W], 0 where padded → the images' `Stream` of U rows."""
        return self.encode("vision", pixel_values=pixel_values, pixel_mask=pixel_mask)
