"""Edges as an encoder's input, in place of colours, whose shortcut that takes away (DeepCluster, arXiv 1807.05520), or beside.

Shapes legend: B batch, C channels of the pictures, S side of a picture, T patches, D features.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.encoders.maps import feature_map
from selfsight.encoders.vit import TokenEncoder


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

    def __init__(self, net: nn.Module, colours: bool = False) -> None:
        """`net`: an encoder with 2 input channels, or C + 2 if the `colours` stay in front of the edges; and `.dim`."""
        super().__init__()
        self.sobel, self.net, self.dim, self.colours = Sobel(), net, net.dim, colours
        self.pooling = getattr(net, "pooling", "mean")
        self.pre_activation, self.least = getattr(net, "pre_activation", False), getattr(net, "least", 1)

    def seen(self, x: Tensor) -> Tensor:
        """What the network sees: (B, C, S, S) -> (B, 2, S, S), or (B, C + 2, S, S)."""
        edges = self.sobel(x)
        return torch.cat([x, edges], dim=1) if self.colours else edges

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.seen(x))

    def feature_map(self, x: Tensor) -> Tensor:
        """That of the network: (B, C, S, S) -> (B, D, h, w)."""
        return feature_map(self.net, self.seen(x))


class TokensOnEdges(OnEdges):
    """A transformer that sees edges, with all that methods ask of a TokenEncoder."""

    net: Any

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.net.patch

    def embedding(self) -> nn.Module:
        """From what the network sees to the tokens of patches."""
        return self.net.embedding()

    def tokens(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, C, S, S) -> (B, 1 + T, D); see ViT."""
        return self.net.tokens(self.seen(x), *args, **kwargs)

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, 1 + T, D) -> (B, D); see ViT."""
        return self.net.pooled(tokens)

    def attention(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, heads, 1 + T, 1 + T); see ViT."""
        return self.net.attention(self.seen(x))

    def layers(self) -> list[list[nn.Parameter]]:
        """Trainable parameters from the input to the output; see ViT."""
        return self.net.layers()


def on_edges(net: nn.Module, colours: bool = False) -> OnEdges:
    """The encoder in front of which the filters lie; see OnEdges."""
    return (TokensOnEdges if isinstance(net, TokenEncoder) else OnEdges)(net, colours)
