"""The small convolutional network that one of the reference projects solves jigsaw puzzles with.

Shapes legend: B batch, C channels of the pictures, S side of a tile or a picture.
"""

import torch
from torch import Tensor, nn


class MiniNet(nn.Module):
    """Six convolutions, no normalisation: 5x5 with 32, 64, 92 channels, dropout and a pool each; 3x3 with 128, 128, 64.

    The same network for tiles and for whole pictures: the features are the average of its last map. It ends there; what
    classifies comes after it, and returns logits.

    Args:
        channels: channels of the pictures.
    """

    dim = 64
    least = 8  #: side in pixels of the smallest picture that the three pools leave anything of

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 32), (32, 64), (64, 92)):
            layers += [*_conv(inputs, outputs, 5), nn.Dropout2d(0.2), nn.MaxPool2d(2)]
        for inputs, outputs in ((92, 128), (128, 128), (128, 64)):
            layers += _conv(inputs, outputs, 3)
        self.features = nn.Sequential(*layers)

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 64, S / 8, S / 8), rounded down."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised tiles or pictures (B, C, S, S) -> features (B, 64)."""
        return torch.mean(self.feature_map(x), dim=(2, 3))


def _conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(conv.weight, a=0.2, nonlinearity="leaky_relu")  # keeps the scale without normalisation
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return [conv, nn.LeakyReLU(0.2, inplace=True)]
