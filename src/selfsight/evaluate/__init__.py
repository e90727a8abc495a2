"""Evaluation of stored features. `PROTOCOLS` is what `selfsight evaluate --protocols` can do with them.

`selfsight.evaluate` is this package and, called, the function of `selfsight.api`.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor

from selfsight.evaluate.features import extract, pixels
from selfsight.evaluate.knn import STANDARD, Setting, knn, knn_accuracy, knn_table, neighbours
from selfsight.evaluate.linear import logistic, ridge
from selfsight.evaluate.sgd import sgd

Protocol = Callable[[Tensor, Tensor, Tensor, Tensor, int | None], dict[str, Any]]
"""(train features (N, D), train labels (N,), test features (M, D), test labels (M,), classes) -> JSON numbers:
`top1` and `top5` are fractions in 0..1, the rest is what they were measured with."""


def _knn(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, classes: int | None) -> dict[str, Any]:
    """The vote of 20 neighbours, T 0.07; `settings` has it beside 200 neighbours, T 0.1, and the plain majorities."""
    table = knn_table(train, labels, test, test_labels, STANDARD, classes)
    return {**table[0], "protocol": "k nearest train rows by cosine, features of the encoder", "settings": table}


PROTOCOLS: dict[str, Protocol] = {"knn": _knn, "linear": logistic, "ridge": ridge, "sgd": sgd}


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from selfsight import api

        return api.evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

__all__ = [
    "PROTOCOLS",
    "STANDARD",
    "Protocol",
    "Setting",
    "extract",
    "knn",
    "knn_accuracy",
    "knn_table",
    "logistic",
    "neighbours",
    "pixels",
    "ridge",
    "sgd",
]
