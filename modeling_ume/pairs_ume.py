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

import torch
from torch import Tensor

from .pairs_triton_ume import (
    fits_kernels,
    fused_mean,
    fused_mean_backward,
    fused_weighted_sum,
    fused_weighted_sum_backward,
)

# Two copies of this file may live in one process (the package, and the code of a checkpoint): each has its own.
_NAMESPACE = "ume_" + re.sub(r"\W", "_", __name__)

# Elements of one tile. On CPUs two tiles should stay in the cache and still outweigh the cost of a dozen calls; on
# accelerators a tile has to fill the device.
_TILE = {"cpu": 2**19, "other": 2**24}


def weighted_pair_sum(
    a: Tensor, b: Tensor, g: Tensor, h: Tensor, scorer: Tensor, first_mask: Tensor, second_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Pairs weighted by what they say: α_k = softmax_ij(u_k·c_ij) over the real pairs, z_k = Σ_ij α_kij c_ij.

    Args:
        a, g: [B, N_1, D].
        b, h: [B, N_2, D].
        scorer: u, [heads, D].
        first_mask, second_mask: [B, N_1] and [B, N_2] bool, True where a token is real; a row of the batch without a
            real pair gets z = 0 and α = 0.

    Returns:
        z [B, heads, D] in the dtype of `a`, and α [B, heads, N_1, N_2] in float32 (float64 for float64 input).
    """
    if torch.compiler.is_exporting():  # an exported graph holds torch's own operators only
        pairs = all_pairs(a, b, g, h).float()
        scores = torch.einsum("hd,bijd->bhij", scorer.float(), pairs)
        mask = (first_mask[:, :, None] & second_mask[:, None])[:, None]
        alpha = (scores.masked_fill(~mask, -1e30).flatten(2).softmax(-1) * mask.flatten(2)).unflatten(
            -1, scores.shape[2:]
        )
        return torch.einsum("bhij,bijd->bhd", alpha, pairs).to(a.dtype), alpha
    z, alpha = _weighted_sum(a, b, g, h, scorer, first_mask, second_mask)
    return z.to(a.dtype), alpha


def pair_mean(a: Tensor, b: Tensor, g: Tensor, h: Tensor, first_mask: Tensor, second_mask: Tensor) -> Tensor:
    """
    The mean of c_ij over the real pairs; arguments as in [`weighted_pair_sum`].

    Returns:
        [B, D] in the dtype of `a`, zero for a row of the batch without a real pair.
    """
    dtype = _accumulate_in(a.dtype)
    share = [mask.to(dtype) / mask.sum(1, keepdim=True).clamp(min=1) for mask in (first_mask, second_mask)]
    if torch.compiler.is_exporting():
        return torch.einsum("bi,bj,bijd->bd", *share, all_pairs(a, b, g, h).to(dtype)).to(a.dtype)
    return _mean(a, b, g, h, *share).to(a.dtype)


def all_pairs(a: Tensor, b: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """The pairs themselves, [B, N_1, N_2, D]: what the sums above avoid."""
    return torch.tanh(a[:, :, None] + b[:, None] + g[:, :, None] * h[:, None])


def _accumulate_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _tiles(batch_size: int, num_first: int, num_second: int, width: int, device: str) -> list[tuple[slice, slice]]:
    """Slices of the batch and of the first sequence: whole examples where several fit a tile, else rows of one."""
    size = _TILE.get(device, _TILE["other"])
    rows = min(num_first, max(1, size // (num_second * width)))
    examples = max(1, size // (num_first * num_second * width))
    return [
        (slice(start, min(start + examples, batch_size)), slice(row, min(row + rows, num_first)))
        for start in range(0, batch_size, examples)
        for row in range(0, num_first, rows)
    ]


def _memory(a: Tensor, b: Tensor, tiles: list[tuple[slice, slice]]) -> Tensor:
    """Room for one tile, used again for every tile: fresh memory for each would cost more than its arithmetic."""
    examples, rows = tiles[0]  # the first tile is the largest
    return a.new_empty((examples.stop - examples.start) * (rows.stop - rows.start) * b.shape[1] * b.shape[2])


def _like(memory: Tensor, examples: slice, rows: slice, b: Tensor) -> Tensor:
    shape = (examples.stop - examples.start, rows.stop - rows.start, *b.shape[1:])
    return memory[: math.prod(shape)].view(shape)


def _pairs(a: Tensor, b: Tensor, g: Tensor, h: Tensor, out: Tensor) -> Tensor:
    """c of one tile, [examples, rows, N_2, D], written into `out`."""
    torch.addcmul(b[:, None], g[:, :, None], h[:, None], out=out)
    return out.add_(a[:, :, None]).tanh_()


class _Gradients:
    """Gradients of a, b, g and h, gathered tile by tile."""

    def __init__(self, a: Tensor, b: Tensor, g: Tensor, h: Tensor):
        self.a, self.g = torch.empty_like(a), torch.empty_like(g)
        self.b, self.h = torch.zeros_like(b), torch.zeros_like(h)

    def add(self, grad: Tensor, pairs: Tensor, g: Tensor, h: Tensor, s: slice, r: slice) -> None:
        """grad: the gradient of the tile's pairs c; both `grad` and `pairs` are overwritten."""
        torch.ops.aten.tanh_backward.grad_input(grad, pairs, grad_input=grad)
        self.a[s, r] = grad.sum(2)
        self.b[s] += grad.sum(1)
        self.g[s, r] = torch.mul(grad, h[s, None], out=pairs).sum(2)
        self.h[s] += grad.mul_(g[s, r, None]).sum(1)


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
    z, alpha = _tiled_weighted_sum(*tokens, scorer, *masks)
    backward = (grad_z, grad_alpha, *tokens, scorer, *masks, alpha, z)
    tiled = (
        *(z, alpha, *_tiled_weighted_sum_backward(*backward)),
        *(_tiled_mean(*tokens, *shares), *_tiled_mean_backward(grad_z[:, 0], *tokens, *shares)),
    )
    tolerance = {torch.float32: 1e-3, torch.float16: 1e-2}.get(dtype, 5e-2)
    try:
        fused = (
            *(*fused_weighted_sum(*tokens, scorer, *masks), *fused_weighted_sum_backward(*backward)),
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
    a: Tensor, b: Tensor, g: Tensor, h: Tensor, scorer: Tensor, first_mask: Tensor, second_mask: Tensor
) -> tuple[Tensor, Tensor]:
    a, b, g, h, scorer = (x.to(_accumulate_in(a.dtype)) for x in (a, b, g, h, scorer))
    batch_size, num_first, width = a.shape
    tiles = _tiles(batch_size, num_first, b.shape[1], width, a.device.type)
    memory = _memory(a, b, tiles)
    z = a.new_zeros(batch_size, len(scorer), width)
    scores = a.new_empty(batch_size, len(scorer), num_first, b.shape[1])
    # A softmax in one pass over the pairs: sums are relative to the greatest score so far and rescaled when it grows.
    greatest = a.new_full((batch_size, len(scorer), 1), -torch.inf)
    total = torch.zeros_like(greatest)
    with torch.autocast(a.device.type, enabled=False):
        for s, r in tiles:
            pairs = _pairs(a[s, r], b[s], g[s, r], h[s], _like(memory, s, r, b))
            tile = torch.matmul(pairs, scorer.t()).permute(0, 3, 1, 2)  # [examples, heads, rows, N_2]
            mask = first_mask[s, r, None] & second_mask[s, None]
            tile = tile.masked_fill(~mask[:, None], -torch.inf)
            scores[s, :, r] = tile
            tile = tile.flatten(2)
            highest = torch.maximum(greatest[s], tile.amax(2, keepdim=True))
            shift = highest.clamp(min=torch.finfo(a.dtype).min)  # where nothing is real yet, −inf − −inf would be NaN
            rescale = torch.exp(greatest[s] - shift)
            tile = torch.exp(tile - shift)
            total[s] = total[s] * rescale + tile.sum(2, keepdim=True)
            z[s] = z[s] * rescale + torch.bmm(tile, pairs.flatten(1, 2))
            greatest[s] = highest
        total = total.masked_fill(total == 0, 1.0)  # a row without any real pair stays zero
        shift = greatest.clamp(min=torch.finfo(a.dtype).min)
        alpha = scores.sub_(shift[..., None]).exp_().div_(total[..., None])
        return z / total, alpha


@torch.library.custom_op(f"{_NAMESPACE}::weighted_sum", mutates_args=())
def _weighted_sum(
    a: Tensor, b: Tensor, g: Tensor, h: Tensor, scorer: Tensor, first_mask: Tensor, second_mask: Tensor
) -> tuple[Tensor, Tensor]:
    compute = fused_weighted_sum if _use_kernels(a, len(scorer)) else _tiled_weighted_sum
    return compute(a, b, g, h, scorer, first_mask, second_mask)


@_weighted_sum.register_fake
def _(a, b, g, h, scorer, first_mask, second_mask):
    dtype = _accumulate_in(a.dtype)
    z = a.new_empty(a.shape[0], scorer.shape[0], a.shape[2], dtype=dtype)
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
    alpha: Tensor,
    z: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtypes = [x.dtype for x in (a, b, g, h, scorer)]
    a, b, g, h, scorer = (x.to(alpha.dtype) for x in (a, b, g, h, scorer))
    tiles = _tiles(a.shape[0], a.shape[1], b.shape[1], a.shape[2], a.device.type)
    memory, grad_memory = _memory(a, b, tiles), _memory(a, b, tiles)
    grads = _Gradients(a, b, g, h)
    grad_scorer = torch.zeros_like(scorer)
    with torch.autocast(a.device.type, enabled=False):
        # Softmax: ds = α (dα' − Σ α dα'), where dα' = dz·c + dα, so that the sum is dz·z + Σ α dα without a pass.
        mean = (grad_z * z).sum(-1) + (alpha * grad_alpha).flatten(2).sum(-1)  # [B, heads]
        for s, r in tiles:
            pairs = _pairs(a[s, r], b[s], g[s, r], h[s], _like(memory, s, r, b))
            flat = pairs.flatten(1, 2)  # [examples, rows · N_2, D]
            weight = alpha[s, :, r].flatten(2).transpose(1, 2)  # [examples, rows · N_2, heads]
            grad_score = torch.bmm(flat, grad_z[s].transpose(1, 2))
            grad_score += grad_alpha[s, :, r].flatten(2).transpose(1, 2)
            grad_score = grad_score.sub_(mean[s, None]).mul_(weight)
            grad_scorer += torch.matmul(grad_score.flatten(0, 1).t(), flat.flatten(0, 1))
            # dc = Σ_k α_k dz_k + ds_k u_k, as one product.
            left = torch.cat([weight, grad_score], dim=2)
            right = torch.cat([grad_z[s], scorer.expand(len(flat), -1, -1)], dim=1)
            grad_pairs = _like(grad_memory, s, r, b)
            torch.bmm(left, right, out=grad_pairs.flatten(1, 2))
            grads.add(grad_pairs, pairs, g, h, s, r)
    results = (grads.a, grads.b, grads.g, grads.h, grad_scorer)
    return tuple(x.to(dtype) for x, dtype in zip(results, dtypes, strict=True))


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
    alpha: Tensor,
    z: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    compute = fused_weighted_sum_backward if _use_kernels(a, len(scorer)) else _tiled_weighted_sum_backward
    return compute(grad_z, grad_alpha, a, b, g, h, scorer, first_mask, second_mask, alpha, z)


@_weighted_sum_backward.register_fake
def _(grad_z, grad_alpha, a, b, g, h, scorer, first_mask, second_mask, alpha, z):
    return tuple(torch.empty_like(x) for x in (a, b, g, h, scorer))


def _save_for_weighted_sum(ctx, inputs, output):
    z, alpha = output
    ctx.save_for_backward(*inputs, alpha, z)


def _differentiate_weighted_sum(ctx, grad_z, grad_alpha):
    *inputs, alpha, z = ctx.saved_tensors
    grad_z = torch.zeros_like(z) if grad_z is None else grad_z.contiguous()
    grad_alpha = torch.zeros_like(alpha) if grad_alpha is None else grad_alpha
    return *_weighted_sum_backward(grad_z, grad_alpha, *inputs, alpha, z), None, None


_weighted_sum.register_autograd(_differentiate_weighted_sum, setup_context=_save_for_weighted_sum)


def _tiled_mean(a: Tensor, b: Tensor, g: Tensor, h: Tensor, first_share: Tensor, second_share: Tensor) -> Tensor:
    a, b, g, h = (x.to(first_share.dtype) for x in (a, b, g, h))
    tiles = _tiles(a.shape[0], a.shape[1], b.shape[1], a.shape[2], a.device.type)
    memory = _memory(a, b, tiles)
    z = a.new_zeros(a.shape[0], 1, a.shape[2])
    with torch.autocast(a.device.type, enabled=False):
        for s, r in tiles:
            pairs = _pairs(a[s, r], b[s], g[s, r], h[s], _like(memory, s, r, b))
            share = first_share[s, r, None] * second_share[s, None]  # [examples, rows, N_2]
            z[s] += torch.bmm(share.flatten(1)[:, None], pairs.flatten(1, 2))
    return z[:, 0]


@torch.library.custom_op(f"{_NAMESPACE}::mean", mutates_args=())
def _mean(a: Tensor, b: Tensor, g: Tensor, h: Tensor, first_share: Tensor, second_share: Tensor) -> Tensor:
    compute = fused_mean if _use_kernels(a) else _tiled_mean
    return compute(a, b, g, h, first_share, second_share)


@_mean.register_fake
def _(a, b, g, h, first_share, second_share):
    return a.new_empty(a.shape[0], a.shape[2], dtype=first_share.dtype)


def _tiled_mean_backward(
    grad_z: Tensor, a: Tensor, b: Tensor, g: Tensor, h: Tensor, first_share: Tensor, second_share: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtypes = [x.dtype for x in (a, b, g, h)]
    a, b, g, h = (x.to(first_share.dtype) for x in (a, b, g, h))
    tiles = _tiles(a.shape[0], a.shape[1], b.shape[1], a.shape[2], a.device.type)
    memory, grad_memory = _memory(a, b, tiles), _memory(a, b, tiles)
    grads = _Gradients(a, b, g, h)
    for s, r in tiles:
        pairs = _pairs(a[s, r], b[s], g[s, r], h[s], _like(memory, s, r, b))
        share = first_share[s, r, None] * second_share[s, None]
        grad_pairs = _like(grad_memory, s, r, b)
        torch.mul(share[..., None], grad_z[s, None, None], out=grad_pairs)
        grads.add(grad_pairs, pairs, g, h, s, r)
    return tuple(x.to(dtype) for x, dtype in zip((grads.a, grads.b, grads.g, grads.h), dtypes, strict=True))


@torch.library.custom_op(f"{_NAMESPACE}::mean_backward", mutates_args=())
def _mean_backward(
    grad_z: Tensor, a: Tensor, b: Tensor, g: Tensor, h: Tensor, first_share: Tensor, second_share: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    compute = fused_mean_backward if _use_kernels(a) else _tiled_mean_backward
    return compute(grad_z, a, b, g, h, first_share, second_share)


@_mean_backward.register_fake
def _(grad_z, a, b, g, h, first_share, second_share):
    return tuple(torch.empty_like(x) for x in (a, b, g, h))


def _save_for_mean(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate_mean(ctx, grad_z):
    return *_mean_backward(grad_z, *ctx.saved_tensors), None, None


_mean.register_autograd(_differentiate_mean, setup_context=_save_for_mean)
