"""Whether a map of where a model looked is right: does it lie on what was asked about, and does the answer hang on it?

`mass_in_box` needs a box that is known to hold it, such as easy-VQA's one shape; `masking_curves` nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.tasks_ume import PROBLEM_TYPES

PATCHES = 8  # a side: the patches that are masked
STEPS = 16  # from the whole image to none of it


def shape_box(image: Image.Image, difference: int = 30) -> tuple[int, int, int, int]:
    """
    The box (left, top, right, bottom), in pixels, of what differs from the most common colour of a plain drawing.

    Args:
        difference (`int`): by how much, of 255, in some channel.

    Raises:
        ValueError: when nothing does.
    """
    pixels = np.asarray(image.convert("RGB")).astype(int)
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    rows, columns = np.nonzero(np.abs(pixels - colours[counts.argmax()]).max(-1) > difference)
    if not len(rows):
        raise ValueError("The image has one colour throughout: there is no shape to draw a box around.")
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def mass_in_box(cells: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]) -> float | None:
    """
    What share of a map's positive mass lies in a box; each cell's mass is spread evenly over the cell.

    Args:
        cells: [h, w], of any sign.
        box: left, top, right, bottom, in pixels of an image of `size` (width, height).

    Returns:
        0 … 1; a map that is the same everywhere gives the box's share of the area. None for a map without positive
        mass.
    """
    positive = cells.clip(0)
    if positive.sum() == 0:
        return None

    def covered(count: int, low: int, high: int, length: int) -> np.ndarray:
        """[count]: what part of each of `count` equal cells of `length` pixels lies between `low` and `high`."""
        edges = np.linspace(0, length, count + 1)
        return (np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)).clip(0) * count / length

    left, top, right, bottom = box
    rows = covered(cells.shape[0], top, bottom, size[1])
    columns = covered(cells.shape[1], left, right, size[0])
    return float(rows @ positive @ columns / positive.sum())


def patch_order(cells: np.ndarray, generator: torch.Generator) -> Tensor:
    """The 8 × 8 patches of an image, [64], those where the map [h, w] is highest first; equals in random order."""
    height = F.interpolate(torch.as_tensor(cells, dtype=torch.float32)[None, None], scale_factor=PATCHES)
    height = F.adaptive_avg_pool2d(height, PATCHES).flatten()  # exact for cells of any number
    shuffled = torch.randperm(PATCHES**2, generator=generator)
    return shuffled[height[shuffled].argsort(descending=True, stable=True)]


@torch.no_grad()
def masking_curves(
    model: UMEForVisualQuestionAnswering, inputs: dict[str, Tensor], target: int, orders: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """
    The area under the deletion and the insertion curve (Petsiuk et al., 2018) of each order of the patches.

    A curve is the answer's probability while patches are replaced, in this order, by the image's mean colour
    (deletion), or put back, in this order, into an image of that colour (insertion).

    Args:
        inputs: of one question and one image, with `pixel_values` [1, C, H, W].
        target: id of the answer.
        orders: O orders of the 64 patches, see `patch_order`.

    Returns:
        Deletion and insertion, [O] each, in 0 … 1. A map that names what the answer hangs on has a low deletion and a
        high insertion.
    """
    pixel_values = inputs["pixel_values"]
    blank = pixel_values.mean((2, 3), keepdim=True).expand_as(pixel_values)
    masked = []  # of all orders, after each step, those of the first so many patches
    for order in orders:
        rank = order.argsort().float().view(1, 1, PATCHES, PATCHES).to(pixel_values.device)
        rank = F.interpolate(rank, size=pixel_values.shape[-2:], mode="nearest")  # [1, 1, H, W]
        masked += [rank < step * PATCHES**2 / STEPS for step in range(STEPS + 1)]
    areas = []
    for first, second in ((blank, pixel_values), (pixel_values, blank)):
        images = torch.cat([torch.where(mask, first, second) for mask in masked])
        rows = {k: v.expand(len(images), -1) for k, v in inputs.items() if k != "pixel_values"}
        logits = model(**rows, pixel_values=images).logits.float()
        probabilities = PROBLEM_TYPES[model.config.problem_type].probabilities(logits)
        curve = probabilities[:, target].view(len(orders), STEPS + 1)
        areas.append(torch.trapezoid(curve, dx=1 / STEPS).cpu())
    return areas[0], areas[1]
