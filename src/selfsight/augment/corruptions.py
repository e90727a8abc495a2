"""Common corruptions of pictures, in five severities, in the manner of arXiv 1903.12261 (Hendrycks and Dietterich).

Our own code and our own numbers: they follow the side of the picture, so that a severity means about the same at 32 and at
224 px. They are not the files CIFAR-10-C or ImageNet-C, and accuracies on them do not compare with published ones.

Every random number is drawn first, on the CPU, and does not depend on the severity: a picture gets the same noise, direction
or clouds in all five, and the same on every device. Pictures do not depend on each other.
Legend: b pictures, C channels, s side, S 224 px, the side that the numbers are written for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight.augment.jpeg import jpeg
from selfsight.errors import WrongUse, perhaps

SEVERITIES = (1, 2, 3, 4, 5)
_FULL = 224  # px
_TAPS = 13  # places along a streak or a zoom that are averaged


@dataclass(frozen=True)
class Corruption:
    """A way to spoil pictures."""

    about: str
    levels: tuple[float, float, float, float, float]  #: severities 1 to 5
    draw: Callable[[int, int, int, torch.Generator], Tensor]  #: (b, C, s, rng) -> (b, ...) on the CPU
    act: Callable[
        [Tensor, Tensor, float], Tensor
    ]  #: pictures (b, C, s, s) in [0, 1], what was drawn, level -> pictures


def corrupt(name: str, x: Tensor, drawn: Tensor, severity: int) -> Tensor:
    """Corrupted pictures.

    Args:
        name: a name of CORRUPTIONS.
        x: (b, C, s, s) float in [0, 1], on any device; stays as it is.
        drawn: (b, ...) what `CORRUPTIONS[name].draw` gave.
        severity: 1 to 5.

    Returns:
        (b, C, s, s) float in [0, 1].

    Raises:
        WrongUse: no such corruption or severity.
    """
    check((name,), (severity,))
    known = CORRUPTIONS[name]
    return known.act(x, drawn.to(x.device, non_blocking=True), known.levels[severity - 1]).clamp_(0, 1)


def check(names: tuple[str, ...], severities: tuple[int, ...]) -> None:
    """Raise WrongUse for a corruption or a severity that there is not."""
    for name in names:
        if name not in CORRUPTIONS:
            raise WrongUse(f"no corruption is called {name!r}.{perhaps(str(name), set(CORRUPTIONS))}")
    wrong = [severity for severity in severities if severity not in SEVERITIES]
    if wrong or not severities:
        raise WrongUse(f"severity {wrong[0] if wrong else severities}: give some of 1, 2, 3, 4, 5")


def _less(side: int) -> float:
    """Square root of the side against S, at most 1: noise on few pixels hides more."""
    return math.sqrt(min(1.0, side / _FULL))


def _nothing(count: int, channels: int, side: int, rng: torch.Generator) -> Tensor:
    return torch.empty(count, 0)


def _normal(count: int, channels: int, side: int, rng: torch.Generator) -> Tensor:
    return torch.randn(count, channels, side, side, generator=rng)


def _uniform(count: int, channels: int, side: int, rng: torch.Generator) -> Tensor:
    return torch.rand(count, channels, side, side, generator=rng)


def _one(count: int, channels: int, side: int, rng: torch.Generator) -> Tensor:
    return torch.rand(count, 1, generator=rng)


def _gaussian_noise(x: Tensor, normal: Tensor, deviation: float) -> Tensor:
    return x + deviation * _less(x.shape[-1]) * normal


def _shot_noise(x: Tensor, normal: Tensor, photons: float) -> Tensor:
    """Counts of `photons * x` on average and nearly Poisson: the square of a normal number about their square root."""
    white = photons / _less(x.shape[-1]) ** 2
    return ((white * x).sqrt() + normal / 2).clamp_(min=0).square().sub_(0.25).clamp_(min=0).div_(white)


def _impulse_noise(x: Tensor, u: Tensor, share: float) -> Tensor:
    """Salt and pepper, in each channel by itself."""
    share = share * _less(x.shape[-1])
    return torch.where(u < share / 2, torch.zeros_like(x), torch.where(u > 1 - share / 2, torch.ones_like(x), x))


@lru_cache(maxsize=64)
def _disc(radius: float, device: torch.device) -> Tensor:
    """(n, n) weights of a disc with a soft rim."""
    reach = math.ceil(radius)
    at = torch.arange(-reach, reach + 1).float()
    weight = (radius + 0.5 - (at[:, None].square() + at.square()).sqrt()).clamp(0, 1)
    return (weight / weight.sum()).to(device)


def _defocus_blur(x: Tensor, _: Tensor, share: float) -> Tensor:
    kernel = _disc(0.5 + share * x.shape[-1] / _FULL, x.device)
    reach, channels = len(kernel) // 2, x.shape[1]
    return F.conv2d(
        F.pad(x, [reach] * 4, mode="reflect"), kernel.expand(channels, 1, -1, -1).contiguous(), groups=channels
    )


def _looked_up(x: Tensor, places: Tensor) -> Tensor:
    """Bilinear, borders reflected: (b, C, s, s) at (b, s, s, 2) places, across and down in -1..1."""
    return F.grid_sample(x, places, mode="bilinear", padding_mode="reflection", align_corners=False)


def _places(x: Tensor) -> Tensor:
    """(s, s, 2) where the pixels of a picture lie."""
    side = x.shape[-1]
    at = (torch.arange(side, device=x.device) * 2 + 1) / side - 1
    return torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)


def _streaked(x: Tensor, angle: Tensor, length: float) -> Tensor:
    """Mean along a line of `length` (shares of the side) through each pixel; angle (b,)."""
    way = torch.stack([angle.cos(), angle.sin()], 1)[:, None, None]
    total = torch.zeros_like(x)
    for i in range(_TAPS):
        total += _looked_up(x, _places(x) + way * (2 * length * (i / (_TAPS - 1) - 0.5)))
    return total / _TAPS


def _motion_blur(x: Tensor, u: Tensor, length: float) -> Tensor:
    return _streaked(x, (u[:, 0] - 0.5) * (math.pi / 2), (1 + length * x.shape[-1] / _FULL) / x.shape[-1])


def _zoom_blur(x: Tensor, _: Tensor, most: float) -> Tensor:
    total = torch.zeros_like(x)
    for i in range(_TAPS):
        total += _looked_up(x, (_places(x) / (1 + most * i / (_TAPS - 1))).expand(len(x), -1, -1, -1))
    return total / _TAPS


def _flakes(side: int) -> int:
    return min(side, 112)  # of two pixels at S


def _snow_draw(count: int, channels: int, side: int, rng: torch.Generator) -> Tensor:
    return torch.rand(count, 1 + _flakes(side) ** 2, generator=rng)


def _snow(x: Tensor, u: Tensor, much: float) -> Tensor:
    """Streaks of white flakes, and a paler picture."""
    side, cells = x.shape[-1], _flakes(x.shape[-1])
    flakes = (u[:, 1:].view(-1, 1, cells, cells) > 1 - 0.07 * much).float()
    flakes = F.interpolate(flakes, (side, side), mode="bilinear", align_corners=False)
    angle = (0.25 + 0.5 * u[:, 0]) * math.pi  # mostly downwards
    flakes = (2.5 * _streaked(flakes, angle, 0.09)).clamp_(0, 1)
    pale = x + 0.5 * much * (x.mean(1, keepdim=True) * 0.5 + 0.5 - x)
    return pale + flakes * (1 - pale)


def _octaves(side: int) -> list[int]:
    return [2**i for i in range(1, 7) if 2**i <= max(2, side)]


def _fog_draw(count: int, channels: int, side: int, rng: torch.Generator) -> Tensor:
    return torch.rand(count, sum(n * n for n in _octaves(side)), generator=rng)


def _fog(x: Tensor, u: Tensor, much: float) -> Tensor:
    """Clouds of all sizes, the small ones faint, laid over a picture that keeps its brightest value."""
    clouds, sizes = torch.zeros_like(x[:, :1]), _octaves(x.shape[-1])
    for size, part in zip(sizes, u.split([n * n for n in sizes], 1)):
        grid = part.reshape(-1, 1, size, size)
        clouds += 2 / size * F.interpolate(grid, x.shape[-2:], mode="bilinear", align_corners=True)
    clouds -= clouds.amin((2, 3), keepdim=True)
    clouds /= clouds.amax((2, 3), keepdim=True)
    top = x.amax((1, 2, 3), keepdim=True)
    return (x + much * clouds) * top / (top + much)


def _brightness(x: Tensor, _: Tensor, more: float) -> Tensor:
    return x + more


def _contrast(x: Tensor, _: Tensor, factor: float) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return mean + factor * (x - mean)


def _elastic_draw(count: int, channels: int, side: int, rng: torch.Generator) -> Tensor:
    return torch.rand(count, 2, 9, 9, generator=rng)


def _elastic(x: Tensor, u: Tensor, reach: float) -> Tensor:
    """Pixels move by up to `reach` of the side, neighbours alike."""
    move = F.interpolate(2 * u - 1, x.shape[-2:], mode="bicubic", align_corners=True)
    return _looked_up(x, _places(x) + 2 * reach * move.permute(0, 2, 3, 1))


def _pixelate(x: Tensor, _: Tensor, share: float) -> Tensor:
    side = x.shape[-1]
    cells = max(2, round(side * share ** _less(side)))
    return F.interpolate(F.interpolate(x, (cells, cells), mode="area"), (side, side), mode="nearest-exact")


def _jpeg(x: Tensor, _: Tensor, quality: float) -> Tensor:
    return jpeg(x, min(95.0, quality / _less(x.shape[-1])))


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian-noise": Corruption(
        "normal noise on every value", (0.08, 0.12, 0.18, 0.26, 0.38), _normal, _gaussian_noise
    ),
    "shot-noise": Corruption("few photons: noise that grows with the light", (60, 25, 12, 5, 3), _normal, _shot_noise),
    "impulse-noise": Corruption(
        "values that are black or white", (0.03, 0.06, 0.09, 0.17, 0.27), _uniform, _impulse_noise
    ),
    "defocus-blur": Corruption("a lens out of focus: the mean over a disc", (1, 2, 4, 6, 8), _nothing, _defocus_blur),
    "motion-blur": Corruption("the mean along a line, within 45 degrees", (6, 10, 15, 20, 27), _one, _motion_blur),
    "zoom-blur": Corruption("the mean while zooming in", (0.1, 0.15, 0.2, 0.26, 0.32), _nothing, _zoom_blur),
    "snow": Corruption("streaks of flakes over a paler picture", (0.15, 0.3, 0.45, 0.6, 0.8), _snow_draw, _snow),
    "fog": Corruption("clouds of all sizes over the picture", (0.4, 0.7, 1.0, 1.5, 2.0), _fog_draw, _fog),
    "brightness": Corruption("every value higher", (0.1, 0.2, 0.3, 0.4, 0.5), _nothing, _brightness),
    "contrast": Corruption("values closer to their mean", (0.6, 0.45, 0.3, 0.2, 0.1), _nothing, _contrast),
    "elastic": Corruption("a rubber sheet", (0.01, 0.02, 0.03, 0.045, 0.06), _elastic_draw, _elastic),
    "pixelate": Corruption("fewer, larger pixels", (0.7, 0.55, 0.4, 0.3, 0.2), _nothing, _pixelate),
    "jpeg": Corruption("JPEG of low quality", (25, 18, 15, 10, 7), _nothing, _jpeg),
}
"""Every corruption, in the order in which they are reported."""
