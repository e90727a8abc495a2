"""What recipes of several sizes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selfsight.augment import TilesConfig, ViewsConfig
from selfsight.encoders import EncoderConfig
from selfsight.methods import METHODS
from selfsight.optim import OptimizerConfig, ScheduleConfig

# What a method takes for views: policy for small pictures (up to 64 px), policy for large ones.
POLICIES_OF = {
    "simclr": ("simclr-cifar", "simclr"),
    "moco": ("weak", "moco-v2"),
    "mocov3": ("asym", "barlow"),
    "byol": ("asym", "byol"),
    "simsiam": ("weak", "moco-v2"),
    "directpred": ("colab", "byol"),
    "directcopy": ("colab", "byol"),
    "relic": ("asym", "byol"),
    "barlowtwins": ("asym", "barlow"),
    "vicreg": ("vicreg-cifar", "barlow"),
    "nnclr": ("asym", "byol"),
    "wmse": ("w-mse", "w-mse"),
    "tico": ("asym", "byol"),
    "lejepa": ("simclr-cifar", "byol"),
    "empssl": ("emp-ssl", "emp-ssl"),
    "swav": ("simclr-cifar", "simclr"),
    "deepcluster": ("deepcluster", "deepcluster"),
    "deepclusterv2": ("simclr-cifar", "simclr"),
    "sela": ("moco-v1", "moco-v1"),
    "dino": ("asym", "dino"),
    "ibot": ("asym", "dino"),
    "dinov2": ("asym", "dino"),
    "msn": ("simclr-cifar", "moco-v2"),  # SimCLR's colours at strength 0.5, with its blur
    "amdim": ("amdim-cifar", "amdim"),
    "cpc": ("amdim-cifar", "cpc"),  # colours for each patch
    "jigsaw": ("jigsaw", "jigsaw-vissl"),
    "rotnet": ("deepcluster", "deepcluster"),
    "pirl": ("simclr-cifar", "simclr"),
    "instdisc": ("moco-v2", "moco-v2"),
    "mae": ("mae", "mae"),
    "simmim": ("simmim", "simmim"),
    "ijepa": ("ijepa", "ijepa"),
    "densecl": ("weak", "moco-v2"),
    "pixpro": ("asym", "byol"),
    "supcon": ("simclr-cifar", "simclr"),
    "supervised": ("deepcluster", "deepcluster"),
}

# A method that reads more of its encoder than features or tokens: for small pictures on a CPU, for others.
ENCODERS_OF = {"amdim": ("amdim-mini", "amdim-small"), "cpc": ("cpc-mini", "cpc-small")}

# What a method's encoder sees: DeepCluster clusters by colour unless it sees edges (section 4.1).
NETS = {
    "deepcluster": EncoderConfig(sobel="only"),
    # fixed positions; nothing teaches the class token of I-JEPA and SimMIM, and means of patches suit a probe of MAE, too
    **dict.fromkeys(("mae", "ijepa"), EncoderConfig(pool="mean", positions="sincos")),
    "simmim": EncoderConfig(pool="mean"),
}
# Residual branches that do not start at zero, as in the authors' code. It matters under LARC (SwAV, DeepCluster-v2): a
# norm of length 0 takes one step of the raw gradient, then each step is a thousandth of the rate times its length.
RESNETS = {
    **NETS,
    **dict.fromkeys(("moco", "densecl", "swav", "deepclusterv2"), EncoderConfig(zero_init_residual=False)),
}

# Classification's usual augmentation: no colours, which labels do not need.
CROP_AND_FLIP: dict[str, Any] = {"strength": 0.0, "gray": 0.0}

COSINE10 = ScheduleConfig(name="cosine", warmup_epochs=10)
COSINE = ScheduleConfig(name="cosine", per="epoch")  # MoCo v1, v2 and SimSiam: by epoch, no warm-up
CONSTANT = ScheduleConfig(name="constant")
PICTURES = 1_281_167  #: of ImageNet, for settings that count steps: an epoch has PICTURES // batch
# Transformers on small pictures, our choice: AdamW as in the papers.
VIT_ADAMW = OptimizerConfig(
    name="adamw", lr=5e-4, weight_decay=0.04, weight_decay_end=0.4, clip_norm=3.0, clip_per="tensor"
)

# iBOT's and DINOv2's masks: half of the whole views, rectangles over a tenth to a half of the patches. The others: the papers.
MASKS: dict[str, dict[str, Any]] = {
    "ibot": {"mask": "block"},
    "dinov2": {"mask": "block"},
    "mae": {"mask": "random", "mask_ratio": (0.75, 0.75), "mask_share": 1.0},
    "simmim": {"mask": "random", "mask_ratio": (0.6, 0.6), "mask_share": 1.0, "mask_unit": 2},
    "ijepa": {"mask": "multiblock", "mask_ratio": (0.15, 0.2)},
}
# Who compares places: views of a picture are mirrored alike, and a picture of patches as a whole; or it is known where they lie.
PLACES: dict[str, dict[str, Any]] = {
    "amdim": {"shared_flip": True},
    "cpc": {"shared_flip": True},
    "pixpro": {"places": True},
}

# Tiles of methods that read some.
TILES: dict[str, dict[str, Any]] = {
    "jigsaw": {"tiles": TilesConfig(grid=3, shift=1, standardise=True)},
    "pirl": {"tiles": TilesConfig(grid=3, per_tile=True, scale=(0.6, 1.0))},
    "cpc": {"tiles": TilesConfig(grid=7)},  # see `patches`
}


def net_of(method: str, resnet: bool = True) -> EncoderConfig:
    """How the encoder is built for a method."""
    return (RESNETS if resnet else NETS).get(method, EncoderConfig())


def views_of(method: str, policy: str = "auto", **settings: Any) -> ViewsConfig:
    """Views with the number of whole ones that the method reads."""
    own = {**MASKS.get(method, {}), **TILES.get(method, {}), **PLACES.get(method, {})}
    return ViewsConfig(policy=policy, **{"views": METHODS[method].global_views, **own, **settings})


def patches(cell: int, grid: int = 7, stride: int = 0) -> TilesConfig:
    """CPC's patches: they overlap by half, and lose an eighth of their side at random borders, which are filled with zeros."""
    stride = stride or cell // 2
    return TilesConfig(grid=grid, cell=cell, stride=stride, size=cell - max(1, cell // 8), pad=True, per_tile=True)


# Tiles that follow the image size, by method: the side of a tile in pixels, its reason, and the tiles of that side.
TILES_OF: dict[str, tuple[Callable[[int], int], str, Callable[[int], TilesConfig]]] = {
    "cpc": (lambda size: max(8, size // 4), "a quarter of the picture in pixels, overlapping by half", patches),
}


def lars(lr: float, weight_decay: float, **settings: Any) -> OptimizerConfig:
    """LARS as BYOL, MoCo v3, Barlow Twins and VICReg run it on ImageNet."""
    return OptimizerConfig(name="lars", lars_dialect="standard", lr=lr, weight_decay=weight_decay, **settings)


def clipped_lars(lr: float, weight_decay: float, eta: float = 0.02) -> OptimizerConfig:
    """LARS as solo-learn runs it on CIFAR: step length min(eta |p| / |g|, lr)."""
    return OptimizerConfig(name="lars", lars_dialect="clipped", lr=lr, weight_decay=weight_decay, lars_eta=eta)


def sgd(lr: float, weight_decay: float, **settings: Any) -> OptimizerConfig:
    """SGD with momentum 0.9; the rate is for a batch of 256."""
    return OptimizerConfig(name="sgd", lr=lr, weight_decay=weight_decay, **settings)
