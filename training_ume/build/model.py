"""The model of a recipe: new, from pretrained encoders, or from a checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, PretrainedConfig

from configuration_ume.arguments import ModelArguments
from modeling_ume import TASK_MODELS, UMEConfig, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.configuration_ume import half_of
from modeling_ume.loading_ume import load_config, load_encoder
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.tasks_ume import DEFAULT_TASK, label_scale
from modeling_ume.trust_ume import ForeignCodeError
from training_ume.data.answers import AnswerVocabulary
from training_ume.data.numbers import NumberTargets
from training_ume.records.files import first_line


def build_model(
    args: ModelArguments,
    processor: UMEProcessor,
    vocabulary: AnswerVocabulary | NumberTargets | None = None,
    task: str | None = None,
) -> UMEForVisualQuestionAnswering:
    """
    The model in float32, encoders pretrained or new, frozen where asked for.

    Args:
        vocabulary (*optional*): of numbers, how the labels are standardised.
        task (`str`, *optional*): one of `TASKS`; left out, the recipe's.
    """
    head = {
        **(vocabulary.config_fields() if isinstance(vocabulary, NumberTargets) else {}),
        **({} if processor.id2label is None else {"id2label": dict(processor.id2label)}),
        "retrieval_pairs": None if args.pairs is None else [pair.split("+") for pair in args.pairs],
        **{
            name: getattr(args, name)
            for name in (
                "fusion", "fusion_hidden_size", "fusion_num_heads", "fusion_num_members", "fusion_num_layers",
                "fusion_rank", "fusion_pairs", "fusion_dropout", "classifier_dropout", "modality_dropout",
                "feature_grid", "problem_type", "label_transform", "regression_loss",
            )
        },
    }  # fmt: skip
    pretrained, configs = {}, {}
    for modality in args.modalities:
        kind, name = MODALITIES[modality], getattr(args, f"{modality}_model")
        revision, settings = getattr(args, f"{modality}_revision"), getattr(args, f"{modality}_config")
        head[kind.pooling_field] = getattr(args, kind.pooling_field)
        if name is not None:
            own = {s.name.removeprefix(f"{modality}_"): getattr(args, s.name) for s in kind.settings}
            pretrained[modality], head[kind.pooling_field] = load_encoder(
                name, modality, head[kind.pooling_field], revision=revision or "main", dtype=torch.float32, **own
            )
        own = half_of(encoder_config(settings, name, revision), modality)
        configs[kind.config_field] = own = kind.fit_config(own, vars(args))
        part = processor.part(kind)
        if settings is not None:
            kind.follow_part(own, part, vars(args))
        kind.check_config(own, part)
    config = UMEConfig.from_encoder_configs(**configs, **head)
    attention = {} if args.attn_implementation is None else {"attn_implementation": args.attn_implementation}
    try:
        kind = TASK_MODELS[task or args.task or DEFAULT_TASK]
        model = kind._from_config(config, dtype=torch.float32, **attention)
    except (TypeError, KeyError, AttributeError, IndexError, RuntimeError, ArithmeticError, AssertionError) as error:
        new = [f"{modality}_config" for modality in args.modalities if modality not in pretrained]
        if not new:
            raise
        raise ValueError(
            f"No encoder can be made of {' or '.join(new)} ({type(error).__name__}: {first_line(error)}): "
            "give values that the encoder can have."
        ) from error
    for modality, encoder in pretrained.items():
        model.get_encoder(modality).load_state_dict(encoder.state_dict())
    if args.init_from is not None:
        start_from(model, args.init_from)
    for modality in args.frozen:
        model.freeze(modality)
    return model


def start_from(model: UMEForVisualQuestionAnswering, name: str) -> None:
    """
    Gives a model all weights of an earlier one.

    Args:
        name (`str`): a folder or a Hub name.

    Raises:
        ValueError: when there is no such model, or it answers with other answers or is built in another way.
    """
    try:
        earlier = UMEForVisualQuestionAnswering.from_pretrained(name, dtype=torch.float32)
    except ForeignCodeError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"init_from={name!r} cannot be loaded ({first_line(error)}).") from error
    if earlier.config.id2label != model.config.id2label:
        raise ValueError(
            f"init_from={name!r} knows {earlier.config.num_labels} answers, which are not the "
            f"{model.config.num_labels} of this recipe: train on the same questions, with the same answers kept."
        )
    scale, of_earlier = label_scale(model.config), label_scale(earlier.config)
    if (scale is None) != (of_earlier is None) or (scale is not None and scale.transform != of_earlier.transform):
        raise ValueError(
            f"init_from={name!r} was trained with problem_type={earlier.config.problem_type} and label_transform="
            f"{earlier.config.label_transform}, this recipe says {model.config.problem_type} and "
            f"{model.config.label_transform}: its weights say something else."
        )
    if scale is not None:  # its weights give standardised numbers, by the rows that it was trained on
        model.config.label_mean, model.config.label_std = earlier.config.label_mean, earlier.config.label_std
    own, given = model.state_dict(), earlier.state_dict()
    other = [key for key in sorted(own.keys() | given.keys()) if key not in own or key not in given]
    other += [key for key in own.keys() & given.keys() if own[key].shape != given[key].shape]
    if other:
        raise ValueError(
            f"init_from={name!r} is another model: {other[0]} and {len(other) - 1} more weights differ in name or "
            "shape. Give the encoders, the head and its sizes as they were then."
        )
    model.load_state_dict(given)


def encoder_config(settings: dict | None, name: str | None, revision: str | None) -> PretrainedConfig:
    if settings is None:
        try:
            return load_config(name, revision=revision or "main")
        except ForeignCodeError:
            raise
        except (OSError, ValueError) as error:
            raise ValueError(f"No encoder can be loaded from {name!r} ({first_line(error)}).") from error
    settings = dict(settings)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def encoder_sources(args: ModelArguments) -> dict[str, dict]:
    """
    Where the pretrained encoders came from, by modality.

    Returns:
        `dict`: of each `name` and `revision`, the commit of a Hub repo; of a folder, which has none, the `sha256` of
        its safetensors files instead.
    """
    sources = {}
    for modality in args.modalities:
        name, revision = getattr(args, f"{modality}_model"), getattr(args, f"{modality}_revision")
        if name is not None and Path(name).is_dir():
            digest = hashlib.sha256()
            for path in sorted(Path(name).glob("*.safetensors")):
                with path.open("rb") as file:
                    while block := file.read(2**20):
                        digest.update(block)
            sources[modality] = {"name": name, "sha256": digest.hexdigest()}
        elif name is not None:
            sources[modality] = {"name": name, "revision": cached_commit(name, revision)}
    return sources


def cached_commit(name: str, revision: str | None) -> str | None:
    """The commit of a Hub repo whose config was loaded a moment ago: the cache has it in a folder of that name."""
    cached = try_to_load_from_cache(name, "config.json", revision=revision or "main")
    return Path(cached).parent.name if isinstance(cached, str) else revision


def count_parameters(model: UMEForVisualQuestionAnswering) -> dict[str, int]:
    """Numbers of parameters: `total`, and of each part."""
    parts = {name: sum(p.numel() for p in parameters) for name, parameters in model.parts().items()}
    return {"total": sum(parts.values()), **parts}
