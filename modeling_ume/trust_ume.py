"""What is loaded runs no code of its own: the one way in which this package calls transformers' loaders.

Where files name code, transformers asks at the keyboard whether to run it, unless it was told. Here it is told.
"""

import json
import os

from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.utils import cached_file

# The files of a model that may name code, each with the auto classes that read it there.
NAMING_CODE = {
    "tokenizer_config.json": ("AutoTokenizer",),
    "processor_config.json": ("AutoProcessor", "AutoImageProcessor", "AutoVideoProcessor", "AutoFeatureExtractor"),
    "preprocessor_config.json": ("AutoImageProcessor", "AutoFeatureExtractor", "AutoProcessor"),
    "video_preprocessor_config.json": ("AutoVideoProcessor",),
    "config.json": ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor"),
}
# Fields by which the config of an encoder makes a library fetch kernels, which are code, or read a pickle.
KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
PICKLES = ("checkpoint_path",)
HUB_ARGUMENTS = ("cache_dir", "local_files_only", "revision", "subfolder", "token")


class ForeignCodeError(ValueError):
    """Files ask for something to be run that came with them; the message names the file and what to do."""


def load_trusted(loader, name: str | os.PathLike | None, *args, **kwargs):
    """
    `loader(name, *args, **kwargs)` without running code that lies beside the files.

    Args:
        loader: the `from_pretrained` of an auto class, or of a class that calls some.
        name: a folder or Hub name.
        args, kwargs: for the loader. Only `trust_remote_code=True` has such code run; None is not a question.

    Raises:
        ForeignCodeError: when the files cannot be loaded without it.
    """
    kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))
    try:
        return loader(name, *args, **kwargs)
    except ForeignCodeError:
        raise
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ForeignCodeError(_sentence(name, kwargs)) from error


def load_tokenizer(name: str | os.PathLike, **kwargs):
    """
    A tokenizer as `AutoTokenizer` loads it; but not one of another class in place of one that needs its own code.

    Args:
        name, kwargs: as in [`load_trusted`].

    Raises:
        ForeignCodeError: for a tokenizer whose class is in its own code only.
    """
    if not kwargs.get("trust_remote_code"):
        fields = read_quietly(name, "tokenizer_config.json", kwargs)
        wanted = str(fields.get("tokenizer_class") or "").removesuffix("Fast")
        known = not wanted or any(tokenizer_class_from_name(wanted + end) is not None for end in ("", "Fast"))
        if fields.get("auto_map") and not known:
            raise ForeignCodeError(_sentence(name, kwargs))
    return load_trusted(AutoTokenizer.from_pretrained, name, **kwargs)


def _sentence(name, kwargs) -> str:
    where, names = f"The files in {str(name)!r} name", "code of their own"
    for file, classes in NAMING_CODE.items():
        fields = read_quietly(name, file, kwargs)
        named = []
        for part in [fields, *fields.values()]:  # a processor's file holds those of its parts
            entries = part.get("auto_map") if isinstance(part, dict) else None
            if entries and not isinstance(entries, dict):  # the form of old tokenizers
                entries = {"AutoTokenizer": entries}
            named += [entries[auto_class] for auto_class in classes if entries and entries.get(auto_class)]
        # Code of this package does not need to be run: its classes are here.
        named = [entry for entry in named if "_ume." not in str(entry)]
        if named:
            where, names = f"{file} in {str(name)!r} names", f"code of its own ({_first_name(named[0])})"
            break
    return (
        f"{where} {names}, which is not run: it could do anything on this machine. Use a model that "
        "transformers itself can load (a tokenizer, for example, saved with its tokenizer.json and without auto_map), "
        "or, after reading that code, load it in Python with trust_remote_code=True."
    )


def _first_name(entry) -> str:
    if isinstance(entry, (list, tuple)):
        entry = next((part for part in entry if part), "")
    return str(entry)[:80]


def read_quietly(name, file: str, hub: dict) -> dict:
    """A JSON object among a model's files; {} where there is none that can be read: its loader says that better."""
    hub = {key: hub[key] for key in HUB_ARGUMENTS if hub.get(key) is not None}
    try:
        path = cached_file(name, file, **hub)
        with open(path, encoding="utf-8") as opened:
            fields = json.load(opened)
    except (OSError, ValueError, RecursionError, TypeError):
        return {}
    return fields if isinstance(fields, dict) else {}


def check_fields(fields: dict, where: str) -> None:
    """
    Looks through what a config's file says, halves and backbones included.

    Args:
        fields: the content of the file.
        where: what messages call it.

    Raises:
        ForeignCodeError: for a field that makes a library fetch kernels from the Hub, or read a pickle.
    """
    stack = [fields]
    while stack:
        value = stack.pop()
        if isinstance(value, (list, tuple)):
            stack += value
        if not isinstance(value, dict):
            continue
        stack += value.values()
        for field in KERNELS:
            wanted = value.get(field)
            for kernel in wanted.values() if isinstance(wanted, dict) else [wanted]:
                if isinstance(kernel, str) and "/" in kernel:
                    raise ForeignCodeError(
                        f"{where} asks with {field}={kernel!r} for kernels from the Hub, which are code and are not "
                        f"run: take the field out, or pass attn_implementation={kernel!r} yourself if you trust them."
                    )
        for field in PICKLES:
            if value.get(field):
                raise ForeignCodeError(
                    f"{where} names a file by {field}={str(value[field])[:80]!r}, which may be pickled, and reading a "
                    "pickle may run whatever is in it: take the field out."
                )


def check_processor_files(name: str | os.PathLike, hub: dict) -> None:
    """
    Looks for what a processor's files make transformers load from elsewhere.

    Raises:
        ForeignCodeError: for an audio tokenizer, which is a model of any kind and from anywhere.
    """
    for file in ("processor_config.json", "audio_tokenizer_config.json"):
        fields = read_quietly(name, file, hub)
        named = fields.get("audio_tokenizer", fields if file.startswith("audio") else None)
        if named:
            raise ForeignCodeError(
                f"{file} in {str(name)!r} names an audio tokenizer ({str(named)[:80]}), another model to be loaded "
                "from elsewhere, which this processor does not use: take it out."
            )
