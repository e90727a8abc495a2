"""Patches of pictures: their pixels, their places, and positions that are not learnt.

Shapes legend: B batch, C channels, S side of a picture, p side of a patch, T = (S / p)^2 patches in row-major order, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, S, S) -> (B, T, p * p * C): the pixels of each patch by row, column, channel."""
    rows = images.unflatten(2, (-1, patch)).unflatten(4, (-1, patch))  # (B, C, S / p, p, S / p, p)
    return rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """(B, T, p * p * C) -> (B, C, S, S): what `patchify` took apart."""
    side = round(patches.shape[1] ** 0.5)
    grid = patches.unflatten(2, (patch, patch, -1)).unflatten(1, (side, side))  # (B, S / p, S / p, p, p, C)
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def take(rows: Tensor, places: Tensor) -> Tensor:
    """Some rows of each sample: (B, T, D), (B, n) int64 -> (B, n, D)."""
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[2]))


def split(mask: Tensor, hidden: int) -> tuple[Tensor, Tensor]:
    """Where patches are visible, and where hidden: (B, T) bool, `hidden` in each row -> (B, T - hidden), (B, hidden)."""
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    return order[:, : mask.shape[1] - hidden], order[:, mask.shape[1] - hidden :]


def pasted(images: Tensor, places: Tensor, patches: Tensor, patch: int) -> Tensor:
    """Pictures (B, C, S, S) with other pixels (B, n, p * p * C) at these places (B, n)."""
    rows = patchify(images, patch)
    index = places[..., None].expand_as(patches)
    return unpatchify(rows.scatter(1, index, patches.to(rows.dtype)), patch)


def sincos(side: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Fixed positions on a grid, as in MAE (arXiv 2111.06377) and MoCo v3: (1 + side^2, D), zeros for the class token.

    The first half of the features is the column's, the second half the row's: sines, then cosines, of the place times
    10000^(-4 i / D) for i < D / 4. D is a multiple of 4.
    """
    count = dim // 4
    rates = 10000.0 ** (-torch.arange(count, device=device) / count)
    angles = torch.arange(side, device=device)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, D / 2)
    columns, rows = waves.expand(side, -1, -1), waves[:, None].expand(-1, side, -1)
    return F.pad(torch.cat([columns, rows], dim=2).flatten(0, 1), (0, 0, 1, 0))
