"""Crop, resize, flip, blur and rotation of whole batches.

Resizing an axis-aligned crop is separable: output = Wy picture Wx^T, with one small matrix of interpolation weights
per axis and sample. Antialiasing and a horizontal flip (reversed rows of Wx) cost nothing more, a Gaussian blur (a
banded matrix times W) next to nothing, and the work is a batched matrix product on any device.
Legend: V views, B batch, n samples (views flattened in), C channels, H and W source size, s output side.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]

TRIES = 10
"""Candidates of a random box; the first that fits is taken (torchvision's number)."""
CROP_DRAWS = 2 * TRIES + 2
"""Uniforms of one box: areas, aspect ratios, top, left."""
_TABLE_BYTES = 16 << 20
_WIDE = 64  # side from which on a CPU blurs by convolution


def random_boxes(u: Tensor, sizes: Tensor, scale: Tensor, ratio: Tensor) -> Tensor:
    """Boxes of RandomResizedCrop with torchvision's distribution and rounding, vectorised.

    Args:
        u: (..., CROP_DRAWS or more) uniforms in [0, 1).
        sizes: (..., 2) height and width of each picture in pixels.
        scale: (..., 2) lowest and highest area as a fraction of the picture's.
        ratio: (..., 2) lowest and highest width / height, sampled log-uniformly.

    Returns:
        (..., 4) int64 top, left, height, width. Where none of the candidates fits: the central crop of the nearest
        allowed aspect ratio.
    """
    u, scale, ratio = u.double(), scale.double(), ratio.double()
    size = sizes.double()
    h_in, w_in = size[..., :1], size[..., 1:]
    low, high = scale[..., :1], scale[..., 1:]
    area = (h_in * w_in) * (low + (high - low) * u[..., :TRIES])
    low, high = ratio[..., :1].log(), ratio[..., 1:].log()
    aspect = (low + (high - low) * u[..., TRIES : 2 * TRIES]).exp()
    width, height = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (width > 0) & (width <= w_in) & (height > 0) & (height <= h_in)
    first = fits.to(torch.uint8).argmax(-1, keepdim=True)
    found = fits.gather(-1, first)
    shape = w_in / h_in
    whole_h = torch.where(shape < ratio[..., :1], (w_in / ratio[..., :1]).round(), h_in)
    whole_w = torch.where(shape > ratio[..., 1:], (h_in * ratio[..., 1:]).round(), w_in)
    height = torch.where(found, height.gather(-1, first), whole_h)
    width = torch.where(found, width.gather(-1, first), whole_w)
    room = size - torch.cat([height, width], -1)
    corner = torch.where(found, (u[..., 2 * TRIES : CROP_DRAWS] * (room + 1)).floor(), (room / 2).floor())
    return torch.cat([corner, height, width], -1).long()


def central_boxes(sizes: Tensor) -> Tensor:
    """The largest central square: (..., 2) height and width -> (..., 4) int64 top, left, height, width."""
    side = sizes.amin(-1, keepdim=True).expand_as(sizes)
    return torch.cat([(sizes - side) // 2, side], -1).long()


def resize_weights(
    start: Tensor, length: Tensor, flip: Tensor, size_in: int, size_out: int, interpolation: Interpolation
) -> Tensor:
    """Interpolation weights along one axis, antialiased: those of `F.interpolate(..., antialias=True)`.

    Bicubic is Keys' kernel with a = -0.5 (Keys 1981, eq. 15); when shrinking, the kernel is stretched by the scale.

    Args:
        start, length: (n,) first pixel and length of the crop.
        flip: (n,) bool, mirror the output.
        size_in, size_out: length of the source axis and of the output axis.

    Returns:
        (n, size_out, size_in) float32; rows sum to 1; zero outside the crop.
    """
    start, length = start.float(), length.float()
    at = torch.arange(size_out, device=start.device) + 0.5
    step = length / size_out
    centre = step[:, None] * torch.where(flip[:, None], size_out - at, at)
    pixel = torch.arange(size_in, device=start.device) - start[:, None] + 0.5
    stretch = 1 / step.clamp(min=1)[:, None]
    pixel = torch.where((pixel > 0) & (pixel < length[:, None]), pixel * stretch, 1e9)
    weight = (pixel[:, None, :] - (centre * stretch)[:, :, None]).abs_()
    if interpolation == "bilinear":
        weight.neg_().add_(1).clamp_(min=0)
    else:
        # With u = 1 - |x|, twice Keys' kernel is u (1 + u)^2 for -1 <= u, and 2 u^2 (1 - 2 u) more for 0 <= u.
        near = torch.sub(1, weight, out=weight).clamp_(min=-1).clamp(min=0)
        weight = (weight + 1).square_().mul_(weight).addcmul_(near.square(), near.mul_(-2).add_(1), value=2)
    return weight.div_(weight.sum(-1, keepdim=True))


@lru_cache(maxsize=16)
def _table(size_in: int, size_out: int, interpolation: Interpolation, across: bool, device: torch.device) -> Tensor:
    """Weights of every (flip, length, start), transposed if `across`."""
    length = torch.arange(1, size_in + 1).repeat_interleave(torch.arange(size_in, 0, -1))
    start = torch.cat([torch.arange(n) for n in range(size_in, 0, -1)])
    flip = torch.zeros(len(start), dtype=torch.bool)
    both = [resize_weights(start, length, f, size_in, size_out, interpolation) for f in (flip, ~flip)]
    table = torch.cat(both)
    return (table.transpose(1, 2).contiguous() if across else table).to(device)


class Axis:
    """The weights of many crops along one axis, made when a part of the batch needs them.

    A small picture has few crops: then they are looked up in a table of all of them (32 px: 4 MiB).
    """

    def __init__(
        self,
        start: Tensor,
        length: Tensor,
        flip: Tensor,
        size_in: int,
        size_out: int,
        interpolation: Interpolation,
        across: bool,
    ) -> None:
        """start, length, flip: (V, B) each; across: the matrices are transposed, for columns."""
        self.crops, self.sizes, self.interpolation, self.across = (
            (start, length, flip),
            (size_in, size_out),
            interpolation,
            across,
        )
        count = size_in * (size_in + 1) // 2
        self.index: Tensor | None = None
        if 8 * count * size_in * size_out <= _TABLE_BYTES:
            shorter = length - 1
            self.index = shorter * (size_in + 1) - shorter * length // 2 + start + flip * count
            self.table = _table(size_in, size_out, interpolation, across, start.device)

    def weights(self, view: int, part: slice) -> Tensor:
        """(b, out, in) float32 of one view of some rows of the batch; (b, in, out) if `across`."""
        if self.index is not None:
            return self.table.index_select(0, self.index[view, part])
        start, length, flip = (x[view, part] for x in self.crops)
        weights = resize_weights(start, length, flip.bool(), *self.sizes, self.interpolation)
        return weights.transpose(1, 2) if self.across else weights


def resample(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Wy x Wx^T. pixels (b, C, H, W) float, rows (b, s, H), columns (b, W, s) -> (b, C, s, s)."""
    count, channels, height, width = pixels.shape
    side = rows.shape[1]
    wide = torch.bmm(pixels.reshape(count, channels * height, width), columns)
    left = rows[:, None].expand(-1, channels, -1, -1).reshape(count * channels, side, height)
    return torch.bmm(left, wide.view(count * channels, height, side)).view(count, channels, side, side)


def blur_taps(side: int) -> int:
    """Taps of the blur of a picture of this side: a tenth of it, odd, at least 3 (224 px: 23, 96 px: 9, 32 px: 3)."""
    return max(3, side // 10 | 1)


@lru_cache(maxsize=16)
def _shifts(side: int, taps: int, device: torch.device) -> Tensor:
    """(taps, side * side): tap t as a matrix that shifts by t - taps // 2, borders reflected."""
    place = torch.arange(side)[None, :] + torch.arange(taps)[:, None] - taps // 2
    place = (side - 1) - ((side - 1) - place.abs()).abs()
    return F.one_hot(place, side).float().flatten(1).to(device)


def _kernels(sigma: Tensor, taps: int) -> Tensor:
    """(n, taps) weights of a Gaussian blur along one axis, which sum to 1."""
    offset = torch.arange(taps, device=sigma.device) - taps // 2
    return torch.softmax(-0.5 * (offset / sigma[:, None]).square(), -1)


def blur_matrices(sigma: Tensor, side: int) -> Tensor:
    """Gaussian blur along one axis, `blur_taps(side)` taps, borders reflected: sigma (n,) pixels -> (n, side, side)."""
    taps = blur_taps(side)
    return (_kernels(sigma, taps) @ _shifts(side, taps, sigma.device)).view(-1, side, side)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur per sample. x (n, C, s, s), sigma (n,) in pixels -> (n, C, s, s)."""
    side = x.shape[-1]
    if side < _WIDE or x.device.type != "cpu":
        matrix = blur_matrices(sigma, side)[:, None]
        return matrix @ x @ matrix.transpose(-1, -2)
    # of each row of a wide matrix few numbers are not zero: a convolution for each sample and channel
    count, channels = x.shape[:2]
    taps = blur_taps(side)
    reach = taps // 2
    kernels = _kernels(sigma, taps).to(x.dtype).repeat_interleave(channels, 0)[:, None, None]  # (n * C, 1, 1, taps)
    x = F.pad(x, (reach, reach, reach, reach), mode="reflect").view(1, count * channels, side + 2 * reach, -1)
    x = F.conv2d(F.conv2d(x, kernels, groups=len(kernels)), kernels.mT, groups=len(kernels))
    return x.view(count, channels, side, side)


def shift(x: Tensor, offset: Tensor) -> Tensor:
    """Translate, the gap filled by reflection. x (n, C, s, s), offset (n, 2) pixels down and to the right, less than s."""
    last = x.shape[-1] - 1
    place = (
        torch.arange(last + 1, device=x.device) - offset[..., None]
    )  # (n, 2, s) where each row and column comes from
    down, across = (last - (last - place.abs()).abs())[:, :, None].unbind(1)
    return x.gather(2, down[..., None].expand_as(x)).gather(3, across[:, :, None].expand_as(x))


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Rotate counter-clockwise about the centre, bilinear, black outside. x (n, C, s, s), degrees (n,)."""
    return warp(x, turn(degrees))


def turn(degrees: Tensor) -> Tensor:
    """The map of a rotation, for `warp`: degrees (n,), counter-clockwise -> (n, 2, 3)."""
    angle = degrees * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)


def warp(x: Tensor, theta: Tensor) -> Tensor:
    """An affine map, bilinear, zero outside. x (n, C, s, s); theta (n, 2, 3) says where each place of the result, as x and y
    in -1..1, comes from.
    """
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
