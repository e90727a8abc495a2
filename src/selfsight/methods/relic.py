"""ReLIC: Representation Learning via Invariant Causal Mechanisms (arXiv 2010.07922)."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import above, at_least, fraction
from selfsight.losses import relic, retrieval_accuracy
from selfsight.nn import Ema, each_view, mlp
from selfsight.optim import cosine_ramp


@dataclass(frozen=True)
class ReLICConfig:
    """Settings of ReLIC. The authors published no code for it; heads and schedule are BYOL's, the rest is our choice."""

    temperature: float = 0.2
    """Temperature of the similarities (ours)."""
    alpha: float = 1.0
    """Weight of the invariance penalty (ours; 0 leaves MoCo v3's contrast)."""
    hidden: int = 4096
    """Width of the hidden layers of projector and predictor."""
    dim: int = 256
    """Width of the embedding."""
    momentum: float = 0.996
    """Momentum of the target network at the start; it rises to 1 along a cosine, per step."""
    joint_views: bool = False
    """Encode both views in one pass (batch statistics span them)."""

    def __post_init__(self) -> None:
        above(self, 0, "temperature")
        at_least(self, 0, "alpha")
        at_least(self, 1, "hidden", "dim")
        fraction(self, "momentum")


class ReLIC(Method):
    """Tell pictures apart, with the same doubts whatever the augmentation: contrast plus agreement of distributions."""

    Config = ReLICConfig

    def __init__(self, config: ReLICConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.projector = mlp([int(encoder.dim), config.hidden, config.dim], last_bias=False)  # type: ignore[arg-type]
        self.predictor = mlp([config.dim, config.hidden, config.dim], last_bias=False)
        self.target = Ema(nn.Sequential(encoder, self.projector))  # starts equal

    def encode(self, views: Views, step: Step) -> Views:
        x, joint = views["global"], self.config.joint_views
        online = nn.Sequential(self.encoder, self.projector, self.predictor)
        return {"o": each_view(online, x, joint), "t": each_view(self.target, x, joint)}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        (o1, o2), (t1, t2) = outputs["o"], outputs["t"].detach()
        keys = (distributed.gather(t1), distributed.gather(t2))
        rows = distributed.own_rows(len(o1), o1.device)
        loss = relic(o1, t2, o2, t1, self.config.temperature, self.config.alpha, keys=keys, rows=rows)
        top1, top5 = retrieval_accuracy(o1, keys[1], rows)
        return Output(loss, {"top1": top1, "top5": top5})

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        momentum = cosine_ramp(self.config.momentum, 1.0, step.progress)
        self.target.follow(nn.Sequential(self.encoder, self.projector), momentum)

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector, "predictor": self.predictor}

    def constant_loss(self, batch: int) -> float:
        """log N: every candidate is equally likely, whatever the augmentation."""
        return math.log(batch)
