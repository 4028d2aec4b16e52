"""Heads over pairs of tokens: the thesis' pair combination, EVC and UME, and bilinear attention (BAN).

Pairs are summed a tile at a time (`pairs_ume`), so that no tensor holds all of them. `fusion_pairs` of the config says
which there are: `"cross"` of two modalities each, `"all"` of the one sequence that the tokens of all modalities form.
"""

from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .fusion_base_ume import DividedHead, FusionHead, FusionModule, Projections
from .pairs_ume import pair_mean, weighted_pair_sum
from .streams_ume import FusionOutput, Stream, heard, masked_mean, masked_softmax, presence, take

PAIR_SETS = ("cross", "all")  # the first is the default


class BANFusion(FusionHead):
    """`ban`, bilinear attention: f ← f + P_g Σ_ij A_g,ij ReLU(U_g f_i) ⊙ ReLU(V_g y_j) for each glimpse g, f₀ = x.

    A_g = softmax_ij(p_g·(ReLU(U x_i) ⊙ ReLU(V y_j))), with U, V into `fusion_rank` times the width; the result is the
    mean of f over its tokens (a sum in the paper, whose questions all have one length). `fusion_num_heads` is the
    number of glimpses. K > 2 streams: the sum over every two.

    `weights`: "pair_weights" [B, N_1, N_2], the mean over glimpses (for K > 2 streams "pair_weights_m_n" for every
    two), zero where one of the two is absent.
    """

    source = "BAN (Kim et al., 2018)"
    cost = "O(HRN₁N₂D + H(N₁ + N₂)D²)"
    default_num_heads = 8
    default_rank = 3

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        width, inner = self.hidden_size, self.rank * self.hidden_size
        self.project = Projections(config, widths=self.widths)
        self.first, self.second = nn.Linear(width, inner), nn.Linear(width, inner)  # U, V
        self.glimpses = nn.Parameter(torch.empty(self.num_heads, inner))  # p
        self.joint_first, self.joint_second, self.joint_out = (  # U_g, V_g, P_g
            nn.ModuleList(nn.Linear(width, width) for _ in range(self.num_heads)) for _ in range(3)
        )

    def init_weights(self):
        init.normal_(self.glimpses, std=self.glimpses.shape[1] ** -0.5)

    def forward(self, streams):
        present, tokens = presence(streams), self.project.tokens(streams)
        fused, weights = [], {}
        for m, n in combinations(range(len(streams)), 2):
            (first, first_mask), (second, second_mask) = tokens[m], tokens[n]
            alpha = self.attend(first, second, first_mask[:, :, None] & second_mask[:, None])  # [B, H, N_1, N_2]
            f = first
            for g in range(self.num_heads):
                read = alpha[:, g].to(f.dtype) @ torch.relu(self.joint_second[g](second))  # [B, N_1, D]
                f = f + self.joint_out[g]((torch.relu(self.joint_first[g](f)) * read).sum(1))[:, None]
            fused.append(masked_mean(f, first_mask))
            both = (present[:, m] & present[:, n])[:, None, None]
            name = "pair_weights" if len(streams) == 2 else f"pair_weights_{m}_{n}"
            weights[name] = torch.where(both, alpha.mean(1), 0.0)
        return FusionOutput(torch.stack(fused).sum(0)[:, None], weights)

    def attend(self, first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
        """first [B, N_1, D], second [B, N_2, D], mask [B, N_1, N_2] → A [B, H, N_1, N_2]."""
        first, second = torch.relu(self.first(first)), torch.relu(self.second(second))
        scores = (first[:, None] * self.glimpses[:, None].to(first.dtype)) @ second[:, None].transpose(-1, -2)
        return masked_softmax(scores.flatten(2), mask.flatten(1)[:, None]).unflatten(-1, mask.shape[1:])


class PairFusion(FusionHead):
    """`pair`, Simple Vectors Pair Combine: mean over all pairs of h(i,j) = W_1 h_i ⊙ W_2 h_j.

    The mean of a product of two independent indices is the product of the means, so no pair is ever formed. With more
    than two streams the pairs of every two are summed. With `fusion_pairs="all"` i and j run over the tokens of all
    modalities that are present, as over one sequence.
    """

    source = "the thesis behind this project"
    cost = "O((N₁ + N₂)D + D²)"
    pair_sets = PAIR_SETS

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.pairs = config.fusion_pairs
        self.project = Projections(config, widths=self.widths)
        self.first = nn.Linear(self.hidden_size, self.hidden_size, bias=False)
        self.second = nn.Linear(self.hidden_size, self.hidden_size, bias=False)

    def forward(self, streams):
        if self.pairs == "all":
            tokens, masks = (torch.cat(parts, dim=1) for parts in self.project.heard_tokens(streams))
            mean = masked_mean(tokens, masks)
            return FusionOutput((self.first(mean) * self.second(mean))[:, None])
        means = [masked_mean(tokens, mask) for tokens, mask in self.project.tokens(streams)]
        pairs = [self.first(x) * self.second(y) for x, y in combinations(means, 2)]
        return FusionOutput(torch.stack(pairs).sum(0)[:, None])


class VectorCombination(FusionModule):
    """Efficient Vector Combination: c_ij = tanh(W [h_i; h_j; h_i − h_j; h_i ⊙ h_j]), the fourth D×D block diagonal.

    The first three blocks act on one token each, so with W = [W_1 W_2 W_3 diag(w_4)]
    c_ij = tanh(a_i + b_j + g_i ⊙ h_j), a_i = (W_1 + W_3) h_i, b_j = (W_2 − W_3) h_j, g_i = w_4 ⊙ h_i:
    O((N_1 + N_2) D²) for the tokens and O(N_1 N_2 D) for the pairs.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, 3 * hidden_size))  # [W_1 W_2 W_3]
        self.product_weight = nn.Parameter(torch.empty(hidden_size))  # w_4

    def init_weights(self):
        # Each summand inside tanh starts with a variance of 1/4 on LayerNorm-ed tokens, so that no pair saturates and
        # the product is heard as much as the tokens: two D×D blocks make up a_i, one entry of w_4 the product.
        init.normal_(self.weight, std=(8 * self.product_weight.shape[0]) ** -0.5)
        init.normal_(self.product_weight, std=0.5)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """first [B, N_1, D], second [B, N_2, D] → a [B, N_1, D], b [B, N_2, D], g [B, N_1, D]."""
        w1, w2, w3 = self.weight.chunk(3, dim=1)
        return F.linear(first, w1 + w3), F.linear(second, w2 - w3), first * self.product_weight.to(first.dtype)

    def within(
        self, tokens: list[tuple[Tensor, Tensor, Tensor | None]], says: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What `pairs_ume` takes to sum over all pairs of the one sequence that all streams' tokens form.

        Args:
            tokens: `Projections.distinct_tokens`.
            says: [B, K] bool, which streams are in it.

        Returns:
            a, b, g, h [B, ΣN_m, D] and, of both sides, which tokens are in it, [B, ΣN_m].
        """
        each = []
        for x, _, index in tokens:
            # Once for what several examples share, and then a row an example: a sequence is an example's own.
            a, b, g = self(x, x)
            each.append([take(part, index) for part in (a, b, g, x)])
        mask = torch.cat([mask & here[:, None] for (_, mask, _), here in zip(tokens, says.unbind(1), strict=True)], 1)
        a, b, g, h = (torch.cat(parts, dim=1) for parts in zip(*each, strict=True))
        return a, b, g, h, mask, mask


class EVCFusion(FusionHead):
    """`evc`, Efficient Vector Combination: mean over all pairs of c_ij = tanh(W [h_i; h_j; h_i − h_j; h_i ⊙ h_j]).

    With more than two streams the pairs of every two are summed. With `fusion_pairs="all"` the mean is over all pairs
    of the one sequence that the tokens of all present modalities form, those within a modality among them.
    """

    source = "the thesis behind this project"
    cost = "O(N₁N₂D + (N₁ + N₂)D²)"
    pair_sets = PAIR_SETS

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.pairs = config.fusion_pairs
        self.project = Projections(config, widths=self.widths)
        self.combination = VectorCombination(self.hidden_size)

    def forward(self, streams):
        fused, tokens = [], self.project.distinct_tokens(streams)
        if self.pairs == "all":
            return FusionOutput(pair_mean(*self.combination.within(tokens, heard(streams)))[:, None])
        for (first, first_mask, i), (second, second_mask, j) in combinations(tokens, 2):
            a, b, g = self.combination(first, second)
            fused.append(pair_mean(take(a, i), b, take(g, i), second, first_mask, second_mask, index=j))
        return FusionOutput(torch.stack(fused).sum(0)[:, None])


class UMEFusion(DividedHead):
    """`ume`, EVC + Adaptive Weighted Summation: z = Σ_ij α_ij c_ij, then Σ β ⊙ z' over z and the summaries.

    Pairs are weighted by what they say: α_ij = softmax_ij(u·c_ij), z_pair = LayerNorm(Σ α_ij c_ij); then the views
    z ∈ {pool_1, …, pool_K, z_pair}, channel by channel, by β = softmax_views(W tanh(V z)), fused = Σ β ⊙ z. An absent
    modality leaves both softmaxes. With more than two streams the sums of every two are added up, each two with its
    own α. `fusion_num_heads` divides the channels into as many parts, each summed with an α, so a u, of its own.

    The norm gives the pairs the scale of the summaries, which are normed too; a mean of tanhs is several times
    smaller. With a weight a channel, each view can answer for channels of its own; one weight for all of them could
    only blend the views. So it is with a part of the channels a u: each looks at pairs of its own, and no parameter is
    spent on joining them.

    With `fusion_pairs="all"` i and j run over the one sequence x_1 … x_N that the tokens of all present modalities
    form, as the thesis writes it: α is one softmax over all N² pairs, those within a modality among them.

    `weights`: "pair_weights" [B, N_1, N_2], the mean over heads (for K > 2 streams "pair_weights_m_n" for every two,
    of all pairs "pair_weights_all" [B, N, N]), and "modality_weights" [B, K + 1], the mean over channels.
    """

    source = "the thesis behind this project; norm, parts and weights a channel are ours"
    cost = "O(HN₁N₂D + (N₁ + N₂)D²)"
    default_num_heads = 4
    pair_sets = PAIR_SETS

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.pairs = config.fusion_pairs
        self.project = Projections(config, self.widths, self.pooled_widths)
        self.combination = VectorCombination(self.hidden_size)
        self.pair_scorer = nn.Parameter(torch.empty(self.num_heads, self.hidden_size))  # u
        self.pair_norm = nn.LayerNorm(self.hidden_size)
        self.view_hidden = nn.Linear(self.hidden_size, self.hidden_size)  # V
        self.view_scorer = nn.Linear(self.hidden_size, self.hidden_size, bias=False)  # W

    def init_weights(self):
        init.normal_(self.pair_scorer, std=self.hidden_size**-0.5)

    def forward(self, streams):
        present = presence(streams)  # [B, K]
        sum_pairs = self._sum_all if self.pairs == "all" else self._sum_cross
        z, has_pairs, weights = sum_pairs(streams, present)
        pair_view = self.pair_norm(z)[:, None]
        views = torch.cat([self.project.pooled(streams), pair_view], dim=1)  # [B, K + 1, D]
        has_view = torch.cat([present, has_pairs[:, None]], dim=1)
        scores = self.view_scorer(torch.tanh(self.view_hidden(views)))  # [B, K + 1, D]
        beta = masked_softmax(scores.transpose(1, 2), has_view[:, None])  # [B, D, K + 1]
        weights["modality_weights"] = beta.mean(1)
        return FusionOutput(torch.einsum("bdk,bkd->bd", beta.to(views.dtype), views)[:, None], weights)

    def _sum_cross(self, streams: list[Stream], present: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Σ α_ij c_ij of every two streams, added up, [B, D]; which examples have such pairs, [B]; the weights."""
        tokens = self.project.distinct_tokens(streams)
        weights, sums, has_pairs = {}, [], []
        for m, n in combinations(range(len(streams)), 2):
            (first, first_mask, i), (second, second_mask, j) = tokens[m], tokens[n]
            a, b, g = self.combination(first, second)
            pairs = take(a, i), b, take(g, i), second
            z, alpha = weighted_pair_sum(*pairs, self.pair_scorer, first_mask, second_mask, index=j, parts=True)
            both = present[:, m] & present[:, n]
            sums.append(torch.where(both[:, None], z, 0.0))
            has_pairs.append(both)
            name = "pair_weights" if len(streams) == 2 else f"pair_weights_{m}_{n}"
            weights[name] = torch.where(both[:, None, None], alpha.mean(1), 0.0)
        return torch.stack(sums).sum(0), torch.stack(has_pairs).any(0), weights

    def _sum_all(self, streams: list[Stream], present: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """As `_sum_cross`, over all pairs of the one sequence that the present streams' tokens form."""
        *pairs, first, second = self.combination.within(self.project.distinct_tokens(streams), present)
        z, alpha = weighted_pair_sum(*pairs, self.pair_scorer, first, second, parts=True)
        return z, present.any(1), {"pair_weights_all": alpha.mean(1)}
