"""LoRA for the encoders: which of their layers get it and which do not, and an adapter that can be moved.

Layers are chosen by what they are and where they stand, never by the end of their name: encoders, too, have modules
called `fusion` or `classifier`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from configuration_ume.arguments import ModelArguments
from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.modalities_ume import MODALITIES
from training_ume.records.files import read_json, write_json

WRAPPED = ("weight", "bias", "in_features", "out_features")  # what PEFT's wrapper shows of the layer in it


class _StandIn(nn.Module):
    """Calls a layer as PEFT's wrapper will, and notes whether it is called and what else is read of it."""

    def __init__(self, layer: nn.Module, name: str, called: set[str], read: set[str]):
        super().__init__()
        self.layer, self.name, self.called, self.read = layer, name, called, read

    def forward(self, *args, **kwargs):
        self.called.add(self.name)
        return self.layer(*args, **kwargs)

    def __getattr__(self, attribute: str):
        try:
            return super().__getattr__(attribute)
        except AttributeError:
            if attribute not in WRAPPED:
                self.read.add(self.name)
            return getattr(self.layer, attribute)


def _usable(model: UMEForVisualQuestionAnswering, modality: str, layers: dict[str, nn.Module]) -> set[str]:
    """
    Those of the layers, by name within the encoder, that do their work where they are called.

    It is tried. Of others something reads the weight, or settings such as a convolution's stride, which the wrapper
    around a layer with LoRA does not have.
    """
    encoder = model.ume.encoder(modality)
    called: set[str] = set()
    read: set[str] = set()
    places = {name: (encoder.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in layers}
    for name, (parent, last) in places.items():
        setattr(parent, last, _StandIn(layers[name], name, called, read))
    training = encoder.training
    try:
        encoder.eval()
        with torch.enable_grad():  # without, PyTorch's own Transformer layers take a short cut past their parts
            example = MODALITIES[modality].example(encoder.config)
            model.ume.encode(
                modality,
                **{
                    name: torch.zeros(value.shape, device=encoder.device)
                    if value.is_meta
                    else value.to(encoder.device)
                    for name, value in example.items()
                },
            )
    finally:
        for name, (parent, last) in places.items():
            setattr(parent, last, layers[name])
        encoder.train(training)
    unread = {name for name in layers if f"{name}.weight" in model.ume._adapters[modality].unread}
    return called - read - unread


def lora_layers(model: UMEForVisualQuestionAnswering, modality: str) -> tuple[list[str], dict[str, str]]:
    """
    The layers of one encoder that get LoRA, by name within the encoder, and the type of each of the others by name.

    These are its linear layers (GPT-2's `Conv1D` is one); of an encoder that has none, its convolutions over all
    channels. Embeddings and recurrent layers are left out, as are grouped or dilated convolutions, layers whose weight
    or settings something else than their own `forward` reads, and those that nothing depends on.
    """
    weighted = {
        name: module
        for name, module in model.ume.encoder(modality).named_modules()
        if name and any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
    }
    chosen: list[str] = []
    for fits in (_is_linear, _is_plain_convolution):
        layers = {name: module for name, module in weighted.items() if not chosen and fits(module)}
        usable = _usable(model, modality, layers) if layers else set()
        chosen += [name for name in layers if name in usable]
    taken = set(chosen)
    return chosen, {name: type(module).__name__ for name, module in weighted.items() if name not in taken}


def _is_linear(module: nn.Module) -> bool:
    return type(module) in (nn.Linear, Conv1D)


def _is_plain_convolution(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.groups == 1 and set(module.dilation) == {1}


def lora_facts(model: UMEForVisualQuestionAnswering, args: ModelArguments) -> dict[str, dict[str, Any]]:
    """
    What LoRA does with each encoder that is not frozen, by modality.

    Returns:
        `dict`: of each `adapted` (how many layers, by type) and `left_out` (names of the layers with weights that stay
        as they are, by type).
    """
    facts = {}
    for modality in model.config.modalities:
        if getattr(args, f"freeze_{modality}"):
            continue
        encoder = model.ume.encoder(modality)
        chosen, others = lora_layers(model, modality)
        left_out: dict[str, list[str]] = {}
        for name, kind in others.items():
            left_out.setdefault(kind, []).append(name)
        adapted = Counter(type(encoder.get_submodule(name)).__name__ for name in chosen)
        facts[modality] = {"encoder": encoder.config.model_type, "adapted": dict(adapted), "left_out": left_out}
    return facts


def describe_lora(facts: dict[str, dict[str, Any]]) -> str:
    """One line an encoder, for the log."""
    lines = []
    for modality, entry in facts.items():
        adapted = ", ".join(f"{count} × {kind}" for kind, count in entry["adapted"].items()) or "nothing"
        left_out = ", ".join(f"{len(names)} × {kind}" for kind, names in entry["left_out"].items()) or "nothing"
        lines.append(
            f"LoRA in the {modality} encoder ({entry['encoder']}): on {adapted}; left as they are: {left_out}."
        )
    return "\n".join(lines)


def with_lora(
    model: UMEForVisualQuestionAnswering, args: ModelArguments, base: Path, begun: Path | None = None
) -> nn.Module:
    """
    LoRA on the encoders that are not frozen (see `lora_layers`); head and classifier are trained in full.

    The running statistics of the encoders' batch norms stay as they are: an adapter has no place for them, so that
    it would answer otherwise than the merged model.

    Args:
        base: folder with the model as it was before training, which the adapter names as what it belongs to.
        begun: a checkpoint of this run, whose layers are taken.

    Raises:
        ValueError: without PEFT, or when no layer can get LoRA.
    """
    try:
        from peft import LoraConfig, get_peft_model
        from peft.utils import ModulesToSaveWrapper
    except ImportError as error:
        raise ValueError("lora_r needs the package peft: `pip install peft`.") from error
    # Without `ume.`, PEFT finds them in UMEModel (AutoModel) as well as in UMEForVisualQuestionAnswering.
    targets = [
        f"{modality}_model.{name}"
        for modality in model.config.modalities
        if not getattr(args, f"freeze_{modality}")
        for name in lora_layers(model, modality)[0]
    ]
    if begun is not None:
        targets = (read_json(begun / "adapter_config.json") or {}).get("target_modules") or targets
    if not targets:
        raise ValueError(
            "lora_r is given, but the encoders have neither a linear layer nor a plain convolution for it: train them "
            "without LoRA."
        )
    # PEFT goes by the end of a name; the whole of it where an encoder has a module called so.
    inside = [name for modality in model.config.modalities for name, _ in model.ume.encoder(modality).named_modules()]
    whole = ["ume.fusion" if any(name.endswith("fusion") for name in inside) else "fusion", "classifier"]
    config = LoraConfig(
        r=args.lora_r,
        lora_alpha=2 * args.lora_r if args.lora_alpha is None else args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=targets,
        modules_to_save=whole,
    )
    model.name_or_path = str(base)  # what PEFT writes into adapter_config.json
    model.ume.hold_statistics()
    adapted = get_peft_model(model, config)
    for modality in model.config.modalities:
        encoder = model.ume.encoder(modality)
        for name, module in list(encoder.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):  # a `classifier`, which has no longer name
                parent, _, last = name.rpartition(".")
                setattr(encoder.get_submodule(parent), last, module.original_module)
                for inner, parameter in module.original_module.named_parameters():
                    parameter.requires_grad_("lora_" in inner)
    return adapted


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Saves a PEFT model as `folder/adapter`, together with its base and its processor."""
    adapter = folder / "adapter"
    if adapter.exists():
        shutil.rmtree(adapter)
    shutil.copytree(folder / "base", adapter)
    model.save_pretrained(adapter)
    (adapter / "README.md").unlink(missing_ok=True)  # PEFT's empty form, with this machine's path in it
    # PEFT wrote where the base lay during training. Recent releases of transformers look into the adapter's own folder
    # before they follow this path, so that it can be moved; older ones need the path mended then.
    config = read_json(adapter / "adapter_config.json")
    write_json(adapter / "adapter_config.json", {**config, "base_model_name_or_path": str(adapter.absolute())})
