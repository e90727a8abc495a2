"""ImageNet at 224 px, for many GPUs (sizes are global): the numbers of each paper or its code.

Where neither says (ReLIC, SupCon), of re-implementations or BYOL's (TiCo, ReLIC); EMP-SSL's are those of its CIFAR code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from selfsight.augment import TilesConfig
from selfsight.encoders import EncoderConfig
from selfsight.methods.barlowtwins import BarlowTwinsConfig
from selfsight.methods.byol import BYOLConfig
from selfsight.methods.cpc import CPCConfig
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
    PICTURES,
    POLICIES_OF,
    lars,
    net_of,
    sgd,
    views_of,
)
from selfsight.recipes.pretext import IMAGENET, IMAGENET_VIEWS
from selfsight.run import Run

# The linear predictor on BYOL's heads and optimisation, which is what the papers of the two report on ImageNet.
_BYOL_HEADS: dict[str, Any] = {
    "hidden": 4096, "dim": 256, "norm": "batch", "last_bias": False, "momentum": 0.99, "momentum_end": 1.0
}  # fmt: skip
_TO_A_MILLIONTH = ScheduleConfig(name="cosine", warmup_epochs=10, final=5e-4)  # of a peak of 0.002
_VIT = {
    **dict.fromkeys(("dino", "ibot", "msn"), EncoderConfig(drop_path=0.1)),
    "dinov2": EncoderConfig(drop_path=0.3, layer_scale=1e-5),
}
_PATCHES = {"cpc": EncoderConfig(patch=80)}
_BASE = ("mae", "simmim", "ijepa")  # ViT-B/16


def _adamw(lr: float) -> OptimizerConfig:
    """As DINO and iBOT: the rate is for a batch of 256, every tensor's gradient is clipped alone."""
    return OptimizerConfig(
        name="adamw", lr=lr, weight_decay=0.04, weight_decay_end=0.4, clip_norm=3.0, clip_per="tensor"
    )


def _larc(lr: float) -> OptimizerConfig:
    """As SwAV: every tensor is adapted and decays, biases and norms too."""
    return OptimizerConfig(name="lars", lars_dialect="larc", decay_bias_and_norm=True, lr=lr, weight_decay=1e-6)


_TO_A_THOUSANDTH = ScheduleConfig(name="cosine", warmup_epochs=10, final=0.001)

# method: config, optimizer, schedule, epochs, global batch
_TABLE: dict[str, tuple[Any, OptimizerConfig, ScheduleConfig, int, int]] = {
    # section 5.1 and B.1; weight decay 1e-6; 100 epochs as in the ablations
    "simclr": (
        SimCLRConfig(),
        OptimizerConfig(name="lars", lars_dialect="tf", lr=0.3, weight_decay=1e-6),
        COSINE10,
        100,
        4096,
    ),
    "moco": (MoCoConfig(batch_norm="shuffle"), sgd(0.03, 1e-4, decay_bias_and_norm=True), COSINE, 200, 256),
    "mocov3": (MoCoV3Config(), lars(0.3, 1e-6), COSINE10, 300, 4096),
    "byol": (BYOLConfig(), lars(0.3, 1e-6), COSINE10, 300, 4096),  # the authors' 300-epoch settings
    "simsiam": (SimSiamConfig(), sgd(0.05, 1e-4, decay_bias_and_norm=True), COSINE, 100, 512),
    "directpred": (DirectPredConfig(**_BYOL_HEADS), lars(0.3, 1e-6), COSINE10, 300, 4096),
    "directcopy": (DirectCopyConfig(**_BYOL_HEADS), lars(0.3, 1e-6), COSINE10, 300, 4096),
    "relic": (ReLICConfig(), lars(0.2, 1.5e-6), COSINE10, 1000, 4096),
    # the authors' rate of biases and norms, 0.0048 of 0.2, met gradients a sixteenth of ours (16 GPUs)
    "barlowtwins": (
        BarlowTwinsConfig(),
        lars(0.2, 1e-6, bias_and_norm_lr=0.0048 / 0.2 / 16),
        _TO_A_THOUSANDTH,
        1000,
        2048,
    ),
    "vicreg": (VICRegConfig(), lars(0.2, 1e-6), _TO_A_THOUSANDTH, 1000, 2048),
    "nnclr": (NNCLRConfig(), lars(0.3, 1e-6), COSINE10, 1000, 4096),
    # the authors' settings of ImageNet-100, batch 512 of d = 2 views
    "wmse": (
        WMSEConfig(dim=128, slice_size=256),
        OptimizerConfig(name="adam", lr=2e-3, scaling="none", weight_decay=1e-6),
        ScheduleConfig(name="multistep", warmup_epochs=2, milestones=(190 / 240, 215 / 240), gamma=0.2),
        240,
        512,
    ),
    "tico": (TiCoConfig(), lars(0.2, 1.5e-6), COSINE10, 1000, 4096),
    "lejepa": (
        LeJEPAConfig(),
        OptimizerConfig(name="adamw", lr=5e-4, scaling="none", weight_decay=5e-4),
        ScheduleConfig(name="cosine", warmup_epochs=1, final=0.001),
        100,
        512,
    ),
    "empssl": (
        EMPSSLConfig(),
        OptimizerConfig(name="lars", lars_dialect="clipped", lars_eta=0.005, lr=0.3, scaling="none", weight_decay=1e-4),
        ScheduleConfig(),
        10,
        100,
    ),
    # section 4 and appendix A: 2 x 224 + 6 x 96
    "swav": (
        SwAVConfig(),
        _larc(0.3),
        ScheduleConfig(name="cosine", warmup_epochs=10, warmup_start=0.0625, final=0.001),
        200,
        4096,
    ),
    # section 3.3: AlexNet on edges; 200 epochs as in the code, the paper has 500
    "deepcluster": (DeepClusterConfig(), sgd(0.05, 1e-5, decay_bias_and_norm=True), CONSTANT, 200, 256),
    # the authors' repository: 2 x 160 + 4 x 96
    "deepclusterv2": (
        DeepClusterV2Config(),
        _larc(0.3),
        ScheduleConfig(name="cosine", warmup_epochs=10, warmup_start=0.0625, final=0.001),
        400,
        4096,
    ),
    "sela": (
        SeLaConfig(),
        sgd(0.08, 1e-5, decay_bias_and_norm=True),
        ScheduleConfig(name="multistep", milestones=(150 / 400, 300 / 400, 350 / 400)),
        400,
        256,
    ),
    "dino": (DINOConfig(), _adamw(5e-4), _TO_A_MILLIONTH, 100, 1024),  # appendix: ViT-S/16
    "ibot": (IBOTConfig(), _adamw(5e-4), _TO_A_MILLIONTH, 800, 1024),  # section 4.1, appendix
    # the code's short schedule for ImageNet-1k; the peak is 0.004 sqrt(batch / 1024)
    "dinov2": (
        DINOv2Config(freeze_steps=PICTURES // 2048),
        OptimizerConfig(
            name="adamw", lr=0.004 / 32, scaling="sqrt", weight_decay=0.04, weight_decay_end=0.4, clip_norm=3.0
        ),
        replace(_TO_A_MILLIONTH, final=1e-6 / 0.004 / 2**0.5),
        100,
        2048,
    ),
    "msn": (
        MSNConfig(),
        OptimizerConfig(name="adamw", lr=1e-3, scaling="none", weight_decay=0.04, weight_decay_end=0.4, clip_norm=3.0),
        ScheduleConfig(name="cosine", warmup_epochs=15, warmup_start=0.2, final=0.001, stretch=1.25),
        800,
        1024,
    ),
    **IMAGENET,
    # section 4.1
    "densecl": (DenseCLConfig(batch_norm="shuffle"), sgd(0.03, 1e-4, decay_bias_and_norm=True), COSINE, 200, 256),
    "pixpro": (PixProConfig(), lars(1.0, 1e-5), ScheduleConfig(name="cosine", warmup_epochs=5), 100, 1024),
    "supcon": (SupConConfig(), lars(0.3, 1e-6), COSINE10, 350, 4096),
    "supervised": (SupervisedConfig(), sgd(0.1, 1e-4), ScheduleConfig(name="cosine", warmup_epochs=5), 90, 256),
}

_VIEWS: dict[str, dict[str, Any]] = {
    **IMAGENET_VIEWS,
    "mocov3": {"scale": (0.2, 1.0)},
    "wmse": {"scale": (0.08, 1.0), "strength": 2.0, "gray": 0.2},
    "lejepa": {
        "scale": (0.3, 1.0), "blur": 0.5, "solarise": 0.2, "locals": 6, "local_size": 98, "local_scale": (0.05, 0.3)
    },
    "empssl": {"views": 20},
    "swav": {"scale": (0.14, 1.0), "locals": 6, "local_size": 96, "local_scale": (0.05, 0.14)},
    "deepcluster": {"scale": (0.08, 1.0), **CROP_AND_FLIP},
    "deepclusterv2": {
        "size": 160, "scale": (0.14, 1.0), "locals": 4, "local_size": 96, "local_scale": (0.05, 0.14)
    },
    "sela": {"scale": (0.08, 1.0)},
    "dino": {"locals": 8, "local_size": 96},
    "ibot": {"scale": (0.25, 1.0), "locals": 10, "local_size": 96, "local_scale": (0.05, 0.25)},
    "dinov2": {"scale": (0.32, 1.0), "locals": 8, "local_size": 96, "local_scale": (0.05, 0.32)},
    "msn": {"scale": (0.3, 1.0), "locals": 10, "local_size": 96, "local_scale": (0.05, 0.3)},
    "supervised": {"scale": (0.08, 1.0), **CROP_AND_FLIP},
}  # fmt: skip


_OWN = {"amdim": ("amdim-medium", 128), "cpc": ("cpc-large", 260)}  # encoder, side of a view


def imagenet(method: str) -> Run[Any]:
    """ResNet-50 (self-distillation: ViT-S/16, _BASE: ViT-B/16, DeepCluster: AlexNet) with the paper's numbers."""
    config, optimizer, schedule, epochs, batch = _TABLE[method]
    encoder = "alexnet" if method == "deepcluster" else "vit-small" if method in _VIT else "resnet50"
    encoder, side = _OWN.get(method, ("vit-base" if method in _BASE else encoder, 224))
    return Run(
        config, data="imagenet", encoder=encoder,
        net={**_VIT, **_PATCHES}.get(method, net_of(method)), image_size=side, optimizer=optimizer,
        schedule=schedule, epochs=epochs, batch_size=batch,
        views=views_of(method, POLICIES_OF[method][1], **_VIEWS.get(method, {})),
    )  # fmt: skip


def moco_v1() -> Run[Any]:
    """MoCo v1: a linear head, temperature 0.07, gray before jitter, rate x0.1 at epochs 120 and 160 of 200."""
    run = imagenet("moco")
    return replace(
        run,
        method=MoCoConfig(layers=1, temperature=0.07, batch_norm="shuffle"),
        views=views_of("moco", "moco-v1"),
        schedule=ScheduleConfig(name="multistep", milestones=(0.6, 0.8), per="epoch"),
    )


def simclr_v2() -> Run[Any]:
    """SimCLR v2: a head of three layers, weight decay 1e-4, square-root scaling, 800 epochs."""
    optimizer = OptimizerConfig(name="lars", lars_dialect="tf", lr=0.1, scaling="sqrt", weight_decay=1e-4)
    schedule = ScheduleConfig(name="cosine", warmup_epochs=40)
    return replace(
        imagenet("simclr"), method=SimCLRConfig(layers=3), optimizer=optimizer, schedule=schedule, epochs=800
    )


def swav_small_batch() -> Run[Any]:
    """SwAV at batch 256, the authors' script: a queue from epoch 15, no warm-up, rate 0.6 to 0.0006."""
    config = SwAVConfig(queue=3840, queue_from_step=15 * (PICTURES // 256), freeze_steps=5005)
    schedule = ScheduleConfig(name="cosine", final=0.001)
    return replace(imagenet("swav"), method=config, optimizer=_larc(0.6), schedule=schedule, batch_size=256)


def dino_long() -> Run[Any]:
    """DINO for 800 epochs: 10 small crops, a warmer teacher, a last layer of any length (appendix, the code)."""
    return replace(
        imagenet("dino"), method=DINOConfig(teacher_temperature_end=0.07, unit_last=False), epochs=800,
        views=views_of(
            "dino", "dino", scale=(0.25, 1.0), locals=10, local_size=96, local_scale=(0.05, 0.25)
        ),
    )  # fmt: skip


def dino_resnet() -> Run[Any]:
    """DINO with a ResNet-50, the quick run of the authors' repository: SGD, SwAV's crops, batch 512.

    The published 75.3 % took 800 epochs of LARS at a batch near 4096, of which not every number is known.
    """
    return replace(
        imagenet("dino"), method=DINOConfig(freeze_steps=PICTURES // 512), encoder="resnet50", net=EncoderConfig(),
        optimizer=sgd(0.03, 1e-4, clip_norm=3.0, clip_per="tensor"), batch_size=512,
        schedule=ScheduleConfig(name="cosine", warmup_epochs=10, final=1e-6 / 0.06),
        views=views_of(
            "dino", "dino", scale=(0.14, 1.0), locals=8, local_size=96, local_scale=(0.05, 0.14)
        ),
    )  # fmt: skip


def cpc_v1() -> Run[Any]:
    """CPC v1: 7 x 7 gray patches of 64 px, of which random 60 px are seen; predictions downwards only; no clipping."""
    tiles = TilesConfig(grid=7, cell=64, stride=32, size=60, pad=True)
    return replace(
        imagenet("cpc"), method=CPCConfig(directions=1), net=EncoderConfig(), image_size=256,
        optimizer=OptimizerConfig(name="adam", lr=2e-4, scaling="none", weight_decay=0.0),
        views=views_of("cpc", "cpc-v1", tiles=tiles),
    )  # fmt: skip
