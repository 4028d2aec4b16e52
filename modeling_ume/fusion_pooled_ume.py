"""Heads over the streams' summaries, a vector a modality, and the one that reads inside the text encoder.

Concatenation, sum and product, and the bilinear family, which writes the product's weights as few factors.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .fusion_base_ume import DividedHead, FusionHead, FusionModule, Projections, mlp
from .streams_ume import FusionOutput, Stream, is_present, presence


class ConcatFusion(FusionHead):
    """`concat`, the usual baseline: MLP([pool_1; …; pool_K])."""

    source = "the transformers' baseline"
    cost = "O(D²)"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, pooled_widths=self.pooled_widths)
        self.mlp = mlp(len(widths) * self.hidden_size, self.hidden_size, config.fusion_dropout)

    def forward(self, streams):
        return FusionOutput(self.mlp(self.project.pooled(streams).flatten(1))[:, None])


class EncoderInputs(FusionModule):
    """Brings streams into an encoder's embedding space, where its own layers can read them: X_m W_m + e_m.

    Args:
        widths: D_m of each stream.
        embedding_width: E, the width of the encoder's embeddings.
    """

    def __init__(self, widths: list[int], embedding_width: int):
        super().__init__()
        self.streams = nn.ModuleList(nn.Linear(width, embedding_width) for width in widths)
        self.stream_embeddings = nn.Parameter(torch.empty(len(widths), embedding_width))  # e

    def init_weights(self):
        init.normal_(self.stream_embeddings, std=0.02)

    def forward(self, streams: list[Stream]) -> list[Tensor]:
        """For each stream [B, N_m, E], zero where a token is not real or the modality absent."""
        inputs = []
        for stream, linear, embedding in zip(streams, self.streams, self.stream_embeddings, strict=True):
            unreal = ~(stream.mask & stream.present[:, None])[..., None]  # [B, N, 1]
            tokens = linear(stream.states.masked_fill(unreal, 0.0))
            inputs.append((tokens + embedding.to(tokens.dtype)).masked_fill(unreal, 0.0))
        return inputs


class EarlyInputFusion(ConcatFusion):
    """`early_input`: the text encoder's own layers read [text embeddings; X_m W_m + e_m]; MLP over both summaries.

    The model does the reading before it calls the head, whose streams are then what the encoder says of the text's
    tokens and of the others', all in the encoder's width; an absent modality has no tokens in it. By itself, on
    streams that nothing has read together, the head is that MLP.

    Args:
        embedding_width: width E of the text encoder's embeddings; None for a head without `inputs`.
        input_widths: D_m of the streams that are brought there.
    """

    source = "VisualBERT (Li et al., 2019)"
    cost = "the text encoder's for N₁ + N₂ tokens"
    reads_in_encoder = True

    def __init__(self, config, widths, pooled_widths=None, embedding_width=None, input_widths=()):
        super().__init__(config, widths, pooled_widths)
        self.inputs = None if embedding_width is None else EncoderInputs(input_widths, embedding_width)


class SumFusion(FusionHead):
    """`sum`, element-wise sum: Σ_m w_m pool_m over the present modalities, with w learned."""

    source = "element-wise sum"
    cost = "O(D)"

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

    Absent modalities leave the product.
    """

    source = "VQA, deeper LSTM Q + norm I (Antol et al., 2015)"
    cost = "O(D²)"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.streams = nn.ModuleList(nn.Linear(width, self.hidden_size) for width in self.pooled_widths)
        self.dropout = nn.Dropout(config.fusion_dropout)

    def forward(self, streams):
        factors = []
        for stream, linear in zip(streams, self.streams, strict=True):
            present = is_present(stream)[:, None]  # [B, 1]
            vector = stream.pooled.masked_fill(~present, 0.0)
            if stream.modality == "vision":
                vector = F.normalize(vector, dim=-1)
            factors.append(torch.where(present, torch.tanh(linear(self.dropout(vector))), 1.0))
        return FusionOutput(torch.stack(factors).prod(0)[:, None])


class BilinearHead(FusionHead):
    """Base of the heads that multiply linear images of the summaries; K > 2 streams: the product of them all.

    Args:
        factor_width: width of what is multiplied.
    """

    def __init__(self, config, widths, pooled_widths, factor_width: int):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, pooled_widths=self.pooled_widths)
        self.factors = nn.ModuleList(nn.Linear(self.hidden_size, factor_width) for _ in widths)

    def multiply(self, pooled: Tensor, activation=None) -> Tensor:
        """pooled [B, K, D] → ⊙_m f(W_m pool_m + b_m), [B, factor_width]."""
        factors = torch.stack([linear(x) for linear, x in zip(self.factors, pooled.unbind(1), strict=True)])
        return (factors if activation is None else activation(factors)).prod(0)


class MLBFusion(BilinearHead):
    """`mlb`, low-rank bilinear pooling: P ⊙_m tanh(U_m pool_m), the inner width is `fusion_rank`."""

    source = "MLB (Kim et al., 2017)"
    cost = "O(RD)"
    default_rank = 1200

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths, config.fusion_rank or self.default_rank)
        self.out = nn.Linear(self.rank, self.hidden_size)  # P

    def forward(self, streams):
        return FusionOutput(self.out(self.multiply(self.project.pooled(streams), torch.tanh))[:, None])


class MutanFusion(BilinearHead):
    """`mutan`, Tucker decomposition with a core of rank R: W_o Σ_r ⊙_m M_m^r tanh(pool_m)."""

    source = "MUTAN (Ben-younes et al., 2017)"
    cost = "O(RD²)"
    default_rank = 10

    def __init__(self, config, widths, pooled_widths=None):
        rank = config.fusion_rank or self.default_rank
        super().__init__(config, widths, pooled_widths, rank * config.fusion_hidden_size)
        self.out = nn.Linear(self.hidden_size, self.hidden_size)  # W_o

    def forward(self, streams):
        products = self.multiply(torch.tanh(self.project.pooled(streams)))  # [B, R·D]
        return FusionOutput(self.out(products.unflatten(-1, (self.rank, -1)).sum(1))[:, None])


class MFBFusion(BilinearHead):
    """`mfb`, factorised bilinear pooling: z = Σ_r ⊙_m U_m^r pool_m, then its signed root, then ℓ2-normalised.

    The result is multiplied by √D, so that its entries have the scale of the other heads'; the classifier's first
    weights count on it.
    """

    source = "MFB (Yu et al., 2017)"
    cost = "O(RD²)"
    default_rank = 5

    def __init__(self, config, widths, pooled_widths=None):
        rank = config.fusion_rank or self.default_rank
        super().__init__(config, widths, pooled_widths, rank * config.fusion_hidden_size)
        self.dropout = nn.Dropout(config.fusion_dropout)

    def forward(self, streams):
        products = self.dropout(self.multiply(self.project.pooled(streams)))  # [B, R·D]
        z = products.unflatten(-1, (self.rank, -1)).sum(1)
        z = z / (z.abs() + 1e-6).sqrt()  # sign(z) √|z| with a finite slope at 0, where dropout can put it
        return FusionOutput(F.normalize(z, dim=-1)[:, None] * self.hidden_size**0.5)


class LowRankTensorFusion(BilinearHead):
    """`low_rank_tensor`, the tensor product of all [pool_m; 1] at rank R: Σ_r ⊙_m W_m^r [pool_m; 1]."""

    source = "LMF (Liu et al., 2018)"
    cost = "O(RD²)"
    default_rank = 4

    def __init__(self, config, widths, pooled_widths=None):
        rank = config.fusion_rank or self.default_rank
        super().__init__(config, widths, pooled_widths, rank * config.fusion_hidden_size)

    def forward(self, streams):
        products = self.multiply(self.project.pooled(streams))  # [B, R·D]; the biases are the column of the 1
        return FusionOutput(products.unflatten(-1, (self.rank, -1)).sum(1)[:, None])


class BlockFusion(DividedHead):
    """`block`, block-term decomposition: in each block c of the width Σ_r ⊙_m A_m^{c,r} pool_m^c, then W_o over all.

    `fusion_num_heads` is the number of blocks, `fusion_rank` the rank within one; K > 2 streams: the product of all.
    """

    source = "BLOCK (Ben-younes et al., 2019)"
    cost = "O(RD²/H + D²)"
    default_num_heads = 16
    default_rank = 15

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, pooled_widths=self.pooled_widths)
        width = self.hidden_size // self.num_heads
        self.factors = nn.Parameter(torch.empty(len(widths), self.num_heads, self.rank, width, width))
        self.out = nn.Linear(self.hidden_size, self.hidden_size)  # W_o

    def init_weights(self):
        init.normal_(self.factors, std=(3 * self.factors.shape[-1]) ** -0.5)  # as a Linear's

    def forward(self, streams):
        pooled = self.project.pooled(streams).unflatten(-1, (self.num_heads, -1))  # [B, K, C, D / C]
        factors = torch.einsum("kcroi,bkci->bkcro", self.factors.to(pooled.dtype), pooled)
        return FusionOutput(self.out(factors.prod(1).sum(2).flatten(1))[:, None])
