"""Losses that spread the embeddings of the whole batch. Shapes: V views, N rows of the whole batch, D features.

Their statistics are those of all rows: with several processes, gather the embeddings with gradient first.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight.losses.precision import full_precision


@full_precision
def barlow_twins(z1: Tensor, z2: Tensor, weight: float) -> Tensor:
    """Barlow Twins: Self-Supervised Learning via Redundancy Reduction (arXiv 2103.03230), eq. 1 and 2.

    C = cross-correlation (D, D) of the two views over the batch, each dimension standardised (biased variance, eps 1e-5
    inside the root): sum_d (1 - C_dd)^2 + weight sum_{a != b} C_ab^2. z1, z2: (N, D).
    """
    a, b = ((z - z.mean(0)) * (z.var(0, correction=0) + 1e-5).rsqrt() for z in (z1, z2))
    correlation = a.T @ b / len(z1)
    diagonal = correlation.diagonal()
    return (1 - diagonal).square().sum() + weight * (correlation.square().sum() - diagonal.square().sum())


@full_precision
def vicreg(z1: Tensor, z2: Tensor, invariance: float = 25, variance: float = 25, covariance: float = 1) -> Tensor:
    """VICReg: Variance-Invariance-Covariance Regularization (arXiv 2105.04906), eq. 1 to 6, constants of the code.

    invariance * mean (z1 - z2)^2, over rows and dimensions; + variance * the mean of both views' mean_d
    relu(1 - sqrt(Var_d + 1e-4)); + covariance * the sum of both views' sum_{a != b} Cov_ab^2 / D. Unbiased variances.
    The paper writes the first without 1 / D and sums the second. z1, z2: (N, D).
    """
    distance = F.mse_loss(z1, z2)
    spreads = [F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (z1, z2)]
    return (
        invariance * distance
        + variance * (spreads[0] + spreads[1]) / 2
        + covariance * (_off_diagonal(z1) + _off_diagonal(z2))
    )


def _off_diagonal(z: Tensor) -> Tensor:
    """Sum of the squared covariances of different dimensions, over D. (N, D) -> ()."""
    count, dim = z.shape
    centred = z - z.mean(0)
    # the Gram matrix of the rows has the same norm: whichever is smaller
    gram = centred.T @ centred if dim <= count else centred @ centred.T
    squares = gram.square().sum() - centred.square().sum(0).square().sum()
    return squares / ((count - 1) ** 2 * dim)


@full_precision
def w_mse(views: Sequence[Tensor] | Tensor, slice_size: int) -> Tensor:
    """W-MSE: Whitening for Self-Supervised Representation Learning (arXiv 2007.06346), eq. 1 and 4.

    Every `slice_size` contiguous rows of every view are whitened by the inverse Cholesky factor of their unbiased
    covariance; then the mean over pairs of views of 2 - 2 mean_i cos. Gradients flow through all views and the
    whitening. views: V of (N, D), N a multiple of slice_size, slice_size above D (twice it is usual).
    """
    z = views if isinstance(views, Tensor) else torch.stack(list(views))
    y = F.normalize(whiten(z.unflatten(1, (-1, slice_size))).flatten(1, 2), dim=2)
    total, count = y.sum(0), len(y)
    # sum over pairs of cos = (|sum of unit rows|^2 - V) / 2
    cosine = (total.square().sum(1) - y.square().sum((0, 2))).mean() / (count * (count - 1))
    return 2 - 2 * cosine


@full_precision
def whiten(z: Tensor) -> Tensor:
    """Zero mean and unit covariance in each (..., S, D) block of S rows, S > D, by Cholesky.

    Where the covariance is not positive definite to rounding, a thousandth of its mean variance joins the diagonal.
    """
    centred = z - z.mean(-2, keepdim=True)
    covariance = centred.mT @ centred / (z.shape[-2] - 1)
    eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    broken = torch.linalg.cholesky_ex(covariance.detach()).info != 0
    ridge = 1e-3 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-12)
    covariance = covariance + torch.where(broken, ridge, 0.0)[..., None, None] * eye
    factor = torch.linalg.cholesky_ex(covariance).L
    return torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT


@full_precision
def tico(z1: Tensor, z2: Tensor, covariance: Tensor, beta: float, rho: float) -> tuple[Tensor, Tensor]:
    """TiCo: Transformation Invariance and Covariance Contrast (arXiv 2206.10698), eq. 3 and 4.

    With unit rows, B = z1' z1 / N and C = beta covariance + (1 - beta) B, a constant: 1 - mean z1 . z2 + rho mean
    z1 C z1. z1: (N, D); z2: (N, D) the teacher's, detached here; covariance: (D, D) before this step, zero at first.
    Returns the loss and C.
    """
    a, b = F.normalize(z1, dim=1), F.normalize(z2.detach(), dim=1)
    fresh = a.detach().T @ a.detach() / len(a)
    moved = beta * covariance.to(a.dtype) + (1 - beta) * fresh
    return 1 - (a * b).sum(1).mean() + rho * ((a @ moved) * a).sum(1).mean(), moved


@full_precision
def sigreg(z: Tensor, directions: Tensor, furthest: float = 3.0, knots: int = 17) -> Tensor:
    """SIGReg: LeJEPA (arXiv 2511.08544): the Epps-Pulley test of normality of random projections, mean over them.

    Of u = z A: T = N integral over t of exp(-t^2 / 2) |mean_i exp(i t u_i) - exp(-t^2 / 2)|^2, twice the trapezoid rule
    on `knots` points of 0..furthest. z: (N, D) not normalised; directions: (D, M), columns made unit here.
    """
    projected = z @ F.normalize(directions.to(z.dtype), dim=0)  # (N, M)
    t = torch.linspace(0, furthest, knots, dtype=z.dtype, device=z.device)
    normal = torch.exp(-t.square() / 2)
    weights = torch.full_like(t, 2 * furthest / (knots - 1))
    weights[0] = weights[-1] = furthest / (knots - 1)
    angle = projected[..., None] * t  # (N, M, knots)
    error = (angle.cos().mean(0) - normal).square() + angle.sin().mean(0).square()
    return len(z) * (error @ (weights * normal)).mean()


@full_precision
def emp_ssl(patches: Sequence[Tensor] | Tensor, weight: float, eps: float) -> Tensor:
    """EMP-SSL: Towards Self-Supervised Learning in One Training Epoch (arXiv 2304.03977), eq. 3, constants of the code.

    -weight * mean cos(patch, mean of the picture's patches) - mean over patches of the coding rate
    log det(I + D / (N eps) Z' Z) / 2. Lower is better. patches: V of (N, D), unit rows.
    """
    z = patches if isinstance(patches, Tensor) else torch.stack(list(patches))
    similar = F.cosine_similarity(z, z.mean(0, keepdim=True), dim=2).mean()
    return -weight * similar - coding_rate(z, eps).mean()


@full_precision
def coding_rate(z: Tensor, eps: float) -> Tensor:
    """log det(I + D / (N eps) Z' Z) / 2 of each (..., N, D) block, by the smaller Gram matrix: (...)."""
    count, dim = z.shape[-2:]
    gram = z.mT @ z if dim <= count else z @ z.mT
    eye = torch.eye(min(count, dim), dtype=z.dtype, device=z.device)
    factor = torch.linalg.cholesky_ex(eye + dim / (count * eps) * gram).L
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
