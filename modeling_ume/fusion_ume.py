"""The fusion heads: each takes two or more modalities as `Stream`s and returns what they say together.

A head sees any number of streams in any order; padded tokens and absent modalities never change what it returns. To
add one: write a `FusionHead`, give it a line in `FUSIONS` at the end. Formulas and their names are in the docstrings.
"""

import math
from dataclasses import dataclass, field, fields
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .numerics_ume import accumulate_in, cut_off, shares, widen
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
        distinct: where several examples share one image, the stream of the U distinct ones; `states`, `mask` and
            `pooled` are its rows `index`. What acts on one token can be done on these, once an image.
        index: [B], the row of `distinct` that each example has.
    """

    states: Tensor
    mask: Tensor
    pooled: Tensor
    present: Tensor
    grid: tuple[int, int] | None = None
    distinct: "Stream | None" = None
    index: Tensor | None = None

    def to(self, device, non_blocking: bool = False) -> "Stream":
        """The stream on another device, to which the hooks of a model that is spread over several bring it."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return Stream(
            **{
                name: value.to(device, non_blocking=non_blocking) if isinstance(value, (Tensor, Stream)) else value
                for name, value in parts.items()
            }
        )


@dataclass
class FusionOutput:
    """What a head returns.

    Attributes:
        fused: [B, K, D]: one fused vector (K = 1), or one view a modality for the heads that combine late.
        weights: what the head attended to, by name, each non-negative and summing to 1 over what is real.
        present: [B, K] bool, which views count, of the heads that combine late; at least one an example.
        log_shares: [B, K], ln of how much each view counts, of the heads that learn it; `combine` takes it.
    """

    fused: Tensor
    weights: dict[str, Tensor] = field(default_factory=dict)
    present: Tensor | None = None
    log_shares: Tensor | None = None


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension where `mask` is True, at least in float32; a row without True is all zero."""
    scores = widen(scores).masked_fill(~mask, -torch.inf)
    # A row that is -inf throughout would give NaN, in backward too.
    scores = torch.where(mask.any(-1, keepdim=True), scores, 0.0)
    return scores.softmax(-1) * mask


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over tokens [B, N, D] → [B, D] where `mask` [B, N] is True; zero for a row without any."""
    return torch.einsum("bn,bnd->bd", shares(mask, states.dtype), cut_off(states, mask))


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

    def forward(self, streams: list[Stream], part: str) -> list[tuple[Tensor, Tensor | None]]:
        """Each stream's `part` (`"states"` or `"pooled"`) at the common width, and the row each example has."""
        projected = []
        for m, (stream, project, absent) in enumerate(zip(streams, self.streams, self.absent, strict=True)):
            if part == "pooled" and str(m) in self.pooled_streams:
                project = self.pooled_streams[str(m)]
            projected.append(self._project(stream, part, project, absent))
        return projected

    def tokens(self, streams: list[Stream]) -> list[tuple[Tensor, Tensor]]:
        """For each stream its tokens [B, N_m, D] and their mask [B, N_m]; every row has at least one True."""
        return [(take(tokens, index), mask) for tokens, mask, index in self.distinct_tokens(streams)]

    def distinct_tokens(self, streams: list[Stream]) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """As `tokens`, each shared image once: tokens [U, N_m, D], their mask [B, N_m], and the row each example has,
        [B] (None: its own)."""
        projected = []
        # By a call of the module, here and below: offloaded weights are there only while its forward runs.
        for stream, (tokens, index) in zip(streams, self(streams, "states"), strict=True):
            first = torch.arange(tokens.shape[1], device=tokens.device) == 0
            present = is_present(stream)[:, None]
            # Not torch.where: onnxruntime has none for truth values.
            projected.append((tokens, (stream.mask & present) | (first & ~present), index))
        return projected

    def pooled(self, streams: list[Stream]) -> Tensor:
        """The summaries, [B, K, D]."""
        return torch.stack([take(vectors, index) for vectors, index in self(streams, "pooled")], dim=1)

    @staticmethod
    def _project(stream: Stream, part: str, project: nn.Module, absent: Tensor) -> tuple[Tensor, Tensor | None]:
        """The stream's `part` projected, with the stand-in where it is absent, and the row each example has."""
        present = is_present(stream)  # [B]
        if stream.distinct is None:
            x, used = getattr(stream, part), present
        else:
            x = getattr(stream.distinct, part)
            # Not len(x) anywhere: it would fix the number of images in an exported graph.
            used = torch.zeros(x.shape[0], device=x.device).index_add(0, stream.index, present.float()) > 0  # [U]
        used = used.view(-1, *[1] * (x.ndim - 1))
        # Absent states may hold anything, NaN too; they are cut off before any arithmetic.
        x = project(x.masked_fill(~used, 0.0))
        if stream.distinct is None:
            return torch.where(used, x, absent.to(x.dtype)), None
        x = torch.cat([x, absent.to(x.dtype).expand(1, *x.shape[1:])])  # the stand-in is one row more
        return x, torch.where(present, stream.index, x.shape[0] - 1)


def take(x: Tensor, index: Tensor | None) -> Tensor:
    """Each example's row of x: [U, …] → [B, …]."""
    # index_select, unlike indexing, has a backward that adds in the same order every time.
    return x if index is None else x.index_select(0, index)


def is_present(stream: Stream) -> Tensor:
    """[B] bool: the example has the modality and at least one real token of it."""
    return stream.present & stream.mask.any(1)


def real_first(mask: Tensor) -> Tensor:
    """mask [B, N] → the order [B, N] that puts the real tokens of each row in front, each in its turn."""
    # Not by a stable sort, which ONNX lacks: here no two keys are equal.
    length = mask.shape[1]
    positions, behind = (torch.arange(start, start + length, device=mask.device) for start in (0, length))
    return torch.where(mask, positions, behind).argsort(dim=1)


def reorder(x: Tensor, order: Tensor) -> Tensor:
    """Puts the tokens of x, [B, N] or [B, N, D], into `order` [B, N]."""
    return x.gather(1, order if x.ndim == 2 else order[..., None].expand_as(x))


def presence(streams: list[Stream]) -> Tensor:
    """[B, K] bool: which modalities each example has."""
    return torch.stack([is_present(stream) for stream in streams], dim=1)


def cut_off_masked(stream: Stream) -> Stream:
    """The stream with zeros for tokens that are not real and for what an absent modality holds."""
    present = is_present(stream)
    return Stream(
        cut_off(stream.states, stream.mask & present[:, None]),
        stream.mask,
        cut_off(stream.pooled, present),
        stream.present,
        stream.grid,
        None if stream.distinct is None else cut_off_masked(stream.distinct),
        stream.index,
    )


def _before_head(head: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    # In one place for all heads, those that are still to be written too.
    streams, *rest = args or (kwargs.pop("streams"),)
    return ([cut_off_masked(stream) for stream in streams], *rest), kwargs


class FusionHead(FusionModule):
    """Base of the heads. A head that is called never sees what stands behind a mask: see `cut_off_masked`.

    Args:
        config: the `UMEConfig`.
        widths: D_m of each stream's tokens.
        pooled_widths: D_p of each stream's summary; None where they equal `widths`.

    Attributes:
        source: the paper or model the head is known from.
        cost: work for two streams of N₁ and N₂ tokens, L layers, H heads and rank R, once everything has width D.
        default_num_heads, default_rank: what `fusion_num_heads` and `fusion_rank` are where the config leaves them
            open; no default rank: the head has none.
        num_views: K of what it returns.
        reads_in_encoder: the text encoder's own layers read the other modalities' tokens, see `EarlyInputFusion`.
        trains_views: the loss is the mean of the views' own losses instead of the loss of what they say together.
    """

    source = ""
    cost = ""
    default_num_heads = 1
    default_rank: int | None = None
    num_views = 1
    reads_in_encoder = False
    trains_views = False

    def __init__(self, config, widths: list[int], pooled_widths: list[int] | None = None):
        super().__init__()
        self.register_forward_pre_hook(_before_head, with_kwargs=True)
        if len(widths) < 2:
            raise ValueError(f"A fusion head joins two or more streams; widths={widths} describes {len(widths)}.")
        self.widths = list(widths)
        self.pooled_widths = list(pooled_widths or widths)
        self.hidden_size = config.fusion_hidden_size
        self.num_heads = config.fusion_num_heads or self.default_num_heads
        self.rank = config.fusion_rank or self.default_rank

    @classmethod
    def check_config(cls, config) -> None:
        """Raises ValueError where `config` asks for what this head cannot be."""

    def forward(self, streams: list[Stream]) -> FusionOutput:
        raise NotImplementedError

    def combine(self, logits: Tensor, present: Tensor | None, problem_type: str) -> Tensor:
        """The views' logits [B, K, C] and which of them count [B, K] → the answer's logits [B, C].

        No parameter of the head is read here, outside its `forward`: what it needs, `forward` returns (`log_shares`,
        which is an argument of the heads that return it).
        """
        return logits[:, 0]


class DividedHead(FusionHead):
    """Base of the heads that divide the width into `fusion_num_heads` equal parts, as multi-head attention does."""

    default_num_heads = 8

    @classmethod
    def check_config(cls, config) -> None:
        heads = config.fusion_num_heads or cls.default_num_heads
        if config.fusion_hidden_size % heads:
            raise ValueError(
                f"fusion_hidden_size={config.fusion_hidden_size} is not divisible into fusion_num_heads={heads} "
                f"equal parts, as fusion={config.fusion!r} needs."
            )


def mlp(width_in: int, width_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, width_out), nn.GELU(), nn.Dropout(dropout), nn.Linear(width_out, width_out)
    )


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

    A stream with a grid is an image. Absent modalities leave the product.
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
            if stream.grid is not None:
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

    The reader is the first stream without a grid: the text, beside an image. Without anything to read it is left as it
    is.
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
        reader = next((m for m, stream in enumerate(streams) if stream.grid is None), 0)
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


class LateFusion(FusionHead):
    """Base of the heads that combine late: a view, and with it a classifier, a modality; then what they say is joined.

    A view is the modality's summary at the common width. Absent modalities have no say; an example without any is
    answered from the stand-ins of all. Probabilities are the softmax of the logits for
    `"single_label_classification"` and their sigmoid for `"multi_label_classification"`; the same function gives the
    joint probabilities back from what `combine` returns.
    """

    cost = "O(D), and a classifier a modality"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.num_views = len(widths)
        self.project = Projections(config, pooled_widths=self.pooled_widths)

    def forward(self, streams):
        present = presence(streams)
        return FusionOutput(self.project.pooled(streams), present=present | ~present.any(1, keepdim=True))

    def log_shares(self, present: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """present [B, K] → ln w_m: how much each modality's word counts, summing to 1 over the present."""
        return torch.zeros_like(present, dtype=dtype).masked_fill(~present, -torch.inf).log_softmax(-1)

    def log_mean(self, logits: Tensor, log_shares: Tensor, problem_type: str) -> tuple[Tensor, Tensor | None]:
        """logits [B, K, C] → ln Σ_m w_m p_m and, for a sigmoid, ln Σ_m w_m (1 − p_m), each [B, C]."""
        log_shares = log_shares[..., None]  # [B, K, 1]
        if problem_type == "single_label_classification":
            return (logits.log_softmax(-1) + log_shares).logsumexp(1), None
        yes, no = ((F.logsigmoid(sign * logits) + log_shares).logsumexp(1) for sign in (1, -1))
        return yes, no


class LateMeanFusion(LateFusion):
    """`late_mean`, ensemble of classifiers: the mean of the modalities' probabilities."""

    source = "ensemble of classifiers"

    def forward(self, streams):
        output = super().forward(streams)
        output.log_shares = self.log_shares(output.present, accumulate_in(output.fused.dtype))  # [B, K]
        output.weights["modality_weights"] = output.log_shares.exp()
        return output

    def combine(self, logits, present, problem_type, log_shares=None):
        """As in the base; log_shares [B, K]: what `forward` returned (default: computed anew)."""
        logits = widen(logits)
        log_shares = self.log_shares(present, logits.dtype) if log_shares is None else log_shares
        yes, no = self.log_mean(logits, log_shares, problem_type)
        return yes if no is None else yes - no


class LateWeightedFusion(LateMeanFusion):
    """`late_weighted`, weighted ensemble: Σ_m w_m p_m of the probabilities, w = softmax(learned) over the present."""

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
        if problem_type == "single_label_classification":
            logits = logits.log_softmax(-1)
        return logits.masked_fill(~present[..., None], -torch.inf).amax(1)  # the sigmoid keeps the order


class LateProductFusion(LateFusion):
    """`late_product`, product rule: Π_m p_m, renormalised over the answers, or over yes and no for a sigmoid."""

    source = "product rule (Kittler et al., 1998)"

    def combine(self, logits, present, problem_type):
        logits = widen(logits)
        if problem_type == "single_label_classification":
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


class PairFusion(FusionHead):
    """`pair`, Simple Vectors Pair Combine: mean over all pairs of h(i,j) = W_1 h_i ⊙ W_2 h_j.

    The mean of a product of two independent indices is the product of the means, so no pair is ever formed. With more
    than two streams the pairs of every two are summed.
    """

    source = "the thesis behind this project"
    cost = "O((N₁ + N₂)D + D²)"

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
    """`evc`, Efficient Vector Combination: mean over all pairs of c_ij = tanh(W [h_i; h_j; h_i − h_j; h_i ⊙ h_j]).

    With more than two streams the pairs of every two are summed.
    """

    source = "the thesis behind this project"
    cost = "O(N₁N₂D + (N₁ + N₂)D²)"

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        self.project = Projections(config, widths=self.widths)
        self.combination = VectorCombination(self.hidden_size)

    def forward(self, streams):
        fused = []
        for (first, first_mask, i), (second, second_mask, j) in combinations(self.project.distinct_tokens(streams), 2):
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

    `weights`: "pair_weights" [B, N_1, N_2], the mean over heads (for K > 2 streams "pair_weights_m_n" for every two),
    and "modality_weights" [B, K + 1], the mean over channels.
    """

    source = "the thesis behind this project; norm, parts and weights a channel are ours"
    cost = "O(HN₁N₂D + (N₁ + N₂)D²)"
    default_num_heads = 4

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
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
        tokens = self.project.distinct_tokens(streams)
        weights, pair_views, pair_present = {}, [], []
        for m, n in combinations(range(len(streams)), 2):
            (first, first_mask, i), (second, second_mask, j) = tokens[m], tokens[n]
            a, b, g = self.combination(first, second)
            pairs = take(a, i), b, take(g, i), second
            z, alpha = weighted_pair_sum(*pairs, self.pair_scorer, first_mask, second_mask, index=j, parts=True)
            both = present[:, m] & present[:, n]
            pair_views.append(torch.where(both[:, None], z, 0.0))
            pair_present.append(both)
            name = "pair_weights" if len(streams) == 2 else f"pair_weights_{m}_{n}"
            weights[name] = torch.where(both[:, None, None], alpha.mean(1), 0.0)
        pair_view = self.pair_norm(torch.stack(pair_views).sum(0))[:, None]
        views = torch.cat([self.project.pooled(streams), pair_view], dim=1)  # [B, K + 1, D]
        has_view = torch.cat([present, torch.stack(pair_present).any(0)[:, None]], dim=1)
        scores = self.view_scorer(torch.tanh(self.view_hidden(views)))  # [B, K + 1, D]
        beta = masked_softmax(scores.transpose(1, 2), has_view[:, None])  # [B, D, K + 1]
        weights["modality_weights"] = beta.mean(1)
        return FusionOutput(torch.einsum("bdk,bkd->bd", beta.to(views.dtype), views)[:, None], weights)


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
        return FusionOutput(torch.cat([o.fused for o in outputs], dim=1), weights, present)

    def combine(self, logits, present, problem_type):
        """logits [B, M, C] → [B, C], whose softmax or sigmoid is the mean of the members'."""
        logits = widen(logits)
        if problem_type == "single_label_classification":
            return logits.log_softmax(-1).logsumexp(1) - math.log(self.num_views)
        return F.logsigmoid(logits).logsumexp(1) - F.logsigmoid(-logits).logsumexp(1)


def build_fusion(config, widths: list[int], pooled_widths: list[int] | None = None, **inputs) -> FusionHead:
    """The head that a config describes, or its members; `inputs`: what heads that read in the encoder take besides."""
    head = MembersFusion if config.fusion_num_members > 1 else FUSIONS[config.fusion]
    return head(config, widths, pooled_widths, **inputs)


FUSIONS: dict[str, type[FusionHead]] = {
    "ban": BANFusion,
    "block": BlockFusion,
    "co_attention": CoAttentionFusion,
    "concat": ConcatFusion,
    "cross_attention": CrossAttentionFusion,
    "cross_attention_to_concatenation": CrossAttentionToConcatenationFusion,
    "early_concatenation": EarlyConcatenationFusion,
    "early_input": EarlyInputFusion,
    "early_summation": EarlySummationFusion,
    "evc": EVCFusion,
    "gated_cross_attention": GatedCrossAttentionFusion,
    "hierarchical_multi_to_one": HierarchicalMultiToOneFusion,
    "hierarchical_one_to_multi": HierarchicalOneToMultiFusion,
    "late_max": LateMaxFusion,
    "late_mean": LateMeanFusion,
    "late_product": LateProductFusion,
    "late_vote": LateVoteFusion,
    "late_weighted": LateWeightedFusion,
    "low_rank_tensor": LowRankTensorFusion,
    "mfb": MFBFusion,
    "mlb": MLBFusion,
    "mutan": MutanFusion,
    "pair": PairFusion,
    "product": ProductFusion,
    "sum": SumFusion,
    "ume": UMEFusion,
}
