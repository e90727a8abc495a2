"""SimSiam: Exploring Simple Siamese Representation Learning (arXiv 2011.10566)."""

from dataclasses import dataclass
from typing import Literal

from selfsight.methods.siamese import Siamese, SiameseConfig


@dataclass(frozen=True)
class SimSiamConfig(SiameseConfig):
    """Settings of SimSiam; defaults are the paper's for ImageNet (section 3, baseline settings)."""

    hidden: int = 2048
    """Width of the projector's hidden layers."""
    dim: int = 2048
    """Width D of projection and prediction."""
    layers: int = 3
    """Linear layers of the projector."""
    bias: bool = False
    """Bias of the projector's hidden linear layers."""
    last_norm: Literal["none", "batch", "batch-plain"] = "batch-plain"
    """Batch normalisation of the projector's output."""
    predictor_hidden: int = 512
    """Width of the predictor's hidden layer, a bottleneck."""
    predictor_bias: bool = False
    """Bias of the predictor's hidden layer."""
    predictor_last_bias: bool = True
    """Bias of the predictor's last layer."""
    target: Literal["ema", "shared"] = "shared"
    """ema: a teacher that follows slowly (BYOL). shared: the network itself behind a stop-gradient (SimSiam)."""
    objective: Literal["byol", "simsiam"] = "simsiam"
    """byol: squared distance, the sum of both directions, 0..8. simsiam: minus the mean cosine, -1..1: a quarter of it."""
    predictor_constant_lr: bool = True
    """The predictor's learning rate follows no schedule."""


class SimSiam(Siamese):
    """No teacher: the network itself behind a stop-gradient, and a learnt predictor with a bottleneck."""

    Config = SimSiamConfig
