"""BYOL: Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning (arXiv 2006.07733)."""

from dataclasses import dataclass

from torch import Tensor, nn

from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse
from selfsight.losses import byol
from selfsight.nn import Ema, mlp
from selfsight.optim import cosine_ramp


@dataclass(frozen=True)
class BYOLConfig:
    """Settings of BYOL; defaults are the paper's for ImageNet, 300 epochs (section 3.3, appendix J)."""

    hidden: int = 4096
    """Width of the hidden layer of projector and predictor."""
    dim: int = 256
    """Width of projection and prediction."""
    momentum: float = 0.99
    """Momentum of the target network at the start; it rises to `momentum_end` along a cosine."""
    momentum_end: float = 1.0
    """Momentum of the target network at the end; equal to `momentum`: constant."""
    joint_views: bool = False
    """Encode both views in one pass (batch statistics span them); off: a pass per view, as the authors do."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= self.momentum_end <= 1:
            raise WrongUse(
                f"method.momentum {self.momentum} and method.momentum_end {self.momentum_end} must satisfy "
                "0 <= momentum <= momentum_end <= 1"
            )
        if min(self.hidden, self.dim) < 1:
            raise WrongUse("method.hidden and method.dim must be at least 1")


class BYOL(Method):
    """The online network predicts what a slowly moving target network says of the other view; no negatives."""

    Config = BYOLConfig
    sample_mean = True

    def __init__(self, config: BYOLConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        width = int(encoder.dim)  # type: ignore[arg-type]
        # hidden BN + ReLU, output without BN and without bias (the authors' code)
        self.projector = mlp([width, config.hidden, config.dim], norm="batch", last_bias=False)
        self.predictor = mlp([config.dim, config.hidden, config.dim], norm="batch", last_bias=False)
        self.target = Ema(nn.Sequential(encoder, self.projector))  # starts equal; the predictor has no target

    def forward(self, views: Views, index: Tensor, step: Step) -> Output:
        x = views["global"]  # (2, B, C, S, S)
        if self.config.joint_views:
            both = x.flatten(0, 1)
            (p1, p2), (t1, t2) = self.predictor(self.embed(both)).chunk(2), self.target(both).chunk(2)
        else:
            p1, p2 = self.predictor(self.embed(x[0])), self.predictor(self.embed(x[1]))
            t1, t2 = self.target(x[0]), self.target(x[1])
        return Output(byol(p1, t2, p2, t1))  # eq. 2, symmetrised

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        momentum = cosine_ramp(self.config.momentum, self.config.momentum_end, step.progress)  # section 3.3
        self.target.follow(nn.Sequential(self.encoder, self.projector), momentum)

    def embed(self, images: Tensor) -> Tensor:
        return self.projector(self.encoder(images))
