"""What recipes of several sizes share."""

from __future__ import annotations

from typing import Any

from selfsight.augment import ViewsConfig
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
    "supcon": ("simclr-cifar", "simclr"),
    "supervised": ("deepcluster", "deepcluster"),
}

# What a method's encoder sees: DeepCluster clusters by colour unless it sees edges (section 4.1).
NETS = {"deepcluster": EncoderConfig(sobel="only")}
# Residual branches that do not start at zero, as in the authors' code. It matters under LARC (SwAV, DeepCluster-v2): a
# norm of length 0 takes one step of the raw gradient, then each step is a thousandth of the rate times its length.
RESNETS = {**NETS, **dict.fromkeys(("moco", "swav", "deepclusterv2"), EncoderConfig(zero_init_residual=False))}

# Classification's usual augmentation: no colours, which labels do not need.
CROP_AND_FLIP: dict[str, Any] = {"strength": 0.0, "gray": 0.0}

COSINE10 = ScheduleConfig(name="cosine", warmup_epochs=10)
COSINE = ScheduleConfig(name="cosine", per="epoch")  # MoCo v1, v2 and SimSiam: by epoch, no warm-up
CONSTANT = ScheduleConfig(name="constant")


# iBOT's and DINOv2's masks: half of the whole views, rectangles over a tenth to a half of the patches.
MASKS: dict[str, dict[str, Any]] = {"ibot": {"mask": "block"}, "dinov2": {"mask": "block"}}


def net_of(method: str, resnet: bool = True) -> EncoderConfig:
    """How the encoder is built for a method."""
    return (RESNETS if resnet else NETS).get(method, EncoderConfig())


def views_of(method: str, policy: str = "auto", **settings: Any) -> ViewsConfig:
    """Views with the number of whole ones that the method reads."""
    return ViewsConfig(policy=policy, **{"views": METHODS[method].global_views, **MASKS.get(method, {}), **settings})


def lars(lr: float, weight_decay: float, **settings: Any) -> OptimizerConfig:
    """LARS as BYOL, MoCo v3, Barlow Twins and VICReg run it on ImageNet."""
    return OptimizerConfig(name="lars", lars_dialect="standard", lr=lr, weight_decay=weight_decay, **settings)


def clipped_lars(lr: float, weight_decay: float, eta: float = 0.02) -> OptimizerConfig:
    """LARS as solo-learn runs it on CIFAR: step length min(eta |p| / |g|, lr)."""
    return OptimizerConfig(name="lars", lars_dialect="clipped", lr=lr, weight_decay=weight_decay, lars_eta=eta)


def sgd(lr: float, weight_decay: float, **settings: Any) -> OptimizerConfig:
    """SGD with momentum 0.9; the rate is for a batch of 256."""
    return OptimizerConfig(name="sgd", lr=lr, weight_decay=weight_decay, **settings)
