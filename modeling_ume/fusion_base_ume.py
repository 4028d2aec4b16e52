"""What every fusion head is made of: projections to a common width, and the class that heads inherit.

A head takes `Stream`s, two or more in any order, and returns a `FusionOutput`; a padded token or an absent modality
never changes what it returns.
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .streams_ume import FusionOutput, Stream, cut_off_masked, heard, is_present, take


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

    def forward(self, streams: list[Stream], part: str | list[str]) -> list[tuple[Tensor, Tensor | None]]:
        """Each stream's `part` (`"states"` or `"pooled"`, for all or one each) at the common width, and the
        row that each example has."""
        projected, parts = [], [part] * len(streams) if isinstance(part, str) else part
        rows = zip(streams, parts, self.streams, self.absent, strict=True)
        for m, (stream, part, project, absent) in enumerate(rows):
            if part == "pooled" and str(m) in self.pooled_streams:
                project = self.pooled_streams[str(m)]
            projected.append(self._project(stream, part, project, absent))
        return projected

    def tokens(self, streams: list[Stream], part: str | list[str] = "states") -> list[tuple[Tensor, Tensor]]:
        """For each stream its tokens [B, N_m, D], or the `part` named, and their mask [B, N_m]; every row has at least
        one True."""
        return [(take(tokens, index), mask) for tokens, mask, index in self.distinct_tokens(streams, part)]

    def distinct_tokens(
        self, streams: list[Stream], part: str | list[str] = "states"
    ) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """As `tokens`, each shared image once: tokens [U, N_m, D], their mask [B, N_m], and the row each example has,
        [B] (None: its own)."""
        projected = []
        # By a call of the module, here and below: offloaded weights are there only while its forward runs.
        for stream, (tokens, index) in zip(streams, self(streams, part), strict=True):
            first = torch.arange(stream.mask.shape[1], device=tokens.device) == 0
            present = is_present(stream)[:, None]
            # Not torch.where: onnxruntime has none for truth values.
            projected.append((tokens, (stream.mask & present) | (first & ~present), index))
        return projected

    def heard_tokens(self, streams: list[Stream]) -> tuple[list[Tensor], list[Tensor]]:
        """The streams' tokens, [B, N_m, D] each, and which of them have a say, [B, N_m] each (see `heard`)."""
        tokens, masks = zip(*self.tokens(streams), strict=True)
        return list(tokens), [mask & here[:, None] for mask, here in zip(masks, heard(streams).unbind(1), strict=True)]

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
        pair_sets: which pairs of tokens the head can be of (`fusion_pairs`), where it is one of pairs.
        trains_views: the loss is the mean of the views' own losses instead of the loss of what they say together.
    """

    source = ""
    cost = ""
    default_num_heads = 1
    default_rank: int | None = None
    num_views = 1
    reads_in_encoder = False
    pair_sets: tuple[str, ...] = ("cross",)
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
