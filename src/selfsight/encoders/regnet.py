"""RegNetY: Designing Network Design Spaces (arXiv 2003.13678), up to the 10 billion parameters of SEER (arXiv 2202.08360)."""

from typing import Any, Literal, NamedTuple

import timm
from torch import nn

from selfsight.encoders.stems import MadeBy
from selfsight.errors import WrongUse


class Shape(NamedTuple):
    """Size of a RegNetY: timm's name and, where timm has none, the generator's parameters in its place."""

    dim: int
    millions: int  #: parameters
    timm_name: str
    generator: dict[str, Any] = {}


SHAPES = {
    "regnety-200mf": Shape(368, 3, "regnety_002"),
    "regnety-400mf": Shape(440, 4, "regnety_004"),
    "regnety-800mf": Shape(768, 5, "regnety_008"),
    "regnety-1.6gf": Shape(888, 10, "regnety_016"),
    "regnety-4gf": Shape(1088, 20, "regnety_040"),
    "regnety-8gf": Shape(2016, 37, "regnety_080"),
    "regnety-16gf": Shape(3024, 81, "regnety_160"),
    "regnety-32gf": Shape(3712, 141, "regnety_320"),
    "regnety-64gf": Shape(4920, 276, "regnety_640"),
    "regnety-128gf": Shape(7392, 637, "regnety_1280"),
    "regnety-256gf": Shape(10444, 1272, "regnety_2560"),
    "regnety-10b": Shape(
        28280, 9324, "regnety_2560", {"depth": 27, "w0": 1744, "wa": 620.83, "wm": 2.52, "group_size": 1010}
    ),
}


def regnet(
    name: str,
    channels: int,
    *,
    stem: Literal["small", "imagenet", "legacy"],
    zero_init_residual: bool = True,
    output_stride: int = 32,
) -> nn.Module:
    """An untrained RegNetY of timm without classifier, with `.dim`, and `.made_by` for export.

    Args:
        name: a name of SHAPES.
        channels: channels of the pictures.
        stem: `imagenet` (stem and every stage halve the side) or `small` (stem and first stage keep it).
        zero_init_residual: start each residual branch at 0.
        output_stride: 32, or 16 or 8 with dilations instead of strides; of the `imagenet` stem.

    Raises:
        WrongUse: the stem is `legacy`, which pools: a RegNet has no pooling.
    """
    if stem == "legacy":
        raise WrongUse(f"net.stem is 'legacy', which {name} does not have: choose small or imagenet")
    shape = SHAPES[name]
    settings = {"num_classes": 0, "in_chans": channels, "output_stride": output_stride, **shape.generator}
    net: Any = timm.create_model(shape.timm_name, **settings, zero_init_last=zero_init_residual)
    if stem == "small":
        for conv in (net.stem.conv, net.s1.b1.conv2.conv, net.s1.b1.downsample.conv):
            conv.stride = (1, 1)
    net.dim = net.num_features
    call = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    steps = [f"model = timm.create_model({shape.timm_name!r}, {call})"]
    if stem == "small":
        steps += [
            "for conv in (model.stem.conv, model.s1.b1.conv2.conv, model.s1.b1.downsample.conv):",
            "    conv.stride = (1, 1)",
        ]
    made = {"name": name, "channels": channels, "stem": stem, "output_stride": output_stride}
    net.made_by = MadeBy(
        regnet, made, steps, {"model_name": shape.timm_name, **settings} if stem == "imagenet" else None
    )
    return net
