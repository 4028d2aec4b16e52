"""What a checkpoint may hold: fields that somebody defined, no secret and no path of the user's machine.

A checkpoint is made to be published. What is given to load a model (a token, a folder of downloads) must never get
into its files, and a field that nobody reads is a misspelt one.
"""

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Iterable

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from .trust_ume import HUB_ARGUMENTS

# What says where files lie, for configs, weights, tokenizers and image processors alike.
PLACE_ARGUMENTS = (*HUB_ARGUMENTS, "force_download", "proxies", "trust_remote_code")
# What says in addition how weights are read and where they go. `from_pretrained` takes them on any release 5.x.
WEIGHT_ARGUMENTS = (
    "adapter_kwargs", "adapter_name", "device_map", "disable_mmap", "gguf_file", "ignore_mismatched_sizes",
    "key_mapping", "low_cpu_mem_usage", "max_memory", "offload_buffers", "offload_folder", "offload_state_dict",
    "use_kernels", "use_safetensors", "variant", "weights_only",
)  # fmt: skip
# These decide what the model is, too: its config holds them.
KIND_ARGUMENTS = ("attn_implementation", "dtype", "experts_implementation", "quantization_config", "torch_dtype")
LOAD_ARGUMENTS = (*PLACE_ARGUMENTS, *WEIGHT_ARGUMENTS, *KIND_ARGUMENTS)

# Names that no file holds, wherever they stand: load arguments of now and once, and names of secrets and places.
_PRIVATE_NAMES = {
    *PLACE_ARGUMENTS, *WEIGHT_ARGUMENTS,
    "_commit_hash", "_name_or_path", "is_local", "mirror", "name_or_path", "resume_download", "use_auth_token",
}  # fmt: skip
_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:(?:auth|access|api|hf|hub|bearer|hugging_?face)_?token|api_?key|access_?key|secret(?:_?key)?"
    r"|passw(?:or)?d|credentials?|authorization)$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")
_MACHINE_PATH = re.compile(r"(?:file:/{2}|~[/\\]|[A-Za-z]:[/\\]|\\\\|/[^/\s]+/).+")
_ANSWERS = ("id2label", "label2id")  # the user's own words, whatever they look like

# Fields that a release 5.x of transformers, or one before it, gave to every config and the installed one may not list.
_FIELDS_OF_TRANSFORMERS = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_experts_implementation", "_name_or_path",
    "_output_attentions", "add_cross_attention", "architectures", "attn_implementation", "auto_map", "bos_token_id",
    "chunk_size_feed_forward", "cross_attention_hidden_size", "custom_pipelines", "decoder_start_token_id",
    "distributed_config", "dtype", "eos_token_id", "experts_implementation", "finetuning_task", "fusion_config",
    "id2label", "is_decoder", "is_encoder_decoder", "label2id", "model_type", "name_or_path", "num_labels",
    "output_attentions", "output_hidden_states", "pad_token_id", "per_layer_config", "prefix", "problem_type",
    "pruned_heads", "quantization_config", "return_dict", "sep_token_id", "task_specific_params", "tf_legacy_loss",
    "tie_encoder_decoder", "tie_last_hidden_states", "tie_word_embeddings", "tokenizer_class", "torch_dtype",
    "torchscript", "transformers_version", "transformers_weights", "use_bfloat16", "use_cache", "use_return_dict",
}  # fmt: skip


def own_fields(config_class: type[PretrainedConfig]) -> list[str]:
    """The fields that a config class and those above it define themselves, without those of every config."""
    names = {}
    for above in config_class.__mro__:
        if not issubclass(above, PretrainedConfig) or above in PretrainedConfig.__mro__:
            continue
        if "__init__" in vars(above):
            names |= dict.fromkeys(inspect.signature(above.__init__).parameters)
        names |= dict.fromkeys(vars(above).get("__annotations__", {}))
        if "own_fields" in vars(above):  # those that a table gives it
            names = dict.fromkeys([*above.own_fields(), *names])
    return [name for name in names if name not in ("self", "args", "encoder_configs", "kwargs")]


def known_fields(config_class: type[PretrainedConfig]) -> set[str]:
    """Every field that a config of this class may have, on any release 5.x of transformers."""
    return {*own_fields(config_class), *_fields_of_every_config()}


@functools.cache
def _fields_of_every_config() -> frozenset[str]:
    known = {*_FIELDS_OF_TRANSFORMERS, *PretrainedConfig().to_dict()}
    if dataclasses.is_dataclass(PretrainedConfig):
        known |= {field.name for field in dataclasses.fields(PretrainedConfig)}
    known |= set(inspect.signature(PretrainedConfig.__init__).parameters)
    # Releases take those of generation out of a config again.
    return frozenset((known | set(GenerationConfig().to_dict())) - {"self", "kwargs"})


# How alike a name has to be to be what was meant: 1 is the same. Below it a guess is as good as any other.
NEAR = 0.7


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """' Did you mean …?' where a known name is near to a misspelt one, nothing otherwise."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=NEAR)
    return f" Did you mean {prefix}{close[0]}?" if close else ""


def refuse_unknown(config_class: type[PretrainedConfig], names: Iterable[str]) -> None:
    """Raises ValueError for a name that is no field of the config; its value, which may be secret, is not told."""
    known = known_fields(config_class)
    for name in names:
        if name in LOAD_ARGUMENTS and name not in known:
            raise ValueError(
                f"{name} says how to load a model and is no field of {config_class.__name__}, whose fields are stored "
                "and published: give it to from_pretrained or from_encoders_pretrained."
            )
        if name not in known:
            raise ValueError(
                f"{name} is no field of {config_class.__name__}.{nearest(name, own_fields(config_class))}"
            )


def is_private(name: str, value) -> bool:
    """Whether a field is a secret, a path of this machine, or an argument of loading, by its name or its value."""
    if name in _PRIVATE_NAMES or _SECRET_NAME.search(name):
        return True
    return isinstance(value, str) and bool(_MACHINE_PATH.fullmatch(value) or _SECRET_VALUE.search(value))


def storable(fields: dict) -> dict:
    """A copy of a config's dict without what is private, however deep it lies; answers stay as they are."""
    # Emptied instead of left out: every config has it, and one out of a file has it empty.
    fields = {name: "" if name == "_name_or_path" else value for name, value in fields.items()}
    return {
        name: value if name in _ANSWERS else _storable_value(value)
        for name, value in fields.items()
        if name in _ANSWERS or name == "_name_or_path" or not is_private(str(name), value)
    }


def _storable_value(value):
    if isinstance(value, dict):
        return storable(value)
    if type(value) in (list, tuple):
        return type(value)(_storable_value(item) for item in value if not is_private("", item))
    return value


def forget_private(part) -> None:
    """Takes what was given to load a tokenizer or image processor out of it, as it would be saved with it."""
    is_tokenizer = isinstance(part, PreTrainedTokenizerBase)
    settings = part.init_kwargs if is_tokenizer else vars(part)
    for name in [name for name, value in settings.items() if is_private(name, value)]:
        # Of the files of its vocabulary a tokenizer keeps the paths to itself.
        if not (is_tokenizer and name.endswith("_file")):
            del settings[name]
