"""AlexNet with batch normalisation, as DeepCluster (arXiv 1807.05520) and SeLa (arXiv 1911.05371) train it.

Shapes legend: B batch, C channels of the pictures, S side of a picture, D features.
"""

from torch import Tensor, nn


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
    """

    pre_activation = True  #: the features miss a ReLU that classifiers expect
    pooling = "none"  #: the features are no mean of a map
    least: int  #: side in pixels of the smallest picture that the three pools leave anything of

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        large = image_size >= 128
        self.dim, side = (4096, (image_size - 7) // 4 + 1) if large else (1024, image_size)
        for _ in range(3):
            side = (side - 3) // 2 + 1
        side, self.least = max(1, min(6, side)), 63 if large else 15
        self.features = nn.Sequential(
            *_conv(channels, 96, *((11, 4) if large else (5, 1))),
            nn.MaxPool2d(3, 2),
            *_conv(96, 256, 5),
            nn.MaxPool2d(3, 2),
            *_conv(256, 384, 3, padding=1),
            *_conv(384, 384, 3, padding=1),
            *_conv(384, 256, 3, padding=1),
            nn.MaxPool2d(3, 2),
            nn.AdaptiveAvgPool2d(side),
        )
        self.units = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * side * side, self.dim),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(self.dim, self.dim),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, C, S, S) -> features (B, D), before the last ReLU."""
        return self.units(self.features(x).flatten(1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 2) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),  # batch normalisation takes a bias away
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
