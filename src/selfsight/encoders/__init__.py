"""The encoders: a name, a stem or patch that fits the picture size, an `nn.Module` with `.dim`.

`forward`: (B, C, S, S) normalised -> (B, D), any S (multiples of the patch for transformers). ResNets, RegNets and
transformers come from timm, so that export to timm is the identity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

from torch import nn

from selfsight import plugins
from selfsight.encoders import amdim, cpc, regnet, stems, vit
from selfsight.encoders.alexnet import AlexNet, AlexNetTile
from selfsight.encoders.amdim import MultiScale as MultiScale
from selfsight.encoders.blocks import blocks_of as blocks_of
from selfsight.encoders.fastnet import FastNet
from selfsight.encoders.maps import MapEncoder as MapEncoder
from selfsight.encoders.maps import check_maps as check_maps
from selfsight.encoders.maps import feature_map as feature_map
from selfsight.encoders.mininet import MiniNet
from selfsight.encoders.sobel import OnEdges, on_edges
from selfsight.encoders.vit import TokenEncoder as TokenEncoder
from selfsight.encoders.wrn import WideResNet
from selfsight.errors import WrongUse, perhaps


@dataclass(frozen=True)
class EncoderConfig:
    """How a named encoder is built."""

    stem: Literal["auto", "small", "imagenet", "legacy"] = "auto"
    """ResNets: `small` 3x3 without pooling, `imagenet` 7x7 stride 2 + pooling, `legacy` 3x3 + pooling; auto: small up to 96 px.
    RegNets: `small` leaves out the strides of stem and first stage. WRN-28-k: `small` or `imagenet`."""
    zero_init_residual: bool = True
    """ResNets, RegNets: the last normalisation of each residual branch starts at 0."""
    norm: Literal["batch", "group", "none"] = "batch"
    """ResNets: batch normalisation, or group normalisation (32 groups), which needs no batch. AlexNet: batch or none."""
    output_stride: Literal[8, 16, 32] = 32
    """ResNets, RegNets: below 32, late strides become dilations."""
    sobel: Literal["none", "only", "concat"] = "none"
    """What the network sees: colours; `only` Sobel edges (2 channels), as DeepCluster does; or colours and edges."""
    dropout: float = 0.0
    """WRN-28-k: how often an activation between the convolutions of a block is zero in training; 0.3 in the paper."""
    patch: int = 0
    """Transformers: side of a patch in pixels; 0: 4 up to 48 px, 8 up to 128 px, else 16. CPC's networks: 0: a quarter of the
    picture's side."""
    drop_path: float = 0.0
    """Transformers: how often a residual branch of the last block is left out in training; linearly less before it."""
    pool: Literal["cls", "mean"] = "cls"
    """Transformers: the features are the class token, or the mean of the patch tokens."""
    layer_scale: float = 0.0
    """Transformers: initial factor of the residual branches (LayerScale); 0: none."""
    conv_stem: bool = False
    """Transformers: 3x3 convolutions of stride 2 make the patches' tokens (arXiv 2106.14881), not one projection."""
    positions: Literal["learned", "sincos"] = "learned"
    """Transformers: positions are learned, or fixed sines and cosines (MAE, I-JEPA)."""

    def __post_init__(self) -> None:
        if self.patch < 0 or self.layer_scale < 0 or not (0 <= self.drop_path < 1 and 0 <= self.dropout < 1):
            raise WrongUse(
                "net.patch and net.layer_scale must be 0 or more, net.drop_path and net.dropout at least 0 and less than 1"
            )


def settings_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of EncoderConfig that a run or an encoder's file holds. Version 0.1 wrote `sobel` as true or false."""
    old = saved.get("sobel")
    return {**saved, "sobel": "only" if old else "none"} if isinstance(old, bool) else dict(saved)


@dataclass(frozen=True)
class Encoder:
    """An entry of the registry."""

    build: Callable[[int, int, EncoderConfig], nn.Module]  #: (channels, image_size, config) -> module
    about: str


def _only(name: str, config: EncoderConfig, *used: str) -> None:
    """WrongUse if a setting is changed that this encoder does not have."""
    for field in fields(config):
        if field.name not in (*used, "sobel") and getattr(config, field.name) != field.default:
            raise WrongUse(
                f"net.{field.name} is no setting of {name}, which has {', '.join(used) or 'none'}: leave it out, or "
                "choose another --encoder"
            )


def _resnet(name: str, channels: int, image_size: int, config: EncoderConfig) -> nn.Module:
    _only(name, config, "stem", "zero_init_residual", "norm", "output_stride")
    if config.norm == "none":
        raise WrongUse(f"net.norm is 'none', which {name} does not have: choose batch or group")
    return stems.resnet(
        name,
        channels,
        stem=stems.choose(image_size) if config.stem == "auto" else config.stem,
        zero_init_residual=config.zero_init_residual,
        norm=config.norm,
        output_stride=config.output_stride,
    )


def _regnet(name: str, channels: int, image_size: int, config: EncoderConfig) -> nn.Module:
    _only(name, config, "stem", "zero_init_residual", "output_stride")
    return regnet.regnet(
        name,
        channels,
        stem=stems.choose(image_size) if config.stem == "auto" else config.stem,
        zero_init_residual=config.zero_init_residual,
        output_stride=config.output_stride,
    )


def _wrn(factor: int, channels: int, image_size: int, config: EncoderConfig) -> nn.Module:
    _only(f"wrn-28-{factor}", config, "stem", "dropout")
    stem = stems.choose(image_size) if config.stem == "auto" else config.stem
    return WideResNet(factor, channels, stem=stem, dropout=config.dropout)


def _alexnet(
    name: str, kind: type[AlexNet] | type[AlexNetTile], channels: int, image_size: int, config: EncoderConfig
) -> nn.Module:
    _only(name, config, "norm")
    if config.norm == "group":
        raise WrongUse(f"net.norm is 'group', which {name} does not have: choose batch or none")
    return kind(channels, image_size, config.norm)


def _mininet(channels: int, image_size: int, config: EncoderConfig) -> nn.Module:
    _only("mininet", config)
    return MiniNet(channels)


def _amdim(name: str, channels: int, image_size: int, config: EncoderConfig) -> nn.Module:
    _only(name, config)
    return amdim.AMDIMNet(name, channels, image_size)


def _cpc(name: str, channels: int, image_size: int, config: EncoderConfig) -> nn.Module:
    _only(name, config, "patch")
    return cpc.CPCNet(name, channels, image_size, config.patch)


def _fastnet(channels: int, image_size: int, config: EncoderConfig, **widths: tuple[int, ...]) -> nn.Module:
    _only("fastnet", config)
    return FastNet(channels=channels, **widths)


def _vit(name: str, channels: int, image_size: int, config: EncoderConfig) -> nn.Module:
    _only(name, config, "patch", "drop_path", "pool", "layer_scale", "conv_stem", "positions")
    return vit.ViT(
        name,
        channels,
        image_size,
        patch=config.patch,
        drop_path=config.drop_path,
        pool=config.pool,
        layer_scale=config.layer_scale,
        conv_stem=config.conv_stem,
        positions=config.positions,
    )


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
    **{
        name: Encoder(partial(_regnet, name), f"RegNetY, {shape.millions} million parameters, D = {shape.dim}")
        for name, shape in regnet.SHAPES.items()
    },
    **{
        f"wrn-28-{k}": Encoder(partial(_wrn, k), f"Wide-ResNet-28-{k} of arXiv 1605.07146, D = {64 * k}")
        for k in (2, 10)
    },
    "alexnet": Encoder(
        partial(_alexnet, "alexnet", AlexNet),
        "AlexNet with batch normalisation, D = 4096 before the last ReLU; 1024 below 128 px",
    ),
    "alexnet-tile": Encoder(
        partial(_alexnet, "alexnet-tile", AlexNetTile), "AlexNet's convolutions for the tiles of a picture, D = 1024"
    ),
    "mininet": Encoder(_mininet, "six plain convolutions for tiles or whole pictures, D = 64"),
    **{
        name: Encoder(
            partial(_amdim, name),
            f"AMDIM's network of base width {shape.width} and depth {shape.depth}, D = {shape.dim}",
        )
        for name, shape in amdim.SHAPES.items()
    },
    **{
        name: Encoder(partial(_cpc, name), f"CPC's network for patches, {sum(shape.blocks)} blocks, D = {shape.dim}")
        for name, shape in cpc.SHAPES.items()
    },
    **{
        name: Encoder(
            partial(_vit, name), f"vision transformer, {shape.depth} blocks, {shape.heads} heads, D = {shape.dim}"
        )
        for name, shape in vit.SHAPES.items()
    },
}


def check_side(encoder: nn.Module, side: int, flag: str) -> None:
    """WrongUse, naming the flag, if the encoder cannot see pictures of this side in pixels."""
    patch, least = int(getattr(encoder, "patch", 1)), int(getattr(encoder, "least", 1))
    if getattr(encoder, "side", side) != side:
        raise WrongUse(f"--{flag} {side}: this encoder sees pictures of {encoder.side} px only, choose that")
    if side < least:
        raise WrongUse(
            f"--{flag} {side} is too small for this encoder: at least {least} px, or choose another --encoder"
        )
    try:
        vit.fits(patch, side)
    except WrongUse as error:
        raise WrongUse(f"--{flag} {side}: {error}") from None


def check_patches(encoder: nn.Module, apart: bool = True) -> None:
    """WrongUse if patches cannot be hidden from the encoder; `apart`: if a visible one shows pixels of its neighbours."""
    if not isinstance(encoder, TokenEncoder):
        raise WrongUse("this method hides patches: choose an encoder that has them, such as vit-small")
    carrier = "convolutions of --net.conv-stem" if getattr(encoder, "conv_stem", False) else ""
    carrier = "filters of --net.sobel" if isinstance(encoder, OnEdges) else carrier
    if apart and carrier:
        raise WrongUse(
            f"this method predicts pixels, which the {carrier} would carry from hidden patches into visible ones: leave it out"
        )


def build(name: str, channels: int, image_size: int, config: EncoderConfig | None = None) -> nn.Module:
    """An untrained encoder with `.dim`, initialised from torch's default generator. WrongUse for an unknown name."""
    if name not in ENCODERS:
        raise WrongUse(f"unknown encoder {name!r}.{perhaps(name, set(ENCODERS))}")
    config = config or EncoderConfig()
    if config.sobel == "none":
        return ENCODERS[name].build(channels, image_size, config)
    keep = channels if config.sobel == "concat" else 0
    return on_edges(ENCODERS[name].build(keep + 2, image_size, config), colours=bool(keep))


plugins.add("selfsight.encoders", ENCODERS, lambda _, found: isinstance(found, Encoder))
