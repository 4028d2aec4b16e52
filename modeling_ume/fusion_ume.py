"""The fusion heads: each takes two or more modalities as `Stream`s and returns what they say together.

A head sees any number of streams in any order; padded tokens and absent modalities never change what it returns. To
add one: write a `FusionHead`, give it a line in `FUSIONS` at the end. Formulas and their names are in the docstrings.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .fusion_attention_ume import (
    CoAttentionFusion,
    CrossAttentionFusion,
    CrossAttentionToConcatenationFusion,
    EarlyConcatenationFusion,
    EarlySummationFusion,
    GatedCrossAttentionFusion,
    HierarchicalMultiToOneFusion,
    HierarchicalOneToMultiFusion,
)
from .fusion_base_ume import FusionHead
from .fusion_late_ume import (
    LateFusion,
    LateMaxFusion,
    LateMeanFusion,
    LateProductFusion,
    LateVoteFusion,
    LateWeightedFusion,
)
from .fusion_many_ume import (
    BottleneckFusion,
    FiLMFusion,
    GMUFusion,
    MixtureFusion,
    PerceiverFusion,
    TokenTransformerFusion,
)
from .fusion_pairs_ume import BANFusion, EVCFusion, PairFusion, UMEFusion
from .fusion_pooled_ume import (
    BlockFusion,
    ConcatFusion,
    EarlyInputFusion,
    LowRankTensorFusion,
    MFBFusion,
    MLBFusion,
    MutanFusion,
    ProductFusion,
    SumFusion,
)
from .numerics_ume import widen
from .streams_ume import FusionOutput, Stream, presence  # noqa: F401 (heads of users import Stream from here)
from .tasks_ume import PROBLEM_TYPES


class MembersFusion(FusionHead):
    """`fusion_num_members` heads of one kind, each with a classifier of its own: the mean of their probabilities.

    A member has all parameters to itself, starts elsewhere and is trained on its own loss, so that its errors are its
    own too. `weights` are the means over the members.
    """

    trains_views = True

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.check_config(config)
        self.num_views = config.fusion_num_members
        self.members = nn.ModuleList(
            FUSIONS[config.fusion](config, widths, pooled_widths) for _ in range(self.num_views)
        )

    @classmethod
    def check_config(cls, config):
        head = FUSIONS[config.fusion]
        if head.reads_in_encoder or issubclass(head, LateFusion):
            raise ValueError(
                f"fusion_num_members={config.fusion_num_members} is impossible with fusion={config.fusion!r}: a "
                "member returns one fused vector and works outside the encoders. Set it to 1 or choose another head."
            )

    def forward(self, streams):
        outputs = [member(streams) for member in self.members]
        weights = {name: torch.stack([o.weights[name] for o in outputs]).mean(0) for name in outputs[0].weights}
        present = torch.ones_like(presence(streams)[:, :1]).expand(-1, self.num_views)  # each always has its say
        output = FusionOutput(torch.cat([o.fused for o in outputs], dim=1), weights, present)
        if outputs[0].fewer is not None:
            output.fewer = torch.cat([o.fewer for o in outputs], dim=1)
            output.fewer_present = outputs[0].fewer_present  # the same for all: it is the examples' own
        return output

    def combine(self, logits, present, problem_type):
        """logits [B, M, C] → [B, C], whose softmax or sigmoid is the mean of the members'; of numbers their mean."""
        logits = widen(logits)
        if not PROBLEM_TYPES[problem_type].chooses:
            return logits.mean(1)
        if PROBLEM_TYPES[problem_type].exclusive:
            return logits.log_softmax(-1).logsumexp(1) - math.log(self.num_views)
        return F.logsigmoid(logits).logsumexp(1) - F.logsigmoid(-logits).logsumexp(1)


def build_fusion(config, widths: list[int], pooled_widths: list[int] | None = None, **inputs) -> FusionHead:
    """The head that a config describes, or its members; `inputs`: what heads that read in the encoder take besides."""
    head = MembersFusion if config.fusion_num_members > 1 else FUSIONS[config.fusion]
    return head(config, widths, pooled_widths, **inputs)


FUSIONS: dict[str, type[FusionHead]] = {
    "ban": BANFusion,
    "block": BlockFusion,
    "bottleneck": BottleneckFusion,
    "co_attention": CoAttentionFusion,
    "concat": ConcatFusion,
    "cross_attention": CrossAttentionFusion,
    "cross_attention_to_concatenation": CrossAttentionToConcatenationFusion,
    "early_concatenation": EarlyConcatenationFusion,
    "early_input": EarlyInputFusion,
    "early_summation": EarlySummationFusion,
    "evc": EVCFusion,
    "film": FiLMFusion,
    "gated_cross_attention": GatedCrossAttentionFusion,
    "gmu": GMUFusion,
    "hierarchical_multi_to_one": HierarchicalMultiToOneFusion,
    "hierarchical_one_to_multi": HierarchicalOneToMultiFusion,
    "late_max": LateMaxFusion,
    "late_mean": LateMeanFusion,
    "late_product": LateProductFusion,
    "late_vote": LateVoteFusion,
    "late_weighted": LateWeightedFusion,
    "low_rank_tensor": LowRankTensorFusion,
    "mfb": MFBFusion,
    "mixture": MixtureFusion,
    "mlb": MLBFusion,
    "mutan": MutanFusion,
    "pair": PairFusion,
    "perceiver": PerceiverFusion,
    "product": ProductFusion,
    "sum": SumFusion,
    "token_transformer": TokenTransformerFusion,
    "ume": UMEFusion,
}
