"""Heads made for many streams: bottlenecks, learned queries, one token a modality, gates, modulation, experts.

In all of them an absent modality leaves the sums, means and softmaxes, so that what is there is read as if there were
no more. An example without any modality is answered from the stand-ins of all.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .fusion_attention_ume import CrossAttentionBlock, SelfAttentionBlock, Transformer
from .fusion_base_ume import DividedHead, FusionHead, Projections, mlp
from .streams_ume import FusionOutput, heard, masked_mean, masked_softmax, presence


def learned(count: int, parameter: Tensor, like: Tensor) -> Tensor:
    """Learned tokens [R, D] for each of `count` examples, [B, R, D], in the type of `like`."""
    # Here and below not len(x) for their number: it would be fixed in an exported graph.
    return parameter.to(like.dtype).expand(count, *parameter.shape)


class BottleneckFusion(DividedHead):
    """`bottleneck`: in each layer a stream attends to itself and to R shared tokens, which become the streams' mean.

    With z the R tokens, learned at first: [x_m; z_m] ← Transformer layer_m([x_m; z]) in every stream m, then
    z ← mean_m z_m. The result is the mean of LN(mean over tokens of x_m) and LN(mean of z), each with a norm of its
    own. What streams know of each other passes through z alone, so one layer joins them in z, and only two or more
    let a stream read another. `fusion_rank` is R.
    """

    source = "MBT (Nagrani et al., 2021)"
    cost = "O(L((N₁² + N₂²)D + (N₁ + N₂)RD + (N₁ + N₂ + R)D²))"
    default_rank = 4

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.bottleneck = nn.Parameter(torch.empty(self.rank, self.hidden_size))  # z
        self.layers = nn.ModuleList(
            nn.ModuleList(SelfAttentionBlock(self.hidden_size, self.num_heads, config.fusion_dropout) for _ in widths)
            for _ in range(config.fusion_num_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(self.hidden_size) for _ in [*widths, "bottleneck"])

    def init_weights(self):
        init.normal_(self.bottleneck, std=0.02)

    def forward(self, streams):
        tokens, masks = self.project.heard_tokens(streams)
        here = heard(streams)
        z = learned(here.shape[0], self.bottleneck, tokens[0])
        always = here.new_ones(1, 1).expand(here.shape[0], self.rank)
        for blocks in self.layers:
            joint = [
                block(torch.cat([x, z], dim=1), torch.cat([mask, always], dim=1))
                for block, x, mask in zip(blocks, tokens, masks, strict=True)
            ]
            tokens = [x[:, : -self.rank] for x in joint]
            made = torch.stack([x[:, -self.rank :] for x in joint], dim=1)  # [B, K, R, D]
            z = masked_mean(made.flatten(2), here).unflatten(1, (self.rank, -1))
        means = [masked_mean(x, mask) for x, mask in zip(tokens, masks, strict=True)]
        views = [norm(x) for norm, x in zip(self.norms, [*means, z.mean(1)], strict=True)]
        return FusionOutput(masked_mean(torch.stack(views, dim=1), torch.cat([here, always[:, :1]], dim=1))[:, None])


class PerceiverBlock(CrossAttentionBlock):
    """A layer of Flamingo's resampler: z + Attention(LN(z), [LN(x); LN(z)]), then z + FFN(LN(z))."""

    def forward(self, z: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """z [B, R, D], x [B, N, D] and which of x has a say, `mask` [B, N] → [B, R, D]."""
        queries = self.attention_norm(z)
        context = torch.cat([self.context_norm(x), queries], dim=1)
        mask = torch.cat([mask, mask.new_ones(1, 1).expand(z.shape[:2])], dim=1)
        z = z + self.dropout(self.attention(queries, context, mask))
        return z + self.dropout(self.feed_forward(self.feed_forward_norm(z)))


class PerceiverFusion(DividedHead):
    """`perceiver`: R learned queries read all streams, z ← z + Attn(z, [x; z]), then FFN, L times; the mean of z.

    x = [H_1 + e_1; …; H_K + e_K], e learned; the mean is that of LN(z). The work grows with the number of tokens, not
    with its square. `fusion_rank` is R.
    """

    source = "the resampler of Flamingo (Alayrac et al., 2022)"
    cost = "O(LR(N₁ + N₂ + R)D + L(N₁ + N₂ + R)D²)"
    default_rank = 64

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.stream_embeddings = nn.Parameter(torch.empty(len(widths), self.hidden_size))  # e
        self.queries = nn.Parameter(torch.empty(self.rank, self.hidden_size))  # z
        self.layers = nn.ModuleList(
            PerceiverBlock(self.hidden_size, self.num_heads, config.fusion_dropout)
            for _ in range(config.fusion_num_layers)
        )
        self.norm = nn.LayerNorm(self.hidden_size)

    def init_weights(self):
        init.normal_(self.stream_embeddings, std=0.02)
        init.normal_(self.queries, std=0.02)

    def forward(self, streams):
        tokens, masks = self.project.heard_tokens(streams)
        embeddings = self.stream_embeddings.to(tokens[0].dtype)
        x = torch.cat([x + e for x, e in zip(tokens, embeddings, strict=True)], dim=1)
        mask = torch.cat(masks, dim=1)
        z = learned(mask.shape[0], self.queries, x)
        for layer in self.layers:
            z = layer(z, x, mask)
        return FusionOutput(self.norm(z).mean(1)[:, None])


class TokenTransformerFusion(DividedHead):
    """`token_transformer`: a Transformer over one token a modality and a class token, whose last state is the result.

    [c; pool_1 + e_1; …; pool_K + e_K], c and e learned. It costs next to nothing and is hard to beat with small data.
    """

    source = "the baseline of SimBaMM (arXiv 2512.22991)"
    cost = "O(LD²)"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, pooled_widths=self.pooled_widths)
        self.class_token = nn.Parameter(torch.empty(1, self.hidden_size))  # c
        self.stream_embeddings = nn.Parameter(torch.empty(len(widths), self.hidden_size))  # e
        self.transformer = Transformer(config, self.num_heads)

    def init_weights(self):
        init.normal_(self.class_token, std=0.02)
        init.normal_(self.stream_embeddings, std=0.02)

    def forward(self, streams):
        here, pooled = heard(streams), self.project.pooled(streams)
        pooled = pooled + self.stream_embeddings.to(pooled.dtype)
        tokens = torch.cat([learned(here.shape[0], self.class_token, pooled), pooled], dim=1)  # [B, 1 + K, D]
        mask = torch.cat([here.new_ones(1, 1).expand(here.shape[0], 1), here], dim=1)
        return FusionOutput(self.transformer(tokens, mask)[:, :1])


class GMUFusion(FusionHead):
    """`gmu`, gated multimodal unit: Σ_m g_m ⊙ tanh(W_m p_m), g = softmax over modalities of a gate that reads all.

    g = softmax_m(V [p_1; …; p_K]), channel by channel, p_m the summaries. To the gate an absent modality is zero.

    `weights`: "modality_weights" [B, K], the mean of g over channels.
    """

    source = "GMU (Arevalo et al., 2017)"
    cost = "O(K²D²)"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, pooled_widths=self.pooled_widths)
        self.streams = nn.ModuleList(nn.Linear(self.hidden_size, self.hidden_size) for _ in widths)  # W
        self.gate = nn.Linear(len(widths) * self.hidden_size, len(widths) * self.hidden_size)  # V

    def forward(self, streams):
        here, pooled = heard(streams), self.project.pooled(streams)
        said = [torch.tanh(linear(p)) for linear, p in zip(self.streams, pooled.unbind(1), strict=True)]
        scores = self.gate(pooled.masked_fill(~here[..., None], 0.0).flatten(1)).unflatten(1, (len(streams), -1))
        g = masked_softmax(scores.transpose(1, 2), here[:, None])  # [B, D, K]
        fused = torch.einsum("bdk,bkd->bd", g.to(pooled.dtype), torch.stack(said, dim=1))
        return FusionOutput(fused[:, None], {"modality_weights": g.mean(1)})


class FiLMFusion(FusionHead):
    """`film`: the first stream modulates the others, γ(q) ⊙ x + β(q), in L residual blocks; the mean of their means.

    q is the first stream's summary. In every block each token x of another stream m becomes
    x + GELU(γ_m(q) ⊙ LN(W_m x) + β_m(q)), LN without parameters, γ = 1 + a linear map of q, β a linear map of q. Each
    stream is then averaged over its tokens, normed, and the streams over those that are present. Where the first is
    absent γ = 1 and β = 0; where all others are, what it makes of their stand-ins is left.
    """

    source = "FiLM (Perez et al., 2018)"
    cost = "O(LN₂D² + LD²)"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        # Of the first stream the summary is read, of the others the tokens.
        self.project = Projections(config, widths=[self.pooled_widths[0], *self.widths[1:]])
        width, layers, others = self.hidden_size, range(config.fusion_num_layers), self.widths[1:]
        self.modulations = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, 2 * width) for _ in others) for _ in layers
        )  # γ − 1 and β
        self.layers = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in others) for _ in layers)  # W
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in others)
        self.dropout = nn.Dropout(config.fusion_dropout)

    def forward(self, streams):
        parts = ["pooled", *["states"] * (len(streams) - 1)]
        (q, *tokens), (_, *masks) = zip(*self.project.tokens(streams, parts), strict=True)
        present = presence(streams)
        asked = present[:, :1] | ~present.any(1, keepdim=True)
        others = present[:, 1:] | ~present[:, 1:].any(1, keepdim=True)  # [B, K − 1]
        means = []
        for m, (x, mask) in enumerate(zip(tokens, masks, strict=True)):
            for modulations, layers in zip(self.modulations, self.layers, strict=True):
                gamma, beta = modulations[m](q).masked_fill(~asked, 0.0)[:, None].chunk(2, dim=-1)  # [B, 1, D] each
                seen = F.layer_norm(layers[m](x), x.shape[-1:])
                x = x + self.dropout(F.gelu((1 + gamma) * seen + beta))
            means.append(self.norms[m](masked_mean(x, mask)))
        return FusionOutput(masked_mean(torch.stack(means, dim=1), others)[:, None])


class MixtureFusion(FusionHead):
    """`mixture`, an expert a modality: Σ_m softmax(g)_m E_m(p_m), an absent modality's gate is −∞.

    E_m is an MLP over the summary p_m, g = V GELU(U [p_1; …; p_K]) reads all summaries, an absent one as zero. In
    training the head also says what it would without one of the modalities, drawn evenly from those of each example,
    and the loss has a term max(0, ℓ(more) − ℓ(fewer)): nothing that is added may make an answer worse. (ℓ(fewer) is
    a mark to be reached, which has no gradient: the term shall not be met by making the answer from fewer worse.)

    `weights`: "modality_weights" [B, K].
    """

    source = "SimMLM (arXiv 2507.19264)"
    cost = "O(KD²)"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        width, dropout = self.hidden_size, config.fusion_dropout
        self.project = Projections(config, pooled_widths=self.pooled_widths)
        self.experts = nn.ModuleList(mlp(width, width, dropout) for _ in widths)  # E
        self.gate = nn.Sequential(nn.Linear(len(widths) * width, width), nn.GELU(), nn.Linear(width, len(widths)))

    def forward(self, streams):
        here, pooled = heard(streams), self.project.pooled(streams)
        said = torch.stack([expert(p) for expert, p in zip(self.experts, pooled.unbind(1), strict=True)], dim=1)
        fused, weights = self.mix(said, pooled, here)
        output = FusionOutput(fused[:, None], {"modality_weights": weights})
        if self.training:
            # The greatest of even draws is an even choice among those that an example has.
            lots = torch.rand(here.shape, device=here.device).masked_fill(~here, -1.0)
            fewer = here & (lots < lots.amax(1, keepdim=True))
            output.fewer_present = fewer.any(1)
            fewer = fewer | (here & ~output.fewer_present[:, None])
            output.fewer = self.mix(said, pooled, fewer)[0][:, None]
        return output

    def mix(self, said: Tensor, pooled: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """What the experts said [B, K, D], joined over those that have a say [B, K] → [B, D], and their weights."""
        gates = self.gate(pooled.masked_fill(~here[..., None], 0.0).flatten(1))  # [B, K]
        weights = masked_softmax(gates, here)
        return torch.einsum("bk,bkd->bd", weights.to(said.dtype), said), weights
