"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction (arXiv 2103.03230)."""

from dataclasses import dataclass

from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import above, at_least
from selfsight.losses import barlow_twins
from selfsight.nn import each_view, mlp


@dataclass(frozen=True)
class BarlowTwinsConfig:
    """Settings of Barlow Twins; defaults are those of the authors' code for ImageNet."""

    weight: float = 0.0051
    """Weight lambda of the off-diagonal terms (the paper says 0.005)."""
    scale: float = 1.0
    """Multiplies the loss, a sum over D^2 entries; 0.1 where the optimizer is not LARS."""
    hidden: int = 8192
    """Width of the projector's hidden layers."""
    dim: int = 8192
    """Width D of the embedding; wide ones do better."""
    layers: int = 3
    """Linear layers of the projector."""
    joint_views: bool = False
    """Encode both views in one pass (batch statistics span them)."""

    def __post_init__(self) -> None:
        above(self, 0, "scale")
        at_least(self, 0, "weight")
        at_least(self, 1, "hidden", "dim", "layers")


class BarlowTwins(Method):
    """The cross-correlation of the two views' embeddings becomes the identity: invariant, and not redundant."""

    Config = BarlowTwinsConfig

    def __init__(self, config: BarlowTwinsConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        dims = [int(encoder.dim), *[config.hidden] * (config.layers - 1), config.dim]  # type: ignore[arg-type]
        self.projector = mlp(dims, bias=False)

    def encode(self, views: Views, step: Step) -> Views:
        return {"z": each_view(nn.Sequential(self.encoder, self.projector), views["global"], self.config.joint_views)}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        z1, z2 = (distributed.gather(z) for z in outputs["z"])  # statistics of the whole batch, exact gradient
        return Output(self.config.scale * barlow_twins(z1, z2, self.config.weight))

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector}

    def constant_loss(self, batch: int) -> float:
        """D: nothing correlates."""
        return self.config.scale * self.config.dim
