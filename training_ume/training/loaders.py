"""Batches for training, which questions about one image share, and for evaluation, which take every row once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from datasets import Dataset
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler
from transformers.trainer_utils import seed_worker

from training_ume.data.collator import allow_lacks
from training_ume.data.order import shared_files, words
from training_ume.data.sampler import GroupedByImageSampler, ProcessBatches
from training_ume.data.streaming import StreamedQuestions
from training_ume.evaluation.rows import as_rows, check_rows
from training_ume.training.callbacks import SetEpoch

# In a training batch: whose questions it holds, for the model does not need to know.
QUESTION_IDS = "question_ids"


class Loaders:
    """The part of [`UMETrainer`] that makes batches: before HF's in its bases."""

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
            allow_lacks(self.data_collator, dataset)
            if sequential:
                sampler = SequentialSampler(dataset)
            else:
                # Ungrouped, every question counts as an image of its own.
                images = shared_files(dataset) if self.group_by_image else range(len(dataset))
                lengths = words(dataset["question"][:]) if self.bucket_by_length else None
                sampler = GroupedByImageSampler(images, size * args.world_size, seed, lengths)
            batches = ProcessBatches(sampler, size, args.world_size, args.process_index, args.dataloader_drop_last)
        # Of a training before, or of a batch that was too large: their samplers order nothing any more.
        for done in [c for c in self.callback_handler.callbacks if isinstance(c, SetEpoch)]:
            self.remove_callback(done)
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
            allow_lacks(self.data_collator, rows)
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


def with_question_ids(collator: Callable, rows: list[dict]) -> dict:
    """A batch of the collator, and whose questions are in it."""
    return {**collator(rows), QUESTION_IDS: [row["question_id"] for row in rows]}
