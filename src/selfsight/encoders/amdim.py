"""AMDIM's encoder (arXiv 1906.00910): positions of its maps see known parts of the picture and nothing else.

Shapes legend: B batch, C channels of the pictures, S side of a picture, F base width, R features.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.errors import WrongUse


@runtime_checkable
class MultiScale(Protocol):
    """An encoder that gives maps of 7 x 7 and of 5 x 5 positions beside its features, which are those of the one last position."""

    dim: int  #: R, width of the features
    widths: tuple[int, int]  #: channels of the 7 x 7 and of the 5 x 5 map

    def scales(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, S, S) -> features (B, R), maps (B, widths[0], 7, 7) and (B, widths[1], 5, 5)."""
        ...


class Shape(NamedTuple):
    """Size of a network."""

    width: int  #: F
    dim: int  #: R
    depth: int  #: residual layers of a block


SHAPES = {
    "amdim-toy": Shape(16, 128, 1),
    "amdim-mini": Shape(32, 256, 2),
    "amdim-small": Shape(128, 1024, 10),
    "amdim-medium": Shape(192, 1536, 8),
    "amdim-large": Shape(320, 2560, 10),
}

# Side of a picture: (kernel, stride, padding) of the stem's convolutions, (kernel, stride) of the blocks down to 7 x 7, each
# of which doubles the width. 96 px is ours. Only stems pad, with reflections.
_SIDES: dict[int, tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int], ...]]] = {
    32: (((3, 1, 0),), ((4, 2), (2, 2))),
    64: (((3, 1, 0),), ((4, 2), (4, 2), (2, 2))),
    96: (((3, 2, 1), (3, 1, 0)), ((4, 2), (4, 2), (4, 1))),
    128: (((5, 2, 2), (3, 1, 0)), ((4, 2), (4, 2), (2, 2))),
}


class Residual(nn.Module):
    """conv1x1(ReLU(conv(x))) + average pool of x, with channels of zeros added; no ReLU after it, no padding.

    The second convolution starts at zero: the layer is then the pool alone.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.more = kernel, stride, outputs - inputs
        self.first = nn.Conv2d(inputs, outputs, kernel, stride, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 1, bias=False)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, h, w), h = (H - kernel) // stride + 1."""
        y: Tensor = self.second(F.relu(self.first(x)))
        pooled = F.avg_pool2d(x, self.kernel, self.stride) if self.kernel > 1 else x
        return y + F.pad(pooled, (0, 0, 0, 0, 0, self.more))


def _block(inputs: int, outputs: int, kernel: int, stride: int, depth: int) -> nn.Sequential:
    """One layer that sees `kernel` positions, then layers that see one."""
    layers = [Residual(outputs, outputs, 1, 1) for _ in range(depth - 1)]
    return nn.Sequential(Residual(inputs, outputs, kernel, stride), *layers)


class AMDIMNet(nn.Module):
    """A `MultiScale` network for pictures of one size. Its features have passed a batch normalisation.

    Args:
        name: key of SHAPES.
        channels: channels of the pictures.
        image_size: side of a picture: 32, 64, 96 or 128 px.

    Raises:
        WrongUse: for another side.
    """

    def __init__(self, name: str, channels: int, image_size: int) -> None:
        super().__init__()
        if image_size not in _SIDES:
            known = ", ".join(map(str, _SIDES))
            raise WrongUse(
                f"{name} is built for pictures of {known} px, not {image_size}: set --image-size to one of them"
            )
        width, self.dim, depth = SHAPES[name]
        self.side = image_size  #: the one side that it can see
        stem, blocks = _SIDES[image_size]
        layers: list[nn.Module] = []
        for kernel, stride, padding in stem:
            layers += [
                nn.Conv2d(channels, width, kernel, stride, padding, padding_mode="reflect"),
                nn.ReLU(inplace=True),
            ]
            channels = width
        if image_size == 32:
            layers.append(Residual(width, width, 1, 1))
        for kernel, stride in blocks:
            layers.append(_block(width, 2 * width, kernel, stride, depth))
            width *= 2
        self.widths = (width, width)
        self.to7 = nn.Sequential(*layers)
        self.to5 = _block(width, width, 3, 1, depth)
        self.to1 = nn.Sequential(
            _block(width, width, 3, 1, depth), Residual(width, self.dim, 3, 1), nn.BatchNorm2d(self.dim)
        )

    def scales(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, S, S) -> features (B, R), maps (B, widths[0], 7, 7) and (B, widths[1], 5, 5)."""
        if x.shape[-2:] != (self.side, self.side):
            height, width = x.shape[-2:]
            raise WrongUse(
                f"this encoder was built for pictures of {self.side} px, not {height} x {width}: use that size"
            )
        seven = self.to7(x)
        five = self.to5(seven)
        return self.to1(five).flatten(1), seven, five

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, C, S, S) -> features (B, R)."""
        return self.scales(x)[0]
