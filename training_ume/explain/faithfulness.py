"""Whether a map of where a model looked is right: does it lie on what was asked about, and does the answer hang on it?

`mass_in_box` needs a box that is known to hold it, such as easy-VQA's one shape; `masking_curves`, which is
`masking_areas` in parts.py for images, nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.parts_ume import Parts
from modeling_ume.vision_ume import PATCHES
from training_ume.explain.parts import masking_areas

RANDOM_ORDERS = 5


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


def masking_curves(
    model: UMEForVisualQuestionAnswering, inputs: dict[str, Tensor], target: int, orders: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """
    `masking_areas` of an image's patches, in whose stead its mean colour stands.

    Args:
        inputs: of one question and one image, with `pixel_values` [1, C, H, W].
        target: id of the answer.
        orders: O orders of the 64 patches, see `patch_order`.
    """
    parts = MODALITIES["vision"].parts(None, None, None, inputs)
    return masking_areas(model, inputs, parts, target, orders)


def against_chance(
    model: UMEForVisualQuestionAnswering, inputs: dict[str, Tensor], parts: Parts, target: int, order: Tensor
) -> dict[str, float]:
    """The areas of `masking_areas` for an order of the parts, beside the means of those of random orders."""
    generator = torch.Generator().manual_seed(0)
    orders = [order, *(torch.randperm(len(parts), generator=generator) for _ in range(RANDOM_ORDERS))]
    areas = dict(zip(("deletion", "insertion"), masking_areas(model, inputs, parts, target, orders), strict=True))
    return {
        **{kind: found[0].item() for kind, found in areas.items()},
        **{f"random_{kind}": found[1:].mean().item() for kind, found in areas.items()},
    }
