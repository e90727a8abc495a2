"""Evaluation of stored features. `PROTOCOLS` is what `selfsight evaluate --protocols` can do with them.

`selfsight.evaluate` is this package and, called, the function of `selfsight.api`.
"""

import sys
from collections.abc import Callable
from functools import wraps
from inspect import signature
from types import ModuleType
from typing import Any

from torch import Tensor

from selfsight.evaluate.cluster import cluster, matched_accuracy
from selfsight.evaluate.features import extract, pixels
from selfsight.evaluate.fewshot import few_shot
from selfsight.evaluate.geometry import geometry
from selfsight.evaluate.knn import STANDARD, Setting, knn, knn_accuracy, knn_table, neighbours
from selfsight.evaluate.linear import logistic, ridge
from selfsight.evaluate.parzen import mean_criterion, parzen
from selfsight.evaluate.retrieval import purity, retrieval
from selfsight.evaluate.sgd import sgd
from selfsight.evaluate.svm import svm

Protocol = Callable[..., dict[str, Any]]
"""(train features (N, D), train labels (N,), test features (M, D), test labels (M,), classes, *, seed=0, settings)
-> JSON numbers: accuracies are fractions in 0..1, the rest is what they were measured with. Of protocols that are
WITHIN the test part, what belongs to train is None; of the UNLABELLED ones, labels too."""


def _nearest(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    classes: int | None = None,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> dict[str, Any]:
    """The vote of 20 neighbours, T 0.07; `settings` has it beside 200 neighbours, T 0.1, and the plain majorities."""
    first = Setting(k, temperature)
    table = knn_table(train, labels, test, test_labels, [first, *(s for s in STANDARD if s != first)], classes)
    return {**table[0], "protocol": "k nearest train rows by cosine", "settings": table}


def _learns(function: Protocol) -> Protocol:
    """A protocol that draws nothing takes the seed as the others do."""
    drawn = "seed" in signature(function).parameters

    @wraps(function)
    def run(*parts: Any, seed: int = 0, **settings: Any) -> dict[str, Any]:
        return function(*parts, **settings, **({"seed": seed} if drawn else {}))

    return run


def _within(function: Protocol, labelled: bool = True) -> Protocol:
    """A protocol of the test part alone takes all parts as the others do."""
    drawn = "seed" in signature(function).parameters

    @wraps(function)
    def run(
        train: Any, labels: Any, test: Tensor, test_labels: Any, classes: Any = None, *, seed: int = 0, **settings: Any
    ) -> dict[str, Any]:
        parts = (test, test_labels) if labelled else (test,)
        return function(*parts, **settings, **({"seed": seed} if drawn else {}))

    return run


PROTOCOLS: dict[str, Protocol] = {
    "knn": _learns(_nearest),
    "linear": _learns(logistic),
    "ridge": _learns(ridge),
    "sgd": _learns(sgd),
    "svm": _learns(svm),
    "parzen": _learns(parzen),
    "fewshot": _learns(few_shot),
    "retrieval": _within(retrieval),
    "cluster": _within(cluster),
    "purity": _within(purity),
    "geometry": _within(geometry, labelled=False),
}
WITHIN = frozenset({"retrieval", "cluster", "purity", "geometry"})  #: they look at the test part alone
UNLABELLED = frozenset({"geometry"})  #: they need no label


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from selfsight import api

        return api.evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

__all__ = [
    "PROTOCOLS",
    "STANDARD",
    "UNLABELLED",
    "WITHIN",
    "Protocol",
    "Setting",
    "cluster",
    "extract",
    "few_shot",
    "geometry",
    "knn",
    "knn_accuracy",
    "knn_table",
    "logistic",
    "matched_accuracy",
    "mean_criterion",
    "neighbours",
    "parzen",
    "pixels",
    "purity",
    "retrieval",
    "ridge",
    "sgd",
    "svm",
]
