"""Colour jitter, grayscale, solarisation: one matrix per sample (`fast`), or step by step (`exact`).

`exact` equals torchvision v2 on float pictures within rounding: every operation clamps to [0, 1], hue turns in HSV.

`fast` composes jitter (in each sample's own order), grayscale and normalisation to `A x + K m + c` with m the picture's
mean colour (contrast is the only operation that looks at the picture, and only at its mean gray). It deviates in three
places: pictures are clamped once, at the end, so pixels that leave [0, 1] between two operations come back differently;
hue is a rotation about the gray axis, which agrees with HSV on grays and at multiples of 1/3, but not in between; and
blur comes before the clamp. Where nothing clamps and hue is 0 the two agree within rounding.

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


def gray_weights(channels: int, device: torch.device | None = None) -> Tensor:
    """(C,) weights of the luminance: ITU-R 601 as torchvision rounds it for 3 channels, else the plain mean."""
    if channels == 3:
        return torch.tensor([0.2989, 0.587, 0.114], device=device)
    return torch.full((channels,), 1 / channels, device=device)


def hue_rotation(turns: Tensor) -> Tensor:
    """Rotation about the gray axis (Rodrigues' formula): (n,) turns -> (n, 3, 3). A third of a turn: R -> G -> B."""
    angle = turns * (2 * math.pi)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=turns.device) / math.sqrt(3)
    return cos * torch.eye(3, device=turns.device) + sin * cross + (1 - cos) / 3


def compose(factors: Tensor, order: Tensor, gray: Tensor, channels: int, gray_first: bool) -> tuple[Tensor, Tensor]:
    """The whole chain as `x -> A x + K m`, m (C,) the picture's mean colour.

    Args:
        factors: (n, 4); (1, 1, 1, 0) does nothing.
        order: (n, 4) int64, rows of ORDERS.
        gray: (n,) bool, turn to gray.
        channels: C; saturation, hue and gray must be off unless 3.
        gray_first: gray comes before the jitter.

    Returns:
        A and K, (n, C, C) each.
    """
    count = len(factors)
    luminance = gray_weights(channels)
    eye = torch.eye(channels)
    flat = luminance.expand(channels, channels)  # every row the luminance: the matrix of grayscale
    scale = factors[:, :3, None, None]
    steps = torch.empty(count, 4, channels, channels)
    steps[:, :2] = scale[:, :2] * eye
    if channels == 3:
        steps[:, SATURATION] = scale[:, SATURATION] * (eye - flat) + flat
        steps[:, HUE] = hue_rotation(factors[:, HUE])
    else:
        steps[:, 2:] = eye
    steps = steps.gather(1, order[:, :, None, None].expand_as(steps))
    to_gray = torch.where(gray[:, None, None], flat, eye)
    # Columns 0..C-1: A so far; column C: what the operations after contrast make of its offset (1, ..., 1).
    chain = torch.zeros(count, channels, channels + 1)
    chain[:, :, :channels] = to_gray if gray_first else eye
    before = torch.zeros(count, channels)  # luminance of A at the moment of contrast
    for k in range(4):
        now = order[:, k] == CONTRAST
        before = torch.where(now[:, None], luminance @ chain[:, :, :channels], before)
        chain = steps[:, k] @ chain
        chain[:, :, channels].masked_fill_(now[:, None], 1.0)
    if not gray_first:
        chain = to_gray @ chain
    pull = (1 - factors[:, CONTRAST])[:, None, None]
    return chain[:, :, :channels], pull * chain[:, :, channels:] * before[:, None, :]


def to_gray(x: Tensor) -> Tensor:
    """Luminance: (n, C, s, s) -> (n, 1, s, s)."""
    weights = gray_weights(x.shape[1]).tolist()
    out = x[:, :1] * weights[0]
    for c in range(1, len(weights)):
        out.add_(x[:, c : c + 1], alpha=weights[c])
    return out


def rgb_to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, 3, s, s) in [0, 1] -> hue in sixths of a turn, chroma (maximum minus minimum), value; (n, s, s) each."""
    r, g, b = x.unbind(1)
    value = torch.maximum(torch.maximum(r, g), b)
    chroma = value - torch.minimum(torch.minimum(r, g), b)
    safe = torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(value == r, g - b, torch.where(value == g, b - r, r - g)).div_(safe)
    return hue + torch.where(value == r, 0.0, torch.where(value == g, 2.0, 4.0)), chroma, value


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue in HSV: x (n, 3, s, s) in [0, 1], turns (n,) in [-0.5, 0.5]."""
    hue, chroma, value = rgb_to_hsv(x)
    hue = hue.add_(6 * turns[:, None, None])
    out = torch.empty_like(x)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        k = (hue + offset).remainder_(6)
        torch.minimum(k, 4 - k, out=k).clamp_(0, 1).mul_(chroma)
        torch.sub(value, k, out=out[:, channel])
    return out


def step(x: Tensor, operation: int, factor: Tensor, mask: Tensor | None = None) -> Tensor:
    """One operation of the jitter, clamped. x (n, C, H, W) in [0, 1], factor (n,), mask (n, 1, H, W) valid pixels."""
    if operation == HUE:
        return turn_hue(x, factor)
    factor = factor[:, None, None, None]
    if operation == BRIGHTNESS:
        return (x * factor).clamp_(0, 1)
    other = to_gray(x)
    if operation == CONTRAST:
        if mask is None:
            other = other.mean((1, 2, 3), keepdim=True)
        else:
            other = (other * mask).sum((1, 2, 3), keepdim=True) / mask.sum((1, 2, 3), keepdim=True)
    return (x * factor).add_(other * (1 - factor)).clamp_(0, 1)


def solarise(x: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is at or above the threshold. x (n, C, s, s) in [0, 1], threshold (n,)."""
    return torch.where(x >= threshold[:, None, None, None], 1 - x, x)
