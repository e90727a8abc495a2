"""MoCo v3: An Empirical Study of Training Self-Supervised Vision Transformers (arXiv 2104.02057)."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import above, at_least, fraction
from selfsight.losses import moco_v3, retrieval_accuracy
from selfsight.nn import Ema, each_view, mlp
from selfsight.optim import cosine_ramp


@dataclass(frozen=True)
class MoCoV3Config:
    """Settings of MoCo v3; defaults are the authors' for ImageNet with a ResNet-50."""

    temperature: float = 1.0
    """Temperature of the similarities (0.2 for vision transformers)."""
    hidden: int = 4096
    """Width of the hidden layers of projector and predictor."""
    dim: int = 256
    """Width of the embedding."""
    layers: int = 2
    """Linear layers of the projector (3 for vision transformers)."""
    predictor_norm: bool = False
    """Batch normalisation of the predictor's output (vision transformers)."""
    momentum: float = 0.99
    """Momentum of the key network at the start; it rises to 1 along a cosine, per step."""
    joint_views: bool = False
    """Encode both views in one pass (batch statistics span them)."""

    def __post_init__(self) -> None:
        above(self, 0, "temperature")
        at_least(self, 1, "hidden", "dim", "layers")
        fraction(self, "momentum")


class MoCoV3(Method):
    """A prediction finds the other view's key, from a slowly following network, in the batch; no queue."""

    Config = MoCoV3Config

    def __init__(self, config: MoCoV3Config, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        dims = [int(encoder.dim), *[config.hidden] * (config.layers - 1), config.dim]  # type: ignore[arg-type]
        self.projector = mlp(dims, bias=False, last_norm="batch-plain")
        last = "batch-plain" if config.predictor_norm else "none"
        self.predictor = mlp([config.dim, config.hidden, config.dim], bias=False, last_norm=last)  # type: ignore[arg-type]
        self.keys = Ema(nn.Sequential(encoder, self.projector))  # starts equal; the predictor has no copy

    def encode(self, views: Views, step: Step) -> Views:
        x, joint = views["global"], self.config.joint_views
        online = nn.Sequential(self.encoder, self.projector, self.predictor)
        return {"q": each_view(online, x, joint), "k": each_view(self.keys, x, joint)}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        (q1, q2), (k1, k2) = outputs["q"], outputs["k"].detach()
        keys = (distributed.gather(k1), distributed.gather(k2))
        rows = distributed.own_rows(len(q1), q1.device)
        top1, top5 = retrieval_accuracy(q1, keys[1], rows)
        return Output(
            moco_v3(q1, k2, q2, k1, self.config.temperature, keys=keys, rows=rows), {"top1": top1, "top5": top5}
        )

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        momentum = cosine_ramp(self.config.momentum, 1.0, step.progress)
        self.keys.follow(nn.Sequential(self.encoder, self.projector), momentum)

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector, "predictor": self.predictor}

    def constant_loss(self, batch: int) -> float:
        """4 t log N: every key is equally likely, in both directions."""
        return 4 * self.config.temperature * math.log(batch)
