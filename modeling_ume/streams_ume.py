"""A `Stream` is what one modality says to a fusion head; here is what is done with streams whatever they hold.

Masks say which tokens are real, presence says which rows have the modality at all: sums, means and softmaxes run over
real tokens and present modalities only.
"""

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from .numerics_ume import cut_off, shares, widen


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
        modality: the key in `MODALITIES` of what it holds. Of a stream that was made without one, which heads of users
            and earlier releases do, it is an image's where there is a grid, and a text's otherwise.
    """

    states: Tensor
    mask: Tensor
    pooled: Tensor
    present: Tensor
    grid: tuple[int, int] | None = None
    distinct: "Stream | None" = None
    index: Tensor | None = None
    modality: str | None = None

    def __post_init__(self):
        if self.modality is None:
            self.modality = "text" if self.grid is None else "vision"

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
        fewer: [B, K, D], what `fused` would be without some of the modalities that an example has, where a head wants
            that to give no better answers: the loss of such a view then has a term max(0, its own − that of fewer).
        fewer_present: [B] bool, which examples have such a comparison.
    """

    fused: Tensor
    weights: dict[str, Tensor] = field(default_factory=dict)
    present: Tensor | None = None
    log_shares: Tensor | None = None
    fewer: Tensor | None = None
    fewer_present: Tensor | None = None


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension where `mask` is True, at least in float32; a row without True is all zero."""
    scores = widen(scores).masked_fill(~mask, -torch.inf)
    # A row that is -inf throughout would give NaN, in backward too.
    scores = torch.where(mask.any(-1, keepdim=True), scores, 0.0)
    return scores.softmax(-1) * mask


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over tokens [B, N, D] → [B, D] where `mask` [B, N] is True; zero for a row without any."""
    return torch.einsum("bn,bnd->bd", shares(mask, states.dtype), cut_off(states, mask))


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


def heard(streams: list[Stream]) -> Tensor:
    """[B, K] bool: which modalities have a say: those that are present, and where none is, the stand-ins of all."""
    present = presence(streams)
    return present | ~present.any(1, keepdim=True)


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
        stream.modality,
    )


def described(value) -> str:
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def check_shape(name: str, value: Tensor | None, shape: tuple, what: str) -> None:
    if value is not None and (not isinstance(value, Tensor) or value.shape != shape):
        raise ValueError(f"{name} is {described(value)}: give {what}, {list(shape)}.")


def check_ids(name: str, ids: Tensor, number: int | None, what: str) -> None:
    """Raises ValueError for what is no index into `number` things; on a GPU, which would have to be waited for, only
    for a wrong type."""
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} is {described(ids)}: give whole numbers (torch.long).")
    if number is not None and ids.device.type == "cpu" and ids.numel():
        least, most = (int(bound) for bound in ids.aminmax())
        if least < 0 or most >= number:
            raise ValueError(
                f"{name} holds {least if least < 0 else most}, but {what} are numbered 0 to {number - 1}: do they "
                "belong together?"
            )


def drop_modality(streams: list[Stream], rate: float) -> None:
    """Takes one modality, evenly chosen, from each example that has two or more, with probability `rate`, as if
    absent."""
    here = presence(streams)  # [B, K]
    count = here.sum(1)
    draw = torch.rand(len(count), device=here.device)
    # Of two, the first goes at the lower end of [0, 1) and the second at the upper, as in earlier releases; the ends
    # never meet, as rate < 1.
    shifted = (draw + rate / 2) % 1.0
    which = count - 1 - (shifted * count / rate).long().clamp(max=count - 1)  # the how-manieth of those it has
    goes = (count > 1) & (shifted < rate)
    order = here.long().cumsum(1) - 1  # [B, K]
    for k, stream in enumerate(streams):
        stream.present = stream.present & ~(goes & here[:, k] & (order[:, k] == which))


def drop_each(streams: list[Stream], rates: dict[str, float]) -> None:
    """Takes each modality from each example with its own probability of `rates`, as if absent, but never the last: of
    an example that would lose all it has, one that is evenly chosen stays."""
    here = presence(streams)  # [B, K]
    rate = torch.tensor([rates.get(stream.modality, 0.0) for stream in streams], device=here.device)
    draw = torch.rand(here.shape, device=here.device)
    goes = here & (draw < rate)
    # Draws that all fell below their rates are even in [0, 1) as parts of these: the greatest is an even choice.
    part = (draw / rate.clamp(min=torch.finfo(rate.dtype).tiny)).masked_fill(~here, -1.0)
    last = part == part.amax(1, keepdim=True)
    goes = goes & ~(last & ~(here & ~goes).any(1, keepdim=True))
    for stream, gone in zip(streams, goes.unbind(1), strict=True):
        stream.present = stream.present & ~gone


def check_modality_dropout(value, modalities: list[str]) -> None:
    """
    Args:
        value: a number, or a dict of numbers by the keys of modalities.

    Raises:
        ValueError: for a number outside [0, 1), and a modality that the model has not.
    """
    for name, rate in value.items() if isinstance(value, dict) else [(None, value)]:
        if name is not None and name not in modalities:
            raise ValueError(
                f"modality_dropout names {name!r}, which is no modality of this model: it has {', '.join(modalities)}."
            )
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            field = "modality_dropout" if name is None else f"modality_dropout[{name!r}]"
            raise ValueError(f"{field}={rate!r} is impossible: a dropout lies in [0, 1).")


def select_rows(rows: Stream, index: Tensor | None) -> Stream:
    """Gives each example its row: a stream of U distinct ones and index [B] → a stream of B rows; None: it is that."""
    if index is None:
        return rows
    index = index.to(rows.states.device)  # of a model that is spread over several
    own = [take(x, index) for x in (rows.states, rows.mask, rows.pooled, rows.present)]
    return Stream(*own, rows.grid, distinct=rows, index=index, modality=rows.modality)


def looked_at(rows: Tensor, index: Tensor | None, present: Tensor) -> Tensor:
    """[U] bool: which of the rows any example has. Without `index` each example has its own."""
    if index is None:
        return present.bool()
    return torch.zeros(rows.shape[0], device=rows.device).index_add(0, index, present.float()) > 0
