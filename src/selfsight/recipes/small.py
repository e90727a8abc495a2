"""Recipes for two CPU cores and for any folder; and `tiny`, for tests.

Those for `shapes` were found on held-out pictures (docs/results.md); on CIFAR-10 those of the methods in its table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from selfsight.augment import TilesConfig
from selfsight.encoders import EncoderConfig
from selfsight.methods import METHODS
from selfsight.methods.amdim import AMDIMConfig
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
from selfsight.methods.ijepa import IJEPAConfig
from selfsight.methods.instdisc import InstDiscConfig
from selfsight.methods.jigsaw import JigsawConfig
from selfsight.methods.lejepa import LeJEPAConfig
from selfsight.methods.mae import MAEConfig
from selfsight.methods.moco import MoCoConfig
from selfsight.methods.mocov3 import MoCoV3Config
from selfsight.methods.msn import MSNConfig
from selfsight.methods.nnclr import NNCLRConfig
from selfsight.methods.pirl import PIRLConfig
from selfsight.methods.pixpro import PixProConfig
from selfsight.methods.relic import ReLICConfig
from selfsight.methods.rotnet import RotNetConfig
from selfsight.methods.sela import SeLaConfig
from selfsight.methods.simclr import SimCLRConfig
from selfsight.methods.simmim import SimMIMConfig
from selfsight.methods.simsiam import SimSiamConfig
from selfsight.methods.supcon import SupConConfig
from selfsight.methods.supervised import SupervisedConfig
from selfsight.methods.swav import SwAVConfig
from selfsight.methods.tico import TiCoConfig
from selfsight.methods.vicreg import VICRegConfig
from selfsight.methods.wmse import WMSEConfig
from selfsight.optim import OptimizerConfig, ScheduleConfig
from selfsight.recipes.common import net_of, patches, views_of
from selfsight.run import Run

MUON = OptimizerConfig(
    name="muon", lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.002, muon_steps=3, muon_aux_lr=0.1
)

# In a few hundred steps the teacher's centre must follow fast, or one output wins before it does.
_DISTIL: dict[str, Any] = {
    "hidden": 256, "bottleneck": 128, "outputs": 128, "norm": "batch", "momentum": 0.9, "freeze_steps": 20,
    "student_temperature": 0.2, "teacher_temperature": 0.06, "teacher_temperature_end": 0.06, "centre_momentum": 0.3,
}  # fmt: skip

# Networks without batch normalisation inside do not bear Muon's long first steps.
_ADAM = OptimizerConfig(name="adam", lr=3e-3, scaling="none", weight_decay=1e-5, betas=(0.8, 0.999))
_OPTIMIZERS = {"amdim": _ADAM, "cpc": _ADAM}

# Heads and constants for small networks and small data.
_SMALL: dict[str, Any] = {
    "simclr": SimCLRConfig(temperature=0.2, hidden=512, dim=128),
    "moco": MoCoConfig(queue=1024, hidden=512, dim=128, momentum=0.9, momentum_end=0.99, direction="mean"),
    "mocov3": MoCoV3Config(temperature=0.2, hidden=512, dim=128, momentum=0.9, joint_views=True),
    "byol": BYOLConfig(hidden=512, dim=128, last_norm="batch-plain", predictor_hidden=512, momentum=0.9,
                       joint_views=True),
    "simsiam": SimSiamConfig(hidden=512, dim=512, layers=2, predictor_hidden=128, joint_views=True),
    "directpred": DirectPredConfig(hidden=512, dim=128, last_norm="batch-plain", momentum=0.9, momentum_end=1.0,
                                   joint_views=True),
    "directcopy": DirectCopyConfig(hidden=512, dim=128, last_norm="batch-plain", momentum=0.9, momentum_end=1.0,
                                   joint_views=True),
    "relic": ReLICConfig(hidden=512, dim=128, momentum=0.9, joint_views=True),
    "barlowtwins": BarlowTwinsConfig(hidden=512, dim=512, layers=2, scale=0.1, joint_views=True),
    "vicreg": VICRegConfig(hidden=512, dim=512, layers=2, joint_views=True),
    "nnclr": NNCLRConfig(temperature=0.2, queue=1024, hidden=512, predictor_hidden=512, dim=128, layers=2,
                         joint_views=True),
    "wmse": WMSEConfig(hidden=512, dim=32, slice_size=64, iterations=4),
    "tico": TiCoConfig(hidden=512, dim=128, momentum=0.9),
    "lejepa": LeJEPAConfig(directions=256, hidden=512, dim=64, layers=2),
    "empssl": EMPSSLConfig(hidden=512, dim=256),
    "swav": SwAVConfig(hidden=256, dim=128, prototypes=64, temperature=0.2, queue=0, freeze_steps=5),
    "deepcluster": DeepClusterConfig(clusters=100, pca=64, iterations=10),
    "deepclusterv2": DeepClusterV2Config(hidden=256, clusters=100, temperature=0.2),
    "sela": SeLaConfig(clusters=64, heads=3, sharpness=50, relabels=12, spacing="linear", iterations=200),
    "dino": DINOConfig(**_DISTIL),
    "ibot": IBOTConfig(**_DISTIL, patches=0.2),
    "dinov2": DINOv2Config(**_DISTIL, patches=0.2, koleo=0.02, layer_decay=1.0, embedding_lr=1.0),
    "msn": MSNConfig(hidden=128, dim=64, prototypes=64, momentum=0.9),
    "amdim": AMDIMConfig(),
    "cpc": CPCConfig(furthest=3, blocks=2, width=64, dim=32, scale=1.0),
    # a hidden layer over all tiles: without one each tile says on its own where it belongs
    "jigsaw": JigsawConfig(permutations=24, hidden=128, norm=True, joint=256, dropout=0.0),
    "rotnet": RotNetConfig(),
    # a bank of fast networks ages fast, and starts with what all pictures have in common
    "pirl": PIRLConfig(temperature=0.1, negatives=4096, layers=2, hidden=512, momentum=0.0, last_norm="batch-plain"),
    "instdisc": InstDiscConfig(temperature=0.1, momentum=0.0, last_norm="batch-plain"),
    "mae": MAEConfig(width=64, depth=2, heads=4, normalise=False),
    "simmim": SimMIMConfig(),
    "ijepa": IJEPAConfig(width=64, depth=2, heads=4, momentum=0.9),
    "densecl": DenseCLConfig(queue=256, hidden=512, dim=128, momentum=0.9),  # keys of fast networks age fast
    "pixpro": PixProConfig(hidden=512, dim=128, instance=1.0, momentum=0.5),
    "supcon": SupConConfig(hidden=512, dim=128),
    "supervised": SupervisedConfig(),
}  # fmt: skip

# A folder's batch may be 1024, which the queue must hold.
_FOLDER: dict[str, Any] = {"densecl": DenseCLConfig(queue=1024, hidden=512, dim=128, momentum=0.9)}

# Encoders of their own. Who hides patches needs some, whose mean learns sooner than a class token. On CIFAR-10 early convolutions
# learn sooner than one projection, and nine large patches are seen four times as often in the same time as 36 small ones.
_HIDING = ("mae", "simmim", "ijepa")  # what is hidden teaches, not the augmentation
_MEAN = EncoderConfig(pool="mean")
_SOON = EncoderConfig(pool="mean", conv_stem=True, patch=8)
_ENCODERS = {
    **dict.fromkeys(("ibot", "dinov2", "msn"), ("vit-mini", _MEAN)),
    # these two predict pixels, which convolutions would give away, and must know from the start where a patch lies
    **dict.fromkeys(("mae", "simmim"), ("vit-micro", net_of("mae"))),
    # fixed positions would drown the pixels of a small network that has no pixels to predict
    "ijepa": ("vit-micro", EncoderConfig(pool="mean", conv_stem=True)),
    "amdim": ("amdim-mini", EncoderConfig()),
    "cpc": ("cpc-mini", EncoderConfig()),
}
# What CIFAR-10 asks for in place of it. A relabelling of SeLa costs as much as 40 steps there.
_CONFIGS_CIFAR10 = {
    "sela": replace(_SMALL["sela"], relabels=8),
    "dino": replace(_SMALL["dino"], student_temperature=0.1),
}
_ENCODERS_CIFAR10 = dict.fromkeys(("ibot", "dinov2", "msn"), ("vit-micro", _SOON))

# At the usual rate MSN's features grow a common part that nothing holds down, 99.99 % of their length; Jigsaw learns less.
_SLOWER = ("msn", "jigsaw")

# On `shapes`, where colour means nothing, all views are gray with strong jitter: else small networks answer by colour, and
# with it every method learns in half a minute.
_STRONG: dict[str, Any] = {"policy": "sym", "blur": 0.0}
# Nothing pushes views apart here: on CIFAR-10 half the jitter and twice as many, smaller steps learn more in the same time.
_NO_NEGATIVES = ("byol", "simsiam", "directpred", "directcopy", "swav", "dino", "ibot", "dinov2", "msn")
# Large batches cost these more than they bring.
_MORE_STEPS = ("deepclusterv2", "cpc", "amdim", "jigsaw")
_VIEWS: dict[str, dict[str, Any]] = {
    "swav": {"locals": 4, "local_size": 16, "local_scale": (0.08, 0.4)},
    "empssl": {"views": 8},
    "dino": {"locals": 4, "local_size": 16, "local_scale": (0.08, 0.4)},
    "ibot": {"locals": 2, "local_size": 16, "local_scale": (0.08, 0.4)},
    "dinov2": {"locals": 2, "local_size": 16, "local_scale": (0.08, 0.4)},
    "msn": {"locals": 2, "local_size": 16, "local_scale": (0.08, 0.4)},
    "amdim": {"size": 32, "scale": (0.3, 1.0)},
    "cpc": {"size": 0, "scale": (0.25, 1.0), "tiles": patches(8, grid=4)},  # of 20 px
    "jigsaw": {"scale": None, "tiles": TilesConfig(grid=2, cell=16, size=12, shift=1, standardise=True)},
    "pirl": {"tiles": TilesConfig(grid=2, cell=16, size=12, per_tile=True, scale=(0.6, 1.0))},
    "simmim": {"mask_unit": 1, "mask_ratio": (0.75, 0.75)},  # as MAE: squares of two patches hide a whole figure
}

_VIEWS_CIFAR10: dict[str, dict[str, Any]] = {
    "dino": {"locals": 2},
    "jigsaw": {"tiles": TilesConfig(grid=2, cell=16, size=14, shift=1, standardise=True)},
}

# Figures at any angle do not tell how they were turned: RotNet would have nothing to learn.
_DATA = {("rotnet", "shapes"): "shapes:32:10000:upright"}

# Whose labels change all along: with a rate that falls to nothing the last ones would not be learnt.
_RELABELLED = ("deepcluster", "deepclusterv2", "sela")


def cpu(method: str, data: str) -> Run[Any]:
    """fastnet on two CPU cores: about half an hour on CIFAR-10, a few minutes on `shapes`.

    Views are 24 px, the density of the pixels in an average crop; the encoder is measured on whole 32 px pictures.
    """
    length: dict[str, Any] = {
        "cifar10": {"epochs": 16, "max_minutes": 29},
        "shapes": {"epochs": 3},  # `make demo` must take less than three minutes
    }[data]
    views: dict[str, Any] = {"size": 24, "scale": (0.2, 1.0), **_VIEWS.get(method, {})}
    if data == "cifar10":
        views |= _VIEWS_CIFAR10.get(method, {})
        if method in _NO_NEGATIVES:
            views["policy"] = "simclr-cifar"
    if method in _HIDING or (data == "cifar10" and method == "amdim"):
        views["scale"] = None  # the policy's
        if method == "ijepa" and data == "shapes":
            views["gray"] = 1.0
    elif data == "shapes":
        views |= {**_STRONG, "gray": 1.0}
        if method in _ENCODERS_CIFAR10:  # 25 and 9 patches of 4 px
            views |= {"size": 20, "local_size": 12}
    encoder, net = _ENCODERS.get(method, ("fastnet", net_of(method, resnet=False)))
    optimizer = _OPTIMIZERS.get(method, MUON)
    if data == "cifar10" and method in _SLOWER:
        optimizer = replace(MUON, lr=0.02)
    if data == "cifar10" and method in _ENCODERS_CIFAR10:
        encoder, net = _ENCODERS_CIFAR10[method]
    small = _CONFIGS_CIFAR10 if data == "cifar10" else {}
    return Run(
        small.get(method, _SMALL[method]), data=_DATA.get((method, data), data), encoder=encoder, image_size=32, net=net,
        batch_size=128 if data == "shapes" or method in (*_NO_NEGATIVES, *_MORE_STEPS) else 256,
        views=views_of(method, **views), optimizer=optimizer,
        schedule=ScheduleConfig(
            name="constant" if method in _RELABELLED else "cosine", warmup_epochs=0.05 * length["epochs"]
        ), **length,
    )  # fmt: skip


def any_folder(method: str) -> Run[Any]:
    """A folder of pictures: encoder, policy, batch and epochs follow the data (see `resolve`)."""
    base = cpu(method, "shapes")
    views = views_of(method, views=base.views.views)
    net = _MEAN if METHODS[method].tokens and method not in _HIDING else net_of(method, resnet=False)
    return replace(
        base, method=_FOLDER.get(method, base.method), net=net, encoder="auto", epochs="auto", batch_size="auto",
        image_size="auto", views=views,
    )  # fmt: skip


def tiny(method: str) -> Run[Any]:
    """A few hundred pictures, a few seconds: for tests, gates and a first look."""
    config = {
        "simclr": SimCLRConfig(temperature=0.2, hidden=64, dim=32),
        "moco": MoCoConfig(queue=128, hidden=64, dim=32, momentum=0.9, momentum_end=0.99),
        "mocov3": MoCoV3Config(temperature=0.2, hidden=64, dim=32, momentum=0.9),
        "byol": BYOLConfig(hidden=64, dim=32, predictor_hidden=64, momentum=0.9, joint_views=True),
        "simsiam": SimSiamConfig(hidden=64, dim=32, layers=2, predictor_hidden=16),
        "directpred": DirectPredConfig(hidden=64, dim=32, momentum=0.9, momentum_end=0.9),
        "directcopy": DirectCopyConfig(hidden=64, dim=32, momentum=0.9, momentum_end=0.9),
        "relic": ReLICConfig(hidden=64, dim=32, momentum=0.9),
        "barlowtwins": BarlowTwinsConfig(hidden=64, dim=64, layers=2, scale=0.1),
        "vicreg": VICRegConfig(hidden=64, dim=64, layers=2),
        "nnclr": NNCLRConfig(temperature=0.2, queue=128, hidden=64, predictor_hidden=64, dim=32, layers=2),
        "wmse": WMSEConfig(hidden=64, dim=8, slice_size=16),
        "tico": TiCoConfig(hidden=64, dim=32, momentum=0.9),
        "lejepa": LeJEPAConfig(directions=32, hidden=64, dim=16, layers=2),
        "empssl": EMPSSLConfig(hidden=64, dim=32),
        "swav": SwAVConfig(hidden=64, dim=32, prototypes=30, queue=128, queue_from_step=4, freeze_steps=3),
        "deepcluster": DeepClusterConfig(clusters=20, pca=16, iterations=5),
        "deepclusterv2": DeepClusterV2Config(hidden=64, dim=32, clusters=20, iterations=5),
        "sela": SeLaConfig(clusters=20, heads=2, relabels=6),
        "dino": DINOConfig(hidden=64, bottleneck=32, outputs=64, momentum=0.9, freeze_steps=3),
        "ibot": IBOTConfig(hidden=64, bottleneck=32, outputs=64, momentum=0.9, freeze_steps=3),
        "dinov2": DINOv2Config(hidden=64, bottleneck=32, outputs=64, momentum=0.9, freeze_steps=3),
        "msn": MSNConfig(hidden=64, dim=32, prototypes=32, momentum=0.9),
        "amdim": AMDIMConfig(),
        "cpc": CPCConfig(furthest=2, blocks=2, width=16, dim=16),
        "jigsaw": JigsawConfig(permutations=12, hidden=32, norm=True, joint=64, dropout=0.0),
        "rotnet": RotNetConfig(),
        "pirl": PIRLConfig(temperature=0.1, negatives=256, dim=32),
        "instdisc": InstDiscConfig(temperature=0.1, negatives=256, dim=32),
        "mae": MAEConfig(width=32, depth=1, heads=2),
        "simmim": SimMIMConfig(),
        "ijepa": IJEPAConfig(width=32, depth=1, heads=2, momentum=0.9),
        "densecl": DenseCLConfig(queue=128, hidden=64, dim=32, momentum=0.9),
        "pixpro": PixProConfig(hidden=64, dim=32, momentum=0.9),
        "supcon": SupConConfig(hidden=64, dim=32),
        "supervised": SupervisedConfig(),
    }[method]
    more: dict[str, dict[str, Any]] = {
        **{name: {"locals": 2, "local_size": 12} for name in ("swav", "deepclusterv2", "dino", "ibot", "dinov2", "msn")},
        "lejepa": {"locals": 1, "local_size": 12}, "empssl": {"views": 4}, "cpc": {"tiles": patches(8, grid=3)},
        "jigsaw": {"tiles": TilesConfig(grid=2, cell=12, size=9, shift=1, standardise=True)},
        "pirl": {"tiles": TilesConfig(grid=2, cell=12, size=9, per_tile=True, scale=(0.6, 1.0))},
    }  # fmt: skip
    rates = {"empssl": 0.002, "supcon": 0.03}
    sgd = OptimizerConfig(name="sgd", lr=rates.get(method, 0.1), weight_decay=1e-4)
    adam = OptimizerConfig(
        name="adamw", lr=4e-3, weight_decay=0.04, weight_decay_end=0.4, clip_norm=3, clip_per="tensor"
    )
    side = 32 if method == "amdim" else 16
    tokens = METHODS[method].tokens
    encoder = "vit-toy" if tokens else {"amdim": "amdim-toy", "cpc": "cpc-toy"}.get(method, "fastnet-tiny")
    return Run(
        config, data=f"shapes:{side}:640", encoder=encoder, net=net_of(method, resnet=False), image_size=side,
        batch_size=64, epochs=4, holdout=128, views=views_of(method, **more.get(method, {})),
        optimizer=adam if tokens else sgd,
        schedule=ScheduleConfig(name="cosine", warmup_epochs=0.5),
    )  # fmt: skip
