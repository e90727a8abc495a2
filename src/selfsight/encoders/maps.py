"""Feature maps, for methods that compare places within a picture: what an encoder has before it averages.

Shapes legend: B batch, C channels of the pictures, S side of a picture, D features, h, w sides of the map.
"""

from typing import Protocol, runtime_checkable

from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from torch import Tensor, nn

from selfsight.errors import WrongUse


@runtime_checkable
class MapEncoder(Protocol):
    """An encoder that says itself what its map is. timm's networks need not."""

    dim: int

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, D, h, w), whose mean over positions is what calling it returns."""
        ...


def check_maps(encoder: nn.Module) -> None:
    """WrongUse unless the features are the mean of a map; `pooling`, where an encoder has it, says how they are made."""
    if getattr(encoder, "pooling", "mean") != "mean" or not isinstance(encoder, (MapEncoder, ResNet, RegNet)):
        raise WrongUse(
            "this method needs a feature map, and this encoder has none: choose a ResNet, a RegNet, fastnet, a transformer "
            "with --net.pool mean, or a module with a method `feature_map`"
        )


def feature_map(encoder: nn.Module, x: Tensor) -> Tensor:
    """Features of every position: (B, C, S, S) -> (B, D, h, w); their mean is `encoder(x)`. WrongUse as `check_maps`."""
    check_maps(encoder)
    found: Tensor = encoder.feature_map(x) if isinstance(encoder, MapEncoder) else encoder.forward_features(x)  # type: ignore[operator]
    return found
