"""ResNets of timm with a stem that fits the picture: small, imagenet or legacy."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import timm
from torch import nn

Stem = Literal["small", "imagenet", "legacy"]


class MadeBy(NamedTuple):
    """How the network of an encoder is made anew, for export to timm."""

    build: Callable[..., nn.Module]
    settings: dict[str, Any]  #: arguments of `build`; plain values
    steps: list[str]  #: lines of Python that make `model`, the same network, with timm and torch alone
    created: dict[str, Any] | None = (
        None  #: arguments with which timm.create_model alone makes it, plain values; None: none
    )


class GroupNorm32(nn.GroupNorm):
    """Group normalisation with 32 groups, called as timm calls a normalisation layer."""

    def __init__(self, channels: int, eps: float = 1e-5, **kwargs: object) -> None:
        super().__init__(32, channels, eps=eps)


def choose(image_size: int) -> Stem:
    """The stem for pictures of this side: a 7x7 stride-2 stem with pooling throws small pictures away."""
    return "small" if image_size <= 96 else "imagenet"


def resnet(
    name: str,
    channels: int,
    *,
    stem: Stem,
    zero_init_residual: bool = True,
    norm: Literal["batch", "group"] = "batch",
    output_stride: int = 32,
) -> nn.Module:
    """An untrained ResNet, ResNeXt or Wide-ResNet of timm without classifier, with `.dim`, and `.made_by` for export.

    Args:
        name: timm's name.
        channels: channels of the pictures.
        stem: `small` (3x3 stride 1, no pooling), `imagenet` (7x7 stride 2, 3x3 pooling) or `legacy` (3x3 stride 1,
            then pooling, as one reference project had it).
        zero_init_residual: start each residual branch at 0.
        norm: `batch` or `group`.
        output_stride: 32, or 16 or 8 with dilations instead of strides.
    """
    net: Any = timm.create_model(
        name,
        num_classes=0,
        in_chans=channels,
        zero_init_last=zero_init_residual,
        output_stride=output_stride,
        norm_layer=GroupNorm32 if norm == "group" else nn.BatchNorm2d,
    )
    if stem != "imagenet":
        conv = nn.Conv2d(channels, net.conv1.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as timm does
        net.conv1 = conv
    if stem == "small":
        net.maxpool = nn.Identity()
    net.dim = net.num_features
    settings = {"name": name, "channels": channels, "stem": stem, "norm": norm, "output_stride": output_stride}
    created = {"model_name": name, "num_classes": 0, "in_chans": channels, "output_stride": output_stride}
    net.made_by = MadeBy(
        resnet,
        settings,
        _steps(name, channels, stem, norm, output_stride),
        created if stem == "imagenet" and norm == "batch" else None,
    )
    return net


def _steps(name: str, channels: int, stem: Stem, norm: str, output_stride: int) -> list[str]:
    lines, extra = [], f", output_stride={output_stride}" if output_stride != 32 else ""
    if norm == "group":
        lines.append("norm = lambda channels, **_: torch.nn.GroupNorm(32, channels)")
        extra += ", norm_layer=norm"
    lines.append(f"model = timm.create_model({name!r}, num_classes=0, in_chans={channels}{extra})")
    if stem != "imagenet":
        width = "model.conv1.out_channels"
        lines.append(f"model.conv1 = torch.nn.Conv2d({channels}, {width}, 3, stride=1, padding=1, bias=False)")
    if stem == "small":
        lines.append("model.maxpool = torch.nn.Identity()")
    return lines
