"""How features lie in their space, without a label. Legend: N pictures, V views of each, D features."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from selfsight import health
from selfsight.errors import WrongUse
from selfsight.evaluate.knn import unit_rows


@torch.no_grad()
def geometry(features: Tensor, views: Tensor | None = None) -> dict[str, Any]:
    """Label-free scores of the test part: RankMe, effective rank, alpha-ReQ, uniformity, spread; of views LiDAR, too.

    Args:
        features: (N, D) of whole pictures, N of at least 2.
        views: (n, V, D) of augmented views of some pictures; without them there is no `alignment` and no `lidar`.

    Returns:
        `rankme`, `effective_rank` (of centred rows), `rank_possible`, `alpha`, `uniformity`, `alignment`, `lidar` (None
        without views), `cosine` (mean of two rows), `std` (of unit rows, 1 is isotropic), `std_min`, `std_median`,
        `std_max` (of single dimensions of the raw features), `dead` (share of dimensions that are constant), `rows`,
        `views` (of how many pictures and how many each), `protocol`.

    Raises:
        WrongUse: there are fewer than two rows, or features are not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise WrongUse(f"features {tuple(features.shape)}: their geometry needs at least two rows")
    if not bool(torch.isfinite(features).all()):
        raise WrongUse("the features are not all finite; the encoder diverged, their geometry says nothing")
    spread = health.monitors(features, features)
    std = features.double().std(0, correction=0)
    size = features.double().square().mean(0).sqrt()
    return {
        "rankme": rankme(features),
        "effective_rank": float(spread["rank"]),
        "rank_possible": int(spread["dim"]),
        "alpha": alpha_req(features),
        "uniformity": uniformity(features),
        "alignment": None if views is None else alignment(views),
        "lidar": None if views is None else lidar(views),
        "cosine": float(spread["cosine"]),
        "std": float(spread["std"]),
        "std_min": float(std.min()),
        "std_median": float(std.median()),
        "std_max": float(std.max()),
        "dead": float((std <= 1e-6 * size).double().mean()),
        "rows": len(features),
        "views": None if views is None else list(views.shape[:2]),
        "protocol": "label-free, test part",
    }


def rankme(features: Tensor, eps: float = 1e-7) -> float:
    """RankMe (arXiv 2210.02885, eq. 1-2): exp of the entropy of the singular values of (N, D), not centred.

    p_k = sigma_k / sum sigma + eps; at most min(N, D).
    """
    values = _spectrum(features.double()).sqrt()
    share = values / values.sum().clamp(min=1e-300) + eps
    return float((-(share * share.log()).sum()).exp())


def alpha_req(features: Tensor) -> float | None:
    """alpha-ReQ (arXiv 2202.05808): alpha of the power law lambda_i ~ i^-alpha of the covariance's eigenvalues.

    Least squares of log lambda_i on log i over all eigenvalues above 1e-10 of the largest, each weighted by 1 / i, so
    that every octave counts alike. Near 1 is what the paper found to go with good accuracy. None with fewer than two.
    """
    x = features.double()
    values = _spectrum(x - x.mean(0))
    values = values[values > 1e-10 * values[0].clamp(min=1e-300)]
    if len(values) < 2:
        return None
    places = torch.arange(1, len(values) + 1, dtype=torch.float64, device=values.device)
    weight = 1 / places / (1 / places).sum()
    a, b = places.log(), values.log()
    a, b = a - (weight * a).sum(), b - (weight * b).sum()
    return float(-(weight * a * b).sum() / (weight * a * a).sum())


def uniformity(features: Tensor, t: float = 2.0, chunk: int = 4096) -> float:
    """log of the mean of exp(-t |x - y|^2) over pairs of different rows of unit length (arXiv 2005.10242, eq. 5).

    0: all rows are equal; down to about -2t for rows spread evenly in many dimensions.
    """
    x, total = unit_rows(features), 0.0
    for part in x.split(chunk):
        total += float((2 * t * (part @ x.T - 1)).double().exp().sum())
    count = len(x)
    return math.log(
        max((total - float((2 * t * (x.square().sum(1) - 1)).double().exp().sum())) / (count * (count - 1)), 1e-300)
    )


def alignment(views: Tensor) -> float:
    """Mean squared distance of two views of a picture, rows of unit length (arXiv 2005.10242, eq. 4, alpha 2).

    views: (n, V, D) -> 0 (equal) to 4; over all pairs of the V views.
    """
    x = F.normalize(views.double(), dim=2)
    count = x.shape[1]
    # sum over ordered pairs of |a - b|^2 = 2 V sum |x|^2 - 2 |sum x|^2
    pairs = 2 * count * x.square().sum((1, 2)) - 2 * x.sum(1).square().sum(1)
    return float((pairs / (count * (count - 1))).mean().clamp(min=0))


def lidar(views: Tensor, delta: float = 1e-4, eps: float = 1e-7) -> float:
    """LiDAR (arXiv 2312.04000, eq. 1-4): effective rank of what tells pictures apart, relative to what views change.

    exp of the entropy of the eigenvalues of S_w^-1/2 S_b S_w^-1/2, S_b the covariance of the pictures' means, S_w that
    of views about them plus delta I; p_i = lambda_i / sum lambda + eps. views: (n, V, D); at most min(n - 1, D).
    """
    x = views.double()
    means = x.mean(1)
    within = (x - means[:, None]).flatten(0, 1)
    between = means - means.mean(0)
    scatter = within.T @ within / (len(x) * max(1, x.shape[1] - 1))
    scatter += delta * torch.eye(x.shape[2], dtype=torch.float64, device=x.device)
    power, axes = torch.linalg.eigh(scatter)
    whitened = between @ (axes / power.sqrt()) / math.sqrt(max(1, len(x) - 1))
    values = _spectrum(whitened)
    share = values / values.sum().clamp(min=1e-300) + eps
    return float((-(share * share.log()).sum()).exp())


def _spectrum(x: Tensor) -> Tensor:
    """(n, D) float64 -> squared singular values, min(n, D), descending; what is rounding counts as 0."""
    scale = x.square().sum().clamp(min=1e-300)
    gram = x.T @ x if x.shape[1] <= len(x) else x @ x.T
    values = torch.linalg.eigvalsh(gram / scale).flip(0)
    return torch.where(values > 1e-14, values, torch.zeros_like(values)) * scale
