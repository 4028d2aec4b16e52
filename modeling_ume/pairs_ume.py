"""Sums over all pairs c_ij = tanh(a_i + b_j + g_i ⊙ h_j) of two token sequences, never holding [B, N_1, N_2, D].

The pairs are formed a tile at a time, summed, and formed again in backward: extra memory is one tile beside
O(N_1 N_2 + (N_1 + N_2) D), and a tile that fits the cache is also faster than the whole. CUDA devices take the fused
kernels of pairs_triton_ume.py instead, where Triton is installed and the shapes fit. Both sums are registered as
operators, so that `torch.compile` sees one node and autograd one step.
"""

import functools
import math
import re
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from .numerics_ume import accumulate_in, cut_off, shares, widen
from .pairs_triton_ume import (
    fits_kernels,
    fused_mean,
    fused_mean_backward,
    fused_weighted_sum,
    fused_weighted_sum_backward,
)

# Two copies of this file may live in one process (the package, and the code of a checkpoint): each has its own.
_NAMESPACE = "ume_" + re.sub(r"\W", "_", __name__)

# Elements of one tile, and the fewest rows of one that holds part of an example. On CPUs two tiles should stay in the
# cache and still outweigh the cost of a dozen calls; on accelerators a tile has to fill the device.
_TILE = {"cpu": 2**20, "other": 2**24}
_ROWS = 16


def weighted_pair_sum(
    a: Tensor,
    b: Tensor,
    g: Tensor,
    h: Tensor,
    scorer: Tensor,
    first_mask: Tensor,
    second_mask: Tensor,
    index: Tensor | None = None,
    parts: bool = False,
) -> tuple[Tensor, Tensor]:
    """
    Pairs weighted by what they say: α_k = softmax_ij(u_k·c_ij) over the real pairs, z_k = Σ_ij α_kij c_ij.

    Args:
        a, g: [B, N_1, D].
        b, h: [B, N_2, D], or [U, N_2, D] with `index`.
        scorer: u, [heads, D].
        first_mask, second_mask: [B, N_1] and [B, N_2] bool, True where a token is real; a row of the batch without a
            real pair gets z = 0 and α = 0.
        index: [B], the row of b and h that each example has, where several share one; by default its own.
        parts: the channels are divided into as many equal parts as there are heads, and of z_k only part k is summed.

    Returns:
        z [B, heads, D] in the dtype of `a`, with `parts` [B, D]; and α [B, heads, N_1, N_2] in float32 (float64 for
        float64 input).
    """
    a, b, g, h = _real_pairs(a, b, g, h, first_mask, second_mask, index)
    if torch.compiler.is_exporting():  # an exported graph holds torch's own operators only
        b, h = _each(b, index), _each(h, index)
        pairs = widen(all_pairs(a, b, g, h))
        scores = torch.einsum("hd,bijd->bhij", scorer.to(pairs.dtype), pairs)
        mask = (first_mask[:, :, None] & second_mask[:, None])[:, None]
        alpha = (scores.masked_fill(~mask, -1e30).flatten(2).softmax(-1) * mask.flatten(2)).unflatten(
            -1, scores.shape[2:]
        )
        z = torch.einsum("bhij,bijd->bhd", alpha, pairs)
    elif a.device.type == "cpu":
        z, alpha = _weighted_sum(a, b, g, h, scorer, first_mask, second_mask, _rows(a, index), parts)
        return z.to(a.dtype), alpha
    else:  # the kernels know neither shared rows nor parts
        b, h = _each(b, index), _each(h, index)
        z, alpha = _weighted_sum(a, b, g, h, scorer, first_mask, second_mask, _rows(a, None), False)
    if parts:
        z = torch.cat([part[:, k] for k, part in enumerate(z.chunk(len(scorer), dim=-1))], dim=-1)
    return z.to(a.dtype), alpha


def pair_mean(
    a: Tensor,
    b: Tensor,
    g: Tensor,
    h: Tensor,
    first_mask: Tensor,
    second_mask: Tensor,
    index: Tensor | None = None,
) -> Tensor:
    """
    The mean of c_ij over the real pairs; arguments as in [`weighted_pair_sum`].

    Returns:
        [B, D] in the dtype of `a`, zero for a row of the batch without a real pair.
    """
    a, b, g, h = _real_pairs(a, b, g, h, first_mask, second_mask, index)
    dtype = accumulate_in(a.dtype)
    share = [shares(mask, dtype) for mask in (first_mask, second_mask)]
    if torch.compiler.is_exporting():
        pairs = all_pairs(a, _each(b, index), g, _each(h, index))
        return torch.einsum("bi,bj,bijd->bd", *share, pairs.to(dtype)).to(a.dtype)
    if a.device.type != "cpu":
        b, h, index = _each(b, index), _each(h, index), None
    return _mean(a, b, g, h, *share, _rows(a, index)).to(a.dtype)


def all_pairs(a: Tensor, b: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """The pairs themselves, [B, N_1, N_2, D]: what the sums above avoid."""
    return torch.tanh(a[:, :, None] + b[:, None] + g[:, :, None] * h[:, None])


def _each(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(0, index)


def _rows(a: Tensor, index: Tensor | None) -> Tensor:
    return torch.arange(a.shape[0], device=a.device) if index is None else index


def _real_pairs(
    a: Tensor, b: Tensor, g: Tensor, h: Tensor, first_mask: Tensor, second_mask: Tensor, index: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The tokens with zeros for those that are in no real pair; all ways to sum take what they are given."""
    if index is not None:  # a row that several examples share holds what any of them has
        counts = torch.zeros(b.shape[:2], device=b.device).index_add(0, index, second_mask.to(torch.float32))
        second_mask = counts > 0
    return cut_off(a, first_mask), cut_off(b, second_mask), cut_off(g, first_mask), cut_off(h, second_mask)


class _Tiles:
    """The pairs of two sequences, a tile of examples, rows and columns at a time.

    A tile holds σ = sigmoid(2x), of which c = tanh(x) = 2σ − 1 follows: torch takes a third of tanh's time for it on
    CPUs, and sums of c are sums of σ, doubled and shifted. Examples are kept in order of their length, so that most
    padding is left out with the tile's last rows and columns. The rows of b and h stay where they are: a tile fetches
    those that its examples have, which may be one for all.
    """

    def __init__(self, tokens: tuple[Tensor, ...], masks: tuple[Tensor, Tensor], index: Tensor, dtype: torch.dtype):
        """tokens: a, b, g, h; masks: of the two sequences, an entry that is not zero marks a real token; index: the
        row of b and h of each example."""
        lengths = [((mask != 0) * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1) for mask in masks]
        order = (lengths[0] * lengths[1]).argsort(stable=True)
        self.order = None if torch.equal(order, torch.arange(len(order), device=order.device)) else order
        self.masks = [self.sort(mask) for mask in masks]
        a, b, g, h = tokens
        self.a, self.g = (2 * self.sort(x).to(dtype) for x in (a, g))
        self.b, self.h = 2 * b.to(dtype), h.to(dtype)
        index = self.sort(index)
        in_place = len(index) == len(b) and torch.equal(index, torch.arange(len(b), device=index.device))
        self.index = None if in_place else index
        self.width = self.h.shape[2]
        first, second = (self.sort(length).tolist() for length in lengths)
        self.slices = _slices(first, second, self.width, _TILE.get(self.h.device.type, _TILE["other"]))
        self._memory: list[Tensor] = []

    def sort(self, x: Tensor) -> Tensor:
        return x if self.order is None else x[self.order]

    def unsort(self, x: Tensor) -> Tensor:
        return x if self.order is None else torch.empty_like(x).index_copy_(0, self.order, x)

    def fetch(self, x: Tensor, s: slice, c: slice) -> Tensor:
        """The columns c of a tensor like b and h, for the examples s."""
        return x[s, c] if self.index is None else x[:, c].index_select(0, self.index[s])

    def add_to(self, x: Tensor, s: slice, c: slice, values: Tensor) -> None:
        """Adds `values` to what `fetch` takes."""
        if self.index is None:
            x[s, c] += values
        else:
            x[:, c].index_add_(0, self.index[s], values)

    def room(self, which: int, shape: tuple[int, ...]) -> Tensor:
        """The same memory for every tile: fresh memory for each would cost more than its arithmetic."""
        if len(self._memory) <= which:
            sizes = [(s.stop - s.start) * (r.stop - r.start) * (c.stop - c.start) for s, r, c in self.slices]
            self._memory.append(self.h.new_empty(max(sizes) * self.width))
        return self._memory[which][: math.prod(shape)].view(shape)

    def __iter__(self) -> Iterator[tuple[slice, slice, slice, Tensor, Tensor]]:
        """Examples, rows and columns of each tile, its σ [examples, rows, columns, D], free to be overwritten, and its
        h [examples, columns, D]."""
        for s, r, c in self.slices:
            out = self.room(0, (s.stop - s.start, r.stop - r.start, c.stop - c.start, self.width))
            b, h = self.fetch(self.b, s, c), self.fetch(self.h, s, c)
            torch.addcmul(b[:, None], self.g[s, r, None], h[:, None], out=out)
            yield s, r, c, out.add_(self.a[s, r, None]).sigmoid_(), h


def _slices(
    first_lengths: list[int], second_lengths: list[int], width: int, size: int
) -> list[tuple[slice, slice, slice]]:
    """Tiles of at most `size` elements: whole examples of about the same length where they fit, else parts of one."""
    slices, start = [], 0
    while start < len(first_lengths):
        rows, columns, stop = first_lengths[start], second_lengths[start], start + 1
        real = rows * columns
        while stop < len(first_lengths):
            wider = max(rows, first_lengths[stop]), max(columns, second_lengths[stop])
            pairs = (stop + 1 - start) * math.prod(wider)
            real += first_lengths[stop] * second_lengths[stop]
            # Beyond a sixteenth of a tile, padding costs more than the calls for another tile.
            if pairs * width > size or (pairs - real) * width > size // 16:
                break
            (rows, columns), stop = wider, stop + 1
        if stop - start > 1 or rows * columns * width <= size:
            across, down = rows, columns
        else:  # with few rows, adding up the gradients of the columns would be a large part of the work
            across = min(rows, max(_ROWS, size // (columns * width)))
            down = max(1, size // (across * width))
        for row in range(0, rows, across or 1):
            for column in range(0, columns, down or 1):
                ends = min(row + across, rows), min(column + down, columns)
                slices.append((slice(start, stop), slice(row, ends[0]), slice(column, ends[1])))
        start = stop
    return slices


class _Gradients:
    """Gradients of a, b, g and h, gathered tile by tile."""

    def __init__(self, tiles: _Tiles):
        self.tiles = tiles
        self.a, self.b, self.g, self.h = (torch.zeros_like(x) for x in (tiles.a, tiles.b, tiles.g, tiles.h))

    def add(self, grad: Tensor, sigma: Tensor, h: Tensor, s: slice, r: slice, c: slice) -> None:
        """grad: four times the gradient of c, since dc/dx = 4σ(1 − σ); `grad` and `sigma` are overwritten."""
        torch.ops.aten.sigmoid_backward.grad_input(grad, sigma, grad_input=grad)
        self.a[s, r] += grad.sum(2)
        self.tiles.add_to(self.b, s, c, grad.sum(1))
        self.g[s, r] += torch.mul(grad, h[:, None], out=sigma).sum(2)
        self.tiles.add_to(self.h, s, c, grad.mul_(self.tiles.g[s, r, None]).sum(1))

    def of(self, dtypes: list[torch.dtype]) -> list[Tensor]:
        a, g = self.tiles.unsort(self.a), self.tiles.unsort(self.g)
        grads = (a, self.b, g, self.h.mul_(0.5))  # the tiles' g is 2g
        return [grad.to(dtype) for grad, dtype in zip(grads, dtypes, strict=True)]


def _use_kernels(a: Tensor, num_heads: int = 1) -> bool:
    return fits_kernels(a, num_heads) and _kernels_agree(a.device, a.dtype, num_heads, a.shape[2])


@functools.cache
def _kernels_agree(device: torch.device, dtype: torch.dtype, num_heads: int, width: int) -> bool:
    """Whether the kernels, compiled for this device, dtype and width, give what the tiles give, on a few pairs.

    Kernels are written for devices and compilers that their author never saw. What they say is therefore compared
    once a process before it is believed; where it differs, or they do not compile, a warning says so and the tiles
    are used.
    """
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    a, g, b, h = randn(2, 5, width), randn(2, 5, width), randn(2, 40, width), randn(2, 40, width)
    scorer = randn(num_heads, width) / width**0.5
    first_mask, second_mask = (torch.ones(2, n, dtype=torch.bool, device=device) for n in (5, 40))
    first_mask[0, 3:], second_mask[1, :7] = False, False
    tokens, masks = (a, b, g, h), (first_mask, second_mask)
    shares = [mask / mask.sum(1, keepdim=True) for mask in masks]
    grad_z, grad_alpha = (
        randn(2, num_heads, width, dtype=torch.float32),
        randn(2, num_heads, 5, 40, dtype=torch.float32),
    )
    own = _rows(a, None)
    z, alpha = _tiled_weighted_sum(*tokens, scorer, *masks, own, False)
    backward = (grad_z, grad_alpha, *tokens, scorer, *masks)
    tiled = (
        *(z, alpha, *_tiled_weighted_sum_backward(*backward, own, False, alpha, z)),
        *(_tiled_mean(*tokens, *shares, own), *_tiled_mean_backward(grad_z[:, 0], *tokens, *shares, own)),
    )
    tolerance = {torch.float32: 1e-3, torch.float16: 1e-2}.get(dtype, 5e-2)
    try:
        fused = (
            *(*fused_weighted_sum(*tokens, scorer, *masks), *fused_weighted_sum_backward(*backward, alpha, z)),
            *(fused_mean(*tokens, *shares), *fused_mean_backward(grad_z[:, 0], *tokens, *shares)),
        )
        pairs = zip(fused, tiled, strict=True)
        errors = [float((x.float() - y.float()).abs().max() / y.float().abs().max()) for x, y in pairs]
        if all(error <= tolerance for error in errors):  # NaN is not
            return True
        reason = f"they differ from the reference by {errors} of its largest numbers"
    except Exception as failure:  # compilers raise what they like
        reason = f"they failed with {type(failure).__name__}: {failure}"
    warnings.warn(
        f"The fused kernels for pairs of tokens are not used on {device} with {dtype}: {reason}. The slower tiles are "
        "used in their place, with the right result. Please report this.",
        stacklevel=2,
    )
    return False


def _tiled_weighted_sum(
    a: Tensor,
    b: Tensor,
    g: Tensor,
    h: Tensor,
    scorer: Tensor,
    first_mask: Tensor,
    second_mask: Tensor,
    index: Tensor,
    parts: bool,
) -> tuple[Tensor, Tensor]:
    dtype, heads = accumulate_in(a.dtype), len(scorer)
    with torch.autocast(a.device.type, enabled=False):
        tiles = _Tiles((a, b, g, h), (first_mask, second_mask), index, dtype)
        # u·c = 2u·σ − Σu, whose last term no softmax sees.
        doubled = 2 * scorer.to(dtype)
        z = a.new_zeros(a.shape[0], heads, a.shape[2] // heads if parts else a.shape[2], dtype=dtype)
        scores = z.new_full((a.shape[0], heads, a.shape[1], b.shape[1]), -torch.inf)
        # A softmax in one pass over the pairs: sums are relative to the greatest score so far, rescaled when it grows.
        greatest = z.new_full((a.shape[0], heads, 1), -torch.inf)
        total = torch.zeros_like(greatest)
        for s, r, c, sigma, _ in tiles:
            flat = sigma.flatten(1, 2)  # [examples, rows · columns, D]
            tile = torch.bmm(doubled.expand(len(flat), -1, -1), flat.transpose(1, 2))
            unreal = ~(tiles.masks[0][s, r, None] & tiles.masks[1][s, None, c])
            tile = tile.masked_fill_(unreal.flatten(1)[:, None], -torch.inf)  # [examples, heads, rows · columns]
            scores[s, :, r, c] = tile.unflatten(2, sigma.shape[1:3])
            highest = torch.maximum(greatest[s], tile.amax(2, keepdim=True))
            shift = highest.clamp(min=torch.finfo(dtype).min)  # where nothing is real yet, −inf − −inf would be NaN
            rescale = torch.exp(greatest[s] - shift)
            tile = tile.sub_(shift).exp_()
            total[s] = total[s] * rescale + tile.sum(2, keepdim=True)
            if parts:
                sums = [torch.bmm(tile[:, k, None], part) for k, part in enumerate(flat.chunk(heads, dim=2))]
                sums = torch.cat(sums, dim=1)
            else:
                sums = torch.bmm(tile, flat)
            z[s] = z[s] * rescale + sums
            greatest[s] = highest
        has_pairs = total > 0
        total = total.masked_fill(~has_pairs, 1.0)  # a row without any real pair stays zero
        shift = greatest.clamp(min=torch.finfo(dtype).min)
        alpha = scores.sub_(shift[..., None]).exp_().div_(total[..., None])
        z = 2 * (z / total) - has_pairs.to(dtype)
        return tiles.unsort(z.flatten(1) if parts else z), tiles.unsort(alpha)


@torch.library.custom_op(f"{_NAMESPACE}::weighted_sum", mutates_args=())
def _weighted_sum(
    a: Tensor,
    b: Tensor,
    g: Tensor,
    h: Tensor,
    scorer: Tensor,
    first_mask: Tensor,
    second_mask: Tensor,
    index: Tensor,
    parts: bool,
) -> tuple[Tensor, Tensor]:
    if _use_kernels(a, len(scorer)):
        return fused_weighted_sum(a, b, g, h, scorer, first_mask, second_mask)
    return _tiled_weighted_sum(a, b, g, h, scorer, first_mask, second_mask, index, parts)


@_weighted_sum.register_fake
def _(a, b, g, h, scorer, first_mask, second_mask, index, parts):
    dtype = accumulate_in(a.dtype)
    z = a.new_empty((a.shape[0], *([] if parts else [scorer.shape[0]]), a.shape[2]), dtype=dtype)
    return z, a.new_empty(a.shape[0], scorer.shape[0], a.shape[1], b.shape[1], dtype=dtype)


def _tiled_weighted_sum_backward(
    grad_z: Tensor,
    grad_alpha: Tensor,
    a: Tensor,
    b: Tensor,
    g: Tensor,
    h: Tensor,
    scorer: Tensor,
    first_mask: Tensor,
    second_mask: Tensor,
    index: Tensor,
    parts: bool,
    alpha: Tensor,
    z: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype, heads = alpha.dtype, len(scorer)
    with torch.autocast(a.device.type, enabled=False):
        tiles = _Tiles((a, b, g, h), (first_mask, second_mask), index, dtype)
        grads = _Gradients(tiles)
        if parts:
            grad_z, z = (x.unflatten(1, (heads, -1)) for x in (grad_z, z))
        # Softmax: ds = α (dα' − Σ α dα'), where dα' = dz·c + dα, so that the sum is dz·z + Σ α dα without a pass.
        mean = (grad_z * z).sum(-1) + (alpha * grad_alpha).flatten(2).sum(-1)  # [B, heads]
        mean, alpha, grad_alpha, grad_z = (tiles.sort(x) for x in (mean, alpha, grad_alpha, grad_z))
        grad_alpha = grad_alpha - (mean + grad_z.sum(-1))[..., None, None]  # dz·c = 2 dz·σ − Σ dz
        doubled, scorer_in = 2 * grad_z, scorer.to(dtype)
        # 4 dc = 4 Σ_k α_k dz_k + ds_k u_k, as one product: of [B, 2 · heads, D] with α and ds.
        if parts:  # dz_k is zero outside its part
            grad_z = (torch.eye(heads, dtype=dtype, device=a.device)[:, :, None] * grad_z[:, None]).flatten(2)
        directions = 4 * torch.cat([grad_z, scorer_in.expand(len(a), -1, -1)], dim=1)
        grad_scorer, grad_sum = torch.zeros_like(scorer_in), scorer_in.new_zeros(heads, 1)
        for s, r, c, sigma, h_tile in tiles:
            flat = sigma.flatten(1, 2)  # [examples, rows · columns, D]
            weights = flat.new_empty(len(flat), 2 * heads, flat.shape[1])
            weight, grad_score = weights.chunk(2, dim=1)  # [examples, heads, rows · columns]
            weight.copy_(alpha[s, :, r, c].flatten(2))
            if parts:
                for k, part in enumerate(flat.chunk(heads, dim=2)):
                    grad_score[:, k, None] = torch.bmm(doubled[s, k, None], part.transpose(1, 2))
            else:
                grad_score.copy_(torch.bmm(doubled[s], flat.transpose(1, 2)))
            grad_score.add_(grad_alpha[s, :, r, c].flatten(2)).mul_(weight)
            grad_scorer += torch.bmm(grad_score, flat).sum(0)
            grad_sum += grad_score.sum((0, 2))[:, None]
            grad = tiles.room(1, sigma.shape)
            torch.bmm(weights.transpose(1, 2).contiguous(), directions[s], out=grad.flatten(1, 2))
            grads.add(grad, sigma, h_tile, s, r, c)
        grad_scorer = 2 * grad_scorer - grad_sum  # Σ ds c
        return *grads.of([x.dtype for x in (a, b, g, h)]), grad_scorer.to(scorer.dtype)


@torch.library.custom_op(f"{_NAMESPACE}::weighted_sum_backward", mutates_args=())
def _weighted_sum_backward(
    grad_z: Tensor,
    grad_alpha: Tensor,
    a: Tensor,
    b: Tensor,
    g: Tensor,
    h: Tensor,
    scorer: Tensor,
    first_mask: Tensor,
    second_mask: Tensor,
    index: Tensor,
    parts: bool,
    alpha: Tensor,
    z: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = grad_z, grad_alpha, a, b, g, h, scorer, first_mask, second_mask
    if _use_kernels(a, len(scorer)):
        return fused_weighted_sum_backward(*inputs, alpha, z)
    return _tiled_weighted_sum_backward(*inputs, index, parts, alpha, z)


@_weighted_sum_backward.register_fake
def _(grad_z, grad_alpha, a, b, g, h, scorer, first_mask, second_mask, index, parts, alpha, z):
    return tuple(torch.empty_like(x) for x in (a, b, g, h, scorer))


def _save_for_weighted_sum(ctx, inputs, output):
    *tensors, ctx.parts = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate_weighted_sum(ctx, grad_z, grad_alpha):
    *inputs, z, alpha = ctx.saved_tensors
    grad_z = torch.zeros_like(z) if grad_z is None else grad_z.contiguous()
    grad_alpha = torch.zeros_like(alpha) if grad_alpha is None else grad_alpha
    grads = _weighted_sum_backward(grad_z, grad_alpha, *inputs, ctx.parts, alpha, z)
    return *grads, None, None, None, None


_weighted_sum.register_autograd(_differentiate_weighted_sum, setup_context=_save_for_weighted_sum)


def _tiled_mean(
    a: Tensor, b: Tensor, g: Tensor, h: Tensor, first_share: Tensor, second_share: Tensor, index: Tensor
) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):
        tiles = _Tiles((a, b, g, h), (first_share, second_share), index, first_share.dtype)
        z = first_share.new_zeros(a.shape[0], 1, a.shape[2])
        for s, r, c, sigma, _ in tiles:
            share = tiles.masks[0][s, r, None] * tiles.masks[1][s, None, c]  # [examples, rows, columns]
            z[s] += torch.bmm(share.flatten(1)[:, None], sigma.flatten(1, 2))
        # The shares sum to 1, or to 0 in a row without a real pair.
        return 2 * tiles.unsort(z[:, 0]) - first_share.sum(1, keepdim=True) * second_share.sum(1, keepdim=True)


@torch.library.custom_op(f"{_NAMESPACE}::mean", mutates_args=())
def _mean(
    a: Tensor, b: Tensor, g: Tensor, h: Tensor, first_share: Tensor, second_share: Tensor, index: Tensor
) -> Tensor:
    if _use_kernels(a):
        return fused_mean(a, b, g, h, first_share, second_share)
    return _tiled_mean(a, b, g, h, first_share, second_share, index)


@_mean.register_fake
def _(a, b, g, h, first_share, second_share, index):
    return a.new_empty(a.shape[0], a.shape[2], dtype=first_share.dtype)


def _tiled_mean_backward(
    grad_z: Tensor,
    a: Tensor,
    b: Tensor,
    g: Tensor,
    h: Tensor,
    first_share: Tensor,
    second_share: Tensor,
    index: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(a.device.type, enabled=False):
        tiles = _Tiles((a, b, g, h), (first_share, second_share), index, first_share.dtype)
        grads, grad_z = _Gradients(tiles), 4 * tiles.sort(grad_z)
        for s, r, c, sigma, h_tile in tiles:
            share = tiles.masks[0][s, r, None] * tiles.masks[1][s, None, c]
            grad = torch.mul(share[..., None], grad_z[s, None, None], out=tiles.room(1, sigma.shape))
            grads.add(grad, sigma, h_tile, s, r, c)
        return tuple(grads.of([x.dtype for x in (a, b, g, h)]))


@torch.library.custom_op(f"{_NAMESPACE}::mean_backward", mutates_args=())
def _mean_backward(
    grad_z: Tensor,
    a: Tensor,
    b: Tensor,
    g: Tensor,
    h: Tensor,
    first_share: Tensor,
    second_share: Tensor,
    index: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if _use_kernels(a):
        return fused_mean_backward(grad_z, a, b, g, h, first_share, second_share)
    return _tiled_mean_backward(grad_z, a, b, g, h, first_share, second_share, index)


@_mean_backward.register_fake
def _(grad_z, a, b, g, h, first_share, second_share, index):
    return tuple(torch.empty_like(x) for x in (a, b, g, h))


def _save_for_mean(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate_mean(ctx, grad_z):
    return *_mean_backward(grad_z, *ctx.saved_tensors), None, None, None


_mean.register_autograd(_differentiate_mean, setup_context=_save_for_mean)
