"""UMETrainer: HF's Trainer with a learning rate per part, batches grouped by image, and the VQA metric;
on request with an average of the weights, smoothed targets and a question-only branch that training works against.

Also here: the end of a run whose loss is no number any more.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer, TrainerCallback

from configuration_ume.arguments import UMETrainingArguments
from configuration_ume.scores import AUTO
from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.tasks_ume import PROBLEM_TYPES
from training_ume.data.streaming import StreamedQuestions
from training_ume.evaluation.rows import Scorer, as_rows, is_named_sets
from training_ume.evaluation.scores import FittingScore
from training_ume.evaluation.scoring import AnswerScoring, scoring_of_model, scoring_of_targets
from training_ume.records.checkpoints import keep_newest
from training_ume.training.averaging import WeightAverage
from training_ume.training.balance import balanced_weights, question_weights
from training_ume.training.callbacks import SaveAfterEvaluation, Stopwatch
from training_ume.training.choice import BestCheckpoint
from training_ume.training.loaders import QUESTION_IDS, Loaders
from training_ume.training.question_only import NAME, QuestionOnly
from training_ume.training.saving import Saving
from training_ume.training.search import Searching
from training_ume.training.stopping import EarlyStopping

# How torch says that a batch's mean and variance would be those of a single value.
LONE_VALUE = re.compile("Expected more than 1 (value per channel|spatial element)")
# Losses that wait to be looked at: on a GPU each look makes the next step wait.
MOST_UNCHECKED = 100
# Why a run's epoch is chosen by what its arguments name.
GIVEN = "metric_for_best_model was given"


class LossError(ValueError):
    """The loss is infinite or no number; the message says in which step and with which questions."""


class UMETrainer(BestCheckpoint, Loaders, Saving, Searching, Trainer):
    """
    Trains [`UMEForVisualQuestionAnswering`], plain or wrapped by PEFT.

    Args:
        model: what to train; or None, with `model_init`.
        args (`UMETrainingArguments`): HF's arguments and the learning-rate multipliers of the parts.
        data_collator (`VQACollator`): makes batches, for training and evaluation.
        train_dataset (`Dataset` or `StreamedQuestions`): rows of `load_vqa`.
        eval_dataset (`Dataset` or `StreamedQuestions`, or a `dict` of them by name): rows of `load_vqa` with answers;
            in image order, each image is encoded once.
        processing_class (`UMEProcessor`): saved into every checkpoint.
        group_by_image (`bool`, defaults to `True`): questions about one image share a training batch.
        bucket_by_length (`bool`, defaults to `False`): so do images whose questions are of similar length.
        compute_metrics, preprocess_logits_for_metrics (callables, *optional*): HF's, in place of the VQA metric; the
            predictions are then the logits and the labels those of the batches.
        model_init (callable, *optional*): HF's: makes the model anew for each training, as
            `hyperparameter_search` needs it.
        callbacks, optimizers, optimizer_cls_and_kwargs (*optional*): HF's.

    `evaluate` and `predict` take any rows with questions and images, at any time: a `Dataset`, a part of one (also
    `dataset[:10]`), a list of dicts, a dict of these by name. What is scored is the rows that were given. Without
    answers there is no score, and no loss.

    Raises:
        ValueError: for arguments that cannot work together, see [`UMETrainingArguments`].
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: UMETrainingArguments | None = None,
        *,
        data_collator: Callable,
        train_dataset: Dataset | StreamedQuestions | None = None,
        eval_dataset: Dataset | StreamedQuestions | dict | None = None,
        processing_class=None,
        group_by_image: bool = True,
        bucket_by_length: bool = False,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        model_init: Callable[[], nn.Module] | None = None,
        **optimizers,
    ):
        if args is None:
            raise ValueError("UMETrainer needs args: give UMETrainingArguments(output_dir=…).")
        if (model is None) == (model_init is None):
            raise ValueError("UMETrainer needs a model, or a model_init that makes one, and not both.")
        self.group_by_image = group_by_image
        self.bucket_by_length = bucket_by_length
        self.average: WeightAverage | None = None
        self._unchecked: list[tuple[int, list[int], Tensor]] = []  # step, questions, loss
        self._most_checkpoints: int | None = None  # of those to keep, while `train` runs
        self._questions_in_update: float | None = None  # of all its batches and processes, while it is made
        self._eval_loaders: dict[str | None, DataLoader] = {}  # with workers that stay, by the set's name
        self._scorer: Scorer | None = None  # of the rows that are being evaluated
        self.question_only: QuestionOnly | None = None
        if args.rubi_weight and model is not None:
            self.question_only = QuestionOnly(ume_model(model), args.rubi_weight)
        self._answer_weights: Tensor | None = None  # of `class_weights`
        self._begins = False  # while `train` may have the model made anew
        labels = getattr(data_collator, "vocabulary", None)
        self._scores_as = AnswerScoring({}) if labels is None else scoring_of_targets(labels)
        self._scores_answers = compute_metrics is None
        if self._scores_answers:
            # ids, not [N, C] logits
            compute_metrics, preprocess_logits_for_metrics = self._score, lambda logits, labels: self._kept(logits)
        # Which score makes a checkpoint the best one, and why.
        self.selected_by = FittingScore(str(args.metric_for_best_model).removeprefix("eval_"), GIVEN)
        if args.metric_for_best_model == AUTO:
            args = copy.copy(args)  # the caller's may serve for other data
            self._scores_as = self._scores_as if model is None else scoring_of_model(model)
            self._choose_metric(args, eval_dataset)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            callbacks=[
                Stopwatch(),
                SaveAfterEvaluation(),
                *([EarlyStopping(args.early_stopping_patience)] if args.early_stopping_patience else []),
                *(callbacks or []),
            ],
            model_init=model_init,
            **optimizers,
        )
        if self.args.n_gpu > 1:
            raise ValueError(
                f"One process has {self.args.n_gpu} GPUs, and would cut each batch's questions from their images: "
                "start a process for each GPU with torchrun or accelerate launch, or show it one with "
                "CUDA_VISIBLE_DEVICES=0."
            )
        # The Trainer's own takes the place of the model's loss, and knows neither soft targets nor heads with views.
        self.label_smoother = None
        for name in ("ema_decay", "rubi_weight"):
            if getattr(args, name) and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
                raise ValueError(
                    f"{name} needs the weights whole, which FSDP and DeepSpeed cut: train with DDP instead."
                )
        if self.is_fsdp_enabled:
            self._prepare_fsdp(self.model)

    def _prepare_fsdp(self, model: nn.Module) -> None:
        plugin = self.accelerator.state.fsdp_plugin
        if not isinstance(model, UMEForVisualQuestionAnswering):
            raise ValueError("LoRA cannot be merged into weights that FSDP has cut: train it with DDP instead.")
        if "FULL_STATE_DICT" not in str(plugin.state_dict_type):
            raise ValueError(
                f"FSDP's state_dict_type is {plugin.state_dict_type.name}, which would save no model: set "
                "fsdp_state_dict_type to FULL_STATE_DICT, as in configuration_ume/recipes/accelerate/fsdp2.yaml."
            )
        if plugin.transformer_cls_names_to_wrap is None:
            plugin.transformer_cls_names_to_wrap = layers_to_shard(model)

    def train(self, *args, **kwargs):
        """
        As HF's; at the end the model has the weights to keep, and nothing else that training needed.

        Raises:
            LossError: as soon as the loss is no number: in one process on a CPU before its gradient is used, otherwise
                when losses are logged, and always before the model is evaluated or saved.
            WriteError: when a checkpoint cannot be written; what there was of it is deleted.
            ValueError: before anything, when `metric_for_best_model` is none of what evaluations will give.
        """
        self.check_metric()
        self._answer_weights = None  # of the rows that it had before
        if self.model_init is None:
            self._begin_average()
        # The Trainer's own rotation deletes every folder whose name begins like a checkpoint's.
        self._most_checkpoints, self.args.save_total_limit = self.args.save_total_limit, None
        self._begins = True
        try:
            result = super().train(*args, **kwargs)
        finally:
            self._begins = False
            self.args.save_total_limit = self._most_checkpoints
        best = self.state.best_model_checkpoint
        if self.args.should_save and self._most_checkpoints == 1 and best is not None:
            keep_newest(Path(best).parent, 1, [best])
        self._check_losses()
        if self.average is not None:
            if not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):  # which is an average
                self.average.swap()
            self.remove_callback(self.average)
            self.average = None
        if self.question_only is not None:
            self.question_only.detach_from(ume_model(self.model))
            self.question_only = None
        return result

    def _begin_average(self) -> None:
        if self.average is not None:  # of a training that was cut short
            self.remove_callback(self.average)
        if self.args.ema_decay:
            averaged = (p for name, p in self._trained().items() if NAME not in name.split("."))
            self.average = WeightAverage(averaged, self.args.ema_decay)
            self.add_callback(self.average)

    def call_model_init(self, trial=None) -> nn.Module:
        model = super().call_model_init(trial)
        if self._begins:  # what belongs to the weights of a training is made with them
            self.model = model
            if self.place_model_on_device:
                self._move_model_to_device(model, self.args.device)
            if self.args.rubi_weight:
                self.question_only = QuestionOnly(ume_model(model), self.args.rubi_weight).to(self.args.device)
            self._begin_average()
        return model

    def answer_weights(self) -> Tensor | None:
        """
        What a training question counts in the loss, by its answer [C]: as `class_weights` says; None: all alike.

        Raises:
            ValueError: when the trainer's collator has no vocabulary, or the model several right answers a question.
        """
        if self.args.class_weights is None:
            return None
        if self._answer_weights is None:
            config, vocabulary = self.model.config, getattr(self.data_collator, "vocabulary", None)
            if vocabulary is None or not PROBLEM_TYPES[config.problem_type].exclusive:
                raise ValueError(
                    "class_weights weighs questions by their one right answer: it needs a collator with a vocabulary "
                    "and a model of problem_type=single_label_classification. Leave it out otherwise."
                )
            targets = vocabulary.hard_targets(self.train_dataset["answers"][:])
            self._answer_weights = balanced_weights(targets, len(vocabulary))
        return self._answer_weights

    def _inner_training_loop(self, *args, **kwargs):
        # With auto_find_batch_size once for each size that is tried: nothing of the try before stays.
        self._unchecked, self._questions_in_update = [], None
        try:
            return super()._inner_training_loop(*args, **kwargs)
        finally:
            self._questions_in_update = None

    def evaluate(self, eval_dataset=None, *args, **kwargs) -> dict[str, float]:
        """
        As HF's, at any time and for any rows.

        Args:
            eval_dataset (*optional*): rows, a dict of rows by name, or a name of the trainer's own `eval_dataset`.

        Raises:
            ValueError: for rows that are none, lack questions or images, or of which only some have answers.
        """
        if isinstance(eval_dataset, str):
            self._own_rows(eval_dataset)
        elif isinstance(eval_dataset, dict) and not eval_dataset:
            raise ValueError("There are no data sets to evaluate: the dict that was given is empty.")
        elif eval_dataset is not None and not is_named_sets(eval_dataset):
            eval_dataset = as_rows(eval_dataset)  # of a slice, which is a dict, the Trainer would evaluate each column
        return super().evaluate(eval_dataset, *args, **kwargs)

    def evaluation_loop(self, dataloader: DataLoader, *args, **kwargs):
        prepared = list(self.accelerator._dataloaders)
        self._scorer = Scorer(dataloader, None, self.args.eval_batch_size, self._scores)
        try:
            with self._weights_to_keep():
                return super().evaluation_loop(dataloader, *args, **kwargs)
        finally:
            self._scorer = None
            if not self.args.dataloader_persistent_workers:
                # accelerate holds on to every loader that it prepares: one an evaluation would pile up.
                self.accelerator._dataloaders = [loader for loader in prepared if loader is not dataloader]

    @property
    def scoring(self) -> AnswerScoring:
        """How answers are scored: by the model, or, of one that is still to be made, as the collator makes labels."""
        model = getattr(self, "model", None)
        return self._scores_as if model is None else scoring_of_model(model)

    def _kept(self, logits: Tensor) -> Tensor:
        return self.scoring.kept(logits)

    def _scores(self, kept: list, rows: Dataset | StreamedQuestions) -> dict[str, float]:
        scoring = self.scoring
        return scoring.flat(scoring.answers(kept), rows)

    def _score(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """HF's `compute_metrics`: the VQA metric of the rows that are being evaluated."""
        return self._scorer(prediction.predictions, compute_result)

    def training_step(self, model: nn.Module, inputs: dict, *args, **kwargs) -> Tensor:
        inputs = dict(inputs)
        questions = inputs.pop(QUESTION_IDS, [])
        if "labels" not in inputs:
            raise ValueError(
                f"The training questions {', '.join(map(str, questions)) or 'of a batch'} have no answers to learn: "
                "give their annotations, and the collator a vocabulary."
            )
        if not hasattr(self, "current_gradient_accumulation_steps"):  # a step by itself, outside of `train`
            self.current_gradient_accumulation_steps = 1
        try:
            loss = super().training_step(model, inputs, *args, **kwargs)
        except ValueError as error:
            if not LONE_VALUE.search(str(error)):
                raise
            raise ValueError(
                f"A norm over the batch has a single value a channel in step {self.state.global_step + 1}: its batch "
                f"holds one image of one cell, or one question (question_ids {', '.join(map(str, questions))}), and a "
                "mean and a variance need more. Leave the last, smaller batch out with dataloader_drop_last, choose "
                "another per_device_train_batch_size, or freeze that encoder (freeze_vision, freeze_text)."
            ) from error
        self._unchecked.append((self.state.global_step + 1, questions, loss))
        # Where nothing waits for the look. Processes look together, after the same steps.
        at_once = self.args.device.type == "cpu" and self.args.world_size == 1
        if at_once or len(self._unchecked) >= MOST_UNCHECKED:
            self._check_losses()
        return loss

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self._check_losses()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _check_losses(self) -> None:
        """
        Looks at the losses since the last look, of all processes.

        Raises:
            LossError: in all of them, about the first that is no number: those that come after it are its effects.
        """
        if not self._unchecked:
            return
        steps, questions, losses = zip(*self._unchecked, strict=True)
        self._unchecked = []
        lost = ~torch.stack(losses).isfinite()
        if not self.accelerator.gather(lost.any()[None]).any():
            return
        first = lost.int().argmax().item()
        own = [(steps[first], self.args.process_index, losses[first].item(), questions[first])] if lost.any() else []
        step, process, loss, questions = min(gather_object(own), key=lambda found: found[:2])
        where = f" of process {process}" if self.args.world_size > 1 else ""
        raise LossError(
            f"The loss is {loss} in step {step}, in the batch{where} with the question_ids "
            f"{', '.join(map(str, questions))}. Look at these questions, their images and stored features; if they "
            "are as they should be, train with a lower learning_rate or max_grad_norm. Nothing was saved after that."
        )

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        # A list, because the Trainer adds one to it; a config may hold a tuple.
        ignore_keys = list(ignore_keys or self.model.config.keys_to_ignore_at_inference)
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if self._scorer is not None and self._scorer.streamed:
            # Batches of a stream are not all of one size, which those gathered from several processes must be.
            logits, labels = (
                t if t is None else functional.pad(t, [0, 0] * (t.ndim - 1) + [0, self.args.eval_batch_size - len(t)])
                for t in (logits, labels)
            )
        chooses = PROBLEM_TYPES[self.model.config.problem_type].chooses
        if self._scores_answers and labels is not None and labels.ndim == 2 and chooses:
            # The metric reads the answers from the rows; soft labels of all questions would be [N, C] in memory.
            labels = labels.argmax(-1)
        return loss, logits, labels

    def get_batch_samples(self, *args, **kwargs):
        if self.control.should_training_stop:  # before a step: what training goes on from had stopped already
            return [], None
        batches, items = super().get_batch_samples(*args, **kwargs)
        counts = [self._counts(batch["labels"]).sum() for batch in batches if "labels" in batch]
        if self.args.world_size > 1:
            total = self.accelerator.reduce(sum(counts, torch.zeros(())).to(self.args.device), reduction="sum")
            self._questions_in_update = float(total) or 1.0
        else:
            self._questions_in_update = (float(sum(counts)) or 1.0) if len(counts) > 1 else None
        return batches, items

    def _counts(self, labels: Tensor) -> Tensor:
        """What each question of a batch counts in the loss [B]."""
        return question_weights(labels, self.model.config.problem_type, self.answer_weights())

    def compute_loss(self, model, inputs, *args, **kwargs):
        """
        The model's loss, its mean over the questions of a whole update while `train` runs: the batches that are
        accumulated for it, of all processes, may have different numbers of them.
        """
        # Of a tuple, which a config can ask for, evaluation would gather everything.
        inputs = {**inputs, "return_dict": True}
        training = model.training and "labels" in inputs
        if training and self._questions_in_update is not None:
            own = self._counts(inputs["labels"]).sum().to(self.args.device)
            # The Trainer takes the mean over the batches, DDP the one over the processes.
            batches = self.current_gradient_accumulation_steps * self.args.world_size
            weight = own * batches / self._questions_in_update
        else:
            weight = None
        if training and self.args.class_weights:
            inputs["loss_weights"] = self._counts(inputs["labels"])
        if training and self.args.label_smoothing_factor:
            smoothed = smooth_targets(inputs["labels"], self.model.config.num_labels, self.args.label_smoothing_factor)
            inputs = {**inputs, "labels": smoothed}
        result = super().compute_loss(model, inputs, *args, **kwargs)
        if weight is None:
            return result
        return (result[0] * weight, *result[1:]) if isinstance(result, tuple) else result * weight

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
                self.args, model
            )
            own_groups = {"params", "model", "optimizer_dict"} & kwargs.keys()
            if own_groups:
                raise ValueError(
                    f"optim={self.args.optim} groups the parameters itself, so a learning rate per part is "
                    "impossible: choose another optimizer, for example adamw_torch."
                )
            self.optimizer = optimizer_class(self.parameter_groups(model), **kwargs)
        return self.optimizer

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """
        Groups what is trained by part (encoders, fusion, classifier), each with and without weight decay.

        Returns:
            `list[dict]`: `params`, `lr`, `weight_decay` and the part's `name`; biases and norms have no decay, as in
            HF's Trainer. Parts with nothing to train are left out.
        """
        rates = {
            "encoders": self.args.learning_rate,
            "fusion": self.args.learning_rate * self.args.fusion_learning_rate_multiplier,
            "classifier": self.args.learning_rate * self.args.classifier_learning_rate_multiplier,
        }
        part_of = {id(p): part for part, parameters in ume_model(self.model).parts().items() for p in parameters}
        if self.question_only is not None:
            part_of |= {id(p): "classifier" for p in self.question_only.parameters()}
        decayed = set(self.get_decay_parameter_names(model))
        groups = {(part, decay): [] for part in rates for decay in (True, False)}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups[part_of[id(parameter)], name in decayed].append(parameter)
        return [
            {
                "name": part,
                "params": parameters,
                "lr": rates[part],
                "weight_decay": self.args.weight_decay if decay else 0.0,
            }
            for (part, decay), parameters in groups.items()
            if parameters
        ]


def smooth_targets(labels: Tensor, num_labels: int, epsilon: float) -> Tensor:
    """
    Mixes the targets of a softmax with the uniform distribution (Szegedy et al. 2016, arXiv:1512.00567).

    Args:
        labels: answer ids [B], −100 where the answer is unknown, or scores [B, C].
        epsilon (`float`): the uniform distribution's share.

    Returns:
        `Tensor` [B, C]: (1 − ε) · y + ε · Σ y / C; a row of zeros where the answer is unknown.
    """
    if labels.ndim == 1:
        known = labels != -100
        labels = functional.one_hot(labels.clamp(min=0), num_labels).float() * known[:, None]  # [B, C]
    return (1 - epsilon) * labels + epsilon * labels.mean(1, keepdim=True)


def ume_model(model: nn.Module) -> UMEForVisualQuestionAnswering:
    """The UME model itself, out of the wrappings of PEFT or DDP."""
    found = [m for m in model.modules() if isinstance(m, UMEForVisualQuestionAnswering)]
    if len(found) != 1:
        raise TypeError(f"{type(model).__name__} holds {len(found)} UMEForVisualQuestionAnswering instead of one.")
    return found[0]


def layers_to_shard(model: nn.Module) -> list[str]:
    """
    Names of the classes that FSDP shards one by one: those that the encoders say are not to be split, and the head.

    Of those that are named, accelerate refuses what the model lacks; what holds the token embeddings, which it shards
    by themselves, would be sharded twice.
    """
    named = {name for m in model.modules() for name in getattr(m, "_no_split_modules", None) or ()}
    tokens = ume_model(model).get_input_embeddings()
    found = [m for m in model.modules() if type(m).__name__ in named]
    return sorted({type(m).__name__ for m in found} - {type(m).__name__ for m in found if tokens in m.modules()})
