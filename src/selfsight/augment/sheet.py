"""A picture of what the augmentation does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight.augment.masks import Masks
from selfsight.augment.tiles import shuffled
from selfsight.augment.views import Crops
from selfsight.core import Images

RIGHT, WRONG = (0.18, 0.6, 0.3), (0.8, 0.2, 0.2)  #: colours of frames


@torch.no_grad()
def preview(views: Crops, images: Tensor | Images, rng: torch.Generator, gap: int = 2) -> Tensor:
    """One row per image: what `columns` names.

    Args:
        views: any Crops; what it normalises is undone. Standardised tiles get a contrast that shows them.
        images: (B, C, H, W) uint8 or Images.
        rng: draws the views.
        gap: white pixels between the cells.

    Returns:
        (C, rows, columns) uint8; small crops sit in the corner of their cell.
    """
    images = images if isinstance(images, Images) else Images(images)
    count, size = len(images.pixels), views.groups[0].size
    made = views(images, views.draw(count, rng))
    mean, std = views.mean[:, None, None], views.std[:, None, None]
    cells = [views.plain(images, size)[None] * std + mean]
    for group in views.groups:
        if views.tiles and group is views.tiles.group:
            tiles = plain_tiles(views, made["tiles"])
            cells += [puzzle(tiles)[None], puzzle(shuffled(tiles, made["shuffle"][0].argsort(1)))[None]]
            continue
        whole = made[group.name] * std + mean
        cells.append(whole)
        if group is views.groups[0] and isinstance(views.masks, Masks):
            cells.append(seen(whole, ~made["mask"]))
        elif group is views.groups[0] and views.masks:
            nothing = torch.zeros(1, count, views.masks.side**2, dtype=torch.bool, device=whole.device)
            cells.append(seen(whole[:1], nothing.scatter(2, made["context"], True)))
            targets = made["targets"].transpose(0, 1).flatten(1)[None]  # (1, B, patches of all)
            cells.append(seen(whole[:1], nothing.scatter(2, targets, True)))
    cell = max(x.shape[-1] for x in cells) + gap
    channels = len(views.mean)
    sheet = torch.ones(count, sum(len(x) for x in cells), channels, cell, cell)
    column = 0
    for x in cells:
        sheet[:, column : column + len(x), :, : x.shape[-1], : x.shape[-1]] = x.cpu().transpose(0, 1)
        column += len(x)
    grid = sheet.permute(2, 0, 3, 1, 4).reshape(channels, count * cell, column * cell)
    return grid.mul(255).round().clamp(0, 255).byte()


def columns(views: Crops) -> list[str]:
    """What the columns of `preview` show, from left to right."""
    names = ["picture"]
    for group in views.groups:
        count = range(1, len(group.policies) + 1)
        if group.name == "tiles":
            names += ["tiles", "tiles shuffled"]
            continue
        names += [f"{'view' if group.name == 'global' else 'small crop'} {v}" for v in count]
        if group is views.groups[0] and isinstance(views.masks, Masks):
            names += [f"view {v} without hidden patches" for v in count]
        elif group is views.groups[0] and views.masks:
            names += ["context", "targets"]
    return names


def seen(x: Tensor, patches: Tensor) -> Tensor:
    """Views in gray but for some patches: x (V, B, C, s, s) in [0, 1], patches (V, B, T) bool in row-major order."""
    side = round(patches.shape[-1] ** 0.5)
    width = x.shape[-1] // side
    shown = patches.unflatten(-1, (side, side)).repeat_interleave(width, -2).repeat_interleave(width, -1)
    return torch.where(shown[:, :, None], x, torch.full_like(x, 0.5))


def plain_tiles(views: Crops, tiles: Tensor) -> Tensor:
    """Tiles (T, B, C, t, t) without normalisation, about in [0, 1]; standardised ones in a contrast that shows them."""
    if views.tiles and views.tiles.config.standardise:
        return tiles * 0.2 + 0.5
    return tiles * views.std[:, None, None] + views.mean[:, None, None]


def puzzle(tiles: Tensor, gap: int = 1) -> Tensor:
    """Tiles in [0, 1] side by side with white lines between: (T, B, C, t, t), row by row -> (B, C, S, S)."""
    grid, side = round(len(tiles) ** 0.5), tiles.shape[-1] + gap
    sheet = F.pad(tiles, (0, gap, 0, gap), value=1.0).unflatten(0, (grid, grid))  # (row, column, B, C, y, x)
    sheet = sheet.permute(2, 3, 0, 4, 1, 5).reshape(*tiles.shape[1:3], grid * side, grid * side)
    return sheet[..., : -gap or None, : -gap or None]


def solution(mixed: Tensor, order: Tensor, answer: Tensor) -> Tensor:
    """Every tile where the answer has it, in a frame that says whether it belongs there: -> (B, C, S, S) in [0, 1].

    mixed: (T, B, C, t, t) in [0, 1]; order, answer: (B, T) which tile lies in each place, in truth and as answered.
    """
    placed = shuffled(mixed, answer.argsort(1)).clamp(0, 1)
    right = shuffled(order.mT, answer.argsort(1)) == torch.arange(len(mixed), device=order.device)[:, None]  # (T, B)
    colour = torch.where(
        right[..., None], order.new_tensor(RIGHT, dtype=torch.float), order.new_tensor(WRONG, dtype=torch.float)
    )
    framed = colour[..., None, None].expand(-1, -1, -1, placed.shape[-2] + 2, placed.shape[-1] + 2).clone()
    framed[..., 1:-1, 1:-1] = placed
    return puzzle(framed)
