"""`shapes`: procedural pictures of ten geometric classes; nothing to download, raw pixels do not separate them.

A picture holds one to three copies of one figure at random places, sizes and angles, in random brightness and tint,
over a gradient with waves and noise. Which figure it is, is the class: geometry only, so it survives crops, flips,
colour jitter and grayscale. Legend: B pictures of a batch, S side in pixels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from selfsight.rng import Stream, generator

VERSION = 2  # raise when the same index gives another picture: part of the fingerprint
FIGURES = 3  # at most, in one picture
NOISE = 0.04  # deviation of the pixel noise, in 0..1; the same for all, or it would tell pictures apart
_UNIFORMS = 64  # random numbers that describe one picture, whatever its size


def _box(x: Tensor, y: Tensor, half_x: float, half_y: float) -> Tensor:
    return torch.maximum(x.abs() - half_x, y.abs() - half_y)


def _disc(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.85


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.72).abs() - 0.22


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.75, 0.75)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    slant = math.sqrt(0.75) * x.abs() + 0.5 * y
    return torch.maximum(slant, -y) - 0.5


def _star(x: Tensor, y: Tensor) -> Tensor:
    sector = 2 * math.pi / 5
    angle = torch.remainder(torch.atan2(y, x) + sector / 2, sector) - sector / 2
    radius = torch.hypot(x, y)
    # one edge runs from the tip (1, 0) to the notch at radius 0.42, half a sector away
    notch_x, notch_y = 0.42 * math.cos(sector / 2), 0.42 * math.sin(sector / 2)
    length = math.hypot(1 - notch_x, notch_y)
    normal_x, normal_y = notch_y / length, (1 - notch_x) / length
    return (radius * angle.cos() - 1) * normal_x + radius * angle.sin().abs() * normal_y


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.95, 0.28), _box(x, y, 0.28, 0.95))


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(x, y) - 0.95, 0.75 - torch.hypot(x - 0.45, y))


def _stripes(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.85, 0.17), _box(x, y.abs() - 0.68, 0.85, 0.17))


def _checker(x: Tensor, y: Tensor) -> Tensor:
    # three by three fields, the middle and the corners filled
    return torch.minimum(_box(x, y, 0.3, 0.3), _box(x.abs() - 0.6, y.abs() - 0.6, 0.3, 0.3))


def _dots(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x.abs() - 0.55, y.abs() - 0.55) - 0.33


_FIGURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "stripes": _stripes,
    "checker": _checker,
    "dots": _dots,
}
"""Class -> signed distance (negative inside) in a frame where the figure has about radius 1."""

CLASSES: tuple[str, ...] = tuple(_FIGURES)


def labels(count: int) -> Tensor:
    """(count,) int64: picture i shows class i mod 10, so every prefix is balanced."""
    return torch.arange(count) % len(CLASSES)


def shapes(
    count: int, size: int = 32, *, part: int = 0, first: int = 0, seed: int = 0, upright: bool = False
) -> Tensor:
    """Pictures `first` to `first + count` of a part (0 train, 1 test): (count, 3, size, size) uint8.

    Picture i is a function of (seed, part, i, size) alone, not of the count; sizes share all but the pixel noise.
    upright: figures lean by at most 15 degrees. Else they lie at any angle, so that no picture tells how it was turned.
    """
    out = torch.empty(count, 3, size, size, dtype=torch.uint8)
    block = max(1, 200_000 // size**2)  # what stays in the cache of a core
    for start in range(0, count, block):
        rows = torch.arange(first + start, first + min(start + block, count))
        rows = rows[(rows % len(CLASSES)).argsort(stable=True)]  # pictures of a class side by side
        out[rows - first] = _draw(rows, size, part, seed, upright)
    return out


def _draw(rows: Tensor, size: int, part: int, seed: int, upright: bool) -> Tensor:
    """(B,) indices -> (B, 3, S, S) uint8."""
    uniforms = torch.empty(len(rows), _UNIFORMS)
    noise = torch.empty(len(rows), 3, size, size)
    for i, row in enumerate(rows.tolist()):
        rng = generator(seed, Stream.DATA, part, row)
        uniforms[i] = torch.rand(_UNIFORMS, generator=rng)
        noise[i].normal_(generator=rng)
    columns = iter(uniforms.unbind(1))

    def uniform(low: float, high: float) -> Tensor:
        return next(columns) * (high - low) + low

    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    x, y = axis.expand(size, size), axis[:, None].expand(size, size)  # (S, S), the picture spans -1..1
    wide = (slice(None), None, None)  # (B,) -> (B, 1, 1)

    cover = _cover(rows % len(CLASSES), x, y, uniform, 2 / size, upright)

    ground, figure = _colours(uniform)
    angle, slope = uniform(0, 2 * math.pi)[wide], uniform(0, 0.15)[wide]
    shade = slope * (angle.cos() * x + angle.sin() * y)
    angle, waves, phase = uniform(0, 2 * math.pi)[wide], uniform(1.5, 5)[wide], uniform(0, 2 * math.pi)[wide]
    shade = shade + uniform(0, 0.06)[wide] * torch.sin(waves * (angle.cos() * x + angle.sin() * y) + phase)
    angle, slope = uniform(0, 2 * math.pi)[wide], uniform(0, 0.15)[wide]
    gloss = slope * (angle.cos() * x + angle.sin() * y)
    back = ground[..., None, None] + shade[:, None]
    front = figure[..., None, None] + gloss[:, None]
    picture = torch.lerp(back, front, cover[:, None]) + NOISE * noise
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def _cover(
    label: Tensor, x: Tensor, y: Tensor, uniform: Callable[[float, float], Tensor], pixel: float, upright: bool
) -> Tensor:
    """How much of each pixel the figures cover: (B, S, S) in 0..1. `label`: (B,) ascending; `pixel`: side of one."""
    number = (uniform(0, FIGURES).floor() + 1).clamp(max=FIGURES)  # (B,)
    base = torch.tensor([0.72, 0.46, 0.40])[number.long() - 1]
    turn, spread = uniform(0, 2 * math.pi), torch.where(number == 1, 0.0, 0.52)
    middle_x, middle_y = uniform(-1, 1), uniform(-1, 1)
    cover = torch.zeros(len(label), *x.shape)
    for k in range(FIGURES):
        radius = base * uniform(0.75, 1.2)
        slack = (0.95 - spread - radius).clamp(min=0.06)
        place = turn + 2 * math.pi * k / number
        centre_x = middle_x * slack + spread * place.cos()
        centre_y = middle_y * slack + spread * place.sin()
        spin = uniform(-math.pi / 12, math.pi / 12) if upright else uniform(0, 2 * math.pi)
        live = (number > k).nonzero()[:, 0]
        radius, centre_x, centre_y, spin = (v[live, None, None] for v in (radius, centre_x, centre_y, spin))
        cos, sin = spin.cos() / radius, spin.sin() / radius
        u = cos * (x - centre_x) + sin * (y - centre_y)
        v = cos * (y - centre_y) - sin * (x - centre_x)
        runs = torch.bincount(label[live], minlength=len(CLASSES)).tolist()
        parts = [figure(*uv) for figure, *uv in zip(_FIGURES.values(), u.split(runs), v.split(runs))]
        inside = (0.5 - torch.cat(parts) * (radius / pixel)).clamp_(0, 1)
        cover[live] = torch.maximum(cover[live], inside)
    return cover


def _colours(uniform: Callable[[float, float], Tensor]) -> tuple[Tensor, Tensor]:
    """Ground and figure colours, (B, 3) each: one tint of any hue, brightness at least 0.25 apart, either the lighter.

    With a tint each, the pair would tell pictures apart through every colour jitter, and nobody would have to look at
    the figures.
    """
    weight = torch.tensor([0.299, 0.587, 0.114])
    gap = uniform(0.25, 0.6)
    flip = torch.where(uniform(0, 1) < 0.5, -0.5, 0.5)
    middle = (uniform(0, 1) * 2 - 1) * (0.85 - gap) / 2 + 0.5
    tint = torch.stack([uniform(-0.25, 0.25) for _ in range(3)], 1)
    tint = tint - (tint @ weight)[:, None]  # brightness is set apart
    return (middle + flip * gap)[:, None] + tint, (middle - flip * gap)[:, None] + tint
