"""CPC: Representation Learning with Contrastive Predictive Coding (arXiv 1807.03748), and v2 (arXiv 1905.09272)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse, above, at_least
from selfsight.losses import cpc


@dataclass(frozen=True)
class CPCConfig:
    """Settings of CPC; defaults are those of v2's pseudo-code (appendix A), but for its offsets. v1: directions 1."""

    nearest: int = 2
    """Smallest number of rows between a location and what is predicted from it; patches that overlap share pixels at 1."""
    furthest: int = 5
    """Largest number, if the grid has more rows. v2's pseudo-code predicts 3 alone: nearest 3, furthest 3."""
    directions: Literal[1, 4] = 4
    """From above alone, or from all four sides (the grid is turned)."""
    shared: bool = False
    """One context network for all directions in place of one for each."""
    blocks: int = 5
    """Residual blocks of a context network: each sees one more row above."""
    width: int = 256
    """Channels inside these blocks."""
    dim: int = 64
    """Width of targets and predictions."""
    scale: float = 0.1
    """Multiplies predictions, which keeps the first scores small."""

    def __post_init__(self) -> None:
        at_least(self, 1, "nearest", "blocks", "width", "dim")
        above(self, 0, "scale")
        if self.furthest < self.nearest:
            raise WrongUse(
                f"method.furthest {self.furthest} is below method.nearest {self.nearest}: give at least that"
            )


class Above(nn.Module):
    """A residual block that sees its row to both sides and the row above, never below: (B, D, H, W) -> (B, D, H, W)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(dim, width, 1)
        self.across = nn.Conv2d(width, width, (1, 3), padding=(0, 1))
        self.down = nn.Conv2d(width, width, (2, 1))
        self.leave = nn.Conv2d(width, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.across(F.relu(self.enter(x)))
        y = self.down(F.pad(y, (0, 0, 1, 0)))  # a row of zeros on top: row i sees i - 1 and i
        return x + self.leave(F.relu(y))


class Direction(nn.Module):
    """Targets of a grid of features, and their predictions from above: context, then a linear map for each offset."""

    def __init__(self, config: CPCConfig, offsets: range, dim: int) -> None:
        super().__init__()
        self.scale, self.offsets = config.scale, offsets
        self.context = nn.Sequential(*(Above(dim, config.width) for _ in range(config.blocks)), nn.ReLU())
        self.target = nn.Conv2d(dim, config.dim, 1)
        self.predict = nn.ModuleList(nn.Conv2d(dim, config.dim, 1) for _ in self.offsets)

    def forward(self, z: Tensor) -> list[Tensor]:
        """(B, D, H, W) -> targets (B, H, W, d), then for each offset k predictions (B, H - k, W, d)."""
        context = self.context(z)
        told = [self.scale * head(context[:, :, :-k]) for k, head in zip(self.offsets, self.predict, strict=True)]
        return [x.permute(0, 2, 3, 1) for x in (self.target(z), *told)]


class CPC(Method):
    """Features of patches in one row predict those of rows below, among the patches of all pictures."""

    Config = CPCConfig
    global_views = 0
    tiled = True

    def __init__(self, config: CPCConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules()):
            raise WrongUse(
                "cpc's encoder must have no batch normalisation, whose statistics tell patches which of them belong "
                "together: choose --encoder cpc-small, or a ResNet with --net.norm group"
            )
        self.config, self.encoder, self.grid = config, encoder, math.isqrt(data.tiles)
        self.offsets = range(config.nearest, min(config.furthest, self.grid - 1) + 1)
        if not self.offsets:
            raise WrongUse(
                f"method.nearest is {config.nearest}, and the grid has {self.grid} rows: choose more --views.tiles.grid"
            )
        dim, nets = int(encoder.dim), 1 if config.shared else config.directions  # type: ignore[arg-type]
        self.heads = nn.ModuleList(Direction(config, self.offsets, dim) for _ in range(nets))

    def check(self, batch: int, part: int) -> None:
        _, side = self.views.shapes["tiles"]
        cell = getattr(self.encoder, "cell", side)
        if cell != side:
            raise WrongUse(f"tiles have {side} px and the encoder's patches {cell}: set --net.patch {side}")

    def encode(self, views: Views, step: Step) -> Views:
        tiles = views["tiles"]  # (T, B, C, t, t), row by row
        z = self.encoder(tiles.flatten(0, 1)).unflatten(0, (self.grid, self.grid, -1))  # (H, W, B, D)
        z = z.permute(2, 3, 0, 1)
        turned = [z.rot90(turn, (2, 3)) for turn in range(self.config.directions)]
        found = [self.heads[turn % len(self.heads)](x) for turn, x in enumerate(turned)]
        names = ("target", *(f"below{k}" for k in self.offsets))
        return {name: torch.stack(parts) for name, parts in zip(names, zip(*found, strict=True), strict=True)}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        targets = [distributed.gather(t) for t in outputs["target"]]  # (N, H, W, d) of each direction
        rows = distributed.own_rows(len(index), targets[0].device)
        losses = {
            name: torch.stack([cpc(told, t, rows) for told, t in zip(outputs[name], targets, strict=True)]).mean()
            for name in outputs
            if name != "target"
        }
        return Output(torch.stack(list(losses.values())).mean(), {f"loss_{n}": x.detach() for n, x in losses.items()})

    def constant_loss(self, batch: int) -> float:
        """Every location of every picture is equally likely: log(B T)."""
        return math.log(batch * self.grid**2)
