"""UMETrainer: HF's Trainer with a learning rate per part, batches grouped by image, and the VQA metric;
on request with an average of the weights, smoothed targets and a question-only branch that training works against.

Also here: which of a run's checkpoints is whole, as the Trainer writes them in place and a run may be killed; and the
end of a run whose loss is no number any more.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import evaluate
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, seed_worker

import metrics.vqa_accuracy.vqa_accuracy as vqa_accuracy
from modeling_ume import UMEForVisualQuestionAnswering
from training_ume.averaging import WeightAverage
from training_ume.question_only import NAME, QuestionOnly
from training_ume.recipes import UMETrainingArguments
from training_ume.results import WriteError, writing
from training_ume.sampler import GroupedByImageSampler, ProcessBatches
from training_ume.streaming import BatchStream, StreamedQuestions

# In a checkpoint: weights to go on from that the model's own file does not hold.
TRAINED_WEIGHTS = "trained_weights.safetensors"
# In a training batch: whose questions it holds, for the model does not need to know.
QUESTION_IDS = "question_ids"
# Losses that wait to be looked at: on a GPU each look makes the next step wait.
MOST_UNCHECKED = 100


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
        eval_dataset (`Dataset` or `StreamedQuestions`): rows of `load_vqa` with answers; in image order, each image is
            encoded once.
        processing_class (`UMEProcessor`): saved into every checkpoint.
        group_by_image (`bool`, defaults to `True`): questions about one image share a training batch.
        bucket_by_length (`bool`, defaults to `False`): so do images whose questions are of similar length.
    """

    def __init__(
        self,
        model: nn.Module,
        args: UMETrainingArguments,
        *,
        data_collator: Callable,
        train_dataset: Dataset | StreamedQuestions,
        eval_dataset: Dataset | StreamedQuestions,
        processing_class=None,
        group_by_image: bool = True,
        bucket_by_length: bool = False,
    ):
        self.group_by_image = group_by_image
        self.bucket_by_length = bucket_by_length
        self.average: WeightAverage | None = None
        self._unchecked: list[tuple[int, list[int], Tensor]] = []  # step, questions, loss
        self._eval_loader: tuple[int, DataLoader] | None = None  # batch size, loader of `eval_dataset`
        self.question_only = QuestionOnly(ume_model(model), args.rubi_weight) if args.rubi_weight else None
        id2label = model.config.id2label

        def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
            ids = prediction.predictions
            if isinstance(eval_dataset, StreamedQuestions):
                ids = in_table_order(ids, self.get_eval_dataloader().batch_sampler, args.eval_batch_size)
            return flat_scores(score_answers([id2label[int(i)] for i in ids], eval_dataset))

        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),  # ids, not [N, C] logits
            callbacks=[Stopwatch(), SaveAfterEvaluation()],
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
        """
        if self.args.ema_decay:
            averaged = (p for name, p in self._trained().items() if NAME not in name.split("."))
            self.average = WeightAverage(averaged, self.args.ema_decay)
            self.add_callback(self.average)
        result = super().train(*args, **kwargs)
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

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self._weights_to_keep():
            return super().evaluate(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict, *args, **kwargs) -> Tensor:
        inputs = dict(inputs)
        questions = inputs.pop(QUESTION_IDS)
        loss = super().training_step(model, inputs, *args, **kwargs)
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
            with writing(folder):
                super()._save_checkpoint(*args, **kwargs)
        except WriteError:
            shutil.rmtree(folder, ignore_errors=True)  # which also makes room
            raise

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
        apart = self._kept_apart()
        if checkpoint is None or not apart:
            return
        if self.average is not None:
            self.average.restart()  # from the model's file, which holds the average
        stored = load_file(Path(checkpoint) / TRAINED_WEIGHTS)
        with torch.no_grad():
            for name, parameter in apart.items():
                parameter.copy_(stored[name])

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
        if isinstance(self.eval_dataset, StreamedQuestions):
            # Batches of a stream are not all of one size, which those gathered from several processes must be.
            logits, labels = (
                functional.pad(t, [0, 0] * (t.ndim - 1) + [0, self.args.eval_batch_size - len(t)])
                for t in (logits, labels)
            )
        # The metric reads the answers from the dataset; soft labels of all questions would be [N, C] in memory.
        return loss, logits, labels.argmax(-1) if labels is not None and labels.ndim == 2 else labels

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this process. `accelerate` would repeat questions where they do not divide by the processes."""
        args, dataset = self.args, self.train_dataset
        seed = args.seed if args.data_seed is None else args.data_seed
        if isinstance(dataset, StreamedQuestions):
            batches = dataset.batches(args.train_batch_size, args.world_size, args.process_index, seed)
            self.add_callback(SetEpoch(batches))
            return self.loader(dataset, batches, partial(with_question_ids, self.data_collator))
        # Ungrouped, every question counts as an image of its own.
        images = dataset["image"][:] if self.group_by_image else range(len(dataset))
        lengths = words(dataset["question"][:]) if self.bucket_by_length else None
        sampler = GroupedByImageSampler(images, args.train_batch_size * args.world_size, seed, lengths)
        self.add_callback(SetEpoch(sampler))
        batches = ProcessBatches(
            sampler, args.train_batch_size, args.world_size, args.process_index, args.dataloader_drop_last
        )
        return self.loader(dataset, batches, partial(with_question_ids, self.data_collator))

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        args = self.args
        if not isinstance(dataset, StreamedQuestions):
            if dataset is not self.eval_dataset:
                return super().get_eval_dataloader(eval_dataset)
            # accelerate holds on to every loader that it prepares: one an evaluation would pile up over the epochs.
            if self._eval_loader is None or self._eval_loader[0] != args.eval_batch_size:
                self._eval_loader = (args.eval_batch_size, super().get_eval_dataloader())
            return self._eval_loader[1]
        batches = dataset.batches(args.eval_batch_size, args.world_size, args.process_index)
        return self.loader(dataset, batches, self.data_collator)

    def loader(self, dataset: Dataset | StreamedQuestions, batches: Sampler, collate: Callable) -> DataLoader:
        """Batches of this process as the arguments say that they be made."""
        args = self.args
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        )

    def compute_loss(self, model, inputs, *args, **kwargs):
        count = torch.tensor(float(len(inputs["labels"])), device=self.args.device)
        if model.training and self.args.label_smoothing_factor:
            smoothed = smooth_targets(inputs["labels"], self.model.config.num_labels, self.args.label_smoothing_factor)
            inputs = {**inputs, "labels": smoothed}
        result = super().compute_loss(model, inputs, *args, **kwargs)
        if not model.training or self.args.world_size == 1:
            return result
        # The mean over the processes, which DDP takes, is the mean over the questions only if all have equally many.
        return result * (count / self.accelerator.reduce(count, reduction="mean"))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
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


class SetEpoch(TrainerCallback):
    """Tells the sampler the epoch, also where accelerate's wrappers hide it: several devices, resumed in mid-epoch."""

    def __init__(self, sampler: GroupedByImageSampler | BatchStream):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch))
        if isinstance(self.sampler, BatchStream) and not args.ignore_data_skip:
            # The Trainer throws these batches away when it resumes in mid-epoch: none of them need be read.
            steps = -(-len(self.sampler) // args.gradient_accumulation_steps)
            self.sampler.skip(state.global_step % steps * args.gradient_accumulation_steps)


class SaveAfterEvaluation(TrainerCallback):
    """Lets a checkpoint at an epoch's last step wait for the evaluation at its end: a run that goes on from there has
    then made it, with the random numbers that it draws."""

    waits = False

    def on_step_end(self, args, state, control, **kwargs):
        self.waits = control.should_save and (control.should_training_stop or float(state.epoch).is_integer())
        control.should_save = control.should_save and not self.waits

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save = control.should_save or self.waits
        self.waits = False


class Stopwatch(TrainerCallback):
    """Writes `seconds` and `cpu_seconds` into every entry of the log: time spent training and evaluating, earlier
    sessions included. The second counts this process on all its cores, and nothing else that the machine does."""

    clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}  # noqa: RUF012

    def on_train_begin(self, args, state, control, **kwargs):
        before = next((entry for entry in reversed(state.log_history) if "seconds" in entry), {})
        self.started = {name: clock() - before.get(name, 0.0) for name, clock in self.clocks.items()}

    def on_log(self, args, state, control, **kwargs):
        for name, clock in self.clocks.items():
            state.log_history[-1][name] = clock() - self.started[name]


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


def in_table_order(gathered: Sequence, batches: BatchStream, width: int) -> list:
    """What the processes gathered step by step, each batch padded to `width`, in the order of the part's table."""
    ordered = [None] * len(batches.part)
    joined = iter(gathered[start : start + width] for start in range(0, len(gathered), width))
    for step in batches.positions():
        for positions in step:
            for position, value in zip(positions, next(joined), strict=False):  # without the padding
                ordered[position] = value
    return ordered


def words(questions: list[str]) -> list[int]:
    """How many words each question has: as good as tokens for telling long ones from short ones."""
    return [len(question.split()) for question in questions]


def in_image_order(dataset: Dataset) -> tuple[Dataset, list[int]]:
    """
    Rows sorted by image (questions about one image in their old order), and the old index of each row.

    Images whose longest questions are alike stand together, so that batches have little padding.
    """
    images, longest = dataset["image"][:], {}
    for image, length in zip(images, words(dataset["question"][:]), strict=True):
        longest[image] = max(length, longest.get(image, 0))
    order = sorted(range(len(images)), key=lambda row: (longest[images[row]], images[row]))
    return dataset.select(order), order


@torch.no_grad()
def predict(
    model: UMEForVisualQuestionAnswering,
    collator: Callable,
    dataset: Dataset | StreamedQuestions,
    batch_size: int,
    num_workers: int = 0,
) -> list[str]:
    """
    Answers every question of a dataset.

    Args:
        model: in eval mode or not, on any one device.
        collator (`VQACollator`): makes the batches; what it leaves out (question or image), the model does not see.
        dataset (`Dataset` or `StreamedQuestions`): rows of `load_vqa`, answers not needed.
        batch_size (`int`): questions a batch. Questions about one image share its encoding.

    Returns:
        `list[str]`: one answer a row, in the order of the rows.
    """
    was_training = model.training
    model.eval()
    if isinstance(dataset, StreamedQuestions):
        batches = dataset.batches(batch_size)
        loader = dataset.loader(batches, collator, num_workers=num_workers)
        order = [position for step in batches.positions() for position in step[0]]
    else:
        ordered, order = in_image_order(dataset)
        loader = DataLoader(ordered, batch_size, collate_fn=collator, num_workers=num_workers)
    answers = [""] * len(order)
    positions = iter(order)
    for batch in tqdm(loader, desc="answering", leave=False):
        inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
        for answer in model(**inputs).logits.argmax(-1).tolist():
            answers[next(positions)] = model.config.id2label[answer]
    model.train(was_training)
    return answers


def score_answers(predictions: list[str], dataset: Dataset | StreamedQuestions) -> dict:
    """
    The VQA metric of answers to a dataset's questions.

    Returns:
        `dict`: `vqa_accuracy` and `exact_match` in percent, `per_answer_type` and `per_question_type` where the
        dataset knows the types.
    """
    types = {}
    for name in ("answer_type", "question_type"):
        values = dataset[name][:]
        if any(values):
            types[f"{name}s"] = values
    return _metric().compute(predictions=predictions, references=dataset["answers"][:], **types)


def flat_scores(scores: dict) -> dict[str, float]:
    """Scores as the Trainer logs them: one number a key, `vqa_accuracy_yes/no` and so on for the answer types."""
    per_type = scores.get("per_answer_type", {})
    return {
        "vqa_accuracy": scores["vqa_accuracy"],
        "exact_match": scores["exact_match"],
        **{f"vqa_accuracy_{kind}": score for kind, score in per_type.items()},
    }


def _metric() -> evaluate.Metric:
    # Loaded by the path of the installed module, so that it works from any working directory.
    return evaluate.load(str(Path(vqa_accuracy.__file__).parent))


def last_whole_checkpoint(output_dir: str | Path) -> tuple[Path | None, list[Path]]:
    """
    Finds where a run can go on.

    Returns:
        `(checkpoint, broken)`: the newest checkpoint folder that was written to its end (None: there is none), and the
        folders that were not, because the run was killed while it wrote or deleted them.
    """
    folders = [
        path
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.is_dir() and path.name.split("-")[-1].isdigit()
    ]
    folders.sort(key=lambda path: int(path.name.split("-")[-1]))
    whole = [path for path in folders if _is_whole(path)]
    return (whole[-1] if whole else None), [path for path in folders if path not in whole]


def _is_whole(checkpoint: Path) -> bool:
    """The Trainer writes trainer_state.json last; a deletion that was cut short may have left it behind alone."""
    try:
        step = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, KeyError):
        return False
    weights = [*checkpoint.glob("model*.safetensors"), *checkpoint.glob("adapter_model.safetensors")]
    # The optimizer's states: the Trainer's own file, FSDP's, or the one that names DeepSpeed's folder.
    optimizer = [name for name in ("optimizer.pt", "optimizer.bin", "latest") if (checkpoint / name).is_file()]
    randomness = list(checkpoint.glob("rng_state*.pth"))
    scheduler = (checkpoint / "scheduler.pt").is_file()
    return f"-{step}" in checkpoint.name and bool(weights and randomness and optimizer and scheduler)


def remove_broken(broken: list[Path]) -> None:
    """Deletes half-written checkpoints, so that nothing takes them for whole."""
    for path in broken:
        shutil.rmtree(path)
