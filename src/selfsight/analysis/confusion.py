"""What a probe on frozen features takes for what. Legend: N pictures that are asked, K classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from selfsight.analysis.gather import Gathered
from selfsight.errors import WrongUse
from selfsight.evaluate.knn import knn
from selfsight.evaluate.linear import ridge_scores

PROBES = {
    "knn": "20 nearest training pictures by cosine, temperature 0.07",
    "linear": "ridge regression on one-hot labels, standardised features, strength by leave-one-out on train",
}


class Confusion(NamedTuple):
    """Counts of what pictures of a class were taken for."""

    counts: np.ndarray  #: (K, K) int64: rows are the true classes
    predicted: np.ndarray  #: (N,) int64, -1 for pictures without label
    probe: str  #: a name of PROBES

    @property
    def accuracy(self) -> float:
        """Share of pictures that are right."""
        return float(np.trace(self.counts) / max(1, self.counts.sum()))

    @property
    def per_class(self) -> np.ndarray:
        """(K,) share of each class's pictures that are right; NaN where none was asked."""
        total = self.counts.sum(1)
        return np.where(total > 0, np.diag(self.counts) / np.maximum(total, 1), np.nan)


def confusion(found: Gathered, probe: str = "knn") -> Confusion:
    """Predict the class of every asked picture from the bank.

    Raises:
        WrongUse: there are no labels, or the features are not finite.
    """
    if not found.labelled:
        raise WrongUse(f"{found.data} has no labels of both parts: confusions need one folder per class")
    assert found.bank is not None
    assert found.bank.labels is not None
    assert found.asked.labels is not None
    bank, labels, kinds = found.bank.features, found.bank.labels, len(found.class_names())
    rows = (found.asked.labels >= 0).nonzero()[:, 0]
    if not len(rows):
        raise WrongUse(f"no picture that is asked of {found.data} has a label")
    asked, wanted = found.asked.features[rows], found.asked.labels[rows]
    if probe == "knn":
        guess = knn(bank, labels, asked, k=20, temperature=0.07, classes=kinds).argmax(1)
    else:
        guess = ridge_scores(bank, labels, asked, wanted, kinds)[0].argmax(1).cpu()
    predicted = torch.full((len(found.asked.features),), -1, dtype=torch.int64)
    predicted[rows] = guess
    counts = torch.bincount(wanted * kinds + guess, minlength=kinds * kinds).view(kinds, kinds)
    return Confusion(counts.numpy(), predicted.numpy(), probe)


def to_arrays(found: Confusion) -> dict[str, Any]:
    """Arrays of a confusion, under names that tell its probe."""
    return {f"confusion_{found.probe}": found.counts, f"predicted_{found.probe}": found.predicted}
