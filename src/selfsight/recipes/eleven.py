"""Eleven methods on CIFAR-10 as one reference project configured them, so that its numbers can be compared like for like.

One augmentation, plain SGD and narrow heads for all. Its settings are kept, its mistakes are not: the methods are this
system's. Settings of our own, which published configurations suggest, are in cifar10.py, and do better.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from selfsight.augment import TilesConfig
from selfsight.methods.barlowtwins import BarlowTwinsConfig
from selfsight.methods.byol import BYOLConfig
from selfsight.methods.deepcluster import DeepClusterConfig
from selfsight.methods.dino import DINOConfig
from selfsight.methods.moco import MoCoConfig
from selfsight.methods.pirl import PIRLConfig
from selfsight.methods.relic import ReLICConfig
from selfsight.methods.sela import SeLaConfig
from selfsight.methods.simclr import SimCLRConfig
from selfsight.methods.simsiam import SimSiamConfig
from selfsight.methods.swav import SwAVConfig
from selfsight.optim import OptimizerConfig, ScheduleConfig
from selfsight.recipes.common import COSINE10, net_of, views_of
from selfsight.run import ProbeConfig, Run

PER_EPOCH = 45000 // 512  # a tenth is held out
_COSINE = ScheduleConfig()


def _sgd(lr: float, weight_decay: float = 1e-4) -> OptimizerConfig:
    return OptimizerConfig(
        name="sgd", lr=lr, scaling="none", nesterov=True, weight_decay=weight_decay, decay_bias_and_norm=True
    )


# method: config, optimizer, schedule, what differs from 1000 epochs of batch 512, measured every 10, with its views
_TABLE: dict[str, tuple[Any, OptimizerConfig, ScheduleConfig, dict[str, Any]]] = {
    "simclr": (SimCLRConfig(temperature=0.5, hidden=512, dim=128), _sgd(2.0), COSINE10, {}),
    # a queue of 1000, brought to a multiple of the batch; statistics in groups, or the pretext is read from them
    "moco": (
        MoCoConfig(temperature=0.07, queue=1024, layers=1, dim=128, batch_norm="split"),
        _sgd(0.03),
        COSINE10,
        {"batch_size": 256},
    ),
    "byol": (BYOLConfig(hidden=512, dim=128, predictor_hidden=128, momentum=0.996), _sgd(0.2), COSINE10, {}),
    "simsiam": (SimSiamConfig(hidden=1024, dim=1024, layers=3, predictor_hidden=128), _sgd(0.05), _COSINE, {}),
    # a tenth of the loss, whose sum over 4096 x 4096 entries is meant for LARS
    "barlowtwins": (
        BarlowTwinsConfig(weight=0.005, scale=0.1, hidden=4096, dim=4096),
        _sgd(0.2, 1.5e-6),
        COSINE10,
        {},
    ),
    # a bank of 3000, likewise; it starts late, and prototypes stand still at first, as in the paper
    "swav": (
        SwAVConfig(hidden=512, dim=128, queue=3072, queue_from_step=15 * PER_EPOCH, freeze_steps=PER_EPOCH),
        _sgd(2.0, 1e-6),
        COSINE10,
        {},
    ),
    "relic": (ReLICConfig(temperature=1.0, alpha=0.5, hidden=512, dim=128), _sgd(0.2), COSINE10, {}),
    "pirl": (
        PIRLConfig(negatives=1000),
        _sgd(0.01),
        _COSINE,
        {
            "batch_size": 256, "every": 5, "scale": (0.6, 1.0),
            "tiles": TilesConfig(grid=2, cell=16, size=16, per_tile=True, scale=(0.6, 1.0)),
        },
    ),
    "dino": (
        DINOConfig(
            hidden=512, bottleneck=512, outputs=1024, teacher_temperature_end=0.07, freeze_steps=45000 // 64
        ),
        OptimizerConfig(
            name="adamw", lr=1e-4, scaling="none", weight_decay=0.04, weight_decay_end=0.4, eps=1e-6, clip_norm=3.0,
            clip_per="tensor",
        ),
        COSINE10,
        {
            "batch_size": 64, "every": 5, "scale": (0.3, 1.0), "locals": 6, "local_size": 8,
            "local_scale": (0.05, 0.3), "interpolation": "bicubic",
        },
    ),
    "sela": (
        SeLaConfig(clusters=128, iterations=80),
        _sgd(0.05, 1e-6),
        ScheduleConfig(name="multistep", milestones=(0.2, 0.5, 0.8)),
        {"batch_size": 500, "epochs": 500},
    ),
    "deepcluster": (DeepClusterConfig(clusters=10, iterations=300, head="matched"), _sgd(2.0), COSINE10, {}),
}  # fmt: skip


def _eleven(method: str) -> Run[Any]:
    """ResNet-18 with a stem for small pictures, seed 420."""
    config, optimizer, schedule, own = _TABLE[method]
    views = {k: v for k, v in own.items() if k not in ("batch_size", "epochs", "every")}
    return Run(
        config, data="cifar10", encoder="resnet18", net=net_of(method), image_size=32, optimizer=optimizer,
        schedule=schedule, views=views_of(method, "seed001", **views), epochs=own.get("epochs", 1000),
        batch_size=own.get("batch_size", 512), probe=ProbeConfig(every=own.get("every", 10)), seed=420,
    )  # fmt: skip


def name_for(method: str) -> str:
    """The recipe of one of the eleven."""
    return f"{method}-cifar10-{500 if method == 'sela' else 1000}-eleven"


ELEVEN: dict[str, Callable[[], Run[Any]]] = {name_for(method): partial(_eleven, method) for method in _TABLE}
"""Name -> Run."""
