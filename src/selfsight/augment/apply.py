"""From what the random numbers mean (plan.py) to pixels.

Pixels are touched a part of the batch and a view at a time (on a CPU that part stays in the cache), without a host-device
synchronisation.
Legend: V views, B batch, b rows of a part, C channels, s side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from selfsight.augment import colour, geometry
from selfsight.augment.gates import gray, jitter, mirror, where_open
from selfsight.augment.plan import DRAWS, Group, Plan
from selfsight.augment.steps import follow

# Bytes of pixels in work at a time, fast and exact (whose many small operations want more rows).
_PART_BYTES = {"cpu": (6 << 20, 12 << 20)}
_ELSEWHERE = (1 << 30, 1 << 30)


def jitter_exactly(x: Tensor, plan: Plan, gray_first: bool, mask: Tensor | None) -> None:
    """Jitter and gray, step by step, in place. x (b, C, H, W) in [0, 1], mask (b, 1, H, W) valid pixels."""
    if gray_first:
        where_open(x, plan.gray, gray)
    jitter(x, plan.jitter, plan.factors, plan.order, mask)
    if not gray_first:
        where_open(x, plan.gray, gray)


class Normal(NamedTuple):
    """Normalisation: mean 0 and deviation 1 leave pictures in [0, 1]."""

    mean: Tensor  #: (C,) on the device
    std: Tensor  #: (C,) on the device
    numbers: list[tuple[float, float]]  #: mean and deviation of each channel
    blank: Tensor  #: (C,) in [0, 1], on the device: the colour of holes, what normalises to 0

    def scaled(self, top: float) -> Normal:
        """What leaves pictures in 0..top."""
        numbers = [(0.0, 1 / top)] * len(self.numbers)
        return Normal(torch.zeros_like(self.mean), torch.full_like(self.std, 1 / top), numbers, self.blank)

    def apply(self, x: Tensor) -> Tensor:
        """(..., C, s, s) in [0, 1], in place."""
        return x.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])

    def solarised(self, x: Tensor, threshold: Tensor) -> Tensor:
        """`colour.solarise` of pictures that are normalised already; x is lost."""
        x = x.mul_(self.std[:, None, None]).add_(self.mean[:, None, None])
        return self.apply(colour.solarise(x, threshold))


def valid_pixels(sizes: Tensor, height: int, width: int) -> Tensor:
    """(b, 1, H, W) 1 where a padded picture is: sizes (b, 2)."""
    rows = torch.arange(height) < sizes[:, :1]
    columns = torch.arange(width) < sizes[:, 1:]
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


class _Pictures:
    """Whole pictures: crops, flips and resizes; where it can, also blurs, by the same matrices."""

    def __init__(
        self, group: Group, plan: Plan, draws: Tensor, pixels: Tensor, sizes: Tensor | None, exact: bool
    ) -> None:
        self.pixels, self.sizes, self.size = pixels, sizes, group.size
        self.height, self.width = pixels.shape[2:]
        first = group.policies[0]
        self.clamps = first.interpolation == "bicubic"
        self.colour_first, self.gray_first, self.exact = first.colour_first, first.gray_first, exact
        self.blurs = not exact and not any(p.rotate or p.shift for p in group.policies)
        true = torch.tensor([[self.height, self.width]]).expand(len(pixels), 2) if sizes is None else sizes
        boxes = group.boxes(draws, true).transpose(0, 1)
        place = torch.cat([boxes, plan.flip[..., None]], -1).to(pixels.device, non_blocking=True)
        top, left, tall, wide, flip = place.unbind(-1)
        still = torch.zeros_like(flip)
        self.rows = geometry.Axis(top, tall, still, self.height, self.size, first.interpolation, across=False)
        self.columns = geometry.Axis(left, wide, flip, self.width, self.size, first.interpolation, across=True)

    def load(self, part: slice) -> None:
        """Get ready for the views of these rows."""
        self.source = self.pixels[part].float()
        self.mask: Tensor | None = None
        self.mean: Tensor | None = None  # (b, C) what contrast sees, if not the crop
        if self.colour_first:
            if self.sizes is not None:
                mask = valid_pixels(self.sizes[part], self.height, self.width)
                self.mask = mask.to(self.source.device, non_blocking=True)
            if not self.exact:
                self.mean = colour.masked_mean(self.source, self.mask)

    def view(self, view: int, part: slice, now: Plan) -> Tensor:
        """(b, C, s, s) float32 in 0..255."""
        picture = self.source
        if self.colour_first and self.exact:
            picture = picture / 255
            jitter_exactly(picture, now, self.gray_first, self.mask)
            picture.mul_(255)
        rows, columns = self.rows.weights(view, part), self.columns.weights(view, part)
        if self.blurs:
            where_open(rows, now.blur, lambda w, sigma: geometry.blur_matrices(sigma, self.size) @ w, now.sigma)
            where_open(columns, now.blur, lambda w, sigma: w @ geometry.blur_matrices(sigma, self.size).mT, now.sigma)
        x = geometry.resample(picture, rows, columns)
        return x.clamp_(0, 255) if self.clamps else x


class _Fast:
    """Colour, normalisation and one clamp: a matrix and a bias per sample."""

    def __init__(self, plan: Plan, gray_first: bool, normal: Normal, device: torch.device) -> None:
        views, count, channels = *plan.gray.shape, len(normal.numbers)
        parts = colour.compose(
            plan.factors.flatten(0, 1), plan.order.flatten(), plan.gray.flatten(), channels, gray_first
        )
        scale = torch.tensor([[1 / (255 * std)] for _, std in normal.numbers])
        matrices = (torch.stack(parts) * scale).to(device, non_blocking=True)
        self.matrix, self.pull = matrices.view(2, views, count, channels, channels)
        self.bias = (-normal.mean / normal.std)[:, None]
        self.bounds = [((0 - mean) / std, (1 - mean) / std) for mean, std in normal.numbers]

    def __call__(self, x: Tensor, mean: Tensor | None, view: int, part: slice, out: Tensor) -> None:
        """Colour x (b, C, s, s) in 0..255 into out; mean (b, C): what contrast sees, None: x's own."""
        pixels, target = x.flatten(2), out.flatten(2)
        mean = pixels.mean(2) if mean is None else mean
        torch.bmm(self.matrix[view, part], pixels, out=target)
        target.add_(torch.baddbmm(self.bias, self.pull[view, part], mean[:, :, None]))
        for channel, (low, high) in enumerate(self.bounds):
            target[:, channel].clamp_(low, high)


def make(group: Group, draws: Tensor, pixels: Tensor, sizes: Tensor | None, normal: Normal, exact: bool) -> Tensor:
    """All views of a group, in float32 under autocast too. See `_make`."""
    with torch.autocast(pixels.device.type, enabled=False):
        return _make(group, draws, pixels, sizes, normal, exact)


def _make(group: Group, draws: Tensor, pixels: Tensor, sizes: Tensor | None, normal: Normal, exact: bool) -> Tensor:
    """All views of a group.

    Args:
        group, draws: what to do; draws (B, V, group.draws) on the CPU.
        pixels: (B, C, H, W) uint8 pictures, or (V, B, C, s, s) uint8 ones that are cropped already.
        sizes: (B, 2) true sizes of padded pictures, on the CPU; None: they are not padded.
        normal: normalisation.
        exact: step by step; else one matrix per sample.

    Returns:
        (V, B, C, s, s) float32.
    """
    plan, first = Plan.of(group, draws), group.policies[0]
    last = normal if group.more else None  # steps come before it
    normal = normal.scaled(1) if last else normal
    views, count = plan.flip.shape
    channels, height, width = pixels.shape[-3:]
    whole = None if pixels.dim() == 5 else _Pictures(group, plan, draws, pixels, sizes, exact)
    fast = None if exact else _Fast(plan, first.gray_first, normal, pixels.device)
    out = torch.empty(views, count, channels, group.size, group.size, device=pixels.device)
    sample = 4 * channels * (height * width + height * group.size + group.size**2)
    parts = -(-count * sample // _PART_BYTES.get(pixels.device.type, _ELSEWHERE)[exact])
    step = -(-count // parts)
    for begin in range(0, count, step):
        part = slice(begin, begin + step)
        if whole:
            whole.load(part)
        for view in range(views):
            now = plan.part(view, part)
            if whole:
                x = whole.view(view, part, now)
            else:
                x = pixels[view, part].float()
                where_open(x, now.flip, mirror)
            where_open(x, now.shift, geometry.shift, now.offset)
            where_open(x, now.rotate, geometry.rotate, now.degrees)
            target = out[view, part]
            if fast:
                if not (whole and whole.blurs):
                    where_open(x, now.blur, geometry.blur, now.sigma)
                fast(x, whole.mean if whole else None, view, part, target)
                where_open(target, now.solarise, normal.solarised, now.threshold)
            else:
                x.div_(255)
                if not (whole and whole.colour_first):
                    jitter_exactly(x, now, first.gray_first, None)
                where_open(x, now.blur, geometry.blur, now.sigma)
                where_open(x, now.solarise, colour.solarise, now.threshold)
                target.copy_(normal.apply(x))
            if last:
                follow(group.policies[view].steps, target, draws[part, view, DRAWS:], last.blank)
                last.apply(target)
    return out
