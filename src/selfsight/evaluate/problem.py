"""A classification problem on features, ready for linear classifiers. Legend: N, M rows, D features, K classes, R rank."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from selfsight.errors import WrongUse
from selfsight.evaluate.knn import rank_of

CHUNK = 2**19  # numbers of the features in float64 at a time: what stays in a cache between two passes


class Problem(NamedTuple):
    """A classification problem whose numbers are in order, and the axes of its training features."""

    train: Tensor  #: (N, D) as given
    labels: Tensor  #: (N,) int64
    test: Tensor  #: (M, D)
    test_labels: Tensor  #: (M,) int64
    classes: int
    mean: Tensor  #: (D,) float64
    scale: Tensor  #: (D,) float64, 1 where a feature is constant
    axes: Tensor  #: (D, R) float64, orthonormal eigenvectors of the Gram matrix of the standardised training rows
    power: Tensor  #: (R,) float64, their eigenvalues, of sum N * D

    def chunks(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Where each chunk of the (n, D) features lies, and its standardised rows in float64."""
        start = 0
        for part in rows.split(rows_at_once(rows)):
            yield slice(start, start + len(part)), part.double().sub_(self.mean).div_(self.scale)
            start += len(part)


def problem(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, classes: int | None) -> Problem:
    """The problem of train (N, D), labels (N,), test (M, D), test_labels (M,). Raises WrongUse if they do not fit."""
    for name, x, y in (("training", train, labels), ("test", test, test_labels)):
        if x.ndim != 2 or not len(x) or y.shape != (len(x),):
            raise WrongUse(
                f"{name} features {tuple(x.shape)} with labels {tuple(y.shape)}; give (N, D) and (N,), N > 0"
            )
        if int(y.min()) < 0:
            raise WrongUse(f"a {name} label is negative; leave out the rows without label")
        if not bool(torch.isfinite(x).all()):
            raise WrongUse(f"the {name} features are not all finite; the encoder diverged, nothing can be fitted to it")
    if train.shape[1] != test.shape[1]:
        raise WrongUse(
            f"{train.shape[1]} training features but {test.shape[1]} test features; take both from one encoder"
        )
    most = max(int(labels.max()), int(test_labels.max())) + 1
    if classes is not None and classes < most:
        raise WrongUse(f"label {most - 1} with classes = {classes}; labels are 0..classes-1")
    device, labels = train.device, labels.to(train.device).long()
    # two passes: the square of a mean would cost the digits of features far from 0
    mean = sum(
        (part.double().sum(0) for part in train.split(rows_at_once(train))), torch.zeros((), device=device)
    ) / len(train)
    spread = sum(
        ((part.double() - mean).square().sum(0) for part in train.split(rows_at_once(train))), torch.zeros_like(mean)
    )
    scale = (spread / len(train)).sqrt()
    scale = torch.where(scale > 1e-7 * mean.abs().clamp(min=1e-20), scale, torch.ones_like(scale))
    axes, power = _axes(train, mean, scale)
    return Problem(
        train, labels, test.to(device), test_labels.to(device).long(), classes or most, mean, scale, axes, power
    )


def _axes(train: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (D, R) and eigenvalues (R,) of the Gram matrix, by way of the smaller of D x D and N x N."""
    count, width = train.shape
    if width <= count:
        gram = torch.zeros(width, width, dtype=torch.float64, device=train.device)
        for part in train.split(rows_at_once(train)):
            x = (part.double() - mean) / scale
            gram += x.T @ x
        power, axes = torch.linalg.eigh(gram)
        return axes, power.clamp(min=0)
    x = (train.double() - mean) / scale
    power, axes = torch.linalg.eigh(x @ x.T)
    kept = power > 1e-10 * power[-1].clamp(min=1e-300)
    return (x.T @ axes[:, kept]) / power[kept].sqrt(), power[kept]


def rows_at_once(features: Tensor) -> int:
    """Rows in float64 at a time; a GPU works on many more."""
    return max(64, CHUNK * (1 if features.device.type == "cpu" else 16) // max(1, features.shape[1]))


def accuracies(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> dict[str, float]:
    """`top1`, `top5` and `train_top1` of the scores (M, K) of the test rows and (N, K) of the training rows."""
    place = rank_of(test, test_labels)
    return {
        "top1": float((place < 1).double().mean()),
        "top5": float((place < 5).double().mean()),
        "train_top1": float((rank_of(train, labels) < 1).double().mean()),
    }
