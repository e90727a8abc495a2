"""Which patches of a whole view are hidden from the student: drawn like every random number, on the CPU.

Legend: n pictures times views, T = side * side patches in row-major order.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MaskKind = Literal["none", "block", "random"]
_ROUNDS = 64  # blocks tried for each picture; the last ones seldom fit
_ASPECT = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Masks:
    """Masks of whole views."""

    kind: MaskKind  #: block: rectangles, as in BEiT (arXiv 2106.08254, algorithm 1); random: single patches
    side: int  #: patches in a row of the view
    ratio: tuple[float, float]  #: share of hidden patches is drawn from this range ...
    share: float  #: ... for this share of the views; the others are whole

    @property
    def most(self) -> int:
        """Most patches that a mask hides."""
        return int(self.ratio[1] * self.side**2)

    def draw(self, count: int, views: int, rng: torch.Generator) -> Tensor:
        """(count, views, T) bool, True where a patch is hidden. Blocks hide at most what was drawn, and nearly it."""
        n, patches = count * views, self.side**2
        low, high = self.ratio
        masked = torch.rand(n, generator=rng) < self.share
        ratio = low + (high - low) * torch.rand(n, generator=rng, dtype=torch.float64)
        wanted = torch.where(masked, (ratio * patches).long(), 0)
        if self.kind == "random":
            order = torch.rand(n, patches, generator=rng).argsort(1)
            found = order.argsort(1) < wanted[:, None]
        else:
            found = self._blocks(wanted, rng)
        return found.view(count, views, patches)

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
