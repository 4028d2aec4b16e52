"""Answering many questions: a model's answers to every row of a data set, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_ume import UMEForVisualQuestionAnswering
from training_ume.data.collator import allow_lacks
from training_ume.data.order import in_image_order
from training_ume.data.streaming import StreamedQuestions
from training_ume.evaluation.scoring import scoring_of_model


def predict(
    model: UMEForVisualQuestionAnswering,
    collator: Callable,
    dataset: Dataset | StreamedQuestions,
    batch_size: int,
    num_workers: int = 0,
    collect: Callable[[list[int], Tensor], None] | None = None,
) -> list:
    """
    Answers every question of a dataset.

    Args:
        model: in eval mode or not, on any one device.
        collator (`VQACollator`): makes the batches; what it leaves out (question or image), the model does not see.
        dataset (`Dataset` or `StreamedQuestions`): rows of `load_vqa`, answers not needed.
        batch_size (`int`): questions a batch. Questions about one image share its encoding.
        collect (`callable`, *optional*): is given the numbers of a batch's rows and their logits [B, C].

    Returns:
        `list`: one answer a row, in the order of the rows: a string, or a list of numbers.
    """
    loader, order = batches_of(collator, dataset, batch_size, num_workers)
    scoring = scoring_of_model(model)
    answers = [None] * len(order)
    positions = iter(order)
    for logits in _logits(model, tqdm(loader, desc="answering", leave=False)):
        rows = list(islice(positions, len(logits)))
        if collect is not None:
            collect(rows, logits)
        for row, answer in zip(rows, scoring.answers(scoring.kept(logits).tolist()), strict=True):
            answers[row] = answer
    return answers


def batches_of(
    collator: Callable, dataset: Dataset | StreamedQuestions, batch_size: int, num_workers: int = 0
) -> tuple[Iterable[dict[str, Tensor]], list[int]]:
    """The batches of a dataset, rows about one image side by side, and which row of the dataset each of theirs is."""
    if isinstance(dataset, StreamedQuestions):
        batches = dataset.batches(batch_size)
        order = [position for step in batches.positions() for position in step[0]]
        return dataset.loader(batches, collator, num_workers=num_workers), order
    allow_lacks(collator, dataset)
    ordered, order = in_image_order(dataset)
    return DataLoader(ordered, batch_size, collate_fn=collator, num_workers=num_workers), order


def batch_logits(
    model: UMEForVisualQuestionAnswering, collator: Callable, dataset: Dataset, batch_size: int, num_workers: int = 0
) -> Iterator[Tensor]:
    """What the model says of a dataset's rows, in their order: logits [B, C] a batch, as it is ready."""
    return _logits(model, DataLoader(dataset, batch_size, collate_fn=collator, num_workers=num_workers))


def _logits(model: UMEForVisualQuestionAnswering, batches: Iterable[dict]) -> Iterator[Tensor]:
    was_training = model.training
    model.eval()
    for batch in batches:
        inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            logits = model(**inputs, return_dict=True).logits
        yield logits
    model.train(was_training)
