"""CPC's patch encoder (arXiv 1807.03748, 1905.09272): a pre-activation ResNet of three stages, without batch normalisation.

Shapes legend: B batch, C channels of the pictures, S side of a picture, D features.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Shape(NamedTuple):
    """Size of a network."""

    widths: tuple[int, int, int]  #: channels of the stages
    blocks: tuple[int, int, int]
    bottleneck: bool  #: 1x1, 3x3, 1x1 in place of 3x3, 3x3

    @property
    def dim(self) -> int:
        """D."""
        return self.widths[-1]


SHAPES = {
    "cpc-toy": Shape((8, 32, 64), (1, 1, 1), False),
    "cpc-mini": Shape((16, 48, 96), (1, 1, 1), False),
    "cpc-small": Shape((64, 128, 256), (3, 4, 6), False),  # as ResNet-34
    "cpc-large": Shape((256, 512, 1024), (3, 4, 23), True),  # as ResNet-101
}
LARGE = 32  #: pixels: patches of at least this side lose three quarters of their positions in the stem, twice


def _norm(width: int) -> nn.Module:
    """Mean and deviation of one patch over channels and positions: no patch sees another."""
    return nn.GroupNorm(1, width)


class Block(nn.Module):
    """x + f(x), f: normalisation, ReLU, convolution, two or three times. (B, I, H, W) -> (B, O, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        sides = (1, 3, 1) if bottleneck else (3, 3)
        widths = (inputs, outputs // 4, outputs // 4, outputs) if bottleneck else (inputs, outputs, outputs)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        layers: list[nn.Module] = []
        for side, d_in, d_out, step in zip(sides, widths, widths[1:], strides, strict=False):
            layers += [_norm(d_in), nn.ReLU(inplace=True), nn.Conv2d(d_in, d_out, side, step, side // 2, bias=False)]
        self.residual = nn.Sequential(*layers)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.residual(x)
        return y


class CPCNet(nn.Module):
    """Features of patches; those of a whole picture are the mean over its grid of patches that overlap by half.

    A picture of a patch's side is a grid of one, so that training on patches and reading whole pictures is one function.
    The last row and column of patches end where the picture does, whatever its side.

    Args:
        name: key of SHAPES.
        channels: channels of the pictures.
        image_size: side of a whole picture in pixels.
        patch: side of a patch; 0: a quarter of the picture's, at least 8.
    """

    def __init__(self, name: str, channels: int, image_size: int, patch: int = 0) -> None:
        super().__init__()
        widths, blocks, bottleneck = SHAPES[name]
        self.dim = widths[-1]
        self.cell = self.least = patch or max(8, image_size // 4)  #: side of a patch
        if self.cell >= LARGE:
            layers: list[nn.Module] = [nn.Conv2d(channels, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)]
            inputs = 64
        else:
            layers, inputs = [nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)], widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for i in range(count):
                layers.append(Block(inputs, width, 2 if stage and not i else 1, bottleneck))
                inputs = width
        self.net = nn.Sequential(*layers, _norm(self.dim), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, C, S, S) -> features (B, D), S at least a patch's side."""
        for axis in (2, 3):
            room = x.shape[axis] - self.cell
            at = torch.linspace(0, room, 1 + math.ceil(2 * room / self.cell)).round().long()
            x = x.unfold(axis, self.cell, 1).index_select(axis, at.to(x.device, non_blocking=True))
        grid = x.shape[2:4]  # x: (B, C, rows, columns, cell, cell)
        patches = x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        z: Tensor = self.net(patches).mean((2, 3))
        return z.unflatten(0, (-1, grid.numel())).mean(1)
