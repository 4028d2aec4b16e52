"""The tasks: what labels are, what the loss is, how logits become an answer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .numerics_ume import widen
from .streams_ume import check_ids


@dataclass(frozen=True)
class ProblemType:
    """
    What answers are to each other, and so what a logit says.

    Attributes:
        name: the key in `PROBLEM_TYPES`, transformers' own name.
        exclusive: one answer of all is right, so that their probabilities sum to 1; otherwise each is for itself.
    """

    name: str
    exclusive: bool

    def probabilities(self, logits: Tensor) -> Tensor:
        """logits [..., C] → each answer's probability, at least in float32."""
        logits = widen(logits)
        return logits.softmax(-1) if self.exclusive else logits.sigmoid()

    def known(self, labels: Tensor) -> Tensor:
        """Which examples have a loss, [B] bool, by their ids [B] or scores [B, C]."""
        if not self.exclusive:
            return torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        return labels != -100 if labels.ndim == 1 else labels.sum(1) > 0


# The first is the default everywhere.
PROBLEM_TYPES = {
    problem.name: problem
    for problem in (
        ProblemType("single_label_classification", exclusive=True),
        ProblemType("multi_label_classification", exclusive=False),
    )
}
DEFAULT_PROBLEM = next(iter(PROBLEM_TYPES))


class ViewClassifiers(nn.Module):
    """A classifier a view, for the heads that combine late: [B, K, D] → [B, K, C]."""

    def __init__(self, num_views: int, hidden_size: int, num_labels: int):
        super().__init__()
        self.views = nn.ModuleList(nn.Linear(hidden_size, num_labels) for _ in range(num_views))

    def forward(self, views: Tensor) -> Tensor:
        return torch.stack([linear(x) for linear, x in zip(self.views, views.unbind(1), strict=True)], dim=1)


def answer_loss(
    logits: Tensor,
    labels: Tensor,
    problem_type: str,
    shares: Tensor | None = None,
    loss_weights: Tensor | None = None,
) -> Tensor:
    """
    The loss of answers from a list, the mean over the examples.

    Args:
        logits (`torch.Tensor` of shape `(B, C)`): a score for each answer; `(B, K, C)` of K views, with `shares`.
        labels (`torch.Tensor`): as in [`UMEForVisualQuestionAnswering.forward`].
        problem_type (`str`): one of `PROBLEM_TYPES`.
        shares (`torch.Tensor` of shape `(B, K)`, *optional*): what each view's own loss counts.
        loss_weights (`torch.Tensor` of shape `(B,)`, *optional*): what each example counts in the mean.

    Raises:
        ValueError: for labels of another shape, or an id that no answer has.
    """
    if shares is None:
        losses = _losses(logits, labels, problem_type)  # [B]
    else:
        views = zip(logits.unbind(1), shares.unbind(1), strict=True)
        losses = sum(share * _losses(view, labels, problem_type) for view, share in views)
    if loss_weights is not None and loss_weights.shape != losses.shape:
        raise ValueError(
            f"loss_weights have shape {tuple(loss_weights.shape)} for {len(losses)} examples: give one weight an "
            "example, [batch]."
        )
    problem = PROBLEM_TYPES[problem_type]
    if problem.exclusive:
        # Not the built-in mean: it is NaN for a batch in which no answer is known.
        known = problem.known(labels)
        if loss_weights is None:
            return losses.sum() / known.sum().clamp(min=1)
        loss_weights = loss_weights.to(losses.dtype) * known
    elif loss_weights is None:
        return losses.mean()
    return (losses * loss_weights).sum() / loss_weights.sum().clamp(min=torch.finfo(losses.dtype).tiny)


def _losses(logits: Tensor, labels: Tensor, problem_type: str) -> Tensor:
    """logits [B, C] → each example's loss [B], 0 where its answer is unknown."""
    softmax = PROBLEM_TYPES[problem_type].exclusive
    if softmax and labels.ndim == 1 and len(labels) == len(logits):
        if not torch.compiler.is_compiling():
            check_ids("labels", labels[labels != -100], logits.shape[1], "the answers")
        return F.cross_entropy(widen(logits), labels.long(), ignore_index=-100, reduction="none")
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} for logits of shape {tuple(logits.shape)}: problem_type="
            f"{problem_type!r} takes a score for every answer, [batch, num_labels]"
            + (", or one answer id an example, [batch]." if softmax else ".")
        )
    logits = widen(logits)
    scores = labels.to(logits.dtype)
    if softmax:
        shares = scores / scores.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
        return F.cross_entropy(logits, shares, reduction="none")
    # Summed over the answers: the mean over thousands of them would make the gradient depend on their number.
    return F.binary_cross_entropy_with_logits(logits, scores, reduction="none").sum(1)


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
    scores = PROBLEM_TYPES[problem_type].probabilities(logits.detach())  # [B, C]
    scores, ids = scores.topk(top_k, dim=-1)  # [B, top_k] each
    return [
        [{"answer": id2label[i], "score": score} for i, score in zip(row_ids, row_scores, strict=True)]
        for row_ids, row_scores in zip(ids.tolist(), scores.tolist(), strict=True)
    ]
