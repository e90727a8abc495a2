"""Singular values of features: in how many directions pictures differ. Legend: N pictures, D features, R = min(N, D)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from selfsight import health
from selfsight.errors import WrongUse
from selfsight.evaluate.geometry import alpha_req, rankme


class Spectrum(NamedTuple):
    """How the variance of features is shared out."""

    values: Tensor  #: (R,) float64 singular values of the centred features, descending, relative to the largest
    effective_rank: float  #: exp of the entropy of the values
    rankme: float  #: the same of features that are not centred
    possible: int  #: min(N - 1, D), what the rank could be at most
    half: int  #: directions that hold half of the variance
    alpha: float | None  #: of the power law of the eigenvalues, see `evaluate.geometry.alpha_req`


def spectrum(features: Tensor) -> Spectrum:
    """The spectrum of features (N, D).

    Raises:
        WrongUse: fewer than two pictures, or features that are not finite.
    """
    if len(features) < 2 or not bool(torch.isfinite(features).all()):
        raise WrongUse("a spectrum needs at least two pictures, and features that are finite: this encoder diverged")
    x = features.double()
    x = x - x.mean(0)
    gram = x.T @ x if x.shape[1] <= len(x) else x @ x.T
    energy = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)
    largest = energy[0].clamp(min=1e-300)
    energy = torch.where(energy > 1e-14 * largest, energy, torch.zeros_like(energy))  # rounding is no direction
    share = energy.cumsum(0) / energy.sum().clamp(min=1e-300)
    found = health.monitors(features, features)
    return Spectrum(
        (energy / largest).sqrt(), float(found["rank"]), rankme(features), int(found["dim"]),
        int((share < 0.5).sum()) + 1, alpha_req(features),
    )  # fmt: skip
