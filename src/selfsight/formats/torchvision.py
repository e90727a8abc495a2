"""Weights under torchvision's names: ResNets, RegNets, and the transformers that it has.

The classifier is no part of the encoder: the lines in the header replace it by an identity. To keep torchvision's own,
untrained one, leave that line out and load with strict=False.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from torch import Tensor, nn

from selfsight.checkpoint import Encoder
from selfsight.encoders.vit import ViT
from selfsight.errors import WrongUse
from selfsight.formats.common import about, compare, made_by, normalised, save

REGNETS = {  # the others have other widths there
    "regnety-400mf": "regnet_y_400mf", "regnety-1.6gf": "regnet_y_1_6gf", "regnety-16gf": "regnet_y_16gf",
    "regnety-32gf": "regnet_y_32gf", "regnety-128gf": "regnet_y_128gf",
}  # fmt: skip
TRANSFORMERS = {
    ("vit-base", 16): "vit_b_16",
    ("vit-base", 32): "vit_b_32",
    ("vit-large", 16): "vit_l_16",
    ("vit-large", 32): "vit_l_32",
}

_REGNET = (
    (r"^stem\.conv\.", "stem.0."), (r"^stem\.bn\.", "stem.1."),
    (r"^s(\d)\.b(\d+)\.conv1\.conv\.", r"trunk_output.block\1.block\1-@\2.f.a.0."),
    (r"^s(\d)\.b(\d+)\.conv1\.bn\.", r"trunk_output.block\1.block\1-@\2.f.a.1."),
    (r"^s(\d)\.b(\d+)\.conv2\.conv\.", r"trunk_output.block\1.block\1-@\2.f.b.0."),
    (r"^s(\d)\.b(\d+)\.conv2\.bn\.", r"trunk_output.block\1.block\1-@\2.f.b.1."),
    (r"^s(\d)\.b(\d+)\.se\.", r"trunk_output.block\1.block\1-@\2.f.se."),
    (r"^s(\d)\.b(\d+)\.conv3\.conv\.", r"trunk_output.block\1.block\1-@\2.f.c.0."),
    (r"^s(\d)\.b(\d+)\.conv3\.bn\.", r"trunk_output.block\1.block\1-@\2.f.c.1."),
    (r"^s(\d)\.b(\d+)\.downsample\.conv\.", r"trunk_output.block\1.block\1-@\2.proj.0."),
    (r"^s(\d)\.b(\d+)\.downsample\.bn\.", r"trunk_output.block\1.block\1-@\2.proj.1."),
)  # fmt: skip
_VIT = (
    (r"^cls_token$", "class_token"), (r"^pos_embed$", "encoder.pos_embedding"), (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^norm\.", "encoder.ln."), (r"^blocks\.(\d+)\.norm1\.", r"encoder.layers.encoder_layer_\1.ln_1."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.layers.encoder_layer_\1.ln_2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.encoder_layer_\1.self_attention.in_proj_"),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.encoder_layer_\1.self_attention.out_proj."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layers.encoder_layer_\1.mlp.0."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layers.encoder_layer_\1.mlp.3."),
)  # fmt: skip


class Twin(NamedTuple):
    """torchvision's form of a network."""

    name: str  #: of the function in torchvision.models
    call: str  #: its arguments as Python text
    before: list[str]  #: lines ahead of the call
    after: list[str]  #: lines that turn `model` into the encoder


def names(net: nn.Module, key: str) -> str:
    """torchvision's name for an entry of the state of one of timm's networks; ResNets have the same names."""
    rules = _REGNET if isinstance(net, RegNet) else _VIT if hasattr(net, "cls_token") else ()
    for pattern, replacement in rules:
        found, count = re.subn(pattern, replacement, key)
        if count:  # timm counts blocks from 1, torchvision from 0
            return re.sub(r"@(\d+)", lambda match: str(int(match[1]) - 1), found)
    return key


def twin(encoder: Encoder) -> Twin:
    """What makes the network in torchvision. Raises WrongUse where it has none."""
    net: Any = encoder.net
    made = made_by(encoder, "safetensors or onnx")
    channels, name = int(encoder.header["channels"]), str(encoder.header["encoder"])
    gray = lambda conv: [] if channels == 3 else [conv.format(channels)]
    if isinstance(net, ResNet) and made.settings["output_stride"] == 32:
        group = made.settings["norm"] == "group"
        before = ["norm = lambda channels: torch.nn.GroupNorm(32, channels)"] if group else []
        after = ["model.fc = torch.nn.Identity()"]
        if made.settings["stem"] == "imagenet":
            after += gray("model.conv1 = torch.nn.Conv2d({}, 64, 7, stride=2, padding=3, bias=False)")
        else:
            after.append(f"model.conv1 = torch.nn.Conv2d({channels}, 64, 3, stride=1, padding=1, bias=False)")
        if made.settings["stem"] == "small":
            after.append("model.maxpool = torch.nn.Identity()")
        return Twin(made.settings["name"], "norm_layer=norm" if group else "", before, after)
    if isinstance(net, RegNet) and name in REGNETS and made.settings["output_stride"] == 32:
        after = ["model.fc = torch.nn.Identity()"]
        after += gray("model.stem[0] = torch.nn.Conv2d({}, 32, 3, stride=2, padding=1, bias=False)")
        if made.settings["stem"] == "small":
            block = "model.trunk_output.block1[0]"
            after += [f"for conv in (model.stem[0], {block}.f.b[0], {block}.proj[0]):", "    conv.stride = (1, 1)"]
        return Twin(REGNETS[name], "", [], after)
    plain = isinstance(net, ViT) and net.pooling == "cls" and not net.conv_stem and made.settings["init_values"] is None
    if plain and (name, net.patch) in TRANSFORMERS:
        side = f"image_size={encoder.header['image_size']}"
        after = ["model.heads = torch.nn.Identity()"]
        after += gray(f"model.conv_proj = torch.nn.Conv2d({{}}, {net.dim}, {net.patch}, stride={net.patch})")
        return Twin(TRANSFORMERS[name, net.patch], side, [], after)
    raise WrongUse(
        f"torchvision has no network like this {name}: it has ResNets, some RegNets, and vit-base and vit-large with patches "
        "of 16 or 32 px and class token; export it with --format timm"
    )


check = twin


def lines(encoder: Encoder, file: str = "FILE") -> list[str]:
    """Lines of Python that make `model`, with its weights."""
    found = twin(encoder)
    return [
        "import torch, torchvision",
        "from safetensors.torch import load_file",
        *found.before,
        f"model = torchvision.models.{found.name}({found.call})",
        *found.after,
        f"model.load_state_dict(load_file({file}))",
    ]


def state_of(net: nn.Module) -> dict[str, Tensor]:
    """The network's state under torchvision's names."""
    return {names(net, key): value for key, value in net.state_dict().items()}


def write(encoder: Encoder, path: Path) -> None:
    """Weights, and in the entry `torchvision` of the header the lines that load them."""
    save(path, state_of(encoder.net), "torchvision", about(encoder, lines(encoder)))
    space: dict[str, Any] = {"file": path}
    exec("\n".join(lines(encoder, "file")), space)  # our own lines, above
    compare(encoder, normalised(encoder, space["model"]), path)
