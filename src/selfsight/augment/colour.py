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


def gray_weights(channels: int, device: torch.device | None = None) -> Tensor:
    """(C,) weights of the luminance: ITU-R 601 as torchvision rounds it for 3 channels, else the plain mean."""
    if channels == 3:
        return torch.tensor([0.2989, 0.587, 0.114], device=device)
    return torch.full((channels,), 1 / channels, device=device)


def compose(factors: Tensor, order: Tensor, gray: Tensor, channels: int, gray_first: bool) -> tuple[Tensor, Tensor]:
    """The whole chain as `x -> A x + K m`, m (C,) the picture's mean colour.

    With g the luminance's weights, 1 the vector of ones, R the rotation about the gray axis (Rodrigues' formula, R 1 = 1)
    and b, c, s the factors, the operations are x -> b x, x -> c x + (1 - c) 1 g'm, x -> (s I + (1 - s) 1 g') x, x -> R x.
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
    g = gray_weights(channels)
    total = g.sum()  # torchvision's weights add up to 0.9999
    b, c, s, turns = factors[:, :, None].unbind(1)
    turned, rotation = g, torch.eye(channels).expand(len(factors), -1, -1)  # g' R and R
    if channels == 3:
        cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        third = torch.full((3, 3), 1 / 3)
        cos, sin = (turns * (2 * math.pi)).cos(), (turns * (2 * math.pi)).sin()
        rotation = third + cos[:, :, None] * (torch.eye(3) - third) + sin[:, :, None] * cross
        turned = g @ third + cos * (g - g @ third) + sin * (g @ cross)
    a = torch.where(_SATURATION_HUE[order][:, None], g, turned)
    k = (s + (1 - s) * total) * torch.where(_HUE_CONTRAST[order][:, None], turned, g)
    k = torch.where(_SATURATION_HUE_CONTRAST[order][:, None], s * turned + (1 - s) * total * g, k)
    matrix = (b * c)[:, :, None] * (s[:, :, None] * rotation + ((1 - s) * a)[:, None, :])
    pull = (b * (1 - c) * k)[:, None, :].expand(-1, channels, -1)
    if gray_first:
        grayed = [m.sum(2, keepdim=True) * g for m in (matrix, pull)]
    else:
        grayed = [(m * g[:, None]).sum(1, keepdim=True).expand_as(m) for m in (matrix, pull)]
    chosen = gray[:, None, None]
    return torch.where(chosen, grayed[0], matrix), torch.where(chosen, grayed[1], pull)


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
    is_r, is_g = value == r, value == g
    hue = torch.where(is_r, g - b, torch.where(is_g, b - r, r - g)).div_(chroma.clamp(min=1e-12))
    hue.add_(torch.where(is_r, 0.0, torch.where(is_g, 2.0, 4.0))).add_(6 * turns[:, None, None])  # sixths of a turn
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
