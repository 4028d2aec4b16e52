"""How a recipe trains: HF's TrainingArguments with the defaults that a run here wants, and what UME adds to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from transformers import TrainingArguments

from configuration_ume.requirements import check_arguments, check_before
from configuration_ume.scores import lower_is_better

# Arguments that change where and how a run is watched, not what it learns.
NOT_COMPARED = {
    "output_dir", "resume_from_checkpoint", "overwrite_output", "beside", "seeds", "disable_tqdm", "report_to",
    "run_name", "log_level", "logging_steps", "logging_strategy", "logging_first_step", "save_total_limit",
    "dataloader_num_workers", "dataloader_pin_memory", "push_to_hub", "hub_model_id", "hub_token", "hub_private_repo",
    "do_eval", "label_names", "greater_is_better", "accelerator_config",
}  # fmt: skip


@dataclass
class UMETrainingArguments(TrainingArguments):
    """HF's TrainingArguments with the defaults that a VQA run wants, and what UME adds."""

    _argument_group_name = "training (every field of transformers.TrainingArguments works; these are the usual ones)"

    eval_strategy: str = field(default="epoch", metadata={"help": "When to validate: no, steps or epoch."})
    save_strategy: str = field(
        default="epoch", metadata={"help": "When to write a checkpoint: no, steps, epoch or best."}
    )
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints to keep; the best one is always kept."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Keep the weights of the best checkpoint as the final model."}
    )
    metric_for_best_model: str | None = field(
        default="auto",
        metadata={
            "help": "What makes a checkpoint the best one. auto: VQA accuracy, or exact match where VQA accuracy "
            "cannot credit right answers (one annotator a question); of numbers R²."
        },
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Stays false: the collator needs the columns."}
    )
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "Stays labels."})
    resume_from_checkpoint: bool = field(
        default=False,
        metadata={
            "help": "Go on from the last whole checkpoint in output_dir; finished runs of a set are not run again."
        },
    )
    overwrite_output: bool = field(
        default=False, metadata={"help": "Delete what an earlier run of this script left in output_dir."}
    )
    fusion_learning_rate_multiplier: float = field(
        default=1.0, metadata={"help": "Learning rate of the fusion head, as a multiple."}
    )
    classifier_learning_rate_multiplier: float = field(
        default=1.0, metadata={"help": "Learning rate of the classifier, as a multiple."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations in a row without a better metric_for_best_model (left out: train "
            "all epochs)."
        },
    )
    class_weights: Literal["balanced"] | None = field(
        default=None,
        metadata={
            "help": "balanced: in the loss a training question counts N / (C · n), of N questions with C answers of "
            "which n have its answer; rare answers count as much as frequent ones (left out: all count alike)."
        },
    )
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "Evaluate and keep an exponential moving average of the trained weights with this decay a step, "
            "which rises to it as (1 + step) / (10 + step); 0: none."
        },
    )
    rubi_weight: float = field(
        default=0.0,
        metadata={
            "help": "Train against answers that the question alone gives away, with RUBi: the weight of its "
            "question-only loss (in the paper 1); 0: without."
        },
    )
    beside: list[str] | None = field(
        default=None,
        metadata={"help": "Train these on equal terms too: names of other fusion heads, question_only, image_only."},
    )
    seeds: list[int] | None = field(
        default=None, metadata={"help": "Train everything once for each of these seeds (instead of `seed`)."}
    )

    def __post_init__(self) -> None:
        check_before(self)
        super().__post_init__()
        if lower_is_better(str(self.metric_for_best_model).removeprefix("eval_")):
            self.greater_is_better = False  # HF's knows losses only
        if self.hub_token is not None:
            raise ValueError(
                "hub_token would be written into the run's files: leave it out, and log in with `hf auth login` or "
                "set the variable HF_TOKEN."
            )
        if self.resume_from_checkpoint and self.overwrite_output:
            raise ValueError("resume_from_checkpoint and overwrite_output contradict each other: choose one.")
        for name in ("fusion_learning_rate_multiplier", "classifier_learning_rate_multiplier", "rubi_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is impossible: give 0 or more.")
        for name in ("ema_decay", "label_smoothing_factor"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is impossible: it lies in [0, 1).")
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name}={value} is impossible: give a finite number.")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is impossible: give 1 or more.")
        for name in ("learning_rate", "num_train_epochs", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is impossible: give 0 or more.")
        if self.early_stopping_patience is not None:
            _check_early_stopping(self)
        for name in ("beside", "seeds"):
            values = getattr(self, name) or []
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names the same run twice: {' '.join(map(str, values))}.")
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # nothing to pin for, and torch warns at every epoch
        check_arguments(self)


def _check_early_stopping(args: UMETrainingArguments) -> None:
    patience = args.early_stopping_patience
    if patience < 1:
        raise ValueError(f"early_stopping_patience={patience} is impossible: give 1 or more, or leave it out.")
    if args.eval_strategy == "no":
        raise ValueError("early_stopping_patience counts evaluations, and eval_strategy=no makes none: leave one out.")
    if args.metric_for_best_model is None:
        raise ValueError("early_stopping_patience needs a metric_for_best_model: name one, or `auto`.")
