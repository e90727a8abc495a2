"""AlexNet as DeepCluster (arXiv 1807.05520) and SeLa (arXiv 1911.05371) train it, and its trunk for tiles (1603.09246).

Shapes legend: B batch, C channels of the pictures, S side of a picture or a tile, D features.
"""

from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "none"]


class AlexNet(nn.Module):
    """Five convolutions and two linear layers, one tower, no local response normalisation.

    The features are what the second linear layer gives *before* its ReLU: DeepCluster clusters them. A method's
    classifier comes after that ReLU, which it applies itself to an encoder with `pre_activation`.

    Pictures of at least 128 px: strides, kernels and 4096 units as published. Smaller ones: no stride in the first
    convolution (5x5 instead of 11x11, so that padding by 2 keeps the side), three pools, 1024 units. For other sizes
    than `image_size` the last map is averaged to the side that the linear layers expect.

    Args:
        channels: channels of the pictures, 2 for edges.
        image_size: side of a whole picture in pixels.
        norm: batch normalisation after each convolution, or none.
    """

    pre_activation = True  #: the features miss a ReLU that classifiers expect
    pooling = "none"  #: the features are no mean of a map
    least: int  #: side in pixels of the smallest picture that the three pools leave anything of

    def __init__(self, channels: int, image_size: int, norm: Norm = "batch") -> None:
        super().__init__()
        large = image_size >= 128
        self.dim, side = (4096, (image_size - 7) // 4 + 1) if large else (1024, image_size)
        for _ in range(3):
            side = (side - 3) // 2 + 1
        side, self.least = max(1, min(6, side)), 63 if large else 15
        self.features = _trunk(channels, (11, 4) if large else (5, 1), norm, False, side)
        self.units = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * side * side, self.dim),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(self.dim, self.dim),
        )
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, C, S, S) -> features (B, D), before the last ReLU."""
        return self.units(self.features(x).flatten(1))


class AlexNetTile(nn.Module):
    """AlexNet's five convolutions, for a method that sees a picture as tiles and joins their features in layers of its own.

    The first convolution has stride 2 in place of 4, since tiles are small; for tiles of pictures below 128 px (12 to
    24 px) it is a 5x5 one without stride. Pools keep the last rows of odd maps. The last map is averaged to 2x2, so
    that tiles and whole pictures give D = 1024.

    Args:
        channels: channels of the pictures.
        image_size: side of a *whole* picture in pixels; a tile has about a quarter of it.
        norm: batch normalisation after each convolution, or none.
    """

    dim = 1024
    least: int  #: side in pixels of the smallest tile

    def __init__(self, channels: int, image_size: int, norm: Norm = "batch") -> None:
        super().__init__()
        large = image_size >= 128
        self.least = 21 if large else 8
        self.features = _trunk(channels, (11, 2) if large else (5, 1), norm, True, 2)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised tiles or pictures (B, C, S, S) -> features (B, D)."""
        return self.features(x).flatten(1)


def _trunk(channels: int, first: tuple[int, int], norm: Norm, ceil: bool, side: int) -> nn.Sequential:
    """(B, C, S, S) -> (B, 256, side, side). `first`: kernel and stride; `ceil`: how pools round."""
    return nn.Sequential(
        *_conv(channels, 96, *first, norm=norm),
        nn.MaxPool2d(3, 2, ceil_mode=ceil),
        *_conv(96, 256, 5, norm=norm),
        nn.MaxPool2d(3, 2, ceil_mode=ceil),
        *_conv(256, 384, 3, padding=1, norm=norm),
        *_conv(384, 384, 3, padding=1, norm=norm),
        *_conv(384, 256, 3, padding=1, norm=norm),
        nn.MaxPool2d(3, 2, ceil_mode=ceil),
        nn.AdaptiveAvgPool2d(side),
    )


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 2, *, norm: Norm) -> list[nn.Module]:
    batch = norm == "batch"  # batch normalisation takes a bias away
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=not batch)
    return [conv, *([nn.BatchNorm2d(outputs)] if batch else []), nn.ReLU(inplace=True)]


def _initialise(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
