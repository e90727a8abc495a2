"""Parzen windows on stored features: the radial kernel exp(-gamma |x - y|^2), its bandwidth by the mean criterion.

Legend: N training rows, M test rows, D features, K classes.
"""

import math
from typing import Any

import torch
from torch import Tensor

from selfsight.errors import WrongUse
from selfsight.evaluate.knn import rank_of
from selfsight.rng import Stream, generator

DELTA = math.sqrt(2) * 1e-6  #: the mean criterion's distance of the kernel matrix from the identity


def mean_criterion(x: Tensor) -> float:
    """Gamma = 1 / (2 s^2) with s^2 = 2 N sum_j var_j / ((N - 1) ln((N - 1) / delta^2)).

    The mean criterion of Chaudhuri et al. (arXiv 1708.05106): 2 N / (N - 1) sum_j var_j is the mean squared distance of
    two rows. One row, or rows that are all equal, have no bandwidth: 1 / D then.

    Args:
        x: (N, D).
    """
    count, width = x.shape
    spread = float(x.double().var(0, correction=0).sum())
    if count < 2 or spread <= 0:
        return 1 / width
    return (count - 1) * math.log((count - 1) / DELTA**2) / (4 * count * spread)


@torch.no_grad()
def parzen(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    classes: int | None = None,
    *,
    gamma: float | None = None,
    pairs: int = 5000,
    seed: int = 0,
) -> dict[str, Any]:
    """Parzen-window classifier, bandwidth by the mean criterion, and statistics of the similarities.

    A class's score is the sum of the kernel over its training rows, relative to the nearest row's, so that nothing
    vanishes when all rows are far.

    Args:
        train, labels, test, test_labels, classes: see the package.
        gamma: of the kernel; None takes `mean_criterion` of the training rows.
        pairs: the statistics are those of all pairs of so many test rows, drawn by the seed.
        seed: of that draw.

    Returns:
        `top1`, `top5`, `gamma`, `similarity` (of pairs of test rows: mean, std, median, max; `within` and `between`
        classes, means, None without such pairs; rows), `seed`, `protocol`.

    Raises:
        WrongUse: shapes or labels do not fit, gamma is not above 0, or the features are not finite.
    """
    for name, x, y in (("training", train, labels), ("test", test, test_labels)):
        if x.ndim != 2 or not len(x) or y.shape != (len(x),) or int(y.min()) < 0 or x.shape[1] != train.shape[1]:
            raise WrongUse(
                f"{name} features {tuple(x.shape)} with labels {tuple(y.shape)}; give (N, D) and (N,), N > 0, labels "
                "from 0 on, both parts from one encoder"
            )
        if not bool(torch.isfinite(x).all()):
            raise WrongUse(f"the {name} features are not all finite; the encoder diverged, nothing can be fitted to it")
    device = train.device
    labels, test, test_labels = labels.to(device).long(), test.to(device), test_labels.to(device).long()
    most = int(torch.maximum(labels.max(), test_labels.max())) + 1
    if classes is not None and classes < most:
        raise WrongUse(f"label {most - 1} with classes = {classes}; labels are 0..classes-1")
    if gamma is not None and not gamma > 0:
        raise WrongUse(f"gamma = {gamma}: it must be above 0")
    gamma_ = mean_criterion(train) if gamma is None else gamma
    centre = train.double().mean(0)  # distances do not change, and their digits stay
    bank = (train.double() - centre).float()
    size, place = max(1, 2**25 // len(bank)), []
    for part, wanted in zip(test.split(size), test_labels.split(size)):
        power = -gamma_ * _squares((part.double() - centre).float(), bank)
        kernel = (power - power.amax(1, keepdim=True)).double().exp()
        votes = kernel.new_zeros(len(part), classes or most).index_add_(1, labels, kernel)
        place.append(rank_of(votes, wanted, needs_vote=True))
    found = torch.cat(place)
    rows = torch.randperm(len(test), generator=generator(seed, Stream.PROBE))[:pairs].sort().values.to(device)
    return {
        "top1": float((found < 1).double().mean()),
        "top5": float((found < 5).double().mean()),
        "gamma": gamma_,
        "similarity": similarity((test[rows].double() - centre).float(), test_labels[rows], gamma_),
        "seed": seed,
        "protocol": f"Parzen windows, radial kernel, gamma {'given' if gamma else 'by the mean criterion on train'}",
    }


def similarity(x: Tensor, labels: Tensor, gamma: float) -> dict[str, Any]:
    """Statistics of exp(-gamma |x - y|^2) over all pairs of different rows: x (n, D), labels (n,).

    `mean`, `std`, `median`, `max`; `within` and `between` classes, means; `rows`. None where there is no such pair.
    """
    upper = torch.triu_indices(len(x), len(x), 1, device=x.device)
    values = (-gamma * _squares(x, x)).double().exp()[upper[0], upper[1]]
    same = labels[upper[0]] == labels[upper[1]]
    mean = lambda v: float(v.mean()) if len(v) else None
    return {
        "mean": mean(values),
        "std": float(values.std(correction=0)) if len(values) else None,
        "median": float(values.median()) if len(values) else None,
        "max": float(values.max()) if len(values) else None,
        "within": mean(values[same]),
        "between": mean(values[~same]),
        "rows": len(x),
    }


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (m, n) of rows (m, D) and (n, D)."""
    square = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T
    return square.clamp(min=0)
