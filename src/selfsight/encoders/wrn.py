"""Wide Residual Networks (arXiv 1605.07146) with pre-activation blocks: WRN-28-k, which timm does not have.

Shapes legend: B batch, C channels of the pictures, S side of a picture, D = 64 k features.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.errors import WrongUse


class Block(nn.Module):
    """Two 3x3 convolutions behind their normalisations, dropout between them (section 2, figure 1d)."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H / stride, W / stride), rounded up."""
        y = F.relu(self.norm1(x))
        if self.shortcut is not None:  # a change of width sees the activations, too
            x = self.shortcut(y)
        y = F.relu(self.norm2(self.conv1(y)))
        return x + self.conv2(self.dropout(y))


class WideResNet(nn.Module):
    """WRN-28-k: three groups of four blocks with 16 k, 32 k and 64 k channels, global average.

    Args:
        factor: k, how much wider than a thin ResNet.
        channels: channels of the pictures.
        stem: `small` is the paper's, 3x3 without stride; `imagenet` 7x7 stride 2 and 3x3 pooling, for large pictures.
        dropout: how often an activation between the two convolutions of a block is zero in training; 0.3 in the paper.

    Raises:
        WrongUse: the stem is `legacy`.
    """

    def __init__(
        self, factor: int, channels: int, *, stem: Literal["small", "imagenet", "legacy"], dropout: float = 0.0
    ) -> None:
        if stem == "legacy":
            raise WrongUse(f"net.stem is 'legacy', which wrn-28-{factor} does not have: choose small or imagenet")
        super().__init__()
        self.dim = 64 * factor
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False))
        if stem == "imagenet":
            self.stem = nn.Sequential(nn.Conv2d(channels, 16, 7, 2, padding=3, bias=False), nn.MaxPool2d(3, 2, 1))
        widths = (16, 16 * factor, 32 * factor, 64 * factor)
        self.blocks = nn.Sequential(
            *(
                Block(
                    widths[group] if i == 0 else widths[group + 1], widths[group + 1], stride if i == 0 else 1, dropout
                )
                for group, stride in enumerate((1, 2, 2))
                for i in range(4)
            )
        )
        self.norm = nn.BatchNorm2d(self.dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, D, h, w), h = w = S / 4 with the small stem, S / 16 with the other."""
        return F.relu(self.norm(self.blocks(self.stem(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, C, S, S) -> features (B, D): the map, averaged over its positions."""
        return torch.mean(self.feature_map(x), dim=(2, 3))
