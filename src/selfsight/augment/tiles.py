"""Tiles of pictures, for methods that ask how parts of a picture belong together: draw, then apply.

A picture is cropped, cut into a grid of cells, and every cell gives one tile from a random place inside. Tiles come in
their natural order: a trunk sees each tile alone, so that shuffling what it makes of them is shuffling them.
Legend: B batch, C channels, T = grid * grid tiles in row-major order, S side of the picture, t side of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight.augment.apply import Normal, make
from selfsight.augment.permutations import permutations as permutations
from selfsight.augment.plan import DRAWS, Group
from selfsight.augment.policies import Policy
from selfsight.errors import WrongUse

# Columns of a tile's uniforms that a view has its box in: place in the cell, then a shift and a value for each channel.
_SHIFT, _MOST_CHANNELS = 2, 3
_VALUE = _SHIFT + 2 * _MOST_CHANNELS
_FLAT = 1e-4  #: a channel of a tile whose deviation is less (in units of 0..1) has no contrast to bring to 1
_LEAST_CELL = 16  #: pixels; smaller pictures are enlarged


@dataclass(frozen=True)
class TilesConfig:
    """How a picture is cut into tiles."""

    grid: int = 0
    """Tiles in a row and in a column; 0: no tiles."""
    cell: int = 0
    """Side of a cell in pixels; 0: from the image size, at least 16."""
    stride: int = 0
    """Pixels from a cell to the next, fewer than `cell` where cells overlap; 0: as `cell`."""
    size: int = 0
    """Side of a tile, cut at a random place in its cell; 0: three quarters of the cell."""
    pad: bool = False
    """Put each tile in the middle of a cell of zeros."""
    shift: int = 0
    """Each colour channel of each tile moves by up to so many pixels: colours must not betray the lens."""
    value_shift: tuple[int, int] | None = None
    """Add an integer of this range to the values (0..255) of each channel of each tile; None: nothing."""
    standardise: bool = False
    """Each channel of each tile gets mean 0 and deviation 1, in place of the data's normalisation."""
    per_tile: bool = False
    """Flips (unless views.shared_flip) and colours are drawn for each tile; off: once for the picture, so that a flip moves
    tiles."""
    scale: tuple[float, float] | None = None
    """Area of the picture that is cut, as a fraction; None: as the whole views."""

    def __post_init__(self) -> None:
        for field in ("grid", "cell", "stride", "size", "shift"):
            if getattr(self, field) < 0:
                raise WrongUse(f"views.tiles.{field} is {getattr(self, field)}, must not be negative")
        if self.value_shift and self.value_shift[0] > self.value_shift[1]:
            raise WrongUse(f"views.tiles.value_shift {self.value_shift} is not a range: give low, then high")
        if self.scale and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise WrongUse(
                f"views.tiles.scale {self.scale} is not a range of areas; give two numbers, 0 < low <= high <= 1"
            )

    def fitted(self, image_size: int) -> TilesConfig:
        """All sides as numbers, for pictures of this side."""
        cell = self.cell or max(_LEAST_CELL, image_size // self.grid)
        size = self.size or round(0.75 * cell)
        if size + 2 * self.shift > cell:
            raise WrongUse(
                f"views.tiles: tiles of {size} px whose channels move by {self.shift} do not fit into cells of {cell}: "
                "choose a smaller views.tiles.size or views.tiles.shift"
            )
        return replace(self, cell=cell, stride=self.stride or cell, size=size)


NO_TILES = TilesConfig()


class Tiles:
    """Cuts tiles. `group` says how the picture is cropped, and with what colours unless these are each tile's."""

    def __init__(self, config: TilesConfig, policy: Policy, image_size: int, shared_flip: bool = False) -> None:
        self.config = config = config.fitted(image_size)
        self.count = config.grid**2
        side = config.cell + (config.grid - 1) * config.stride
        flip = policy.flip if shared_flip else 0.0
        still = replace(policy, flip=flip, rotate=0.0, jitter=0.0, gray=0.0, blur=0.0, solarise=0.0, steps=())
        self.group = Group("tiles", side, (still if config.per_tile else policy,))
        alone = replace(policy, flip=policy.flip - flip, shift=0.0)
        self.each = Group("tile", config.size, (alone,)) if config.per_tile else None

    @property
    def side(self) -> int:
        """Side of what an encoder gets."""
        return self.config.cell if self.config.pad else self.config.size

    def draw(self, count: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Uniforms of `count` pictures beside those of `group`: of each tile (count, T, DRAWS), and (count, 1, T)."""
        tile = torch.rand(count, self.count, DRAWS, generator=rng)
        return {"tile": tile, "shuffle": torch.rand(count, 1, self.count, generator=rng)}

    def __call__(
        self, picture: Callable[[Normal], Tensor], draws: Mapping[str, Tensor], normal: Normal, exact: bool
    ) -> Tensor:
        """Make the tiles.

        Args:
            picture: makes the views of `group`, (1, B, C, S, S), with this normalisation.
            draws: rows of `draw`, on the CPU.
            normal: the data's normalisation.
            exact: colours step by step.

        Returns:
            (T, B, C, t, t) float32 (a cell's side with padding), in natural order.
        """
        config, u = self.config, draws["tile"].cpu()
        if self.each:
            tiles = self._cut(picture(normal.scaled(255))[0], u)  # 0..255, as a source of views
            sheet = tiles.transpose(0, 1).flatten(0, 1)[None]
            made = make(self.each, u.flatten(0, 1)[:, None], sheet, None, normal.scaled(1), exact)
            tiles = made[0].unflatten(0, (-1, self.count)).transpose(0, 1)
        else:
            tiles = self._cut(picture(normal.scaled(1))[0], u)
        if config.value_shift:
            low, high = config.value_shift
            added = low + (u[..., _VALUE : _VALUE + tiles.shape[2]] * (high - low + 1)).floor()
            added = added.transpose(0, 1).to(tiles.device, non_blocking=True)
            tiles = (tiles + added[..., None, None] / 255).clamp_(0, 1)
        tiles = standardised(tiles) if config.standardise else normal.apply(tiles)
        margin = config.cell - config.size
        border = (margin // 2, margin - margin // 2) * 2
        return F.pad(tiles, border) if config.pad else tiles.contiguous()

    def _cut(self, x: Tensor, u: Tensor) -> Tensor:
        """(B, C, S, S) and uniforms (B, T, DRAWS) -> (T, B, C, t, t), each channel from its own place in the cell."""
        config, channels = self.config, x.shape[1]
        place = (u[..., None, :2] * (config.cell - config.size - 2 * config.shift + 1)).floor()
        shift = u[..., _SHIFT : _SHIFT + 2 * channels].unflatten(-1, (channels, 2))
        at = place + (shift * (2 * config.shift + 1)).floor()  # (B, T, C, 2), 0..cell - size
        line = torch.arange(config.grid) * config.stride
        at = (at + torch.cartesian_prod(line, line)[:, None]).long().transpose(0, 1)  # (T, B, C, 2)
        top, left = at.to(x.device, non_blocking=True).unbind(-1)
        windows = x.unfold(2, config.size, 1).unfold(3, config.size, 1)  # (B, C, y, x, t, t), a view
        rows, colours = torch.arange(len(x), device=x.device)[:, None], torch.arange(channels, device=x.device)
        return windows[rows, colours, top, left]


def standardised(tiles: Tensor) -> Tensor:
    """Mean 0 and deviation 1 of each channel of each tile, (..., t, t); one without contrast becomes 0."""
    x = tiles.flatten(-2)
    x = x - x.mean(-1, keepdim=True)
    # a norm: torch.std takes twenty times as long on a CPU
    deviation = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / x.shape[-1] ** 0.5
    return x.div_(torch.where(deviation < _FLAT, 1, deviation)).view_as(tiles)


def shuffled(tiles: Tensor, order: Tensor) -> Tensor:
    """(T, B, ...) and which tile comes to each place, (B, T) -> (T, B, ...). The inverse has `order.argsort(1)`."""
    return tiles[order.mT, torch.arange(tiles.shape[1], device=tiles.device)]
