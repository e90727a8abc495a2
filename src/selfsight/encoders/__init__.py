"""The encoders: a name, a stem that fits the picture size, an `nn.Module` with `.dim`.

`forward`: (B, C, S, S) normalised -> (B, D), global average pooling, any S. ResNets come from timm, so that export to
timm is the identity.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import nn

from selfsight.encoders import stems
from selfsight.encoders.fastnet import FastNet
from selfsight.encoders.sobel import OnEdges
from selfsight.errors import WrongUse, perhaps


@dataclass(frozen=True)
class EncoderConfig:
    """How a named encoder is built."""

    stem: Literal["auto", "small", "imagenet", "legacy"] = "auto"
    """ResNets: `small` 3x3 without pooling, `imagenet` 7x7 stride 2 + pooling, `legacy` 3x3 + pooling; auto: small up to 96 px."""
    zero_init_residual: bool = True
    """ResNets: the last normalisation of each residual branch starts at 0."""
    norm: Literal["batch", "group"] = "batch"
    """ResNets: batch normalisation, or group normalisation (32 groups), which needs no batch."""
    output_stride: Literal[8, 16, 32] = 32
    """ResNets: below 32, late strides become dilations."""
    sobel: bool = False
    """The network sees Sobel edges instead of colours (2 channels), as DeepCluster does."""


@dataclass(frozen=True)
class Encoder:
    """An entry of the registry."""

    build: Callable[[int, int, EncoderConfig], nn.Module]  #: (channels, image_size, config) -> module
    about: str


def _resnet(name: str, channels: int, image_size: int, config: EncoderConfig) -> nn.Module:
    return stems.resnet(
        name,
        channels,
        stem=stems.choose(image_size) if config.stem == "auto" else config.stem,
        zero_init_residual=config.zero_init_residual,
        norm=config.norm,
        output_stride=config.output_stride,
    )


def _fastnet(channels: int, image_size: int, config: EncoderConfig, **widths: tuple[int, ...]) -> nn.Module:
    if replace(config, sobel=False) != EncoderConfig():
        raise WrongUse("net.* settings are for ResNets; fastnet has none: leave them out or choose --encoder resnet18")
    return FastNet(channels=channels, **widths)


ENCODERS: dict[str, Encoder] = {
    "fastnet": Encoder(_fastnet, "small fast CNN for 32 px on CPUs, less than a quarter of ResNet-18's work"),
    "fastnet-tiny": Encoder(
        partial(_fastnet, widths=(16, 32, 32)), "fastnet at toy width, for tests and `tiny` recipes"
    ),
    **{
        name: Encoder(partial(_resnet, timm_name), about)
        for name, timm_name, about in (
            ("resnet18", "resnet18", "ResNet-18, D = 512"),
            ("resnet34", "resnet34", "ResNet-34, D = 512"),
            ("resnet50", "resnet50", "ResNet-50, D = 2048"),
            ("resnet101", "resnet101", "ResNet-101, D = 2048"),
            ("resnet152", "resnet152", "ResNet-152, D = 2048"),
            ("resnext50", "resnext50_32x4d", "ResNeXt-50 32x4d, D = 2048"),
            ("resnext101", "resnext101_32x8d", "ResNeXt-101 32x8d, D = 2048"),
            ("wide_resnet50_2", "wide_resnet50_2", "Wide-ResNet-50-2, D = 2048"),
            ("wide_resnet101_2", "wide_resnet101_2", "Wide-ResNet-101-2, D = 2048"),
        )
    },
}


def build(name: str, channels: int, image_size: int, config: EncoderConfig | None = None) -> nn.Module:
    """An untrained encoder with `.dim`, initialised from torch's default generator. WrongUse for an unknown name."""
    if name not in ENCODERS:
        raise WrongUse(f"unknown encoder {name!r}.{perhaps(name, set(ENCODERS))}")
    config = config or EncoderConfig()
    if config.sobel:
        return OnEdges(ENCODERS[name].build(2, image_size, config))
    return ENCODERS[name].build(channels, image_size, config)
