"""Checkpoints that are whole or not there, and that training goes on from as if it had not been cut short."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import ProcessorMixin
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from training_ume.records.checkpoints import delete, holds_weights_only, keep_newest, unfinished
from training_ume.records.files import WriteError, writing
from training_ume.training.question_only import NAME

# In a checkpoint: weights to go on from that the model's own file does not hold.
TRAINED_WEIGHTS = "trained_weights.safetensors"


class _Saved:
    """A processor without a tokenizer while a model is trained: HF's trainer looks for the special tokens of whatever
    is a `ProcessorMixin`, and it is there to be saved."""

    def __init__(self, processor: ProcessorMixin):
        self.processor = processor

    def save_pretrained(self, *args, **kwargs):
        return self.processor.save_pretrained(*args, **kwargs)


class Saving:
    """The part of [`UMETrainer`] that saves a model and finds again what training needs: before HF's in its bases."""

    def train(self, *args, **kwargs):
        processor = self.processing_class
        if isinstance(processor, ProcessorMixin) and getattr(processor, "tokenizer", None) is None:
            self.processing_class = _Saved(processor)
        try:
            return super().train(*args, **kwargs)
        finally:
            self.processing_class = processor

    def _save_checkpoint(self, model, trial) -> None:
        # In a search, each trial has a folder of its own.
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            with writing(folder), unfinished(folder) if self.args.should_save else nullcontext():
                super()._save_checkpoint(model, trial)
        except WriteError:
            if self.args.should_save:
                delete(folder)  # which also makes room
            raise
        if self.args.should_save:
            keep_newest(folder.parent, self._most_checkpoints, [folder, self.state.best_model_checkpoint])

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Each process writes its own; trainer_state.json, which follows and says that all is there, only the first.
        self.accelerator.wait_for_everyone()

    def _weights_to_keep(self) -> AbstractContextManager:
        """Within it, the model has those weights that are evaluated and saved."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _kept_apart(self) -> dict[str, nn.Parameter]:
        """What training has to find again and a checkpoint's model file, fit for inference, does not hold."""
        return {name: p for name, p in self._trained().items() if self.average is not None or NAME in name.split(".")}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        apart = {name: p.detach().contiguous() for name, p in self._kept_apart().items()}
        if apart and self.args.should_save:
            save_file(apart, Path(output_dir) / TRAINED_WEIGHTS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and holds_weights_only(Path(checkpoint)):
            self._catch_up()
        apart = self._kept_apart()
        if checkpoint is None or not apart:
            return
        if self.average is not None:
            self.average.restart()  # from the model's file, which holds the average
        if not (Path(checkpoint) / TRAINED_WEIGHTS).is_file():  # one with weights to evaluate only
            return
        stored = load_file(Path(checkpoint) / TRAINED_WEIGHTS)
        with torch.no_grad():
            for name, parameter in apart.items():
                parameter.copy_(stored[name])

    def _catch_up(self) -> None:
        """Lets the learning rate go on from the step that a checkpoint without its scheduler was made at."""
        if isinstance(self.lr_scheduler, LambdaLR):
            self.lr_scheduler.last_epoch = self.state.global_step - 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch expects a step of the optimizer before
                self.lr_scheduler.step()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        own_class = type(model)
        # FSDP2 gives the model a class of its own, whose file would be saved as the model's code.
        model.__class__ = next(cls for cls in own_class.__mro__ if not cls.__module__.startswith("torch.distributed"))
        try:
            with self._weights_to_keep():
                super()._save(output_dir, state_dict)
        finally:
            model.__class__ = own_class
