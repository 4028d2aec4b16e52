"""The tasks: what a model is for, what labels are, what the loss is, how logits become an answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .numerics_ume import widen
from .streams_ume import check_ids

LABEL_TRANSFORMS = ("log",)
REGRESSION_LOSSES = ("mse", "huber")


@dataclass(frozen=True)
class ProblemType:
    """
    What answers are to each other, and so what a logit says.

    Attributes:
        name: the key in `PROBLEM_TYPES`, transformers' own name.
        exclusive: one answer of all is right, so that their probabilities sum to 1; otherwise each is for itself.
        chooses: answers are chosen from a list, each with a probability; otherwise each is a number of its own.
        least_labels: so many answers, or numbers, a model needs.
    """

    name: str
    exclusive: bool
    chooses: bool = True
    least_labels: int = 2

    def probabilities(self, logits: Tensor) -> Tensor:
        """logits [..., C] → each answer's probability, at least in float32; of numbers these themselves."""
        logits = widen(logits)
        return logits.softmax(-1) if self.exclusive else logits.sigmoid()

    def known(self, labels: Tensor) -> Tensor:
        """Which examples have a loss, [B] bool, by their ids [B] or scores [B, C]."""
        if not self.exclusive:
            return torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        return labels != -100 if labels.ndim == 1 else labels.sum(1) > 0

    def losses(self, logits: Tensor, labels: Tensor, scale: "LabelScale | None" = None) -> Tensor:
        """logits [B, C] → each example's loss [B], 0 where its answer is unknown."""
        if self.exclusive and labels.ndim == 1 and len(labels) == len(logits):
            if not torch.compiler.is_compiling():
                check_ids("labels", labels[labels != -100], logits.shape[1], "the answers")
            return F.cross_entropy(widen(logits), labels.long(), ignore_index=-100, reduction="none")
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)} for logits of shape {tuple(logits.shape)}: problem_type="
                f"{self.name!r} takes a score for every answer, [batch, num_labels]"
                + (", or one answer id an example, [batch]." if self.exclusive else ".")
            )
        logits = widen(logits)
        scores = labels.to(logits.dtype)
        if self.exclusive:
            shares = scores / scores.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
            return F.cross_entropy(logits, shares, reduction="none")
        # Summed over the answers: the mean over thousands of them would make the gradient depend on their number.
        return F.binary_cross_entropy_with_logits(logits, scores, reduction="none").sum(1)

    def decode(self, logits: Tensor, id2label: dict[int, str], top_k: int) -> list[list[dict]]:
        """logits [B, C] → what [`decode_logits`] returns."""
        if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= len(id2label):
            raise ValueError(
                f"top_k={top_k!r} is impossible: choose a whole number from 1 to {len(id2label)}, the number of "
                "answers."
            )
        scores, ids = self.probabilities(logits.detach()).topk(top_k, dim=-1)  # [B, top_k] each
        return [
            [{"answer": id2label[i], "score": score} for i, score in zip(row_ids, row_scores, strict=True)]
            for row_ids, row_scores in zip(ids.tolist(), scores.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Numbers(ProblemType):
    """One or several numbers, learned standardised and given in the labels' own unit."""

    exclusive: bool = False
    chooses: bool = False
    least_labels: int = 1

    def probabilities(self, logits: Tensor) -> Tensor:
        return widen(logits)

    def known(self, labels: Tensor) -> Tensor:
        known = ~labels.isnan()
        return known if labels.ndim == 1 else known.any(1)

    def losses(self, logits: Tensor, labels: Tensor, scale: "LabelScale | None" = None) -> Tensor:
        """Standardised numbers [B, C] and labels in their unit → the mean loss of each example's known numbers [B]."""
        labels = labels[:, None] if labels.ndim == 1 and logits.shape[1] == 1 else labels
        if labels.shape != logits.shape or labels.dtype == torch.bool or labels.is_complex():
            raise ValueError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)} for {logits.shape[1]} number"
                f"{'s' * (logits.shape[1] > 1)} an example and {len(logits)} examples: problem_type={self.name!r} "
                "takes floats [batch, num_labels], or [batch] for one number, nan where one is not known."
            )
        logits, scale = widen(logits), scale or LabelScale()
        wanted = scale.standardised(widen(labels if labels.is_floating_point() else labels.float())).to(logits.dtype)
        known = ~wanted.isnan()
        wanted = wanted.masked_fill(~known, 0.0)
        apart = F.huber_loss if scale.loss == "huber" else F.mse_loss
        losses = apart(logits, wanted, reduction="none").masked_fill(~known, 0.0)
        return losses.sum(1) / known.sum(1).clamp(min=1)

    def decode(self, logits: Tensor, id2label: dict[int, str], top_k: int) -> list[list[dict]]:
        names = [id2label[i] for i in range(len(id2label))]
        return [
            [{"answer": number, "name": name} for name, number in zip(names, row, strict=True)]
            for row in widen(logits.detach()).tolist()
        ]


@dataclass(frozen=True)
class LabelScale:
    """
    How numbers are standardised: z = (t(y) − mean) / std, with t the logarithm or nothing.

    Args:
        mean, std: one a number, in what `transform` makes of the labels; None: 0 and 1.
        transform: one of `LABEL_TRANSFORMS` or None.
        loss: one of `REGRESSION_LOSSES`, of what is standardised.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    transform: str | None = None
    loss: str = "mse"

    def standardised(self, labels: Tensor) -> Tensor:
        """
        labels [B, C] in their unit → standardised.

        Raises:
            ValueError: for an infinite label, or one that has no logarithm.
        """
        if not torch.compiler.is_compiling():
            if labels.isinf().any():
                raise ValueError("A label is infinite: give finite numbers, and nan where one is not known.")
            if self.transform == "log" and (labels <= 0).any():
                raise ValueError(
                    f"A label is {labels[labels <= 0].min():g}, which has no logarithm, and label_transform is 'log': "
                    "give numbers above 0, or leave label_transform out."
                )
        if self.transform == "log":
            labels = labels.log()
        if self.mean is not None:
            labels = labels - labels.new_tensor(self.mean)
        return labels if self.std is None else labels / labels.new_tensor(self.std)

    def in_unit(self, numbers: Tensor) -> Tensor:
        """The reverse, at least in float32: half precision ends at 65,504."""
        numbers = widen(numbers)
        if self.std is not None:
            numbers = numbers * numbers.new_tensor(self.std)
        if self.mean is not None:
            numbers = numbers + numbers.new_tensor(self.mean)
        return numbers.exp() if self.transform == "log" else numbers


# The first is the default everywhere.
PROBLEM_TYPES = {
    problem.name: problem
    for problem in (
        ProblemType("single_label_classification", exclusive=True),
        ProblemType("multi_label_classification", exclusive=False),
        Numbers("regression"),
    )
}
DEFAULT_PROBLEM = next(iter(PROBLEM_TYPES))


def label_scale(config) -> LabelScale | None:
    """How a config's numbers are standardised; None where its answers are chosen from a list."""
    if PROBLEM_TYPES[config.problem_type].chooses:
        return None
    return LabelScale(config.label_mean, config.label_std, config.label_transform, config.regression_loss or "mse")


def check_choosing(problem_type: str, **options) -> None:
    """Raises ValueError for options (by name) that only answers from a list can have, as choices have."""
    given = [name for name, value in options.items() if value is not None]
    if given and not PROBLEM_TYPES[problem_type].chooses:
        raise ValueError(
            f"{given[0]} is about answers from a list, and this model gives numbers (problem_type={problem_type!r}): "
            "leave it out."
        )


@dataclass(frozen=True)
class Task:
    """
    What a model is for.

    Attributes:
        name: the key in `TASKS`, and what a recipe's `task` says.
        model: the name of its class, which `modeling_ume` has.
        auto: the Auto class that loads it.
        tag, title: what the Hub calls the task; no tag: it has none for it.
        row: what one row of its data is called in a sentence.
        labels: the rows' answers are its labels; otherwise which parts belong together is all that it learns.
        asks: a row is a question, which several people may have answered, each in words.
    """

    name: str
    model: str
    auto: str
    tag: str | None
    title: str
    row: str = "row"
    labels: bool = True
    asks: bool = False


TASKS = {
    task.name: task
    for task in (
        Task(
            "question_answering", "UMEForVisualQuestionAnswering", "AutoModelForVisualQuestionAnswering",
            "visual-question-answering", "Visual Question Answering", row="question", asks=True,
        ),
        Task(
            "classification", "UMEForSequenceClassification", "AutoModelForSequenceClassification",
            None, "Classification",
        ),
        Task("retrieval", "UMEForRetrieval", "AutoModelForPreTraining", None, "Retrieval", labels=False),
    )
}  # fmt: skip
DEFAULT_TASK = next(iter(TASKS))


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
    scale: LabelScale | None = None,
    fewer: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """
    The loss of answers from a list, or of numbers, the mean over the examples.

    Args:
        logits (`torch.Tensor` of shape `(B, C)`): a score for each answer; `(B, K, C)` of K views, with `shares`.
        labels (`torch.Tensor`): as in [`UMEForVisualQuestionAnswering.forward`].
        problem_type (`str`): one of `PROBLEM_TYPES`.
        shares (`torch.Tensor` of shape `(B, K)`, *optional*): what each view's own loss counts.
        loss_weights (`torch.Tensor` of shape `(B,)`, *optional*): what each example counts in the mean.
        scale ([`LabelScale`], *optional*): how numbers are standardised, which the logits are.
        fewer (`tuple` of two `torch.Tensor`, *optional*): logits from fewer modalities, of the shape of `logits`, and
            which examples have them, `(B,)` bool. The loss ℓ of these becomes ℓ + max(0, ℓ − ℓ(fewer)), in which
            ℓ(fewer) has no gradient: it is a mark to be reached, and nothing to be made worse.

    Raises:
        ValueError: for labels of another shape, or an id that no answer has.
    """
    problem = PROBLEM_TYPES[problem_type]

    def own(logits: Tensor) -> Tensor:  # [B]
        if shares is None:
            return problem.losses(logits, labels, scale)
        views = zip(logits.unbind(1), shares.unbind(1), strict=True)
        return sum(share * problem.losses(view, labels, scale) for view, share in views)

    losses = own(logits)
    if fewer is not None:
        worse = losses - own(fewer[0].detach())
        losses = losses + worse.clamp(min=0).masked_fill(~fewer[1], 0.0)
    if loss_weights is not None and loss_weights.shape != losses.shape:
        raise ValueError(
            f"loss_weights have shape {tuple(loss_weights.shape)} for {len(losses)} examples: give one weight an "
            "example, [batch]."
        )
    if problem.exclusive or not problem.chooses:
        # Not the built-in mean: it is NaN for a batch in which no answer is known.
        known = problem.known(labels)
        if loss_weights is None:
            return losses.sum() / known.sum().clamp(min=1)
        loss_weights = loss_weights.to(losses.dtype) * known
    elif loss_weights is None:
        return losses.mean()
    return (losses * loss_weights).sum() / loss_weights.sum().clamp(min=torch.finfo(losses.dtype).tiny)


def decode_logits(logits: torch.Tensor, id2label: dict[int, str], problem_type: str, top_k: int) -> list[list[dict]]:
    """
    The best answers of each row and their probabilities.

    Args:
        logits (`torch.Tensor` of shape [B, C]): what the model gives, any float type.
        id2label (`dict[int, str]`): the C answers, or the names of the C numbers.
        problem_type (`str`): `"single_label_classification"` (softmax: the scores of all C answers sum to 1) or
            `"multi_label_classification"` (sigmoid: each answer has its own score), or `"regression"` (numbers, which
            have none).
        top_k (`int`): answers a row, 1 … C.

    Returns:
        `list[list[dict]]`: B lists of top_k `{"answer": str, "score": float}`, the best first; of numbers, whatever
        top_k is, all C of them, `{"answer": float, "name": str}`, in their order and in the labels' unit.

    Raises:
        ValueError: if the logits do not have one column an answer, or top_k is not in 1 … C.
    """
    if logits.ndim != 2 or logits.shape[1] != len(id2label):
        raise ValueError(
            f"Logits of shape {list(logits.shape)} do not fit {len(id2label)} answers: the shape must be "
            f"[rows, {len(id2label)}], one column an answer. Do the model and id2label belong together?"
        )
    return PROBLEM_TYPES[problem_type].decode(logits, id2label, top_k)
