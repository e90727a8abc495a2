"""A small convolutional network for small pictures on CPUs.

Shapes legend: B batch, C channels of the pictures, D features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from selfsight.errors import WrongUse


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU; the map keeps its side (stride 1) or halves it (2)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Stage(nn.Module):
    """A convolution to the new width (and side), then a residual one: y = f(x), y + g(y)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.entry = _conv(inputs, outputs, 3, stride)
        self.residual = _conv(outputs, outputs, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H / stride, W / stride), rounded up."""
        x = self.entry(x)
        return x + self.residual(x)


class FastNet(nn.Module):
    """A small fast CNN: 48.0 million multiply-adds at 32 x 32 RGB (ResNet-18 with a small-image stem: 555 million).

    The work is 27.0 million at 24 x 24, and grows with the area at other sizes. Why this shape:

    - The stem is one overlapping 4x4 convolution with stride 2: maps at full resolution are the largest ones,
      and a CPU reads and writes them slowly for little arithmetic; this stem costs 0.8 million multiply-adds.
    - Seven convolutions in all. Each stage is one convolution that widens (and halves the side, but for the first
      stage), then one residual convolution, so that gradients reach the stem past half of the layers.
    - Strides instead of pooling: a pooled convolution computes four times the outputs that it keeps.
    - Widths are multiples of 32, which fill vector registers and cache lines in the channels-last layout.
    - The features are the global average of the last map, so any picture of at least 16 x 16 fits, and a network
      trained on small crops reads whole pictures.

    Args:
        channels: channels of the pictures.
        widths: channels of the stages, finest first; the last is `dim`. The stem has as many as the first stage.

    Raises:
        WrongUse: for no stage, or for a width or channel count below 1.
    """

    def __init__(self, channels: int = 3, widths: Sequence[int] = (64, 128, 256)) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or channels < 1:
            raise WrongUse(f"fastnet: channels={channels}, widths={tuple(widths)}: give positive counts, one per stage")
        self.channels = channels
        self.dim = widths[-1]
        self.stem = _conv(channels, widths[0], 4, 2)
        self.stages = nn.ModuleList(
            Stage(inputs, outputs, stride=1 if i == 0 else 2)
            for i, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )

    def maps(self, x: Tensor) -> list[Tensor]:
        """Feature maps of the stages, coarse to fine: (B, C, H, W) -> [(B, D, H/8, W/8), ..., (B, W0, H/2, W/2)].

        The sides are those of the default widths, rounded down at the stem and up at the later strides.
        """
        x = self.stem(x)
        out: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            out.insert(0, x)
        return out

    def feature_map(self, x: Tensor) -> Tensor:
        """The last map: (B, C, H, W) -> (B, D, h, w)."""
        return self.maps(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, C, H, W) -> features (B, D): the last map, averaged over its positions."""
        return torch.mean(self.maps(x)[0], dim=(2, 3))
