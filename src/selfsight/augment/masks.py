"""Which patches of a whole view are hidden from the student: drawn like every random number, on the CPU.

Legend: n pictures times views, T = side * side patches in row-major order.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfsight.errors import WrongUse

MaskKind = Literal["none", "block", "random", "multiblock"]
NAMES = ("mask", "context", "targets")  #: views that masks are drawn as
_ROUNDS = 64  # blocks tried for each picture; the last ones seldom fit
_ASPECT = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Masks:
    """Masks of whole views."""

    kind: MaskKind  #: block: rectangles, as in BEiT (arXiv 2106.08254, algorithm 1); random: single patches, or units
    side: int  #: patches in a row of the view
    ratio: tuple[float, float]  #: share of hidden patches is drawn from this range ...
    share: float  #: ... for this share of the views; the others are whole
    unit: int = 1  #: side in patches of the squares that random masks consist of

    @property
    def most(self) -> int:
        """Most patches that a mask hides."""
        return int(self._wanted(torch.tensor(self.ratio[1], dtype=torch.float64))) * self.unit**2

    def _wanted(self, ratio: Tensor) -> Tensor:
        """How many patches or units to hide: blocks at most the ratio, single ones at least (MAE, SimMIM)."""
        wanted = ratio * (self.side // self.unit) ** 2
        return wanted.long() if self.kind == "block" else (wanted - 1e-9).ceil().long()

    def draws(self, count: int, views: int, rng: torch.Generator) -> dict[str, Tensor]:
        """What views get: "mask", see `draw`."""
        return {"mask": self.draw(count, views, rng)}

    def draw(self, count: int, views: int, rng: torch.Generator) -> Tensor:
        """(count, views, T) bool, True where a patch is hidden. Blocks hide at most what was drawn, and nearly it."""
        n, units = count * views, (self.side // self.unit) ** 2
        low, high = self.ratio
        masked = torch.rand(n, generator=rng) < self.share
        ratio = low + (high - low) * torch.rand(n, generator=rng, dtype=torch.float64)
        wanted = torch.where(masked, self._wanted(ratio), 0)
        if self.kind == "random":
            order = torch.rand(n, units, generator=rng).argsort(1)
            found = order.argsort(1) < wanted[:, None]
            grid = found.view(n, self.side // self.unit, -1)
            found = grid.repeat_interleave(self.unit, 1).repeat_interleave(self.unit, 2).flatten(1)
        else:
            found = self._blocks(wanted, rng)
        return found.view(count, views, -1)

    def _blocks(self, wanted: Tensor, rng: torch.Generator) -> Tensor:
        """Rectangles of random area, shape and place, each kept if it hides something new and not too much."""
        n, side = len(wanted), self.side
        found = torch.zeros(n, side, side, dtype=torch.bool)
        line = torch.arange(side)
        least = max(1, side // 3) ** 2
        for _ in range(_ROUNDS):
            u = torch.rand(n, 4, generator=rng, dtype=torch.float64)
            missing = wanted - found.sum((1, 2))
            area = least + (missing - least).clamp(min=0) * u[:, 0]
            area = torch.minimum(area, missing.double())  # the rest may be less than the smallest block
            aspect = torch.exp(math.log(_ASPECT[0]) + u[:, 1] * (math.log(_ASPECT[1]) - math.log(_ASPECT[0])))
            height = (area * aspect).sqrt().round().long().clamp(1, side)
            width = (area / aspect).sqrt().round().long().clamp(1, side)
            top = (u[:, 2] * (side - height + 1)).long()
            left = (u[:, 3] * (side - width + 1)).long()
            rows = (line >= top[:, None]) & (line < (top + height)[:, None])  # (n, side)
            columns = (line >= left[:, None]) & (line < (left + width)[:, None])
            block = rows[:, :, None] & columns[:, None, :] & ~found
            fresh = block.sum((1, 2))
            found |= block & ((fresh > 0) & (fresh <= missing))[:, None, None]
        return found.flatten(1)


@dataclass(frozen=True)
class MultiBlock:
    """One context and several targets of a picture, as in I-JEPA (arXiv 2301.08243, section 3 and appendix A).

    Targets are rectangles of one size, the context what they leave of a square; a step's pictures share both sizes.
    """

    side: int  #: patches in a row of the view
    scale: tuple[float, float]  #: area of a target, as a share of the view
    targets: int = 4
    aspect: tuple[float, float] = (0.75, 1.5)  #: height over width of a target
    context: tuple[float, float] = (0.85, 1.0)  #: area of the square, as a share of the view
    least: int = 10  #: a context of fewer patches is drawn again ...
    tries: int = 20  #: ... so many times; the largest stays

    def draws(self, count: int, views: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Patches of one view, int64: "context" (count, 1, m) and "targets" (count, targets, k), no patch in both.

        A larger context than the batch's smallest loses patches at random, so that m holds for all.
        """
        size, shape, square = torch.rand(3, generator=rng, dtype=torch.float64).tolist()
        low, high = self.scale
        area = math.floor((low + (high - low) * size) * self.side**2)
        aspect = self.aspect[0] + (self.aspect[1] - self.aspect[0]) * shape
        height, width = (max(1, min(self.side, round(math.sqrt(area * a)))) for a in (aspect, 1 / aspect))
        low, high = self.context
        wide = max(1, round(math.sqrt(math.floor((low + (high - low) * square) * self.side**2))))
        context, targets = self._places(count, height, width, wide, rng)
        for _ in range(self.tries - 1):
            if bool((context.sum(1) >= self.least).all()):
                break
            other = self._places(count, height, width, wide, rng)
            better = (context.sum(1) < self.least) & (other[0].sum(1) > context.sum(1))
            context = torch.where(better[:, None], other[0], context)
            targets = torch.where(better[:, None, None], other[1], targets)
        shuffled = torch.rand(context.shape, generator=rng).masked_fill(~context, 2.0).argsort(1)
        return {"context": shuffled[:, None, : int(context.sum(1).min())], "targets": targets}

    def _places(self, count: int, height: int, width: int, wide: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Contexts (count, T) bool and targets (count, targets, height * width) int64, somewhere."""
        targets = self._rectangles(count, self.targets, height, width, rng)
        square = self._rectangles(count, 1, wide, wide, rng)
        context = torch.zeros(count, self.side**2, dtype=torch.bool).scatter_(1, square.flatten(1), True)
        return context.scatter_(1, targets.flatten(1), False), targets

    def _rectangles(self, count: int, each: int, height: int, width: int, rng: torch.Generator) -> Tensor:
        """(count, each, height * width) int64: the patches of rectangles of one size, anywhere in the view."""
        u = torch.rand(2, count, each, 1, 1, generator=rng, dtype=torch.float64)
        top = (u[0] * (self.side - height + 1)).long() + torch.arange(height)[:, None]
        left = (u[1] * (self.side - width + 1)).long() + torch.arange(width)
        return (top * self.side + left).flatten(2)


def masking(
    kind: MaskKind, side: int, ratio: tuple[float, float], share: float, unit: int
) -> Masks | MultiBlock | None:
    """What hides patches of whole views with `side` patches in a row; None: nothing."""
    if kind == "none":
        return None
    if kind == "multiblock":
        return MultiBlock(side, ratio)
    if kind == "block":
        return Masks(kind, side, ratio, share)
    if unit < 1 or side % unit:
        raise WrongUse(
            f"views have {side} patches in a row, which units of {unit} do not fill: choose another --views.mask-unit, "
            "--views.size or --net.patch"
        )
    return Masks(kind, side, ratio, share, unit)
