"""VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning (arXiv 2105.04906)."""

from dataclasses import dataclass

from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import at_least
from selfsight.losses import vicreg
from selfsight.nn import each_view, mlp


@dataclass(frozen=True)
class VICRegConfig:
    """Settings of VICReg; defaults are the paper's for ImageNet (section 4)."""

    invariance: float = 25.0
    """Weight of the squared distance of the views."""
    variance: float = 25.0
    """Weight of the hinge that keeps each dimension's deviation at 1."""
    covariance: float = 1.0
    """Weight of the squared covariances between dimensions."""
    hidden: int = 8192
    """Width of the projector's hidden layers."""
    dim: int = 8192
    """Width D of the embedding."""
    layers: int = 3
    """Linear layers of the projector."""
    joint_views: bool = False
    """Encode both views in one pass (batch statistics span them)."""

    def __post_init__(self) -> None:
        at_least(self, 0, "invariance", "variance", "covariance")
        at_least(self, 1, "hidden", "dim", "layers")


class VICReg(Method):
    """Views come together, every dimension keeps its variance, and no two dimensions say the same."""

    Config = VICRegConfig

    def __init__(self, config: VICRegConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        dims = [int(encoder.dim), *[config.hidden] * (config.layers - 1), config.dim]  # type: ignore[arg-type]
        self.projector = mlp(dims, last_bias=False)

    def encode(self, views: Views, step: Step) -> Views:
        return {"z": each_view(nn.Sequential(self.encoder, self.projector), views["global"], self.config.joint_views)}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        z1, z2 = (distributed.gather(z) for z in outputs["z"])  # statistics of the whole batch, exact gradient
        c = self.config
        return Output(vicreg(z1, z2, c.invariance, c.variance, c.covariance))

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector}

    def constant_loss(self, batch: int) -> float:
        """0.99 times the weight of the variance: the hinge of a dimension without variance, eps 1e-4."""
        return 0.99 * self.config.variance
