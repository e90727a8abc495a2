"""Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning (arXiv 2011.10043).

The method is known as PixPro.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.core import Data, Method, Output, Step, Views
from selfsight.encoders import check_maps, feature_map
from selfsight.errors import WrongUse, above, at_least, fraction
from selfsight.losses import byol, near_positions, pixpro
from selfsight.nn import Ema, each_view, mlp
from selfsight.optim import cosine_ramp


@dataclass(frozen=True)
class PixProConfig:
    """Settings of PixPro; defaults are the paper's for ImageNet (section 4.1 and their code)."""

    hidden: int = 4096
    """Width of the heads' hidden layer."""
    dim: int = 256
    """Width of the embedding of a position."""
    distance: float = 0.7
    """Positions of two views are a pair if their centres lie nearer than this, in diagonals of the larger bin (T)."""
    sharpness: float = 2.0
    """Exponent of the similarity that features are propagated by (gamma)."""
    instance: float = 0.0
    """Weight of a loss between whole views, BYOL's, with heads of its own (alpha; 1 in the paper's transfer to FPN)."""
    momentum: float = 0.99
    """Momentum of the teacher at the start; it rises to `momentum_end` along a cosine, per step."""
    momentum_end: float = 1.0
    """Momentum of the teacher at the end of the run."""

    def __post_init__(self) -> None:
        at_least(self, 1, "hidden", "dim")
        above(self, 0, "distance", "sharpness")
        at_least(self, 0, "instance")
        fraction(self, "momentum", "momentum_end")
        if self.momentum > self.momentum_end:
            raise WrongUse(
                f"method.momentum {self.momentum} is above method.momentum_end {self.momentum_end}: it never falls"
            )


class Propagation(nn.Module):
    """Pixel propagation: every position becomes a mean of those like it, which smooths the map (eq. 3, 4)."""

    def __init__(self, dim: int, sharpness: float) -> None:
        super().__init__()
        self.transform, self.sharpness = nn.Linear(dim, dim), sharpness

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, D) -> (B, P, D): y_i = sum over j of max(cos(x_i, x_j), 0)^gamma g(x_j), with g of unit length."""
        unit = F.normalize(x, dim=2)
        similar = (unit @ unit.mT).clamp(min=0) ** self.sharpness
        return similar @ F.normalize(self.transform(x), dim=2)


class PixPro(Method):
    """Smoothed features of each position predict a slow copy's at the same place of the picture in the other view."""

    Config = PixProConfig
    sample_mean = True
    placed = True

    def __init__(self, config: PixProConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        check_maps(encoder)
        self.config = config
        dims = [int(encoder.dim), config.hidden, config.dim]  # type: ignore[arg-type]
        parts: dict[str, nn.Module] = {
            "encoder": encoder,
            "projector": mlp(dims),
        }  # 1x1 convolutions: positions are rows
        if config.instance:
            parts["instance"] = mlp(dims)
            self.predictor = mlp([config.dim, config.hidden, config.dim])
        self.online = nn.ModuleDict(parts)
        self.propagation = Propagation(config.dim, config.sharpness)
        self.target = Ema(self.online)  # starts equal

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        return self.online["encoder"]

    def encode(self, views: Views, step: Step) -> Views:
        found: list[dict[str, Tensor]] = []
        for x in views["global"]:
            ours = self._look(self.online, x)
            with torch.no_grad():
                theirs = self._look(self.target.module, x)
            made = {"y": self.propagation(ours["projector"]), "t": theirs["projector"]}
            if self.config.instance:
                made["p"] = each_view(self.predictor, ours["instance"], joint=True).mean(1)
                made["whole"] = theirs["instance"].mean(1)
            found.append(made)
        return {name: torch.stack([f[name] for f in found]) for name in found[0]} | {"place": views["place"]}

    @staticmethod
    def _look(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """(B, C, S, S) -> what each head makes of the P positions of the feature map: (B, P, d)."""
        features = feature_map(net["encoder"], x).flatten(2).mT  # type: ignore[index]
        return {name: each_view(head, features, joint=True) for name, head in net.items() if name != "encoder"}  # type: ignore[operator]

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        (y1, y2), (t1, t2), (place1, place2) = outputs["y"], outputs["t"], outputs["place"]
        near = near_positions(place1, place2, math.isqrt(y1.shape[1]), self.config.distance)
        loss = pixpro(y1, t2, y2, t1, near)
        logs = {"pairs": near.float().sum((1, 2)).mean(), "overlap": near.any(2).any(1).float().mean()}
        if self.config.instance:
            (p1, p2), (w1, w2) = outputs["p"], outputs["whole"]
            whole = byol(p1, w2, p2, w1) - 4  # -2 cos, both directions
            loss = loss + self.config.instance * whole  # eq. 6
            logs["instance"] = whole.detach()
        return Output(loss, logs)

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        momentum = cosine_ramp(self.config.momentum, self.config.momentum_end, step.progress)
        self.target.follow(self.online, momentum)

    def embed(self, images: Tensor) -> Tensor:
        return self._look(self.online, images)["projector"].mean(1)
