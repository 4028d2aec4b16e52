"""Heads that combine late: each modality has a classifier of its own, and what these say is combined."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .fusion_base_ume import FusionHead, Projections
from .numerics_ume import accumulate_in, widen
from .streams_ume import FusionOutput, presence
from .tasks_ume import PROBLEM_TYPES


class LateFusion(FusionHead):
    """Base of the heads that combine late: a view, and with it a classifier, a modality; then what they say is joined.

    A view is the modality's summary at the common width. Absent modalities have no say; an example without any is
    answered from the stand-ins of all. Probabilities are the softmax of the logits for
    `"single_label_classification"` and their sigmoid for `"multi_label_classification"`; the same function gives the
    joint probabilities back from what `combine` returns. Numbers (`"regression"`) are standardised here.

    Attributes:
        joins_numbers: what numbers say together is defined, too, and not only what answers from a list do.
    """

    joins_numbers = False
    cost = "O(D), and a classifier a modality"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.num_views = len(widths)
        self.project = Projections(config, pooled_widths=self.pooled_widths)

    @classmethod
    def check_config(cls, config):
        if not (cls.joins_numbers or PROBLEM_TYPES[config.problem_type].chooses):
            raise ValueError(
                f"fusion={config.fusion!r} combines the probabilities of answers from a list, and problem_type="
                f"{config.problem_type!r} gives numbers, which have none: choose late_mean, late_weighted, or a head "
                "that does not combine late."
            )

    def forward(self, streams):
        present = presence(streams)
        return FusionOutput(self.project.pooled(streams), present=present | ~present.any(1, keepdim=True))

    def log_shares(self, present: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """present [B, K] → ln w_m: how much each modality's word counts, summing to 1 over the present."""
        return torch.zeros_like(present, dtype=dtype).masked_fill(~present, -torch.inf).log_softmax(-1)

    def log_mean(self, logits: Tensor, log_shares: Tensor, problem_type: str) -> tuple[Tensor, Tensor | None]:
        """logits [B, K, C] → ln Σ_m w_m p_m and, for a sigmoid, ln Σ_m w_m (1 − p_m), each [B, C]."""
        log_shares = log_shares[..., None]  # [B, K, 1]
        if PROBLEM_TYPES[problem_type].exclusive:
            return (logits.log_softmax(-1) + log_shares).logsumexp(1), None
        yes, no = ((F.logsigmoid(sign * logits) + log_shares).logsumexp(1) for sign in (1, -1))
        return yes, no


class LateMeanFusion(LateFusion):
    """`late_mean`, ensemble of classifiers: the mean of the modalities' probabilities, or of their numbers."""

    source = "ensemble of classifiers"
    joins_numbers = True

    def forward(self, streams):
        output = super().forward(streams)
        output.log_shares = self.log_shares(output.present, accumulate_in(output.fused.dtype))  # [B, K]
        output.weights["modality_weights"] = output.log_shares.exp()
        return output

    def combine(self, logits, present, problem_type, log_shares=None):
        """As in the base; log_shares [B, K]: what `forward` returned (default: computed anew)."""
        logits = widen(logits)
        log_shares = self.log_shares(present, logits.dtype) if log_shares is None else log_shares
        if not PROBLEM_TYPES[problem_type].chooses:
            return (logits * log_shares.exp()[..., None]).sum(1)
        yes, no = self.log_mean(logits, log_shares, problem_type)
        return yes if no is None else yes - no


class LateWeightedFusion(LateMeanFusion):
    """`late_weighted`, weighted ensemble: Σ_m w_m p_m of probabilities or numbers, w = softmax(learned) over the
    present."""

    source = "weighted ensemble of classifiers"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.stream_scores = nn.Parameter(torch.empty(len(widths)))

    def init_weights(self):
        init.zeros_(self.stream_scores)

    def log_shares(self, present, dtype=torch.float32):
        scores = self.stream_scores.to(dtype).expand(present.shape)
        return scores.masked_fill(~present, -torch.inf).log_softmax(-1)


class LateMaxFusion(LateFusion):
    """`late_max`, max rule: max_m p_m of each answer's probabilities, renormalised over the answers for softmax."""

    source = "max rule (Kittler et al., 1998)"

    def combine(self, logits, present, problem_type):
        logits = widen(logits)
        if PROBLEM_TYPES[problem_type].exclusive:
            logits = logits.log_softmax(-1)
        return logits.masked_fill(~present[..., None], -torch.inf).amax(1)  # the sigmoid keeps the order


class LateProductFusion(LateFusion):
    """`late_product`, product rule: Π_m p_m, renormalised over the answers, or over yes and no for a sigmoid."""

    source = "product rule (Kittler et al., 1998)"

    def combine(self, logits, present, problem_type):
        logits = widen(logits)
        if PROBLEM_TYPES[problem_type].exclusive:
            logits = logits.log_softmax(-1)
        # For a sigmoid log Π p − log Π (1 − p) is the sum of the logits.
        return torch.where(present[..., None], logits, 0.0).sum(1)


class LateVoteFusion(LateFusion):
    """`late_vote`, majority vote: each modality votes for its best answer, p = (votes + mean of the p_m) / (n + 1).

    n modalities are present; their mean probability breaks ties and can outvote no one. A vote has no gradient: each
    modality is trained for itself.
    """

    source = "majority vote"
    trains_views = True

    def combine(self, logits, present, problem_type):
        logits = widen(logits)
        yes, no = self.log_mean(logits, self.log_shares(present, logits.dtype), problem_type)
        voters = present.sum(1, keepdim=True)  # [B, 1]
        votes = (F.one_hot(logits.argmax(-1), logits.shape[-1]) * present[..., None]).sum(1)  # [B, C]
        voters, votes = voters.to(yes.dtype), votes.to(yes.dtype)
        yes = torch.logaddexp(votes.log(), yes)
        return yes - ((voters + 1).log() if no is None else torch.logaddexp((voters - votes).log(), no))
