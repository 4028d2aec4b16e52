"""Loading a checkpoint with its processor, and saying what is wrong with one that does not load."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PretrainedConfig

from modeling_ume import TASK_MODELS, UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.modalities_ume import MODALITIES, usual
from modeling_ume.tasks_ume import DEFAULT_TASK, PROBLEM_TYPES
from modeling_ume.trust_ume import ForeignCodeError, read_quietly
from training_ume.records.files import first_line, read_json

ADVICE = "give a folder that `ume train` wrote, or the name of a UME model on the Hub."


def gives_numbers(name: str) -> bool:
    """Whether the model of a name gives numbers, by its config.json alone; False where there is none to read."""
    problem = PROBLEM_TYPES.get((_config_fields(name) or {}).get("problem_type"))
    return problem is not None and not problem.chooses


def columns_read(name: str) -> dict[str, list[str]]:
    """The columns that the model of a name was trained on, of modalities that keep them apart, by the column of rows
    that holds them: told by its processor_config.json alone; {} where there is none to read."""
    fields, found = read_quietly(name, "processor_config.json", {}), {}
    for kind in MODALITIES.values():
        if kind.by_name and isinstance(held := fields.get(kind.part), dict):
            part = kind.part_from_dict(held)
            found |= {} if part is None else {kind.column: kind.columns_read(part)}
    return found


def reads_others(name: str) -> bool:
    """Whether the model of a name reads anything but images and questions, by its config.json alone; False where there
    is none to read."""
    fields = _config_fields(name) or {}
    return any(fields.get(kind.config_field) is not None for kind in MODALITIES.values() if kind not in usual())


def _class_of(name: str) -> type[UMEForVisualQuestionAnswering]:
    """The class that a checkpoint says it is of, among those of `TASKS`; that of questions where it says none."""
    fields = _config_fields(name) or {}
    kinds = {kind.__name__: kind for kind in TASK_MODELS.values()}
    return next(
        (kinds[said] for said in fields.get("architectures") or () if said in kinds), TASK_MODELS[DEFAULT_TASK]
    )


def _config_fields(name: str) -> dict | None:
    """The config.json of a checkpoint, or of what its adapter belongs to; None where there is none to read."""
    try:
        folder = Path(name)
        adapter = read_json(folder / "adapter_config.json") if folder.is_dir() else None
        base = (adapter or {}).get("base_model_name_or_path", name)
        return PretrainedConfig.get_config_dict(name if (folder / "config.json").is_file() else base)[0]
    except Exception:  # what is wrong with it is said when it is loaded
        return None


def check_is_model(name: str) -> None:
    """Raises ValueError where a name is that of a folder or file that holds no UME model, or of nothing at all."""
    path, advice = Path(name), ADVICE
    if path.is_dir():
        config = read_json(path / "config.json")
        if config is None and not (path / "adapter_config.json").is_file():
            raise ValueError(f"The folder {name!r} holds no model (it has no config.json): {advice}")
        kind = config.get("model_type") if isinstance(config, dict) else None
        if config is not None and kind != "ume":
            raise ValueError(f"The model in {name!r} is of type {kind!r}, not 'ume': {advice}")
    elif path.exists():
        raise ValueError(f"{name!r} is a file, not a model: {advice}")
    elif name.count("/") != 1 or path.parent.is_dir():
        raise ValueError(f"There is no model {name!r}: {advice}")


def load_checkpoint(name: str, trust_remote_code: bool = False) -> tuple[UMEForVisualQuestionAnswering, UMEProcessor]:
    """
    Loads a model and its processor, onto the GPU if there is one.

    Args:
        name (`str`): a folder that `ume train` wrote (a run, a checkpoint, a LoRA adapter), or a Hub name.
        trust_remote_code (`bool`): whether a fusion head of the checkpoint's own is run; nothing else of it ever is.

    Returns:
        The model in eval mode, and its processor.

    Raises:
        ForeignCodeError: for a fusion head of its own, without `trust_remote_code`.
        ValueError: when there is no UME checkpoint of that name; one sentence that says what was found instead.
    """
    check_is_model(name)
    try:
        trust = {"trust_remote_code": True} if trust_remote_code else {}
        model, found = _class_of(name).from_pretrained(name, output_loading_info=True, **trust)
        processor = UMEProcessor.from_pretrained(name)
    except ForeignCodeError:
        raise
    except Exception as error:  # a damaged file makes the libraries below raise anything, a bare Exception too
        raise ValueError(f"No UME model can be loaded from {name!r} ({first_line(error)}): {ADVICE}") from error
    foreign = sorted({*found["missing_keys"], *found["unexpected_keys"]})
    if foreign:
        raise ValueError(
            f"The weights in {name!r} are not those of its config.json ({len(foreign)} lack or have no place, such as "
            f"{foreign[0]}): {ADVICE}"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), processor
