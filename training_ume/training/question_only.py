"""RUBi (Cadene et al. 2019, arXiv:1906.10169): in training, examples whose question gives the answer away weigh less.

A branch sees the question's summary only. In training, and only then, its guess scales the model's logits, and it has
a loss of its own; the model that is kept has no trace of it.
"""

from __future__ import annotations

from torch import Tensor, nn

from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.tasks_ume import answer_loss

NAME = "question_only"


class QuestionOnly(nn.Module):
    """
    The branch of RUBi, as a part of the model that it is attached to.

    With q the question's summary, out of which no gradient flows back, g = MLP(q) and z the model's logits, the loss
    is ℓ(z ⊙ σ(g)) + weight · ℓ(W g + b), where ℓ is the model's own: examples whose answer the branch knows weigh
    less. The MLP has one hidden layer of `fusion_hidden_size`, the paper's has two of 2048.

    Args:
        model: what to attach it to; heads that combine late have the logits of every view scaled.
        weight (`float`): of the question-only loss.

    Raises:
        ValueError: for a head without a summary of the question alone.
    """

    def __init__(self, model: UMEForVisualQuestionAnswering, weight: float):
        super().__init__()
        config = model.config
        if model.ume.fusion.reads_in_encoder:
            raise ValueError(
                f"rubi_weight needs a summary of the question alone, but fusion={config.fusion!r} reads questions and "
                "images together: choose another head, or leave rubi_weight out."
            )
        self.weight = weight
        width = model.ume._adapters["text"].pooled_width
        self.guess = nn.Sequential(
            nn.Linear(width, config.fusion_hidden_size),
            nn.ReLU(),
            nn.Linear(config.fusion_hidden_size, config.num_labels),
        )
        self.classifier = nn.Linear(config.num_labels, config.num_labels)
        self.logits: Tensor | None = None  # g [B, C] of the forward pass that is going on
        self.hooks = [
            model.ume.fusion.register_forward_pre_hook(self._read),
            model.classifier.register_forward_hook(self._scale),
            # Inside the model's forward, where DDP looks for what takes part.
            model.register_forward_hook(self._add_loss, with_kwargs=True),
        ]
        model.add_module(NAME, self)
        self.ignored = {f"{NAME}.{name}" for name in self.state_dict()}
        model._keys_to_ignore_on_save = {*(model._keys_to_ignore_on_save or ()), *self.ignored}

    def detach_from(self, model: UMEForVisualQuestionAnswering) -> None:
        """Leaves the model as it was before."""
        for hook in self.hooks:
            hook.remove()
        delattr(model, NAME)
        model._keys_to_ignore_on_save = set(model._keys_to_ignore_on_save) - self.ignored

    def _read(self, fusion: nn.Module, args: tuple) -> None:
        if fusion.training:
            text = args[0][0]
            self.logits = self.guess((text.pooled * text.present[:, None]).detach())

    def _scale(self, classifier: nn.Module, args: tuple, views: Tensor) -> Tensor | None:
        """views [B, K, C]: the logits of each of K views."""
        return views * self.logits.sigmoid()[:, None] if classifier.training else None

    def _add_loss(self, model: nn.Module, args: tuple, kwargs: dict, output) -> None:
        if model.training:
            own = answer_loss(
                self.classifier(self.logits),
                kwargs["labels"],
                model.config.problem_type,
                loss_weights=kwargs.get("loss_weights"),
            )
            output.loss = output.loss + self.weight * own
            self.logits = None
