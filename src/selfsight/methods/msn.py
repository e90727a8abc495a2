"""MSN: Masked Siamese Networks for Label-Efficient Learning (arXiv 2204.07141)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight import distributed, health
from selfsight.assign import sinkhorn
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.encoders import TokenEncoder
from selfsight.errors import WrongUse, above, at_least, fraction
from selfsight.losses import entropy_gap, prediction
from selfsight.nn import Ema, mlp


@dataclass(frozen=True)
class MSNConfig:
    """Settings of MSN; defaults are the paper's for ViT-S/16 (section 4, appendix and their code)."""

    hidden: int = 2048
    """Width of the projector's two hidden layers."""
    dim: int = 256
    """Width of the embedding."""
    prototypes: int = 1024
    """Number of prototypes K."""
    drop: float = 0.15
    """Share of the patches that whole anchors lose, the same ones in all pictures of a step; 0.7 for ViT-L."""
    temperature: float = 0.1
    """Temperature of the anchors' predictions, and of the target's before it is sharpened."""
    sharpen: float = 0.25
    """Exponent 1 / sharpen on the target's probabilities."""
    iterations: int = 3
    """Sinkhorn iterations on the targets; 0: none."""
    entropy: float = 1.0
    """Weight of the mean-entropy term, which keeps all prototypes in use (eq. 1)."""
    momentum: float = 0.996
    """Momentum of the teacher at the start; it rises in a straight line."""
    stretch: float = 1.25
    """The momentum would reach 1 at this multiple of the run."""

    def __post_init__(self) -> None:
        at_least(self, 1, "hidden", "dim", "stretch")
        at_least(self, 2, "prototypes")
        at_least(self, 0, "iterations", "entropy")
        above(self, 0, "temperature", "sharpen")
        fraction(self, "drop", "momentum")
        if self.drop == 1:
            raise WrongUse("method.drop is 1, which leaves no patch: try 0.15")


class MSN(Method):
    """Anchors that lack patches, and small crops, predict which prototypes the whole other view belongs to."""

    Config = MSNConfig
    more_views = True
    local_views = True
    tokens = True

    def __init__(self, config: MSNConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        if config.drop and not isinstance(encoder, TokenEncoder):
            raise WrongUse(
                "method.drop takes patches away, and this encoder has none: choose one such as vit-small, or --method.drop 0"
            )
        self.config = config
        dims = [int(encoder.dim), config.hidden, config.hidden, config.dim]  # type: ignore[arg-type]
        projector = mlp(dims, norm="batch", activation="gelu")
        self.student = nn.ModuleDict({"encoder": encoder, "projector": projector})
        self.teacher = Ema(self.student)  # starts equal
        self.prototypes = nn.Parameter(nn.Linear(config.dim, config.prototypes, bias=False).weight.detach())

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """The teacher's, as in the authors' evaluation."""
        return self.teacher.module["encoder"]  # type: ignore[index]

    def encode(self, views: Views, step: Step) -> Views:
        x, small = views["global"], views.get("local")
        whole, count = x[1:].flatten(0, 1), x.shape[1]
        encoder, projector = self.student["encoder"], self.student["projector"]
        if self.config.drop:
            patches = (x.shape[-1] // int(encoder.patch)) ** 2  # type: ignore[arg-type]
            left = patches - int(self.config.drop * patches)
            keep = torch.randperm(patches, generator=step.fresh())[:left].sort().values.to(x.device, non_blocking=True)
            features = [encoder.pooled(encoder.tokens(whole, keep=keep.expand(len(whole), -1)))]  # type: ignore[operator]
        else:
            features = [encoder(whole)]
        if small is not None:
            features.append(encoder(small.flatten(0, 1)))
        with torch.no_grad():
            teacher: Any = self.teacher.module
            target = teacher["projector"](teacher["encoder"](x[0]))
        return {
            "anchor": self._scores(projector(torch.cat(features)), self.prototypes).unflatten(0, (-1, count)),
            "target": self._scores(target, self.prototypes.detach())[None],
        }

    @staticmethod
    def _scores(z: Tensor, prototypes: Tensor) -> Tensor:
        """Cosines to the prototypes, in full precision: (n, D), (K, D) -> (n, K)."""
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(F.normalize(z.to(prototypes.dtype), dim=1), F.normalize(prototypes, dim=1))

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        config, anchors = self.config, outputs["anchor"]  # (A, B, K)
        # softmax(s / t) to the power of 1 / T, normalised, is softmax(s / (t T)); Sinkhorn starts from its rows
        target = (outputs["target"][0].detach() / (config.temperature * config.sharpen)).log_softmax(1)
        target = sinkhorn(target, 1.0, config.iterations, distributed.all_sum, distributed.all_max)
        cross = prediction(anchors, target, config.temperature)
        mean = (anchors / config.temperature).softmax(2).mean((0, 1))
        mean = distributed.all_sum(mean) / distributed.world()  # over the global batch, with gradient
        gap = entropy_gap(mean)
        logs = {**health.assignments(target), "entropy_gap": gap.detach()}
        logs["agreement"] = (anchors.argmax(2) == target.argmax(1)).float().mean()
        return Output(cross + config.entropy * gap, logs)

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        config = self.config
        self.teacher.follow(self.student, config.momentum + (1 - config.momentum) * step.progress / config.stretch)

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.student.parameters())}, {"params": [self.prototypes], "weight_decay": 0.0}]

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.teacher.module["projector"]}  # type: ignore[index]

    def constant_loss(self, batch: int) -> float:
        """Log K: every prototype is equally likely."""
        return math.log(self.config.prototypes)
