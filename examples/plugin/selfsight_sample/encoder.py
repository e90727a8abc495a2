"""An encoder: a function that builds a module with `.dim`, and a line about it."""

from itertools import pairwise

from torch import nn

from selfsight.encoders import Encoder


class DotNet(nn.Module):
    """Three convolutions: normalised (B, C, S, S) -> (B, 48)."""

    dim = 48

    def __init__(self, channels):
        super().__init__()
        widths = [channels, 16, 32, self.dim]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))

    def feature_map(self, x):
        """(B, C, S, S) -> (B, 48, S / 8, S / 8); methods that compare places read it."""
        for layer in self.layers:
            x = layer(x).relu()
        return x

    def forward(self, x):
        return self.feature_map(x).mean((2, 3))


DOTNET = Encoder(lambda channels, image_size, config: DotNet(channels), "three convolutions, D = 48")
