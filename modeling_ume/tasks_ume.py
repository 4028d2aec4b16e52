"""The tasks: what labels are, how logits become an answer."""

import torch
from torch import Tensor, nn

from .numerics_ume import widen


class ViewClassifiers(nn.Module):
    """A classifier a view, for the heads that combine late: [B, K, D] → [B, K, C]."""

    def __init__(self, num_views: int, hidden_size: int, num_labels: int):
        super().__init__()
        self.views = nn.ModuleList(nn.Linear(hidden_size, num_labels) for _ in range(num_views))

    def forward(self, views: Tensor) -> Tensor:
        return torch.stack([linear(x) for linear, x in zip(self.views, views.unbind(1), strict=True)], dim=1)


PROBLEM_TYPES = ("single_label_classification", "multi_label_classification")


def decode_logits(logits: torch.Tensor, id2label: dict[int, str], problem_type: str, top_k: int) -> list[list[dict]]:
    """
    The best answers of each row and their probabilities.

    Args:
        logits (`torch.Tensor` of shape [B, C]): what the classifier gives, any float type.
        id2label (`dict[int, str]`): the C answers.
        problem_type (`str`): `"single_label_classification"` (softmax: the scores of all C answers sum to 1) or
            `"multi_label_classification"` (sigmoid: each answer has its own score).
        top_k (`int`): answers a row, 1 … C.

    Returns:
        `list[list[dict]]`: B lists of top_k `{"answer": str, "score": float}`, the best first.

    Raises:
        ValueError: if the logits do not have one column an answer, or top_k is not in 1 … C.
    """
    if logits.ndim != 2 or logits.shape[1] != len(id2label):
        raise ValueError(
            f"Logits of shape {list(logits.shape)} do not fit {len(id2label)} answers: the shape must be "
            f"[rows, {len(id2label)}], one column an answer. Do the model and id2label belong together?"
        )
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= len(id2label):
        raise ValueError(
            f"top_k={top_k!r} is impossible: choose a whole number from 1 to {len(id2label)}, the number of answers."
        )
    logits = widen(logits.detach())
    scores = logits.softmax(-1) if problem_type == "single_label_classification" else logits.sigmoid()  # [B, C]
    scores, ids = scores.topk(top_k, dim=-1)  # [B, top_k] each
    return [
        [{"answer": id2label[i], "score": score} for i, score in zip(row_ids, row_scores, strict=True)]
        for row_ids, row_scores in zip(ids.tolist(), scores.tolist(), strict=True)
    ]
