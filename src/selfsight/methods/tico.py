"""TiCo: Transformation Invariance and Covariance Contrast (arXiv 2206.10698)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import at_least, fraction
from selfsight.losses import tico
from selfsight.nn import Ema, mlp
from selfsight.optim import cosine_ramp


@dataclass(frozen=True)
class TiCoConfig:
    """Settings of TiCo; defaults are those of public re-implementations for ImageNet."""

    beta: float = 0.9
    """Weight of the past in the running covariance C."""
    rho: float = 8.0
    """Weight of the covariance contrast (the paper tunes it; ports use 8 and 20)."""
    hidden: int = 4096
    """Width of the projector's hidden layer."""
    dim: int = 256
    """Width D of the embedding."""
    momentum: float = 0.99
    """Momentum of the target network at the start; it rises to 1 along a cosine, per step."""

    def __post_init__(self) -> None:
        fraction(self, "beta", "momentum")
        at_least(self, 0, "rho")
        at_least(self, 1, "hidden", "dim")


class TiCo(Method):
    """View 1 comes to the target's view 2, and stays away from the directions that past embeddings took."""

    Config = TiCoConfig
    covariance: Tensor

    def __init__(self, config: TiCoConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.projector = mlp([int(encoder.dim), config.hidden, config.dim])  # type: ignore[arg-type]
        self.target = Ema(nn.Sequential(encoder, self.projector))  # starts equal
        self.register_buffer("covariance", torch.zeros(config.dim, config.dim))  # C

    def encode(self, views: Views, step: Step) -> Views:
        x1, x2 = views["global"]
        return {"z": self.embed(x1)[None], "target": self.target(x2)[None]}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        z, target = distributed.gather(outputs["z"][0]), distributed.gather(outputs["target"][0].detach())
        loss, moved = tico(z, target, self.covariance, self.config.beta, self.config.rho)
        return Output(loss, {}, {"covariance": moved[None]})

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        self.covariance.copy_(carry["covariance"].mean(0))  # equal on all processes; the mean over micro-batches
        momentum = cosine_ramp(self.config.momentum, 1.0, step.progress)
        self.target.follow(nn.Sequential(self.encoder, self.projector), momentum)

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector}

    def constant_loss(self, batch: int) -> float:
        """rho: all rows equal, and C their outer product."""
        return self.config.rho
