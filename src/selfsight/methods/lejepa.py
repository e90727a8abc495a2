"""LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics (arXiv 2511.08544)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import above, at_least, fraction
from selfsight.losses import sigreg
from selfsight.nn import mlp


@dataclass(frozen=True)
class LeJEPAConfig:
    """Settings of LeJEPA; defaults are the authors' for ImageNet."""

    weight: float = 0.05
    """Weight lambda of SIGReg; the invariance has 1 - lambda."""
    directions: int = 1024
    """Random directions M that are tested at each step (256 in the authors' small example)."""
    furthest: float = 3.0
    """End of the grid of frequencies."""
    knots: int = 17
    """Points of the grid, from 0."""
    hidden: int = 2048
    """Width of the projector's hidden layers."""
    dim: int = 128
    """Width K of the embedding (16 to 512 in the authors' scripts)."""
    layers: int = 3
    """Linear layers of the projector."""

    def __post_init__(self) -> None:
        fraction(self, "weight")
        above(self, 0, "furthest")
        at_least(self, 1, "directions", "hidden", "dim", "layers")
        at_least(self, 2, "knots")


class LeJEPA(Method):
    """Views come to their common centre, and embeddings are kept normally distributed; no teacher, no predictor."""

    Config = LeJEPAConfig
    more_views = True
    local_views = True

    def __init__(self, config: LeJEPAConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        dims = [int(encoder.dim), *[config.hidden] * (config.layers - 1), config.dim]  # type: ignore[arg-type]
        self.projector = mlp(dims)

    def encode(self, views: Views, step: Step) -> Views:
        count = views["global"].shape[1]
        # one encoder pass per resolution, one head pass over all crops
        features = [self.encoder(x.flatten(0, 1)) for x in (views["global"], views.get("local")) if x is not None]
        z = self.projector(torch.cat(features)).unflatten(0, (-1, count))
        return {"global": z[: len(views["global"])], "local": z[len(views["global"]) :]}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        whole = outputs["global"].to(torch.promote_types(outputs["global"].dtype, torch.float32))
        z = torch.cat([whole, outputs["local"].to(whole.dtype)])  # (V, B, K)
        invariance = (z - whole.mean(0)).square().mean()  # the centre of the whole views; it has a gradient
        directions = torch.randn(z.shape[2], self.config.directions, generator=step.fresh()).to(z.device)
        spread = torch.stack(
            [sigreg(distributed.gather(view), directions, self.config.furthest, self.config.knots) for view in z]
        ).mean()
        loss = (1 - self.config.weight) * invariance + self.config.weight * spread
        return Output(loss, {"invariance": invariance, "sigreg": spread})

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector}

    def constant_loss(self, batch: int) -> float:
        """All embeddings zero: no distance, and the test statistic of one point, 0.402 N on the usual grid."""
        zeros = torch.zeros(1, 1, dtype=torch.float64)
        one = sigreg(zeros, torch.ones_like(zeros), self.config.furthest, self.config.knots)
        return self.config.weight * float(one) * batch
