"""CIFAR-10 with a ResNet-18 on one GPU: published configurations at 1000 epochs, presets built from them at 200.

The numbers of solo-learn (batch 256) where it has the method, of the method's authors where it has not; DirectPred,
ReLIC, TiCo and LeJEPA have no published configuration for this length: those are our choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from selfsight.encoders import EncoderConfig
from selfsight.methods.barlowtwins import BarlowTwinsConfig
from selfsight.methods.byol import BYOLConfig
from selfsight.methods.deepcluster import DeepClusterConfig
from selfsight.methods.deepclusterv2 import DeepClusterV2Config
from selfsight.methods.densecl import DenseCLConfig
from selfsight.methods.dino import DINOConfig
from selfsight.methods.dinov2 import DINOv2Config
from selfsight.methods.directcopy import DirectCopyConfig
from selfsight.methods.directpred import DirectPredConfig
from selfsight.methods.empssl import EMPSSLConfig
from selfsight.methods.ibot import IBOTConfig
from selfsight.methods.lejepa import LeJEPAConfig
from selfsight.methods.mae import MAEConfig
from selfsight.methods.moco import MoCoConfig
from selfsight.methods.mocov3 import MoCoV3Config
from selfsight.methods.msn import MSNConfig
from selfsight.methods.nnclr import NNCLRConfig
from selfsight.methods.pixpro import PixProConfig
from selfsight.methods.relic import ReLICConfig
from selfsight.methods.sela import SeLaConfig
from selfsight.methods.simclr import SimCLRConfig
from selfsight.methods.simsiam import SimSiamConfig
from selfsight.methods.supcon import SupConConfig
from selfsight.methods.supervised import SupervisedConfig
from selfsight.methods.swav import SwAVConfig
from selfsight.methods.tico import TiCoConfig
from selfsight.methods.vicreg import VICRegConfig
from selfsight.methods.wmse import WMSEConfig
from selfsight.optim import OptimizerConfig, ScheduleConfig
from selfsight.recipes.common import (
    CONSTANT,
    COSINE,
    COSINE10,
    CROP_AND_FLIP,
    ENCODERS_OF,
    VIT_ADAMW,
    clipped_lars,
    net_of,
    sgd,
    views_of,
)
from selfsight.recipes.pretext import CIFAR10
from selfsight.run import ProbeConfig, Run

PER_EPOCH = 45000 // 256  # a tenth is held out
PROBE = ProbeConfig(every=10, k=200, temperature=0.1)
_STRONG: dict[str, Any] = {"policy": "sym", "blur": 0.0}
_EMP = OptimizerConfig(name="lars", lars_dialect="clipped", lars_eta=0.005, lr=0.3, scaling="none", weight_decay=1e-4)

# Transformers, our choice: small crops of 4 x 4 patches
_SMALL_CROPS: dict[str, Any] = {
    "policy": "asym", "scale": (0.25, 1.0), "locals": 4, "local_size": 16, "local_scale": (0.1, 0.4)
}  # fmt: skip
_TO_A_THOUSANDTH = ScheduleConfig(name="cosine", warmup_epochs=11, final=0.001)
_DISTIL: dict[str, Any] = {"outputs": 4096, "momentum": 0.998, "freeze_steps": PER_EPOCH}

# method: config, optimizer, schedule, views
_TABLE: dict[str, tuple[Any, OptimizerConfig, ScheduleConfig, dict[str, Any]]] = {
    "simclr": (
        SimCLRConfig(temperature=0.2, hidden=2048, dim=256, norm=False),
        clipped_lars(0.4, 1e-4),
        COSINE10,
        _STRONG,
    ),
    "moco": (
        MoCoConfig(queue=32768, hidden=2048, dim=256, momentum=0.99, momentum_end=0.999, direction="mean"),
        sgd(0.3, 1e-4),
        COSINE10,
        {"policy": "weak"},
    ),
    "mocov3": (MoCoV3Config(temperature=0.2), clipped_lars(0.3, 1e-6), COSINE10, {"policy": "asym"}),
    "byol": (BYOLConfig(), clipped_lars(1.0, 1e-5), COSINE10, {"policy": "asym"}),
    # section D of the paper; at 1000 epochs solo-learn's, see _LONG
    "simsiam": (
        SimSiamConfig(layers=2),
        sgd(0.03, 5e-4, decay_bias_and_norm=True),
        COSINE,
        {"policy": "moco-v2", "blur": 0.0},
    ),
    "directpred": (
        DirectPredConfig(),
        OptimizerConfig(name="sgd", lr=0.06, scaling="none", weight_decay=4e-4),
        COSINE10,
        {"policy": "colab"},
    ),
    "directcopy": (
        DirectCopyConfig(),
        OptimizerConfig(name="sgd", lr=0.06, scaling="none", weight_decay=4e-4),
        COSINE10,
        {"policy": "colab"},
    ),
    "relic": (ReLICConfig(hidden=2048, momentum=0.99), clipped_lars(1.0, 1e-5), COSINE10, {"policy": "asym"}),
    "barlowtwins": (
        BarlowTwinsConfig(hidden=2048, dim=2048, scale=0.1),
        clipped_lars(0.3, 1e-4),
        COSINE10,
        {"policy": "asym"},
    ),
    "vicreg": (VICRegConfig(hidden=2048, dim=2048), clipped_lars(0.3, 1e-4), COSINE10, {"policy": "vicreg-cifar"}),
    "nnclr": (NNCLRConfig(temperature=0.2, queue=16384), clipped_lars(0.4, 1e-5), COSINE10, {"policy": "asym"}),
    "wmse": (
        WMSEConfig(),
        OptimizerConfig(name="adam", lr=2e-3, scaling="none", weight_decay=1e-6),
        COSINE10,
        {"policy": "w-mse"},
    ),
    "tico": (TiCoConfig(hidden=1024), clipped_lars(1.0, 1e-5), COSINE10, {"policy": "asym"}),
    "lejepa": (
        LeJEPAConfig(directions=256, dim=64),
        OptimizerConfig(name="adamw", lr=1e-3, scaling="none", weight_decay=5e-4),
        COSINE10,
        {**_STRONG, "views": 4},
    ),
    "empssl": (EMPSSLConfig(), _EMP, ScheduleConfig(), {"policy": "emp-ssl", "views": 20}),
    "swav": (
        SwAVConfig(prototypes=512, queue=3840, queue_from_step=200 // 20 * PER_EPOCH, freeze_steps=2 * PER_EPOCH),
        clipped_lars(0.6, 1e-6),
        COSINE10,
        _STRONG,
    ),
    # edges, hence no colours
    "deepcluster": (
        DeepClusterConfig(clusters=128),
        sgd(0.05, 5e-4),
        CONSTANT,
        {"policy": "deepcluster", **CROP_AND_FLIP},
    ),
    "deepclusterv2": (DeepClusterV2Config(clusters=1000), clipped_lars(0.6, 1e-6), _TO_A_THOUSANDTH, _STRONG),
    "sela": (
        SeLaConfig(clusters=128, spacing="linear", relabels=200),
        sgd(0.05, 5e-4),
        ScheduleConfig(name="multistep", milestones=(0.6, 0.8)),
        {"policy": "moco-v1"},
    ),
    # lightly's benchmark; at 1000 epochs solo-learn's
    "dino": (
        DINOConfig(outputs=2048, layers=2, norm="batch", momentum=0.99, momentum_end=0.99, freeze_steps=PER_EPOCH),
        sgd(0.12, 5e-4),
        ScheduleConfig(name="cosine"),
        {"policy": "asym"},
    ),
    "ibot": (IBOTConfig(**_DISTIL), VIT_ADAMW, COSINE10, _SMALL_CROPS),
    "dinov2": (DINOv2Config(**{**_DISTIL, "momentum": 0.99}), VIT_ADAMW, COSINE10, _SMALL_CROPS),
    "msn": (MSNConfig(prototypes=512, drop=0.3), VIT_ADAMW, COSINE10, {**_SMALL_CROPS, "policy": "simclr-cifar"}),
    **CIFAR10,
    # our choice: those of MoCo v2 and BYOL, with maps of 4 x 4 positions
    "densecl": (DenseCLConfig(queue=8192, momentum=0.99), sgd(0.06, 5e-4), COSINE10, {"policy": "weak"}),
    "pixpro": (PixProConfig(hidden=1024), clipped_lars(1.0, 1e-5), COSINE10, {"policy": "asym", "scale": (0.2, 1.0)}),
    "supcon": (SupConConfig(hidden=2048, dim=256), sgd(0.4, 1e-5), COSINE10, _STRONG),
    "supervised": (SupervisedConfig(), sgd(0.1, 5e-4), ScheduleConfig(name="cosine", warmup_epochs=5),
                   {"policy": "deepcluster", **CROP_AND_FLIP}),
}  # fmt: skip

# What changes at 1000 epochs.
_LONG: dict[str, dict[str, Any]] = {
    "simsiam": {
        "method": SimSiamConfig(), "optimizer": sgd(0.5, 1e-5), "schedule": COSINE10,
        "views": views_of("simsiam", "weak"),
    },
    "nnclr": {"method": NNCLRConfig(temperature=0.2, queue=65536)},
    "deepclusterv2": {"method": DeepClusterV2Config()},
    "mae": {"method": MAEConfig()},
    "sela": {"method": SeLaConfig(clusters=128, spacing="linear", relabels=1000)},
    "dino": {
        "method": DINOConfig(outputs=4096, momentum=0.9995, freeze_steps=PER_EPOCH), "optimizer": clipped_lars(0.3, 1e-6),
        "schedule": COSINE10,
    },
    "swav": {
        "method": SwAVConfig(
            prototypes=3000, queue=3840, queue_from_step=1000 // 20 * PER_EPOCH, freeze_steps=2 * PER_EPOCH
        )
    },
}  # fmt: skip


_BATCHES = {"empssl": 100, "amdim": 200, "cpc": 128}
_VIT = {
    **dict.fromkeys(("ibot", "dinov2", "msn"), EncoderConfig(drop_path=0.1)),
    **{name: net_of(name) for name in ("mae", "simmim", "ijepa")},
}


def cifar10(method: str, epochs: int) -> Run[Any]:
    """ResNet-18 (masks: ViT-S/4; AMDIM, CPC: their own), batch 256 unless in _BATCHES, k-NN with k = 200 every 10 epochs."""
    config, optimizer, schedule, views = _TABLE[method]
    run = Run(
        config, data="cifar10", encoder=ENCODERS_OF.get(method, ("", "vit-small" if method in _VIT else "resnet18"))[1],
        net=_VIT.get(method, net_of(method)), image_size=32, optimizer=optimizer,
        schedule=schedule, views=views_of(method, **views), epochs=epochs,
        batch_size=_BATCHES.get(method, 256), probe=PROBE,
    )  # fmt: skip
    return replace(run, **_LONG.get(method, {})) if epochs >= 1000 else run


def dcl(weighted: bool) -> Run[Any]:
    """Decoupled contrastive learning in SimCLR's preset, temperature 0.1."""
    config = SimCLRConfig(temperature=0.1, objective="dclw" if weighted else "dcl", dim=256, norm=False)
    return replace(cifar10("simclr", 200), method=config)


def moco_demo(direction: Any) -> Run[Any]:
    """The authors' CIFAR demo: linear head, queue 4096, split batch normalisation, batch 512, no warm-up."""
    config = MoCoConfig(
        layers=1, dim=128, queue=4096, temperature=0.1, momentum=0.99, momentum_end=0.99, direction=direction,
        batch_norm="split",
    )  # fmt: skip
    return replace(
        cifar10("moco", 200), method=config, optimizer=sgd(0.03, 5e-4, decay_bias_and_norm=True), schedule=COSINE,
        views=views_of("moco", "colab"), batch_size=512,
    )  # fmt: skip


def emp_short() -> Run[Any]:
    """EMP-SSL as its authors run it: ten epochs of 20 patches."""
    return replace(cifar10("empssl", 200), epochs=10, probe=replace(PROBE, every=1))
