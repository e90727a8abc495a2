"""The operations of RandAugment (arXiv 1909.13719, section 3), on some pictures of a batch each.

Their strengths grow with the magnitude, from nothing to what section 4 and AutoAugment (arXiv 1805.09501, table 6) take as
the most, in both directions where there are two; no operation ends in a blank or an inverted picture:

    rotate               0..30 degrees          solarise    threshold 1..0.25
    shear-x, shear-y     0..0.3                 posterise   8..4 bits
    translate-x, -y      0..0.3 of the side     colour, contrast, brightness, sharpness    factor 1..1.9 or 1..0.1

Autocontrast and equalise have no strength. Legend: n pictures, C channels, s side; pictures are (n, C, s, s) in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight.augment import colour, geometry
from selfsight.augment.gates import where_open

OPERATIONS = (
    "identity", "autocontrast", "equalise", "rotate", "solarise", "colour", "posterise", "contrast", "brightness",
    "sharpness", "shear-x", "shear-y", "translate-x", "translate-y",
)  # fmt: skip
MOST = 10.0  #: the largest magnitude
_NUMBER = {name: i for i, name in enumerate(OPERATIONS)}
_WARPS = [_NUMBER[name] for name in ("rotate", "shear-x", "shear-y", "translate-x", "translate-y")]
_ENHANCED = {"colour": colour.SATURATION, "contrast": colour.CONTRAST, "brightness": colour.BRIGHTNESS}


def operate(x: Tensor, operation: Tensor, strength: Tensor, blank: Tensor) -> None:
    """One operation on each picture, in place.

    Args:
        x: pictures.
        operation: (n,) int64 of OPERATIONS, on the CPU.
        strength: (n,) share of the most, from -1 to 1, on the CPU.
        blank: (C,) colour of what a moved picture leaves free.
    """

    def due(name: str) -> Tensor:
        return operation == _NUMBER[name]

    def warp(y: Tensor, theta: Tensor) -> Tensor:
        return geometry.warp(y.sub_(blank[:, None, None]), theta).add_(blank[:, None, None])

    where_open(x, due("autocontrast"), autocontrast)
    where_open(x, due("equalise"), equalise)
    where_open(x, due("solarise"), colour.solarise, 1 - 0.75 * strength.abs())
    where_open(x, due("posterise"), posterise, 8 - (4 * strength.abs()).round())
    where_open(x, due("sharpness"), sharpen, 1 + 0.9 * strength)
    for name, which in _ENHANCED.items():

        def enhance(y: Tensor, factor: Tensor, which: int = which) -> Tensor:
            return colour.step(y, which, factor)

        where_open(x, due(name), enhance, 1 + 0.9 * strength)
    moved = torch.isin(operation, torch.tensor(_WARPS))
    where_open(x, moved, warp, maps(operation, strength, x.shape[-1]))


def maps(operation: Tensor, strength: Tensor, side: int) -> Tensor:
    """What `geometry.warp` takes for each picture: (n,), (n,) -> (n, 2, 3); the identity for operations that move nothing."""
    theta = torch.eye(2, 3).repeat(len(operation), 1, 1)
    rotated = operation == _NUMBER["rotate"]
    theta[rotated] = geometry.turn(30 * strength[rotated])
    pixels = (0.3 * side * strength).round()  # whole ones: a part of one would blur
    for name, row, column, value in (
        ("shear-x", 0, 1, 0.3 * strength),
        ("shear-y", 1, 0, 0.3 * strength),
        ("translate-x", 0, 2, 2 * pixels / side),
        ("translate-y", 1, 2, 2 * pixels / side),
    ):
        theta[:, row, column] = torch.where(operation == _NUMBER[name], value, theta[:, row, column])
    return theta


def autocontrast(x: Tensor) -> Tensor:
    """Stretch every channel to 0..1; one without contrast stays."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-6), x).clamp_(0, 1)


def equalise(x: Tensor) -> Tensor:
    """Make the histogram of every channel flat, as PIL does: 256 levels, the share below each level becomes its value.

    The cumulative histogram is read from sorted pixels: no scattered sums, so it is deterministic everywhere.
    """
    levels = (x * 255).round().flatten(0, 1).flatten(1)  # (n C, pixels)
    ordered = levels.sort(1).values
    line = torch.arange(255, device=x.device, dtype=x.dtype).expand(len(levels), 255).contiguous()
    below = F.pad(torch.searchsorted(ordered, line, right=True), (1, 0))  # (n C, 256) pixels below each level
    step = torch.searchsorted(ordered, ordered[:, -1:].contiguous()) // 255  # those of the highest level do not count
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    table[:, 0] = 0
    flat = torch.where(step > 0, table.gather(1, levels.long()) / 255, levels / 255)
    return flat.view_as(x)


def posterise(x: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper bits of each 8-bit value: bits (n,)."""
    step = (2 ** (8 - bits))[:, None, None, None]
    return (((x * 255).round() / step).floor() * step).div_(255)


def sharpen(x: Tensor, factor: Tensor) -> Tensor:
    """Away from a smoothed picture, or towards it: factor (n,), 1 changes nothing, 0 smooths; the border stays."""
    smooth = (9 * F.avg_pool2d(x, 3, 1) + 4 * x[..., 1:-1, 1:-1]) / 13  # centre 5, neighbours 1
    inner = x[..., 1:-1, 1:-1]
    inner.copy_((smooth + factor[:, None, None, None] * (inner - smooth)).clamp_(0, 1))
    return x
