"""Edges instead of colours as an encoder's input, which takes the colour shortcut away (DeepCluster, arXiv 1807.05520)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.encoders.maps import feature_map


class Sobel(nn.Module):
    """Fixed filters: the mean of the channels, then horizontal and vertical Sobel. (B, C, H, W) -> (B, 2, H, W)."""

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        down = torch.tensor([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]])
        self.register_buffer("filters", torch.stack([across, down])[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x.mean(1, keepdim=True), self.filters.to(x.dtype), padding=1)


class OnEdges(nn.Module):
    """An encoder that sees the edges of a picture: (B, C, S, S) -> (B, D)."""

    def __init__(self, net: nn.Module) -> None:
        """net: an encoder with two input channels and `.dim`."""
        super().__init__()
        self.sobel, self.net, self.dim = Sobel(), net, net.dim
        self.pooling = getattr(net, "pooling", "mean")
        self.pre_activation, self.least = getattr(net, "pre_activation", False), getattr(net, "least", 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.sobel(x))

    def feature_map(self, x: Tensor) -> Tensor:
        """That of the network: (B, C, S, S) -> (B, D, h, w)."""
        return feature_map(self.net, self.sobel(x))
