"""UMETrainer: HF's Trainer with a learning rate per part, batches grouped by image, and the VQA metric;
on request with an average of the weights, smoothed targets and a question-only branch that training works against.

Also here: the end of a run whose loss is no number any more.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, seed_worker

from configuration_ume.arguments import UMETrainingArguments
from configuration_ume.scores import ALWAYS_SCORED, AUTO
from modeling_ume import UMEForVisualQuestionAnswering
from training_ume.data.order import words
from training_ume.data.sampler import GroupedByImageSampler, ProcessBatches
from training_ume.data.streaming import StreamedQuestions
from training_ume.evaluation.rows import Scorer, as_rows, check_rows, is_named_sets
from training_ume.evaluation.scores import FittingScore, fitting_score, score_names, score_rows
from training_ume.records.checkpoints import delete, holds_weights_only, keep_newest, unfinished
from training_ume.records.files import WriteError, writing
from training_ume.training.averaging import WeightAverage
from training_ume.training.callbacks import SaveAfterEvaluation, SetEpoch, Stopwatch
from training_ume.training.question_only import NAME, QuestionOnly

# In a checkpoint: weights to go on from that the model's own file does not hold.
TRAINED_WEIGHTS = "trained_weights.safetensors"


# In a training batch: whose questions it holds, for the model does not need to know.
QUESTION_IDS = "question_ids"


# How torch says that a batch's mean and variance would be those of a single value.
LONE_VALUE = re.compile("Expected more than 1 (value per channel|spatial element)")


# Losses that wait to be looked at: on a GPU each look makes the next step wait.
MOST_UNCHECKED = 100


# Why a run's epoch is chosen by what its arguments name.
GIVEN = "metric_for_best_model was given"


class LossError(ValueError):
    """The loss is infinite or no number; the message says in which step and with which questions."""


class UMETrainer(Trainer):
    """
    Trains [`UMEForVisualQuestionAnswering`], plain or wrapped by PEFT.

    Args:
        model: what to train.
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
        callbacks, optimizers, optimizer_cls_and_kwargs (*optional*): HF's.

    `evaluate` and `predict` take any rows with questions and images, at any time: a `Dataset`, a part of one (also
    `dataset[:10]`), a list of dicts, a dict of these by name. What is scored is the rows that were given. Without
    answers there is no score, and no loss.

    Raises:
        ValueError: for arguments that cannot work together, see [`UMETrainingArguments`].
    """

    def __init__(
        self,
        model: nn.Module,
        args: UMETrainingArguments,
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
        **optimizers,
    ):
        self.group_by_image = group_by_image
        self.bucket_by_length = bucket_by_length
        self.average: WeightAverage | None = None
        self._unchecked: list[tuple[int, list[int], Tensor]] = []  # step, questions, loss
        self._most_checkpoints: int | None = None  # of those to keep, while `train` runs
        self._questions_in_update: float | None = None  # of all its batches and processes, while it is made
        self._eval_loaders: dict[str | None, DataLoader] = {}  # with workers that stay, by the set's name
        self._scorer: Scorer | None = None  # of the rows that are being evaluated
        self.question_only = QuestionOnly(ume_model(model), args.rubi_weight) if args.rubi_weight else None
        self._scores_answers = compute_metrics is None
        if self._scores_answers:
            # ids, not [N, C] logits
            compute_metrics, preprocess_logits_for_metrics = self._score, lambda logits, labels: logits.argmax(-1)
        # Which score makes a checkpoint the best one, and why.
        self.selected_by = FittingScore(str(args.metric_for_best_model).removeprefix("eval_"), GIVEN)
        if args.metric_for_best_model == AUTO:
            args = copy.copy(args)  # the caller's may serve for other data
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
            callbacks=[Stopwatch(), SaveAfterEvaluation(), *(callbacks or [])],
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
            self._prepare_fsdp(model)

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
        for done in [c for c in self.callback_handler.callbacks if isinstance(c, SetEpoch)]:
            self.remove_callback(done)
        if self.average is not None:  # of a training that was cut short
            self.remove_callback(self.average)
        if self.args.ema_decay:
            averaged = (p for name, p in self._trained().items() if NAME not in name.split("."))
            self.average = WeightAverage(averaged, self.args.ema_decay)
            self.add_callback(self.average)
        # The Trainer's own rotation deletes every folder whose name begins like a checkpoint's.
        self._most_checkpoints, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            result = super().train(*args, **kwargs)
        finally:
            self.args.save_total_limit = self._most_checkpoints
        if self.args.should_save and self._most_checkpoints == 1 and self.state.best_model_checkpoint is not None:
            keep_newest(self.args.output_dir, 1, [self.state.best_model_checkpoint])
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
        self._scorer = Scorer(dataloader, self.model.config.id2label, self.args.eval_batch_size, score_rows)
        try:
            with self._weights_to_keep():
                return super().evaluation_loop(dataloader, *args, **kwargs)
        finally:
            self._scorer = None
            if not self.args.dataloader_persistent_workers:
                # accelerate holds on to every loader that it prepares: one an evaluation would pile up.
                self.accelerator._dataloaders = [loader for loader in prepared if loader is not dataloader]

    def _score(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """HF's `compute_metrics`: the VQA metric of the rows that are being evaluated."""
        return self._scorer(prediction.predictions, compute_result)

    def _own_rows(self, name: str | None) -> Dataset | StreamedQuestions | dict:
        """The trainer's `eval_dataset`, or the one of this name in it."""
        if self.eval_dataset is None:
            raise ValueError("The trainer has no eval_dataset: give it one, or give evaluate the rows.")
        if name is None:
            return self.eval_dataset
        named = self.eval_dataset if is_named_sets(self.eval_dataset) else {}
        if name not in named:
            there = (
                f"choose from {', '.join(named)}" if named else "the trainer has a single one, so leave the name out"
            )
            raise ValueError(f"eval_dataset={name!r} is no name of an evaluation set: {there}.")
        return named[name]

    def metric_names(self) -> list[str] | None:
        """What evaluations in training will give, as `eval_vqa_accuracy`; None: only the caller's metric knows."""
        rows = self._own_rows(None)
        sets = {f"eval_{name}": part for name, part in rows.items()} if is_named_sets(rows) else {"eval": rows}
        if not self._scores_answers and not self.args.prediction_loss_only:
            return None
        names = [f"{prefix}_loss" for prefix in sets]
        if not self.args.prediction_loss_only:
            names += [f"{prefix}_{name}" for prefix, part in sets.items() for name in score_names(as_rows(part))]
        return names

    def _choose_metric(self, args: UMETrainingArguments, eval_dataset) -> None:
        """Puts the score that fits the rows to evaluate in the place of `metric_for_best_model="auto"`."""
        if args.prediction_loss_only or not self._scores_answers:
            self.selected_by = FittingScore("loss", "evaluations give no score of the answers that is known")
            args.metric_for_best_model, args.greater_is_better = "eval_loss", False
            return
        prefix, rows = "eval", eval_dataset
        if is_named_sets(rows) and rows:
            first, rows = next(iter(rows.items()))
            prefix = f"eval_{first}"
        answers = [] if rows is None or len(rows) == 0 else as_rows(rows)["answers"][:]
        self.selected_by = fitting_score(answers)
        args.metric_for_best_model = f"{prefix}_{self.selected_by.name}"

    def check_metric(self) -> None:
        """Raises ValueError when `metric_for_best_model` matters and is none of what evaluations will give."""
        wanted = self.args.metric_for_best_model
        if wanted is None or self.args.eval_strategy == "no" or not self._needs_metric():
            return
        alone = not (self.args.prediction_loss_only or is_named_sets(self.eval_dataset))
        if alone and wanted.removeprefix("eval_") in ALWAYS_SCORED:
            return
        names = self.metric_names()
        if names is not None and wanted not in names and f"eval_{wanted}" not in names:
            raise ValueError(
                f"metric_for_best_model={wanted!r} is not among what evaluations give: choose from {', '.join(names)}."
            )

    def _needs_metric(self) -> bool:
        args = self.args
        by_metric = args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        return args.load_best_model_at_end or args.save_strategy == "best" or by_metric

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        """
        As HF's, but of checkpoints with the same score the one with the lower loss is the best, and of those with the
        same loss, too, the earlier, which needed less training. So a score that never changes does not choose.
        """
        if not self._needs_metric():
            return False  # HF's asks for the metric even where nothing depends on it
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        sets = self.eval_dataset if is_named_sets(self.eval_dataset) else ()
        loss = next((f"eval_{part}_loss" for part in sets if name.startswith(f"eval_{part}_")), "eval_loss")
        losses = {entry["step"]: entry[loss] for entry in self.state.log_history if loss in entry}
        least = losses.get(self.state.best_global_step)
        tie = metrics.get(name) is not None and metrics[name] == self.state.best_metric
        if tie and least is not None and metrics.get(loss, least) < least:
            self.state.best_metric = None  # so that this one takes its place
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:
            raise ValueError(
                f"metric_for_best_model={self.args.metric_for_best_model!r} is not among what the evaluation gave: "
                f"choose from {', '.join(metrics)}."
            ) from error

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

    def _save_checkpoint(self, *args, **kwargs) -> None:
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            with writing(folder), unfinished(folder) if self.args.should_save else nullcontext():
                super()._save_checkpoint(*args, **kwargs)
        except WriteError:
            if self.args.should_save:
                delete(folder)  # which also makes room
            raise
        if self.args.should_save:
            keep_newest(self.args.output_dir, self._most_checkpoints, [folder, self.state.best_model_checkpoint])

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
        if self._scores_answers and labels is not None and labels.ndim == 2:
            # The metric reads the answers from the rows; soft labels of all questions would be [N, C] in memory.
            labels = labels.argmax(-1)
        return loss, logits, labels

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this process. `accelerate` would repeat questions where they do not divide by the processes."""
        args, dataset, size = self.args, self.train_dataset, self._train_batch_size  # auto_find_batch_size lowers it
        if dataset is None:
            raise ValueError("The trainer has no train_dataset: give it one to train.")
        seed = args.seed if args.data_seed is None else args.data_seed
        sequential = getattr(args, "train_sampling_strategy", "random") == "sequential"
        if isinstance(dataset, StreamedQuestions):
            sampler = batches = dataset.batches(
                size, args.world_size, args.process_index, None if sequential else seed
            )
        else:
            if sequential:
                sampler = SequentialSampler(dataset)
            else:
                # Ungrouped, every question counts as an image of its own.
                images = dataset["image"][:] if self.group_by_image else range(len(dataset))
                lengths = words(dataset["question"][:]) if self.bucket_by_length else None
                sampler = GroupedByImageSampler(images, size * args.world_size, seed, lengths)
            batches = ProcessBatches(sampler, size, args.world_size, args.process_index, args.dataloader_drop_last)
        if not isinstance(sampler, SequentialSampler):
            self.add_callback(SetEpoch(sampler))
        return self.loader(dataset, batches, partial(with_question_ids, self.data_collator))

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Batches of any rows, see `evaluate`; a name or None for the trainer's own."""
        own = eval_dataset is None or isinstance(eval_dataset, str)
        kept = own and self.args.dataloader_persistent_workers
        if kept and eval_dataset in self._eval_loaders:
            return self._eval_loaders[eval_dataset]
        rows = as_rows(self._own_rows(eval_dataset) if own else eval_dataset)
        check_rows(rows, getattr(self.data_collator, "inputs", "both"))
        args = self.args
        if isinstance(rows, StreamedQuestions):
            batches = rows.batches(args.eval_batch_size, args.world_size, args.process_index)
        else:
            # Every row, in the order of the rows, whatever the arguments say of training.
            batches = BatchSampler(SequentialSampler(rows), args.eval_batch_size, drop_last=False)
        loader = self.loader(rows, batches, self.data_collator)
        if not isinstance(rows, StreamedQuestions):
            loader = self.accelerator.prepare(loader)
        if kept:
            self._eval_loaders[eval_dataset] = loader
        return loader

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        return self.get_eval_dataloader(test_dataset)

    def loader(self, dataset: Dataset | StreamedQuestions, batches: Sampler, collate: Callable) -> DataLoader:
        """Batches of this process as the arguments say that they be made."""
        args = self.args
        newer = {name: getattr(args, f"dataloader_{name}", None) for name in ("multiprocessing_context", "in_order")}
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers and args.dataloader_num_workers > 0,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
            **{name: value for name, value in newer.items() if value not in (None, True)},
        )

    def get_batch_samples(self, *args, **kwargs):
        batches, items = super().get_batch_samples(*args, **kwargs)
        problem_type = self.model.config.problem_type
        counts = [questions_with_loss(batch["labels"], problem_type) for batch in batches if "labels" in batch]
        if self.args.world_size > 1:
            total = self.accelerator.reduce(sum(counts, torch.zeros(())).to(self.args.device), reduction="sum")
            self._questions_in_update = max(float(total), 1.0)
        else:
            self._questions_in_update = max(float(sum(counts)), 1.0) if len(counts) > 1 else None
        return batches, items

    def compute_loss(self, model, inputs, *args, **kwargs):
        """
        The model's loss, its mean over the questions of a whole update while `train` runs: the batches that are
        accumulated for it, of all processes, may have different numbers of them.
        """
        # Of a tuple, which a config can ask for, evaluation would gather everything.
        inputs = {**inputs, "return_dict": True}
        training = model.training and "labels" in inputs
        if training and self._questions_in_update is not None:
            own = questions_with_loss(inputs["labels"], self.model.config.problem_type).to(self.args.device)
            # The Trainer takes the mean over the batches, DDP the one over the processes.
            batches = self.current_gradient_accumulation_steps * self.args.world_size
            weight = own * batches / self._questions_in_update
        else:
            weight = None
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


def with_question_ids(collator: Callable, rows: list[dict]) -> dict:
    """A batch of the collator, and whose questions are in it."""
    return {**collator(rows), QUESTION_IDS: [row["question_id"] for row in rows]}


def questions_with_loss(labels: Tensor, problem_type: str) -> Tensor:
    """How many questions the model's loss is the mean of: with a softmax, those whose answer is known."""
    if problem_type != "single_label_classification":
        return torch.tensor(float(len(labels)))
    return (labels != -100 if labels.ndim == 1 else labels.sum(1) > 0).sum().float()


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
