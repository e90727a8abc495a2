"""CIFAR-10 and ImageNet for methods that ask for something inside a picture: its parts, their order, what is hidden; memory banks.

In the form of cifar10.py and imagenet.py, which take these tables in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from selfsight.augment import TilesConfig
from selfsight.methods.amdim import AMDIMConfig
from selfsight.methods.cpc import CPCConfig
from selfsight.methods.ijepa import IJEPAConfig
from selfsight.methods.instdisc import InstDiscConfig
from selfsight.methods.jigsaw import JigsawConfig
from selfsight.methods.mae import MAEConfig
from selfsight.methods.pirl import PIRLConfig
from selfsight.methods.rotnet import RotNetConfig
from selfsight.methods.simmim import SimMIMConfig
from selfsight.optim import OptimizerConfig, ScheduleConfig
from selfsight.recipes.common import COSINE10, CROP_AND_FLIP, PICTURES, VIT_ADAMW, patches, sgd

_PIXELS = OptimizerConfig(name="adamw", lr=2e-4, betas=(0.9, 0.95), weight_decay=0.05)
_VISSL = ScheduleConfig(
    name="multistep", warmup_epochs=5, warmup_start=0.25, milestones=(30 / 105, 60 / 105, 90 / 105, 100 / 105)
)

# method: config, optimizer, schedule, views
CIFAR10: dict[str, tuple[Any, OptimizerConfig, ScheduleConfig, dict[str, Any]]] = {
    # the authors' script, batch 200: 300 epochs, the rate falls to a fifth at 250 and 280
    "amdim": (
        AMDIMConfig(),
        OptimizerConfig(name="adam", lr=2e-4, scaling="none", weight_decay=1e-5, betas=(0.8, 0.999)),
        ScheduleConfig(
            name="multistep", warmup_epochs=500 / (45000 // 200), milestones=(250 / 300, 280 / 300), gamma=0.2
        ),
        {"policy": "amdim-cifar"},
    ),
    # published re-implementations on small pictures: Adam, batch 64 to 128, 7 x 7 patches of 8 px, offsets 2 to 4
    "cpc": (
        CPCConfig(furthest=4),
        OptimizerConfig(name="adam", lr=2e-4, scaling="none", weight_decay=0.0),
        COSINE10,
        {"policy": "amdim-cifar", "tiles": patches(8)},
    ),
    # our choice: 3 x 3 cells of 16 px from pictures of 48
    "jigsaw": (
        JigsawConfig(permutations=100, hidden=256, norm=True, joint=0),
        sgd(0.05, 5e-4),
        COSINE10,
        {"policy": "jigsaw", "tiles": TilesConfig(grid=3, cell=16, size=12, shift=1, standardise=True)},
    ),
    # the authors': crop and flip, rate x0.2 at 60, 120 and 160 of 200 epochs
    "rotnet": (
        RotNetConfig(),
        sgd(0.2, 5e-4, nesterov=True),
        ScheduleConfig(name="multistep", milestones=(0.3, 0.6, 0.8), gamma=0.2),
        {"policy": "deepcluster", **CROP_AND_FLIP},
    ),
    # our choice, as no authors' numbers for this length are known
    "pirl": (
        PIRLConfig(temperature=0.1, negatives=8192, layers=2),
        sgd(0.06, 5e-4),
        COSINE10,
        {"policy": "simclr-cifar", "tiles": TilesConfig(grid=3, cell=16, size=12, per_tile=True, scale=(0.6, 1.0))},
    ),
    # section 4.2: temperature 0.1, all pictures are negatives, rate x0.1 at 120 and 160 of 200 epochs
    "instdisc": (
        InstDiscConfig(temperature=0.1, negatives=50000),
        sgd(0.03, 5e-4),
        ScheduleConfig(name="multistep", milestones=(0.6, 0.8)),
        {"policy": "weak", "blur": 0.0},
    ),
    # optimizer as solo-learn has MAE, its whole decoder at 1000 epochs; I-JEPA: our choice
    "mae": (MAEConfig(width=256, depth=4, heads=8), _PIXELS, COSINE10, {"policy": "mae", "scale": (0.08, 1.0)}),
    "simmim": (SimMIMConfig(), replace(_PIXELS, betas=(0.9, 0.999), clip_norm=5.0), COSINE10, {"policy": "simmim"}),
    "ijepa": (
        IJEPAConfig(width=192, depth=4, heads=6),
        replace(VIT_ADAMW, clip_norm=0.0),
        COSINE10,
        {"policy": "ijepa"},
    ),
}

# method: config, optimizer, schedule, epochs, global batch
IMAGENET: dict[str, tuple[Any, OptimizerConfig, ScheduleConfig, int, int]] = {
    # the authors' script for 128 px: 50 epochs, the rate falls to a fifth at 30 and 45
    "amdim": (
        AMDIMConfig(),
        OptimizerConfig(name="adam", lr=2e-4, scaling="none", weight_decay=1e-5, betas=(0.8, 0.999)),
        ScheduleConfig(name="multistep", warmup_epochs=500 * 480 / PICTURES, milestones=(0.6, 0.9), gamma=0.2),
        50,
        480,
    ),
    # v2, appendix A, without its weight averaging
    "cpc": (
        CPCConfig(),
        OptimizerConfig(name="adam", lr=4e-4, scaling="none", weight_decay=0.0, betas=(0.8, 0.999), clip_norm=0.01),
        ScheduleConfig(name="constant"),
        200,
        512,
    ),
    # VISSL's ResNet-50 (arXiv 1905.01235)
    "jigsaw": (JigsawConfig(permutations=100, hidden=1000, norm=True, joint=0), sgd(0.1, 1e-4), _VISSL, 105, 256),
    "rotnet": (RotNetConfig(), sgd(0.1, 1e-4), _VISSL, 105, 256),
    # section 3.3: batch 1024, 800 epochs
    "pirl": (PIRLConfig(), sgd(0.03, 1e-4), ScheduleConfig(name="cosine", final=0.001), 800, 1024),
    "instdisc": (
        InstDiscConfig(),
        sgd(0.03, 1e-4, decay_bias_and_norm=True),
        ScheduleConfig(name="multistep", milestones=(0.6, 0.8), per="epoch"),
        200,
        256,
    ),
    # appendix A.1
    "mae": (
        MAEConfig(),
        OptimizerConfig(name="adamw", lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05),
        ScheduleConfig(name="cosine", warmup_epochs=40),
        800,
        4096,
    ),
    # section 4.1: 800 epochs, the rate is for a batch of 512 and falls at epoch 700
    "simmim": (
        SimMIMConfig(),
        OptimizerConfig(name="adamw", lr=1e-4, base_batch=512, weight_decay=0.05, clip_norm=5.0),
        ScheduleConfig(name="multistep", warmup_epochs=10, milestones=(7 / 8,)),
        800,
        2048,
    ),
    # appendix A: ViT-B/16
    "ijepa": (
        IJEPAConfig(depth=6, heads=12),
        OptimizerConfig(name="adamw", lr=1e-3, scaling="none", weight_decay=0.04, weight_decay_end=0.4),
        ScheduleConfig(name="cosine", warmup_epochs=40, warmup_start=0.2, final=0.001),
        600,
        2048,
    ),
}
IMAGENET_VIEWS: dict[str, dict[str, Any]] = {
    "jigsaw": {"tiles": TilesConfig(grid=3, cell=85, size=64)},
    "rotnet": {"scale": (0.08, 1.0), **CROP_AND_FLIP},
    "pirl": {
        "scale": (0.08, 1.0), "strength": 0.5, "blur": 0.0,
        "tiles": TilesConfig(grid=3, cell=85, size=64, per_tile=True, scale=(0.6, 1.0)),
    },
    "cpc": {"tiles": patches(80, grid=6, stride=36)},
}  # fmt: skip
