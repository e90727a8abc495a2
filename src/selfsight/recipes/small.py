"""Recipes for two CPU cores and for any folder; and `tiny`, for tests.

Those for `shapes` were found on held-out pictures (docs/results.md); on CIFAR-10 only SimCLR's is measured so far.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from selfsight.methods.barlowtwins import BarlowTwinsConfig
from selfsight.methods.byol import BYOLConfig
from selfsight.methods.deepcluster import DeepClusterConfig
from selfsight.methods.directcopy import DirectCopyConfig
from selfsight.methods.directpred import DirectPredConfig
from selfsight.methods.empssl import EMPSSLConfig
from selfsight.methods.lejepa import LeJEPAConfig
from selfsight.methods.moco import MoCoConfig
from selfsight.methods.mocov3 import MoCoV3Config
from selfsight.methods.nnclr import NNCLRConfig
from selfsight.methods.relic import ReLICConfig
from selfsight.methods.simclr import SimCLRConfig
from selfsight.methods.simsiam import SimSiamConfig
from selfsight.methods.supcon import SupConConfig
from selfsight.methods.supervised import SupervisedConfig
from selfsight.methods.swav import SwAVConfig
from selfsight.methods.tico import TiCoConfig
from selfsight.methods.vicreg import VICRegConfig
from selfsight.methods.wmse import WMSEConfig
from selfsight.optim import OptimizerConfig, ScheduleConfig
from selfsight.recipes.common import net_of, views_of
from selfsight.run import Run

MUON = OptimizerConfig(
    name="muon", lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.002, muon_steps=3, muon_aux_lr=0.1
)

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
    "supcon": SupConConfig(hidden=512, dim=128),
    "supervised": SupervisedConfig(),
}  # fmt: skip

# Where no negatives push views apart, small networks answer by colour alone unless the jitter is strong. On `shapes`,
# where colour means nothing, all views are gray, and every method learns in half a minute.
_STRONG: dict[str, Any] = {"policy": "sym", "blur": 0.0}
_NO_NEGATIVES = ("byol", "simsiam", "directpred", "directcopy", "swav")
_VIEWS: dict[str, dict[str, Any]] = {
    "swav": {"locals": 4, "local_size": 16, "local_scale": (0.08, 0.4)},
    "empssl": {"views": 8},
}


def cpu(method: str, data: str) -> Run[Any]:
    """fastnet on two CPU cores: about half an hour on CIFAR-10, a few minutes on `shapes`.

    Views are 24 px, the density of the pixels in an average crop; the encoder is measured on whole 32 px pictures.
    """
    length: dict[str, Any] = {
        "cifar10": {"epochs": 16, "max_minutes": 29},
        "shapes": {"epochs": 3},  # `make demo` must take less than three minutes
    }[data]
    views: dict[str, Any] = {"size": 24, "scale": (0.2, 1.0), **_VIEWS.get(method, {})}
    if data == "shapes" or method in _NO_NEGATIVES:
        views |= _STRONG
    if data == "shapes":
        views["gray"] = 1.0
    return Run(
        _SMALL[method], data=data, encoder="fastnet", net=net_of(method, resnet=False), image_size=32,
        batch_size=128 if data == "shapes" else 256,
        views=views_of(method, **views), optimizer=MUON,
        schedule=ScheduleConfig(name="cosine", warmup_epochs=0.05 * length["epochs"]), **length,
    )  # fmt: skip


def any_folder(method: str) -> Run[Any]:
    """A folder of pictures: encoder, policy, batch and epochs follow the data (see `resolve`)."""
    base = cpu(method, "shapes")
    views = views_of(method, views=base.views.views)
    return replace(base, encoder="auto", epochs="auto", batch_size="auto", image_size="auto", views=views)


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
        "supcon": SupConConfig(hidden=64, dim=32),
        "supervised": SupervisedConfig(),
    }[method]
    more: dict[str, dict[str, Any]] = {
        "swav": {"locals": 2, "local_size": 12}, "lejepa": {"locals": 1, "local_size": 12}, "empssl": {"views": 4}
    }  # fmt: skip
    rates = {"empssl": 0.002, "supcon": 0.03}
    return Run(
        config, data="shapes:16:640", encoder="fastnet-tiny", net=net_of(method, resnet=False), image_size=16, batch_size=64,
        epochs=4, holdout=128, views=views_of(method, **more.get(method, {})),
        optimizer=OptimizerConfig(name="sgd", lr=rates.get(method, 0.1), weight_decay=1e-4),
        schedule=ScheduleConfig(name="cosine", warmup_epochs=0.5),
    )  # fmt: skip
