"""AMDIM: Learning Representations by Maximizing Mutual Information Across Views (arXiv 1906.00910)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.encoders import MultiScale
from selfsight.errors import WrongUse, above, at_least
from selfsight.losses import amdim


@dataclass(frozen=True)
class AMDIMConfig:
    """Settings of AMDIM; defaults are those of the authors' training script."""

    clip: float = 20.0
    """Scores are squashed into -clip..clip (the class in the authors' code has 10, their script 20)."""
    weight: float = 0.05
    """Weight of the mean squared score, before it is clipped."""

    def __post_init__(self) -> None:
        above(self, 0, "clip")
        at_least(self, 0, "weight")


class Embedding(nn.Module):
    """Features of each location for the scores: BN(conv1x1(ReLU(conv1x1(x))) + conv1x1(x)), (B, I, s, s) -> (B, s * s, R).

    It starts as the channels themselves, with zeros added, normalised: the shortcut near the identity, the rest at zero.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = (
            nn.Conv2d(channels, outputs, 1, bias=False) for channels in (inputs, outputs, inputs)
        )
        self.norm = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.second.weight)
        nn.init.uniform_(self.shortcut.weight, -0.01, 0.01)
        with torch.no_grad():
            self.shortcut.weight[:, :, 0, 0].fill_diagonal_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.second(F.relu(self.first(x))) + self.shortcut(x))
        return y.flatten(2).transpose(1, 2)


class AMDIM(Method):
    """Features of one view, of the whole picture or of one place, find the places of the other view among other pictures'."""

    Config = AMDIMConfig

    def __init__(self, config: AMDIMConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        if not isinstance(encoder, MultiScale):
            raise WrongUse(
                "amdim compares maps of 7 x 7 and 5 x 5 places, which this encoder lacks: try --encoder amdim-small"
            )
        self.config, self.encoder = config, encoder
        self.seven, self.five = (Embedding(width, encoder.dim) for width in encoder.widths)

    def encode(self, views: Views, step: Step) -> Views:
        one, seven, five = zip(*(self.encoder.scales(x) for x in views["global"]), strict=True)  # type: ignore[operator]
        return {
            "one": torch.stack(one),  # (2, B, R)
            "seven": torch.stack([self.seven(x) for x in seven]),  # (2, B, 49, R)
            "five": torch.stack([self.five(x) for x in five]),  # (2, B, 25, R)
        }

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        config, one, five, count = self.config, outputs["one"], outputs["five"], len(index)
        rows = distributed.own_rows(count, one.device)
        # one place of the 5 x 5 map for each picture and view
        place = torch.randint(25, (distributed.world() * count, 2), generator=step.fresh())
        place = distributed.own(place).to(one.device, non_blocking=True)
        at = torch.arange(count, device=one.device)
        total = one.new_zeros(())
        for source, target in ((0, 1), (1, 0)):  # three tasks, both ways
            sevens, fives = (distributed.gather(outputs[name][target]) for name in ("seven", "five"))
            spot = five[source][at, place[:, source]]
            for x, y in ((one[source], fives), (one[source], sevens), (spot, fives)):
                total = total + amdim(x, y, config.clip, config.weight, rows)
        return Output(total / 2)

    def constant_loss(self, batch: int) -> float:
        """Equal scores: log(1 + (B - 1) L) for each task, L its target's locations."""
        return sum(math.log1p((batch - 1) * places) for places in (25, 49, 25))
