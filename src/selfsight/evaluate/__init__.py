"""Evaluation. `PROTOCOLS` is what `selfsight evaluate --protocols` can do with features, `PICTURES` with the encoder itself.

Arguments that protocols on features share: train (N, D), labels (N,) int64 in 0..K-1, test (M, D), test_labels (M,), classes
K (None takes the largest label plus one), seed of all that is drawn. Features may lie on any device: that of `train` computes.

`selfsight.evaluate` is this package and, called, the function of `selfsight.api`.
"""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from types import ModuleType
from typing import Any

from torch import Tensor

from selfsight.evaluate.cluster import cluster, matched_accuracy
from selfsight.evaluate.features import extract, pixels
from selfsight.evaluate.fewshot import few_shot
from selfsight.evaluate.finetune import finetune, linear_views
from selfsight.evaluate.geometry import geometry
from selfsight.evaluate.knn import STANDARD, Setting, knn, knn_accuracy, knn_table, neighbours
from selfsight.evaluate.linear import logistic, ridge
from selfsight.evaluate.parzen import mean_criterion, parzen
from selfsight.evaluate.retrieval import purity, retrieval
from selfsight.evaluate.robustness import robustness
from selfsight.evaluate.sgd import sgd
from selfsight.evaluate.subject import Subject
from selfsight.evaluate.svm import svm

Protocol = Callable[..., dict[str, Any]]
"""(train features (N, D), train labels (N,), test features (M, D), test labels (M,), classes, *, seed=0, settings)
-> JSON numbers: accuracies are fractions in 0..1, the rest is what they were measured with. Of protocols that are
WITHIN the test part, what belongs to train is None; of the UNLABELLED ones, labels too."""

PictureProtocol = Callable[..., dict[str, Any]]
"""(Subject, *, seed=0, settings) -> numbers as above. The subject's encoder stays as it is."""


def _nearest(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    classes: int | None = None,
    *,
    k: int | Sequence[int] = (20,),
    temperature: float = 0.07,
) -> dict[str, Any]:
    """The vote of 20 neighbours, T 0.07; `settings` has it beside 200 neighbours, T 0.1, and the plain majorities.

    k: one number or several, of which the first is the headline; `settings` has them all, weighted and as majorities.
    """
    several = (k,) if isinstance(k, int) else tuple(k)
    asked = [Setting(n, temperature) for n in several]
    asked += [Setting(n, temperature, "majority") for n in several if len(several) > 1]
    table = knn_table(train, labels, test, test_labels, [*asked, *(s for s in STANDARD if s not in asked)], classes)
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


def _preset(function: Protocol, about: str, **defaults: Any) -> Protocol:
    """A protocol with other defaults, which stay settings; `about` is what `selfsight list protocols` says."""

    @wraps(function)
    def run(*parts: Any, **settings: Any) -> dict[str, Any]:
        return function(*parts, **{**defaults, **settings})

    given = signature(function)
    changed = [p.replace(default=defaults.get(p.name, p.default)) for p in given.parameters.values()]
    run.__signature__ = given.replace(parameters=changed)  # type: ignore[attr-defined]
    run.__doc__ = about
    return run


PROTOCOLS: dict[str, Protocol] = {
    "knn": _learns(_nearest),
    "linear": _learns(logistic),
    "ridge": _learns(ridge),
    "sgd": _learns(sgd),
    "linear-seed001": _preset(
        _learns(sgd),
        "`sgd` as an earlier project had it: batch 256, rate 0.1, decay 1e-6, 100 epochs (there on --features projector).",
        epochs=100,
        batch_size=256,
        weight_decay=1e-6,
    ),
    "linear-seed002": _preset(
        _learns(sgd),
        "`sgd` as a second one had it: batch 4096, rate 1.6, no decay, 90 epochs, a tenth of train for validation.",
        validation=0.1,
    ),
    "linear-seed004": _preset(
        _learns(sgd),
        "`sgd` as a third one had it: Adam, 0.05 to 0.0005 by (1 - progress)^2 at each step, batch 128, 50 epochs (or 100).",
        optimizer="adam",
        epochs=50,
        batch_size=128,
        base_lr=5e-2,
        final_lr=5e-4,
        scaling="none",
        schedule="polynomial",
        per="step",
        power=2.0,
    ),
    "svm": _learns(svm),
    "parzen": _learns(parzen),
    "fewshot": _learns(few_shot),
    "retrieval": _within(retrieval),
    "cluster": _within(cluster),
    "purity": _within(purity),
    "geometry": _within(geometry, labelled=False),
}
"""What can be asked of features."""

PICTURES: dict[str, PictureProtocol] = {
    "linear-views": linear_views,
    "finetune": finetune,
    "robustness": robustness,
}
"""What sees the pictures themselves."""

WITHIN = frozenset({"retrieval", "cluster", "purity", "geometry"})  #: they look at the test part alone
UNLABELLED = frozenset({"geometry"})  #: they need no label


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from selfsight import api

        return api.evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

__all__ = [
    "PICTURES",
    "PROTOCOLS",
    "STANDARD",
    "UNLABELLED",
    "WITHIN",
    "PictureProtocol",
    "Protocol",
    "Setting",
    "Subject",
    "cluster",
    "extract",
    "few_shot",
    "finetune",
    "geometry",
    "knn",
    "knn_accuracy",
    "knn_table",
    "linear_views",
    "logistic",
    "matched_accuracy",
    "mean_criterion",
    "neighbours",
    "parzen",
    "pixels",
    "purity",
    "retrieval",
    "ridge",
    "robustness",
    "sgd",
    "svm",
]
