"""CIFAR-10 presets of the siamese family: the 13 experiments of a DirectPred replication and 8 at other rates.

ResNet-18, batch 128, SGD 0.03 constant, weight decay 4e-4, heads 512-512-128, teacher momentum 0.996 constant, 101
epochs. `fast`: rate 0.2, the predictor's 2, decay on the predictor alone or nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from selfsight.methods.byol import BYOLConfig
from selfsight.methods.directcopy import DirectCopyConfig
from selfsight.methods.directpred import DirectPredConfig
from selfsight.methods.siamese import SiameseConfig
from selfsight.methods.simsiam import SimSiamConfig
from selfsight.optim import OptimizerConfig
from selfsight.recipes.common import CONSTANT, views_of
from selfsight.run import ProbeConfig, Run

# Minus the cosine, summed over both directions: twice SimSiam's mean. BN without scale and shift.
_COMMON: dict[str, Any] = {
    "hidden": 512, "dim": 128, "layers": 2, "norm": "batch-plain", "last_bias": False, "last_norm": "none",
    "bias": True, "predictor_hidden": 512, "predictor_bias": True, "predictor_last_bias": False,
    "predictor_constant_lr": False, "momentum": 0.996, "momentum_end": 0.996, "objective": "simsiam", "scale": 2.0,
}  # fmt: skip
_CONFIGS: dict[str, type[SiameseConfig]] = {
    "byol": BYOLConfig, "simsiam": SimSiamConfig, "directpred": DirectPredConfig, "directcopy": DirectCopyConfig
}  # fmt: skip


def _preset(method: str, lr: float = 0.03, **settings: Any) -> Run[Any]:
    optimizer = OptimizerConfig(name="sgd", lr=lr, scaling="none", weight_decay=4e-4, decay_bias_and_norm=True)
    return Run(
        _CONFIGS[method](**{**_COMMON, **settings}), data="cifar10", encoder="resnet18", image_size=32, epochs=101,
        batch_size=128, optimizer=optimizer, schedule=CONSTANT, views=views_of(method, "seed004"),
        probe=ProbeConfig(every=5, k=200, temperature=0.1),
    )  # fmt: skip


def _fast(method: str, symmetric: bool, decay: bool) -> Run[Any]:
    run = _preset(
        method, lr=0.2, symmetric=symmetric, predictor_lr=10.0, encoder_decay=0.0, projector_decay=0.0,
        predictor_decay=4e-4 if decay else 0.0,
    )  # fmt: skip
    return replace(run, probe=replace(run.probe, every=10))


SIAMESE: dict[str, Callable[[], Run[Any]]] = {
    "byol-cifar10-101": partial(_preset, "byol"),
    "byol-cifar10-101-symmetric": partial(_preset, "byol", symmetric=True),
    "byol-cifar10-101-linear": partial(_preset, "byol", predictor="linear"),
    "simsiam-cifar10-101": partial(_preset, "simsiam"),
    "simsiam-cifar10-101-symmetric": partial(_preset, "simsiam", symmetric=True),
    "simsiam-cifar10-101-symmetric-decay": partial(
        _preset, "simsiam", symmetric=True, encoder_decay=0.0, projector_decay=0.0
    ),
    "simsiam-cifar10-101-linear": partial(_preset, "simsiam", predictor="linear"),
    "directpred-cifar10-101": partial(_preset, "directpred"),
    "directpred-cifar10-101-every5": partial(_preset, "directpred", every=5),
    "directpred-cifar10-101-shared": partial(_preset, "directpred", target="shared"),
    "directpred-cifar10-101-deep": partial(_preset, "directpred", layers=3),
    "directcopy-cifar10-101": partial(_preset, "directcopy", normalise="frobenius"),
    "directcopy-cifar10-101-shared": partial(_preset, "directcopy", normalise="frobenius", target="shared"),
    **{
        f"{method}-cifar10-101-fast{'-symmetric' * symmetric}{'-decay' * decay}": partial(
            _fast, method, symmetric, decay
        )
        for method in ("byol", "simsiam")
        for symmetric in (False, True)
        for decay in (False, True)
    },
}
"""Name -> Run. Every preset stores F and the predictor at each probe: the eigenspace experiment."""
