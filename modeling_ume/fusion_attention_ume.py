"""Heads of attention blocks: the survey's six ways to join token sequences, METER's co-attention and gated
cross-attention.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .fusion_base_ume import DividedHead, FusionModule, Projections, mlp
from .streams_ume import FusionOutput, masked_mean, presence, real_first, reorder


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


class SelfAttentionBlock(nn.Module):
    """A pre-norm Transformer layer: x + Attention(LN(x)), then x + FFN(LN(x)). [B, N, D] → [B, N, D]."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = Attention(hidden_size, num_heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = FeedForward(hidden_size, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        context = self.attention_norm(x)
        x = x + self.dropout(self.attention(context, context, mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Transformer(nn.Module):
    """`fusion_num_layers` pre-norm layers and a last LayerNorm: tokens [B, N, D], mask [B, N] → [B, N, D]."""

    def __init__(self, config, num_heads: int):
        super().__init__()
        self.layers = nn.ModuleList(
            SelfAttentionBlock(config.fusion_hidden_size, num_heads, config.fusion_dropout)
            for _ in range(config.fusion_num_layers)
        )
        self.norm = nn.LayerNorm(config.fusion_hidden_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


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


def others(parts: list[Tensor], m: int) -> Tensor:
    """All but the m-th, joined along the tokens."""
    return torch.cat([part for n, part in enumerate(parts) if n != m], dim=1)


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
            tokens = [block(tokens[m], others(tokens, m), others(masks, m)) for m, block in enumerate(blocks)]
        return tokens


class CrossAttentionFusion(DividedHead):
    """`cross_attention`: blocks in which each stream queries the others, then mean over tokens, concatenation, MLP."""

    source = "ViLBERT (Lu et al., 2019)"
    cost = "O(L(N₁N₂D + (N₁ + N₂)D²))"

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


class CrossAttentionToConcatenationFusion(DividedHead):
    """`cross_attention_to_concatenation`: each stream queries the others, then one Transformer over all, its mean."""

    source = "survey of multimodal Transformers (Xu et al., 2023)"
    cost = "O(L((N₁ + N₂)²D + (N₁ + N₂)D²))"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.cross = CrossAttentionLayers(config, len(widths), self.num_heads)
        self.transformer = Transformer(config, self.num_heads)

    def forward(self, streams):
        tokens, masks = zip(*self.project.tokens(streams), strict=True)
        tokens, mask = torch.cat(self.cross(list(tokens), list(masks)), dim=1), torch.cat(masks, dim=1)
        return FusionOutput(masked_mean(self.transformer(tokens, mask), mask)[:, None])


class EarlySummationFusion(DividedHead):
    """`early_summation`: x_i = Σ_m α_m h_{m,i} position by position, then a Transformer, its mean over positions.

    The i-th position is each stream's i-th real token; a stream that has no more leaves the sum. α is learned.
    """

    source = "survey of multimodal Transformers (Xu et al., 2023)"
    cost = "O(L(N²D + ND²)), N = max(N₁, N₂)"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.stream_weights = nn.Parameter(torch.empty(len(widths)))  # α
        self.transformer = Transformer(config, self.num_heads)

    def init_weights(self):
        init.ones_(self.stream_weights)

    def forward(self, streams):
        length = max(stream.states.shape[1] for stream in streams)
        summed, real = 0.0, False
        for (tokens, mask), weight in zip(self.project.tokens(streams), self.stream_weights, strict=True):
            # Wherever the padding stands, positions are counted over what is real.
            order = real_first(mask)
            mask = reorder(mask, order)
            tokens = reorder(tokens, order).masked_fill(~mask[..., None], 0.0)
            padding = length - tokens.shape[1]
            summed = summed + F.pad(weight.to(tokens.dtype) * tokens, (0, 0, 0, padding))  # [B, length, D]
            real = F.pad(mask, (0, padding)) | real
        return FusionOutput(masked_mean(self.transformer(summed, real), real)[:, None])


class EarlyConcatenationFusion(DividedHead):
    """`early_concatenation`: Transformer([H_1 + e_1; …; H_K + e_K]), its mean over tokens, e learned."""

    source = "VisualBERT (Li et al., 2019), VideoBERT (Sun et al., 2019)"
    cost = "O(L((N₁ + N₂)²D + (N₁ + N₂)D²))"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.stream_embeddings = nn.Parameter(torch.empty(len(widths), self.hidden_size))  # e
        self.transformer = Transformer(config, self.num_heads)

    def init_weights(self):
        init.normal_(self.stream_embeddings, std=0.02)

    def forward(self, streams):
        tokens, masks = zip(*self.project.tokens(streams), strict=True)
        embeddings = self.stream_embeddings.to(tokens[0].dtype)
        tokens = torch.cat([x + e for x, e in zip(tokens, embeddings, strict=True)], dim=1)
        mask = torch.cat(masks, dim=1)
        return FusionOutput(masked_mean(self.transformer(tokens, mask), mask)[:, None])


class HierarchicalMultiToOneFusion(DividedHead):
    """`hierarchical_multi_to_one`: a Transformer a stream, then one over all their tokens, its mean."""

    source = "survey of multimodal Transformers (Xu et al., 2023)"
    cost = "O(L((N₁ + N₂)²D + (N₁ + N₂)D²))"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.streams = nn.ModuleList(Transformer(config, self.num_heads) for _ in widths)
        self.transformer = Transformer(config, self.num_heads)

    def forward(self, streams):
        tokens = self.project.tokens(streams)
        joint = torch.cat([read(x, mask) for read, (x, mask) in zip(self.streams, tokens, strict=True)], dim=1)
        mask = torch.cat([mask for _, mask in tokens], dim=1)
        return FusionOutput(masked_mean(self.transformer(joint, mask), mask)[:, None])


class HierarchicalOneToMultiFusion(DividedHead):
    """`hierarchical_one_to_multi`: one Transformer over all, then one a stream; MLP over the means of the streams."""

    source = "InterBERT (Lin et al., 2020)"
    cost = "O(L((N₁ + N₂)²D + (N₁ + N₂)D²))"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.transformer = Transformer(config, self.num_heads)
        self.streams = nn.ModuleList(Transformer(config, self.num_heads) for _ in widths)
        self.mlp = mlp(len(widths) * self.hidden_size, self.hidden_size, config.fusion_dropout)

    def forward(self, streams):
        tokens, masks = zip(*self.project.tokens(streams), strict=True)
        joint = self.transformer(torch.cat(tokens, dim=1), torch.cat(masks, dim=1))
        parts = joint.split([x.shape[1] for x in tokens], dim=1)
        pooled = [masked_mean(read(x, mask), mask) for read, x, mask in zip(self.streams, parts, masks, strict=True)]
        return FusionOutput(self.mlp(torch.cat(pooled, dim=-1))[:, None])


class CoAttentionBlock(CrossAttentionBlock):
    """METER's layer of one stream: x + Attention(LN(x)), then what `CrossAttentionBlock` does with the context."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float):
        super().__init__(hidden_size, num_heads, dropout)
        self.self_attention_norm = nn.LayerNorm(hidden_size)
        self.self_attention = Attention(hidden_size, num_heads, dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor, own_mask: Tensor) -> Tensor:
        own = self.self_attention_norm(x)
        x = x + self.dropout(self.self_attention(own, own, own_mask))
        return super().forward(x, context, mask)


class CoAttentionFusion(DividedHead):
    """`co_attention`: L layers of self-attention, cross-attention and FFN a stream, then MLP over the streams' means.

    In a layer all streams read what the others were before it.
    """

    source = "METER (Dou et al., 2022)"
    cost = "O(L((N₁ + N₂)²D + (N₁ + N₂)D²))"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.layers = nn.ModuleList(
            nn.ModuleList(CoAttentionBlock(self.hidden_size, self.num_heads, config.fusion_dropout) for _ in widths)
            for _ in range(config.fusion_num_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(self.hidden_size) for _ in widths)
        self.mlp = mlp(len(widths) * self.hidden_size, self.hidden_size, config.fusion_dropout)

    def forward(self, streams):
        tokens, masks = zip(*self.project.tokens(streams), strict=True)
        for blocks in self.layers:
            tokens = [
                block(tokens[m], others(tokens, m), others(masks, m), masks[m]) for m, block in enumerate(blocks)
            ]
        pooled = [masked_mean(norm(x), mask) for norm, x, mask in zip(self.norms, tokens, masks, strict=True)]
        return FusionOutput(self.mlp(torch.cat(pooled, dim=-1))[:, None])


class GatedCrossAttentionBlock(FusionModule):
    """Flamingo's layer: x + tanh(g_1) Attention(LN(x), LN(context)), then x + tanh(g_2) FFN(LN(x)); g starts at 0."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.context_norm = nn.LayerNorm(hidden_size)
        self.attention = Attention(hidden_size, num_heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = FeedForward(hidden_size, dropout)
        self.dropout = nn.Dropout(dropout)
        self.gates = nn.Parameter(torch.empty(2))  # g

    def init_weights(self):
        init.zeros_(self.gates)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor, open_for: Tensor) -> Tensor:
        """open_for [B] bool: False leaves that example's x [B, N, D] as it is."""
        first, second = (torch.tanh(self.gates).to(x.dtype)[:, None] * open_for)[..., None, None]  # [B, 1, 1] each
        x = x + first * self.dropout(self.attention(self.attention_norm(x), self.context_norm(context), mask))
        return x + second * self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class GatedCrossAttentionFusion(DividedHead):
    """`gated_cross_attention`: one stream reads the others through gates that start shut, then its mean over tokens.

    The reader is the text, or without one the first stream. Without anything to read it is left as it is.
    """

    source = "Flamingo (Alayrac et al., 2022)"
    cost = "O(L(N₁N₂D + (N₁ + N₂)D²))"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.layers = nn.ModuleList(
            GatedCrossAttentionBlock(self.hidden_size, self.num_heads, config.fusion_dropout)
            for _ in range(config.fusion_num_layers)
        )
        self.norm = nn.LayerNorm(self.hidden_size)

    def forward(self, streams):
        reader = next((m for m, stream in enumerate(streams) if stream.modality == "text"), 0)
        tokens, masks = zip(*self.project.tokens(streams), strict=True)
        context, stand_ins = others(tokens, reader), others(masks, reader)
        present = presence(streams)[..., None].unbind(1)  # [B, 1] each
        real = others([mask & here for mask, here in zip(masks, present, strict=True)], reader)
        has_context = real.any(1)  # [B]
        # Attention needs something to look at even where what it says is shut out.
        mask = real | (stand_ins & ~has_context[:, None])
        x = tokens[reader]
        for layer in self.layers:
            x = layer(x, context, mask, has_context)
        return FusionOutput(masked_mean(self.norm(x), masks[reader])[:, None])
