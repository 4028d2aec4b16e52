"""Images: what an image encoder is given, and how its output becomes tokens on a grid."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from .streams_ume import check_ids, described


def image_inputs(encoder: PreTrainedModel, arguments: set[str], pixel_values: Tensor) -> dict:
    inputs = {"pixel_values": pixel_values}
    size = image_size(encoder.config)
    if size is not None and size != tuple(pixel_values.shape[-2:]) and "interpolate_pos_encoding" in arguments:
        inputs["interpolate_pos_encoding"] = True
    if "noise" in arguments:
        # Patches are sorted by their noise: ascending numbers leave them in place.
        (height, width), (rows, columns) = pixel_values.shape[-2:], _pair(encoder.config.patch_size)
        patches = (height // rows) * (width // columns)
        inputs["noise"] = torch.arange(patches, device=pixel_values.device).expand(pixel_values.shape[0], -1)
    return inputs


def image_tokens(config, outputs, image_size: tuple[int, int]) -> tuple[Tensor, int, tuple[int, int] | None]:
    """Returns tokens [U, N, D] with those that are not content first, their number, and the grid (H, W)."""
    states = outputs.last_hidden_state
    if states.ndim == 4:  # a feature map [U, C, H, W]
        pooled = outputs.get("pooler_output")
        if pooled is not None and states.shape[1] != pooled.flatten(1).shape[1] == states.shape[3]:
            states = states.permute(0, 3, 1, 2)  # it was [U, H, W, C], as timm's Swin gives it
        return states.flatten(2).transpose(1, 2), 0, tuple(states.shape[-2:])
    num_tokens = states.shape[1]
    # Detection tokens stand behind the patches (YOLOS); everything else that is not a patch stands before them.
    behind = getattr(config, "num_detection_tokens", 0)
    patch_size = getattr(config, "patch_stride", None) or getattr(config, "patch_size", None)
    grid = _find_grid(num_tokens - behind, image_size, _pair(patch_size))
    if grid is None:
        return states, 0, None
    num_special = num_tokens - math.prod(grid)
    if behind:
        before, patches, behind = states.split([num_special - behind, math.prod(grid), behind], dim=1)
        states = torch.cat([before, behind, patches], dim=1)
    return states, num_special, grid


def _find_grid(num_tokens: int, image_size: tuple[int, int], patch_size: tuple[int, int] | None):
    """The grid (H, W) that leaves the fewest of `num_tokens` over, or None where nothing comes close.

    It is that of the patches, which hierarchical encoders halve from stage to stage; where the config has none, or
    their grid does not fit, one of the image's aspect ratio.
    """
    of_patches = []
    if patch_size is not None:
        for up in (0, 1):  # some encoders cut what is left of a patch at the border, some pad it
            rows, columns = ((s + up * (p - 1)) // p for s, p in zip(image_size, patch_size, strict=True))
            while rows * columns > num_tokens and (rows > 1 or columns > 1):
                rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
            of_patches.append((rows, columns))
    height, width = image_size
    most_rows = math.isqrt(num_tokens * height // width) + 1
    of_its_shape = [(rows, round(rows * width / height)) for rows in range(1, most_rows + 1)]
    for grids in (of_patches, of_its_shape):
        fitting = [grid for grid in grids if max(num_tokens - MAX_SPECIAL_TOKENS, 1) <= math.prod(grid) <= num_tokens]
        if fitting:
            return max(fitting, key=math.prod)
    return None


def average_grid(states: Tensor, grid: tuple[int, int] | None, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Averages the last H·W of the tokens [U, N, D] over side × side cells; the tokens before them stay.

    Returns:
        The tokens [U, N − H·W + side², D] and their grid (side, side).

    Raises:
        ValueError: when the image has no grid, or a coarser one.
    """
    if grid is None or side > min(grid):
        has = "no grid of tokens" if grid is None else f"a grid of {grid[0]}×{grid[1]} tokens"
        raise ValueError(f"feature_grid={side} is impossible: the image encoder gives {has}.")
    num_special = states.shape[1] - math.prod(grid)
    cells = states[:, num_special:].transpose(1, 2).unflatten(2, grid)  # [U, D, H, W]
    cells = F.adaptive_avg_pool2d(cells, side).flatten(2).transpose(1, 2)  # [U, side², D]
    return torch.cat([states[:, :num_special], cells], dim=1), (side, side)


MAX_SPECIAL_TOKENS = 16  # class, distillation and register tokens of one image; no encoder has more


def image_size(config) -> tuple[int, int] | None:
    """The image size (height, width) that the encoder was made for, where its config says one."""
    size = getattr(config, "image_size", None)
    if size is None:
        size = (getattr(config, "pretrained_cfg", None) or {}).get("input_size")  # timm's: channels, height, width
    return _pair(size)


def _pair(size) -> tuple[int, int] | None:
    """A size as configs write it (a number, a pair, None) as (height, width)."""
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else tuple(size)[-2:]


def check_pixels(pixel_values: Tensor, channels: int, image_index: Tensor | None) -> None:
    """Raises ValueError for what are no images [images, channels, height, width], or no index [batch] into them."""
    if (
        not isinstance(pixel_values, Tensor)
        or not pixel_values.is_floating_point()
        or pixel_values.ndim != 4
        or pixel_values.shape[0] == 0
        or pixel_values.shape[1] != channels
    ):
        raise ValueError(
            f"pixel_values is {described(pixel_values)}: give floating-point numbers [images, {channels}, height, "
            "width] of one image or more, as the image processor makes them."
        )
    if image_index is not None:
        if not isinstance(image_index, Tensor) or image_index.ndim != 1:
            raise ValueError(f"image_index is {described(image_index)}: give [batch], an image a question.")
        check_ids("image_index", image_index, len(pixel_values), "the images")
