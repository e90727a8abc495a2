"""Losses of twins without negatives. Shapes: B rows, D features."""

import torch.nn.functional as F
from torch import Tensor

from selfsight.losses.precision import full_precision


@full_precision
def byol(p1: Tensor, t2: Tensor, p2: Tensor, t1: Tensor) -> Tensor:
    """BYOL: Bootstrap Your Own Latent (arXiv 2006.07733), eq. 2 and its swapped twin.

    mean over rows of |p1' - t2'|^2 + |p2' - t1'|^2 with unit rows x' = x / |x|, which is 4 - 2 cos - 2 cos: 0..8.
    p1, p2: (B, D) predictions of views 1 and 2; t1, t2: (B, D) the teacher's projections, detached here.
    """
    return _distance(p1, t2) + _distance(p2, t1)


@full_precision
def simsiam(p1: Tensor, z2: Tensor, p2: Tensor, z1: Tensor) -> Tensor:
    """SimSiam: Exploring Simple Siamese Representation Learning (arXiv 2011.10566), eq. 2 and 4.

    -mean over rows of [cos(p1, z2) + cos(p2, z1)] / 2: -1..1. p1, p2: (B, D) predictions of views 1 and 2; z1, z2:
    (B, D) projections, detached here (the stop-gradient).
    """
    return -(_cosine(p1, z2) + _cosine(p2, z1)) / 2


def _cosine(p: Tensor, target: Tensor) -> Tensor:
    """Cosine of the rows, mean over rows. (B, D) twice -> ()."""
    return (F.normalize(p, dim=1) * F.normalize(target.detach(), dim=1)).sum(1).mean()


def _distance(p: Tensor, target: Tensor) -> Tensor:
    """Squared distance of unit rows, mean over rows; never below 0, unlike 2 - 2 cos. (B, D) twice -> ()."""
    return (F.normalize(p, dim=1) - F.normalize(target.detach(), dim=1)).square().sum(1).mean()
