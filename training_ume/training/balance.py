"""What a training question counts in the loss: all alike, or by how rare its answer is."""

from __future__ import annotations

import torch
from torch import Tensor

from modeling_ume.tasks_ume import PROBLEM_TYPES


def balanced_weights(targets: Tensor, classes: int) -> Tensor:
    """
    A weight for each answer, so that all answers together count alike: N / (C · n_c), as `class_weight="balanced"` of
    scikit-learn, over N questions with C answers, of which n_c have answer c. Their mean over the questions is 1.

    Args:
        targets: the answer ids of the training questions [N], −100 where the answer is unknown: these do not count.
        classes (`int`): C.

    Returns:
        `Tensor` [C] float32; an answer that no question has weighs as one that a single question has.
    """
    known = targets[targets != -100]
    counts = torch.bincount(known, minlength=classes).clamp(min=1)
    return (len(known) / (classes * counts.double())).float()


def question_weights(labels: Tensor, problem_type: str, answer_weights: Tensor | None = None) -> Tensor:
    """
    What each question of a batch counts in the loss, which is the mean over these.

    Args:
        labels: answer ids [B], or scores [B, C].
        answer_weights: of `balanced_weights` [C]; None: every question counts 1.

    Returns:
        `Tensor` [B] float32; with a softmax 0 where the answer is unknown. With scores, the mean of the answers'
        weights by their shares.
    """
    problem = PROBLEM_TYPES[problem_type]
    known = problem.known(labels).float()
    if answer_weights is None or not problem.exclusive:
        return known
    answer_weights = answer_weights.to(labels.device)
    if labels.ndim == 1:
        return known * answer_weights[labels.clamp(min=0)]
    labels = labels.float()
    return labels @ answer_weights / labels.sum(1).clamp(min=torch.finfo(torch.float32).tiny)
