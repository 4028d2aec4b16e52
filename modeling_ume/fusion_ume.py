"""The fusion heads: each takes two or more modalities as `Stream`s and returns what they say together.

A head sees any number of streams in any order; padded tokens and absent modalities never change what it returns. To
add one: write a `FusionHead`, give it a line in `FUSIONS` at the end. Formulas and their names are in the docstrings.
"""

from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .pairs_ume import pair_mean, weighted_pair_sum


@dataclass
class Stream:
    """One modality as the heads see it, for a batch of B examples.

    Attributes:
        states: token states, [B, N, D_m].
        mask: [B, N] bool, True where a token is real.
        pooled: the encoder's summary in one vector, [B, D_p] (D_p is D_m for nearly every encoder).
        present: [B] bool, False where this example lacks the modality; its states are then ignored.
        grid: (H, W) when the last H·W tokens are an image's cells, row by row; None otherwise.
    """

    states: Tensor
    mask: Tensor
    pooled: Tensor
    present: Tensor
    grid: tuple[int, int] | None = None


@dataclass
class FusionOutput:
    """What a head returns.

    Attributes:
        fused: [B, K, D]: one fused vector (K = 1), or one view a modality for the heads that combine late.
        weights: what the head attended to, by name, each non-negative and summing to 1 over what is real.
    """

    fused: Tensor
    weights: dict[str, Tensor] = field(default_factory=dict)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension where `mask` is True, in float32; a row without any True is all zero."""
    scores = scores.float().masked_fill(~mask, -torch.inf)
    # A row that is -inf throughout would give NaN, in backward too.
    scores = torch.where(mask.any(-1, keepdim=True), scores, 0.0)
    return scores.softmax(-1) * mask


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over tokens [B, N, D] → [B, D] where `mask` [B, N] is True; zero for a row without any."""
    share = mask / mask.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bn,bnd->bd", share.to(states.dtype), states)


class FusionModule(nn.Module):
    """A module that owns raw parameters and initialises them itself, also when it was built on the meta device."""

    def init_weights(self) -> None:
        """Fills the module's own parameters through `transformers.initialization`, which leaves loaded ones alone."""


class Projection(nn.Module):
    """Brings one modality's vectors to the common width: LayerNorm(X P), then dropout. [..., D_m] → [..., D]."""

    def __init__(self, width: int, hidden_size: int, dropout: float):
        super().__init__()
        self.linear = nn.Linear(width, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(self.linear(x)))


class Projections(FusionModule):
    """Brings every stream to the common width, its tokens and its summary by the same P_m (where their widths agree).

    Where a modality is absent, one learned vector stands in for its tokens and its summary.

    Args:
        widths: D_m of the tokens, None for a head that reads no tokens.
        pooled_widths: D_p of the summaries, None for a head that reads none.
    """

    def __init__(self, config, widths: list[int] | None = None, pooled_widths: list[int] | None = None):
        super().__init__()
        hidden_size, dropout = config.fusion_hidden_size, config.fusion_dropout
        self.streams = nn.ModuleList(Projection(width, hidden_size, dropout) for width in widths or pooled_widths)
        # Only where a summary has a width of its own, such as fc7 beside conv5, it needs a projection of its own.
        self.pooled_streams = nn.ModuleDict(
            {
                str(m): Projection(pooled_width, hidden_size, dropout)
                for m, (width, pooled_width) in enumerate(zip(widths or [], pooled_widths or [], strict=False))
                if width != pooled_width
            }
        )
        self.absent = nn.Parameter(torch.empty(len(self.streams), hidden_size))

    def init_weights(self):
        init.normal_(self.absent, std=1.0)  # the scale of a LayerNorm's output, which it stands in for

    def tokens(self, streams: list[Stream]) -> list[tuple[Tensor, Tensor]]:
        """For each stream its tokens [B, N_m, D] and their mask [B, N_m]; every row has at least one True."""
        projected = []
        for stream, project, absent in zip(streams, self.streams, self.absent, strict=True):
            present = is_present(stream)[:, None]  # [B, 1]
            # Absent states may hold anything, NaN too; they are cut off before any arithmetic.
            tokens = project(stream.states.masked_fill(~present[..., None], 0.0))  # [B, N, D]
            tokens = torch.where(present[..., None], tokens, absent.to(tokens.dtype))
            first = torch.arange(tokens.shape[1], device=tokens.device) == 0
            projected.append((tokens, torch.where(present, stream.mask, first)))
        return projected

    def pooled(self, streams: list[Stream]) -> Tensor:
        """The summaries, [B, K, D]."""
        pooled = []
        for m, (stream, project, absent) in enumerate(zip(streams, self.streams, self.absent, strict=True)):
            if str(m) in self.pooled_streams:
                project = self.pooled_streams[str(m)]
            present = is_present(stream)[:, None]  # [B, 1]
            vector = project(stream.pooled.masked_fill(~present, 0.0))  # [B, D]
            pooled.append(torch.where(present, vector, absent.to(vector.dtype)))
        return torch.stack(pooled, dim=1)


def is_present(stream: Stream) -> Tensor:
    """[B] bool: the example has the modality and at least one real token of it."""
    return stream.present & stream.mask.any(1)


def presence(streams: list[Stream]) -> Tensor:
    """[B, K] bool: which modalities each example has."""
    return torch.stack([is_present(stream) for stream in streams], dim=1)


class FusionHead(FusionModule):
    """Base of the heads.

    Args:
        config: the `UMEConfig`.
        widths: D_m of each stream's tokens.
        pooled_widths: D_p of each stream's summary; None where they equal `widths`.
    """

    default_num_heads = 1

    def __init__(self, config, widths: list[int], pooled_widths: list[int] | None = None):
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"A fusion head joins two or more streams; widths={widths} describes {len(widths)}.")
        self.widths = list(widths)
        self.pooled_widths = list(pooled_widths or widths)
        self.hidden_size = config.fusion_hidden_size
        self.num_heads = config.fusion_num_heads or self.default_num_heads

    @classmethod
    def check_config(cls, config) -> None:
        """Raises ValueError where `config` asks for what this head cannot be."""

    def forward(self, streams: list[Stream]) -> FusionOutput:
        raise NotImplementedError


class AttentionHead(FusionHead):
    """Base of the heads built from multi-head attention: the heads must divide the width."""

    default_num_heads = 8

    @classmethod
    def check_config(cls, config) -> None:
        heads = config.fusion_num_heads or cls.default_num_heads
        if config.fusion_hidden_size % heads:
            raise ValueError(
                f"fusion_hidden_size={config.fusion_hidden_size} is not divisible into fusion_num_heads={heads} "
                f"attention heads, as fusion={config.fusion!r} needs."
            )


def mlp(width_in: int, width_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, width_out), nn.GELU(), nn.Dropout(dropout), nn.Linear(width_out, width_out)
    )


class ConcatFusion(FusionHead):
    """`concat`, the usual baseline: MLP([pool_1; …; pool_K])."""

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, pooled_widths=self.pooled_widths)
        self.mlp = mlp(len(widths) * self.hidden_size, self.hidden_size, config.fusion_dropout)

    def forward(self, streams):
        return FusionOutput(self.mlp(self.project.pooled(streams).flatten(1))[:, None])


class SumFusion(FusionHead):
    """`sum`: Σ_m w_m pool_m over the present modalities, with w learned."""

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, pooled_widths=self.pooled_widths)
        self.stream_weights = nn.Parameter(torch.empty(len(widths)))

    def init_weights(self):
        init.ones_(self.stream_weights)

    def forward(self, streams):
        weights = self.stream_weights * presence(streams)  # [B, K]
        pooled = self.project.pooled(streams)
        return FusionOutput(torch.einsum("bk,bkd->bd", weights.to(pooled.dtype), pooled)[:, None])


class ProductFusion(FusionHead):
    """`product`, "deeper LSTM Q + norm I": ⊙_m tanh(W_m p_m), an image's vector ℓ2-normalised first.

    A stream with a grid is an image. Absent modalities leave the product.
    """

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.streams = nn.ModuleList(nn.Linear(width, self.hidden_size) for width in self.pooled_widths)
        self.dropout = nn.Dropout(config.fusion_dropout)

    def forward(self, streams):
        factors = []
        for stream, linear in zip(streams, self.streams, strict=True):
            present = is_present(stream)[:, None]  # [B, 1]
            vector = stream.pooled.masked_fill(~present, 0.0)
            if stream.grid is not None:
                vector = F.normalize(vector, dim=-1)
            factors.append(torch.where(present, torch.tanh(linear(self.dropout(vector))), 1.0))
        return FusionOutput(torch.stack(factors).prod(0)[:, None])


class Attention(nn.Module):
    """Multi-head attention: queries [B, N, D] over a context [B, M, D] where `mask` [B, M] is True."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        query = self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, D / heads]
        key, value = self.key_value(context).unflatten(-1, (2 * self.num_heads, -1)).transpose(1, 2).chunk(2, dim=1)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask[:, None, None], dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, GELU, Linear, with the usual fourfold inner width. [..., D] → [..., D]."""

    def __init__(self, hidden_size: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * hidden_size, hidden_size),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class CrossAttentionBlock(nn.Module):
    """One stream queries a context: x + Attention(LN(x), LN(context)), then x + FFN(LN(x))."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.context_norm = nn.LayerNorm(hidden_size)
        self.attention = Attention(hidden_size, num_heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = FeedForward(hidden_size, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), self.context_norm(context), mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class CrossAttentionLayers(nn.Module):
    """Blocks in which each stream's queries read the tokens of all the other streams (ViLBERT's co-attention)."""

    def __init__(self, config, num_streams: int, num_heads: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                CrossAttentionBlock(config.fusion_hidden_size, num_heads, config.fusion_dropout)
                for _ in range(num_streams)
            )
            for _ in range(config.fusion_num_layers)
        )

    def forward(self, tokens: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        for blocks in self.layers:
            tokens = [
                block(
                    tokens[m],
                    torch.cat([x for n, x in enumerate(tokens) if n != m], dim=1),
                    torch.cat([mask for n, mask in enumerate(masks) if n != m], dim=1),
                )
                for m, block in enumerate(blocks)
            ]
        return tokens


class CrossAttentionFusion(AttentionHead):
    """`cross_attention`: blocks in which each stream queries the others, then mean over tokens, concatenation, MLP."""

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.cross = CrossAttentionLayers(config, len(widths), self.num_heads)
        self.norms = nn.ModuleList(nn.LayerNorm(self.hidden_size) for _ in widths)
        self.mlp = mlp(len(widths) * self.hidden_size, self.hidden_size, config.fusion_dropout)

    def forward(self, streams):
        tokens, masks = zip(*self.project.tokens(streams), strict=True)
        tokens = self.cross(list(tokens), list(masks))
        pooled = [masked_mean(norm(x), mask) for norm, x, mask in zip(self.norms, tokens, masks, strict=True)]
        return FusionOutput(self.mlp(torch.cat(pooled, dim=-1))[:, None])


class PairFusion(FusionHead):
    """`pair`, Simple Vectors Pair Combine: mean over all pairs of h(i,j) = W_1 h_i ⊙ W_2 h_j.

    The mean of a product of two independent indices is the product of the means, so no pair is ever formed. With more
    than two streams the pairs of every two are summed.
    """

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.first = nn.Linear(self.hidden_size, self.hidden_size, bias=False)
        self.second = nn.Linear(self.hidden_size, self.hidden_size, bias=False)

    def forward(self, streams):
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


class EVCFusion(FusionHead):
    """`evc`, Efficient Vector Combination: mean over all pairs of c_ij (see `VectorCombination`).

    With more than two streams the pairs of every two are summed.
    """

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.combination = VectorCombination(self.hidden_size)

    def forward(self, streams):
        fused = []
        for (first, first_mask), (second, second_mask) in combinations(self.project.tokens(streams), 2):
            a, b, g = self.combination(first, second)
            fused.append(pair_mean(a, b, g, second, first_mask, second_mask))
        return FusionOutput(torch.stack(fused).sum(0)[:, None])


class UMEFusion(FusionHead):
    """`ume`: Efficient Vector Combination + Adaptive Weighted Summation.

    Pairs weighted by what they say: α_ij = softmax_ij(u·c_ij), z_pair = Σ α_ij c_ij; then the views
    z ∈ {pool_1, …, pool_K, z_pair} by β = softmax(v·tanh(V z)), fused = Σ β z. An absent modality leaves both
    softmaxes. With more than two streams the z_pair of every two are summed, each two with its own α.
    `fusion_num_heads` > 1 gives as many u, whose z are concatenated and projected.

    `weights`: "pair_weights" [B, N_1, N_2], the mean over heads (for K > 2 streams "pair_weights_m_n" for every two),
    and "modality_weights" [B, K + 1].
    """

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, self.widths, self.pooled_widths)
        self.combination = VectorCombination(self.hidden_size)
        self.pair_scorer = nn.Parameter(torch.empty(self.num_heads, self.hidden_size))  # u
        self.heads_out = nn.Linear(self.num_heads * self.hidden_size, self.hidden_size) if self.num_heads > 1 else None
        self.view_hidden = nn.Linear(self.hidden_size, self.hidden_size)  # V
        self.view_scorer = nn.Parameter(torch.empty(self.hidden_size))  # v

    def init_weights(self):
        init.normal_(self.pair_scorer, std=self.hidden_size**-0.5)
        init.normal_(self.view_scorer, std=self.hidden_size**-0.5)

    def forward(self, streams):
        present = presence(streams)  # [B, K]
        tokens = self.project.tokens(streams)
        weights, pair_views, pair_present = {}, [], []
        for m, n in combinations(range(len(streams)), 2):
            (first, first_mask), (second, second_mask) = tokens[m], tokens[n]
            a, b, g = self.combination(first, second)
            z, alpha = weighted_pair_sum(a, b, g, second, self.pair_scorer, first_mask, second_mask)
            z = z.flatten(1) if self.heads_out is None else self.heads_out(z.flatten(1))  # [B, D]
            both = present[:, m] & present[:, n]
            pair_views.append(torch.where(both[:, None], z, 0.0))
            pair_present.append(both)
            name = "pair_weights" if len(streams) == 2 else f"pair_weights_{m}_{n}"
            weights[name] = torch.where(both[:, None, None], alpha.mean(1), 0.0)
        pair_view = torch.stack(pair_views).sum(0)[:, None]
        views = torch.cat([self.project.pooled(streams), pair_view], dim=1)  # [B, K + 1, D]
        has_view = torch.cat([present, torch.stack(pair_present).any(0)[:, None]], dim=1)
        scores = torch.tanh(self.view_hidden(views)) @ self.view_scorer.to(views.dtype)  # [B, K + 1]
        beta = masked_softmax(scores, has_view)
        weights["modality_weights"] = beta
        return FusionOutput(torch.einsum("bk,bkd->bd", beta.to(views.dtype), views)[:, None], weights)


FUSIONS: dict[str, type[FusionHead]] = {
    "concat": ConcatFusion,
    "cross_attention": CrossAttentionFusion,
    "evc": EVCFusion,
    "pair": PairFusion,
    "product": ProductFusion,
    "sum": SumFusion,
    "ume": UMEFusion,
}
