"""Colour jitter, grayscale, solarisation: one matrix per sample (`fast`), or step by step (`exact`).

`exact` equals torchvision v2 on float pictures within rounding: every operation clamps to [0, 1], hue turns in HSV.

`fast` composes jitter (in each sample's own order), grayscale and normalisation to `A x + K m + c` with m the picture's
mean colour (contrast is the only operation that looks at the picture, and only at its mean gray). It deviates where
- pixels leave [0, 1] between two operations: they are clamped once, at the end;
- hue turns: it is a rotation about the gray axis, which keeps the mean where HSV keeps the maximum. The two agree on
  grays and on primaries at multiples of a third of a turn, and nearly in the direction of the colour everywhere;
- there is a blur: it comes first, so contrast sees the mean of the blurred picture (1e-3 apart).
Elsewhere the two agree within rounding.

Legend: n samples, C channels, s side; factors are (n, 4): brightness, contrast, saturation (multipliers), hue (turns).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = torch.tensor(list(itertools.permutations(range(4))))
"""(24, 4): every order of the four operations."""
_PLACE = ORDERS.argsort(1)
_HUE_CONTRAST = _PLACE[:, HUE] < _PLACE[:, CONTRAST]
_SATURATION_HUE = _PLACE[:, SATURATION] < _PLACE[:, HUE]
_SATURATION_HUE_CONTRAST = _SATURATION_HUE & _HUE_CONTRAST


NEUTRAL = torch.tensor([1.0, 1, 1, 0])
"""(4,) the factors that change nothing."""


def factors(u: Tensor, spread: Tensor) -> Tensor:
    """Factors of the jitter from uniforms: both (..., 4); multipliers from 1 - x..1 + x (at least 0), turns from -x..x."""
    low = torch.cat([(1 - spread[..., :3]).clamp_(min=0), -spread[..., 3:]], -1)
    return low + (NEUTRAL + spread - low) * u


def gray_weights(channels: int, device: torch.device | None = None) -> Tensor:
    """(C,) weights of the luminance: ITU-R 601 as torchvision rounds it for 3 channels, else the plain mean."""
    if channels == 3:
        return torch.tensor([0.2989, 0.587, 0.114], device=device)
    return torch.full((channels,), 1 / channels, device=device)


def compose(factors: Tensor, order: Tensor, gray: Tensor, channels: int, gray_first: bool) -> tuple[Tensor, Tensor]:
    """The whole chain as `x -> A x + K m`, m (C,) the picture's mean colour.

    Let g be the luminance's weights, 1 the vector of ones, R the rotation about the gray axis (Rodrigues' formula, so
    R 1 = 1) and b, c, s the factors. The operations are b x, c x + (1 - c) 1 g'm, (s I + (1 - s) 1 g') x and R x.
    Multiplied out, A = b c (s R + (1 - s) 1 a') and K = b (1 - c) 1 k', where the order decides about a and k.

    Args:
        factors: (n, 4); (1, 1, 1, 0) does nothing.
        order: (n,) int64, which row of ORDERS.
        gray: (n,) bool, turn to gray.
        channels: C; saturation, hue and gray must be off unless 3.
        gray_first: gray comes before the jitter.

    Returns:
        A and K, (n, C, C) each.
    """
    # Samples come last while computing: these are many small operations, and then each is one run over memory.
    b, c, s, turns = factors.T.contiguous()
    g = gray_weights(channels)[:, None]
    total = g.sum()  # torchvision's weights add up to 0.9999
    turned, rotation = g, torch.eye(channels)[:, :, None]  # g'R and R
    if channels == 3:
        cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])[:, :, None] / math.sqrt(3)
        cos, sin = (turns * (2 * math.pi)).cos(), (turns * (2 * math.pi)).sin()
        rotation = 1 / 3 + cos * (rotation - 1 / 3) + sin * cross
        turned = (g[:, None] * rotation).sum(0)
    a = torch.where(_SATURATION_HUE[order], g, turned)
    k = (s + (1 - s) * total) * torch.where(_HUE_CONTRAST[order], turned, g)
    k = torch.where(_SATURATION_HUE_CONTRAST[order], s * turned + (1 - s) * total * g, k)
    matrix = (b * c) * (s * rotation + (1 - s) * a)
    pull = (b * (1 - c) * k).expand_as(matrix)
    if gray_first:
        grayed = [m.sum(1, keepdim=True) * g for m in (matrix, pull)]
    else:
        grayed = [(m * g[:, None]).sum(0, keepdim=True).expand_as(m) for m in (matrix, pull)]
    both = [torch.where(gray, new, old).permute(2, 0, 1) for new, old in zip(grayed, (matrix, pull))]
    return both[0], both[1]


def to_gray(x: Tensor) -> Tensor:
    """Luminance: (n, C, s, s) -> (n, 1, s, s)."""
    weights = gray_weights(x.shape[1]).tolist()
    out = x[:, :1] * weights[0]
    for c in range(1, len(weights)):
        out.add_(x[:, c : c + 1], alpha=weights[c])
    return out


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue in HSV: x (n, 3, s, s) in [0, 1], turns (n,) in [-0.5, 0.5]."""
    r, g, b = x.unbind(1)
    value = torch.maximum(torch.maximum(r, g), b)
    low = torch.minimum(torch.minimum(r, g), b)
    chroma = value - low
    green, blue = (b - r).add_(chroma, alpha=2), (r - g).add_(chroma, alpha=4)
    hue = torch.where(value == r, g - b, torch.where(value == g, green, blue))
    hue.div_(chroma.clamp(min=1e-12)).add_(6 * turns[:, None, None])  # in sixths of a turn
    hue.sub_((hue / 6).floor_(), alpha=6)
    out = torch.empty_like(x)
    for channel, (sign, centre) in enumerate(((1, 3), (-1, 2), (-1, 4))):
        # red: |h - 3| - 1, green: 2 - |h - 2|, blue: 2 - |h - 4|, each between 0 and 1
        share = (hue - centre).abs_().mul_(sign).sub_(1.5 * sign - 0.5).clamp_(0, 1)
        torch.addcmul(low, chroma, share, out=out[:, channel])
    return out


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of every channel over the pixels whose mask is 1: x (n, C, H, W), mask (n, 1, H, W) or None -> (n, C)."""
    return x.mean((2, 3)) if mask is None else (x * mask).sum((2, 3)) / mask.sum((2, 3))


def step(x: Tensor, operation: int, factor: Tensor, mask: Tensor | None = None) -> Tensor:
    """One operation of the jitter, clamped; x is lost.

    Args:
        x: (n, C, H, W) in [0, 1].
        operation: BRIGHTNESS, CONTRAST, SATURATION or HUE.
        factor: (n,) its strength.
        mask: (n, 1, H, W) 1 where padded pictures are.
    """
    if operation == HUE:
        return turn_hue(x, factor)
    factor = factor[:, None, None, None]
    if operation == BRIGHTNESS:
        return x.mul_(factor).clamp_(0, 1)
    other = to_gray(x)
    if operation == CONTRAST:
        other = masked_mean(other, mask)[:, :, None, None]
    return x.mul_(factor).add_(other.mul_(1 - factor)).clamp_(0, 1)


def solarise(x: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is at or above the threshold. x (n, C, s, s) in [0, 1], threshold (n,)."""
    return torch.where(x >= threshold[:, None, None, None], 1 - x, x)
