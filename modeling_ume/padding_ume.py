"""Padding, of questions and of images: no answer depends on how much of it there is, or on which side.

A question's real tokens are moved to the front before an encoder reads them: its summary is then the first *real*
token, absolute positions are counted over real tokens, and an encoder's own pooler finds what it was trained to read.
An image that was padded to the size of a larger one is read at its own size, as if it had come alone.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .streams_ume import Stream, reorder


def real_tokens(config, input_ids: Tensor) -> Tensor:
    """
    What is real of ids [B, L] that came without a mask, bool [B, L]: all but padding tokens at either end.

    Only the ids are there to tell, so that a mask, where there is one, always goes before. Of a vocabulary whose
    padding token also ends (or begins) a text, one of them is the text's own.
    """
    padding = getattr(config, "pad_token_id", None)
    if padding is None or padding < 0:
        return torch.ones_like(input_ids, dtype=torch.bool)
    is_padding = (input_ids == padding).long()
    behind, before = is_padding.flip(1).cumprod(1).flip(1), is_padding.cumprod(1)
    if _means(getattr(config, "eos_token_id", None), padding):
        behind = behind * F.pad(behind, (1, 0))[:, :-1]  # the first of them follows a token of another kind
    if _means(getattr(config, "bos_token_id", None), padding):
        before = before * F.pad(before, (0, 1))[:, 1:]
    return (behind + before) == 0


def _means(token_ids: int | list[int] | None, padding: int) -> bool:
    return padding in token_ids if isinstance(token_ids, (list, tuple)) else token_ids == padding


def in_given_order(outputs: ModelOutput, order: Tensor) -> Tensor:
    """What an encoder returned of tokens that stood in `order` [B, L], in the order they were given in: the states
    [B, L, D], and in `outputs` itself the inner states that go along."""
    back, moved = order.argsort(dim=1), None
    for name, value in outputs.items():
        if name == "last_hidden_state":
            outputs[name] = reorder(value, back)
        elif name in ("hidden_states", "attentions") and value:
            if moved is None:
                moved = torch.compiler.is_compiling() or not torch.equal(back, order.sort(dim=1).values)
            if not moved:
                continue  # they stay the very tensors that gradients pass through
            outputs[name] = tuple(_tokens_in_order(layer, back) for layer in value)
    return outputs["last_hidden_state"]


def _tokens_in_order(x: Tensor, order: Tensor) -> Tensor:
    """States [B, L, D], or attentions [B, H, L, L] whose rows and columns are tokens."""
    if x.ndim == 3:
        return reorder(x, order)
    rows = order[:, None, :, None].expand_as(x)
    return x.gather(2, rows).gather(3, rows.transpose(2, 3))


def is_padded(pixel_values: Tensor, pixel_mask: Tensor | None) -> bool:
    """Whether any image of a batch was padded; ValueError for a mask of another shape."""
    if pixel_mask is None:
        return False
    if pixel_mask.shape != (pixel_values.shape[0], *pixel_values.shape[-2:]):
        raise ValueError(
            f"pixel_mask has shape {list(pixel_mask.shape)} for pixel_values of shape {list(pixel_values.shape)}: "
            "give one value a pixel, [images, height, width]."
        )
    return not bool(pixel_mask.all())


def image_sizes(pixel_mask: Tensor) -> list[tuple[int, int]]:
    """
    The heights and widths of U images that were padded to one size, by pixel_mask [U, H, W].

    Raises:
        ValueError: when the mask does not show an upper left rectangle of each image.
    """
    real = pixel_mask.bool()
    heights, widths = real.any(2).sum(1), real.any(1).sum(1)  # [U] each
    rows, columns = (torch.arange(n, device=real.device) for n in real.shape[1:])
    own = (rows < heights[:, None])[:, :, None] & (columns < widths[:, None])[:, None]
    sizes = list(zip(heights.tolist(), widths.tolist(), strict=True))
    if not torch.equal(own, real) or any(0 in size for size in sizes):
        raise ValueError(
            "pixel_mask does not show the upper left part of each image: images are to be padded on the right and at "
            "the bottom, as transformers' image processors do, and none can be padding alone."
        )
    return sizes


def unpadded(pixel_values: Tensor, pixel_mask: Tensor | None) -> list[Tensor]:
    """U images [3, h, w] out of a padded batch [U, 3, H, W]."""
    if not is_padded(pixel_values, pixel_mask):
        return list(pixel_values)
    sizes = image_sizes(pixel_mask)
    return [image[:, :height, :width] for image, (height, width) in zip(pixel_values, sizes, strict=True)]


def padded(images: list[Tensor]) -> dict[str, Tensor]:
    """Images [3, h, w] as `pixel_values` [U, 3, H, W] and, where their sizes differ, `pixel_mask` [U, H, W]."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    room = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
    batch = {"pixel_values": torch.stack([F.pad(image, sides) for image, sides in zip(images, room, strict=True)])}
    if any(any(sides) for sides in room):
        whole = (torch.ones(image.shape[1:], dtype=torch.long) for image in images)
        batch["pixel_mask"] = torch.stack([F.pad(mask, sides) for mask, sides in zip(whole, room, strict=True)])
    return batch


def read_each_size(read, pixel_values: Tensor, pixel_mask: Tensor) -> Stream:
    """
    The stream of padded images, each read at its own size.

    Args:
        read: pixel_values of one size → their stream.

    Returns:
        See `join_streams`; a row an image.
    """

    def read_size(rows: list[int], size: tuple[int, int]) -> Stream:
        return read(pixel_values[rows][:, :, : size[0], : size[1]])

    return read_in_groups(read_size, image_sizes(pixel_mask))


def read_in_groups(read, sizes: list) -> Stream:
    """
    The stream of rows of different sizes, of which those of one size are read together.

    Args:
        read: the numbers of rows, and their size → their stream.
        sizes: of each row.

    Returns:
        See `join_streams`; a row each, in their order.
    """
    groups, order = [], []
    for size in dict.fromkeys(sizes):
        rows = [row for row, own in enumerate(sizes) if own == size]
        groups.append(read(rows, size))
        order += rows
    stream = join_streams(groups)
    back = torch.tensor(order, device=stream.states.device).argsort()
    rows = [part.index_select(0, back) for part in (stream.states, stream.mask, stream.pooled, stream.present)]
    return Stream(*rows, stream.grid, modality=stream.modality)


def padded_rows(rows: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Rows [N_i, …] as one tensor [rows, N, …] with zeros behind the shorter ones, and, where their lengths differ, a
    mask [rows, N] that is 0 there."""
    longest = max(len(row) for row in rows)
    values = rows[0].new_zeros(len(rows), longest, *rows[0].shape[1:])
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        values[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return values, None if bool(mask.all()) else mask


def join_streams(streams: list[Stream]) -> Stream:
    """The rows of several streams of images in one, whose grid is large enough for all; what a row lacks is masked.

    Raises:
        ValueError: when some have a grid and others none.
    """
    grids = [stream.grid for stream in streams]
    if len({grid is None for grid in grids}) > 1:
        raise ValueError("Some images of a batch form a grid of tokens and others do not: ask about one at a time.")
    joined = [torch.cat(part) for part in zip(*_on_one_grid(streams), strict=True)]
    grid = None if grids[0] is None else tuple(map(max, zip(*grids, strict=True)))
    return Stream(*joined, grid, modality=streams[0].modality)


def _on_one_grid(groups: list[Stream]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """States [u, N, D], mask [u, N], summaries and presence of each group, with one N for all."""
    if groups[0].grid is None:
        longest = max(group.states.shape[1] for group in groups)
        room = [longest - group.states.shape[1] for group in groups]
        return [
            (F.pad(g.states, (0, 0, 0, more)), F.pad(g.mask, (0, more)), g.pooled, g.present)
            for g, more in zip(groups, room, strict=True)
        ]
    height, width = (max(side) for side in zip(*(group.grid for group in groups), strict=True))
    special = [group.states.shape[1] - group.grid[0] * group.grid[1] for group in groups]
    parts = []
    for group, count in zip(groups, special, strict=True):
        rows, columns, missing = height - group.grid[0], width - group.grid[1], max(special) - count
        cells = group.states[:, count:].unflatten(1, group.grid)  # [u, h, w, D]
        cells = F.pad(cells, (0, 0, 0, columns, 0, rows)).flatten(1, 2)
        mask = F.pad(group.mask[:, count:].unflatten(1, group.grid), (0, columns, 0, rows)).flatten(1)
        states = torch.cat([F.pad(group.states[:, :count], (0, 0, 0, missing)), cells], dim=1)
        mask = torch.cat([F.pad(group.mask[:, :count], (0, missing)), mask], dim=1)
        parts.append((states, mask, group.pooled, group.present))
    return parts
