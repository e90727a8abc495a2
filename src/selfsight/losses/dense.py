"""Losses between the positions of two feature maps. Shapes: B rows, P positions of a map, row by row, D features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight.losses.contrastive import moco
from selfsight.losses.precision import full_precision


@torch.no_grad()
@full_precision
def best_matches(features: Tensor, others: Tensor) -> Tensor:
    """DenseCL (arXiv 2011.09157), eq. 4: the position of the other map with the largest cosine, for each position.

    features: (B, P, D); others: (B, M, D), of the same pictures. Returns (B, P) int64, the first of equal ones.
    """
    return (F.normalize(features, dim=2) @ F.normalize(others, dim=2).mT).argmax(2)


@full_precision
def dense_moco(query: Tensor, keys: Tensor, match: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """DenseCL: Dense Contrastive Learning for Self-Supervised Visual Pre-Training (arXiv 2011.09157), eq. 2.

    MoCo's loss of every position, whose key is that at `match`; the mean over positions and rows. query: (B, P, D);
    keys: (B, M, D); match: (B, P) int64; queue: (K, D) unit rows. keys and queue are detached.
    """
    positive = keys.gather(1, match[:, :, None].expand(-1, -1, keys.shape[2]))
    return moco(query.flatten(0, 1), positive.flatten(0, 1), queue, temperature)


@torch.no_grad()
@full_precision
def near_positions(place: Tensor, other: Tensor, side: int, distance: float) -> Tensor:
    """PixPro (arXiv 2011.10043), eq. 1: which positions of two square maps lie close together in the source picture.

    Centres of bins nearer than `distance` times the diagonal of a bin, of the larger one of the two maps.
    place, other: (B, 4) x1, y1, x2, y2 of the views in the source, x1 > x2 where they are flipped. Returns (B, P, P) bool,
    with P = side^2.
    """
    at = (torch.arange(side, device=place.device) + 0.5) / side
    centres, diagonals = [], []
    for box in (place, other):
        x1, y1, x2, y2 = box.T
        x, y = (a[:, None] + at * (b - a)[:, None] for a, b in ((x1, x2), (y1, y2)))  # (B, side)
        grid = [y[:, :, None].expand(-1, -1, side), x[:, None].expand(-1, side, -1)]
        centres.append(torch.stack(grid, 3).flatten(1, 2))  # (B, P, 2)
        diagonals.append(torch.hypot(x2 - x1, y2 - y1) / side)
    gap = (centres[0][:, :, None] - centres[1][:, None]).norm(dim=3)
    return gap < distance * torch.maximum(*diagonals)[:, None, None]


@full_precision
def pixpro(y1: Tensor, t2: Tensor, y2: Tensor, t1: Tensor, near: Tensor) -> Tensor:
    """PixPro: Propagate Yourself (arXiv 2011.10043), eq. 5, in the code's scale, both directions summed: -4..4.

    -2 times the mean over rows of [the mean of cos(y1_i, t2_j) over near pairs + that of cos(y2_j, t1_i)]; rows without
    near pairs count as 0. y1, y2: (B, P, D) propagated features; t1, t2: (B, P, D) the teacher's, detached here;
    near: (B, P, P) bool, positions of view 1 by those of view 2.
    """

    def part(y: Tensor, target: Tensor, pairs: Tensor) -> Tensor:
        cosines = F.normalize(y, dim=2) @ F.normalize(target.detach(), dim=2).mT
        weight = pairs.to(cosines.dtype)
        return (cosines * weight).sum((1, 2)) / (weight.sum((1, 2)) + 1e-6)

    return -2 * (part(y1, t2, near) + part(y2, t1, near.mT)).mean()
