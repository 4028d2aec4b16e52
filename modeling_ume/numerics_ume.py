"""Two rules of all sums over tokens: nothing behind a mask takes part, and none is less precise than float32."""

import torch
from torch import Tensor


def accumulate_in(dtype: torch.dtype) -> torch.dtype:
    """The type in which values of `dtype` are summed: float32, and float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def widen(x: Tensor) -> Tensor:
    """x in the type in which it is summed: half precision becomes float32, float64 stays what it is."""
    return x.to(accumulate_in(x.dtype))


def cut_off(x: Tensor, real: Tensor) -> Tensor:
    """
    Zero for what is not real, whatever stands there: NaN, ∞, 1e30. Its gradient there is zero, too.

    To multiply by the mask would not do: 0 · NaN is NaN.

    Args:
        x: [B, …].
        real: bool, of the first dimensions of x.
    """
    # Where nothing is hidden the copy is saved; other devices would have to be waited for.
    if real.device.type == "cpu" and not torch.compiler.is_compiling() and bool(real.all()):
        return x
    return x.masked_fill(~real.view(*real.shape, *[1] * (x.ndim - real.ndim)), 0.0)


def shares(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """mask [B, N] bool → what part each real token has in the mean of a row, [B, N]; zero for a row without any."""
    wide = accumulate_in(dtype)
    return (mask.to(wide) / mask.sum(1, keepdim=True).clamp(min=1)).to(dtype)
