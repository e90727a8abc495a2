"""RegNetY: the generator's widths, sizes, stems; and the residual blocks of every family."""

import math
from typing import Any

import pytest
import timm
import torch
from torch import nn

from selfsight import encoders
from selfsight.encoders import EncoderConfig, regnet
from selfsight.errors import WrongUse

PUBLISHED = {  # depth, w0, wa, wm, group; depths and widths of the stages
    "regnety-200mf": ((13, 24, 36.44, 2.49, 8), (1, 1, 4, 7), (24, 56, 152, 368)),
    "regnety-400mf": ((16, 48, 27.89, 2.09, 8), (1, 3, 6, 6), (48, 104, 208, 440)),
    "regnety-16gf": ((18, 200, 106.23, 2.48, 112), (2, 4, 11, 1), (224, 448, 1232, 3024)),
    "regnety-32gf": ((20, 232, 115.89, 2.53, 232), (2, 5, 12, 1), (232, 696, 1392, 3712)),
    "regnety-128gf": ((27, 456, 160.83, 2.52, 264), (2, 7, 17, 1), (528, 1056, 2904, 7392)),
    "regnety-256gf": ((27, 640, 230.83, 2.53, 373), (2, 7, 17, 1), (746, 1492, 4103, 10444)),
    "regnety-10b": ((27, 1744, 620.83, 2.52, 1010), (2, 7, 17, 1), (2020, 4040, 11110, 28280)),
}


def built(name: str, size: int = 32, channels: int = 3, **config: Any) -> Any:
    torch.manual_seed(0)
    return encoders.build(name, channels, size, EncoderConfig(**config)).eval()


def blocks_of(net: nn.Module) -> list[Any]:
    return [*encoders.blocks_of(net)]


def generated(depth: int, w0: int, wa: float, wm: float, group: int) -> tuple[list[int], list[int]]:
    """Depths and widths by equations 2 to 4 of the paper, then made multiples of the group."""
    blocks = []
    for j in range(depth):
        s = round(math.log((w0 + wa * j) / w0, wm))
        blocks.append(round(w0 * wm**s / 8) * 8)
    widths = sorted(set(blocks))
    return [blocks.count(w) for w in widths], [round(w / min(group, w)) * min(group, w) for w in widths]


@pytest.mark.parametrize("name", PUBLISHED)
def test_widths_are_the_published_ones(name: str) -> None:
    generator, depths, widths = PUBLISHED[name]
    assert generated(*generator) == (list(depths), list(widths))
    with torch.device("meta"):
        net: Any = encoders.build(name, 3, 224)
    stages = [list(stage.children()) for stage in (net.s1, net.s2, net.s3, net.s4)]
    assert tuple(len(stage) for stage in stages) == depths
    assert tuple(stage[-1].conv3.conv.out_channels for stage in stages) == widths
    for block in blocks_of(net):
        conv = block.conv2.conv
        assert conv.out_channels // conv.groups == min(generator[-1], conv.out_channels)  # width of a group
    first = net.s1.b1  # squeeze and excitation at a quarter of what comes in
    assert (net.stem.conv.out_channels, first.se.fc1.out_channels) == (32, 8)
    assert net.s2.b1.se.fc1.out_channels == round(widths[0] / 4)


@pytest.mark.parametrize("name", regnet.SHAPES)
def test_sizes(name: str) -> None:
    shape = regnet.SHAPES[name]
    with torch.device("meta"):
        net: Any = encoders.build(name, 3, 224)
        theirs = timm.create_model(shape.timm_name, num_classes=0)
    assert net.dim == shape.dim == blocks_of(net)[-1].conv3.conv.out_channels
    count = sum(p.numel() for p in net.parameters())
    assert round(count / 1e6) == shape.millions
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    } or (shape.generator and 9e9 < count < 10e9)


@torch.no_grad()
@pytest.mark.parametrize("name", ["regnety-200mf", "regnety-400mf"])
@pytest.mark.parametrize(("size", "side"), [(32, 4), (64, 8), (96, 12), (128, 4), (224, 7)])
def test_the_stem_follows_the_size(name: str, size: int, side: int) -> None:
    net, x = built(name, size), torch.randn(2, 3, size, size)
    assert net.made_by.settings["stem"] == ("small" if size <= 96 else "imagenet")
    assert net.forward_features(x).shape == (2, net.dim, side, side)
    y = net(x)
    assert y.shape == (2, net.dim)
    assert torch.isfinite(y).all()


@torch.no_grad()
def test_a_stem_can_be_chosen() -> None:
    small, imagenet = (built("regnety-200mf", 32, stem=stem) for stem in ("small", "imagenet"))
    x = torch.randn(1, 3, 64, 64)
    assert small.forward_features(x).shape[-1] == 8
    assert imagenet.forward_features(x).shape[-1] == 2
    assert small.state_dict().keys() == imagenet.state_dict().keys()
    assert built("regnety-200mf", 128, output_stride=16).forward_features(x).shape[-1] == 4


@pytest.mark.parametrize("zero", [True, False])
def test_zero_init_of_the_residual_branches(zero: bool) -> None:
    net = built("regnety-200mf", zero_init_residual=zero)
    weights = [block.conv3.bn.weight for block in blocks_of(net)]
    assert len(weights) == 13
    assert all(bool((w == 0).all()) == zero for w in weights)


def test_gray_pictures_and_edges() -> None:
    assert built("regnety-200mf", channels=1)(torch.randn(2, 1, 32, 32)).shape == (2, 368)
    assert built("regnety-200mf", sobel="only")(torch.randn(2, 3, 32, 32)).shape == (2, 368)


def test_wrong_use() -> None:
    with pytest.raises(WrongUse, match="regnety-200mf does not have: choose small or imagenet"):
        built("regnety-200mf", stem="legacy")
    with pytest.raises(WrongUse, match=r"net\.norm is no setting of regnety-200mf"):
        built("regnety-200mf", norm="group")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 8),
        ("resnet50", 16),
        ("regnety-400mf", 16),
        ("vit-toy", 2),
        ("vit-tiny", 12),
        ("fastnet-tiny", 3),
        ("wrn-28-2", 12),
    ],
)
def test_blocks_run_in_order_and_hold_most_parameters(name: str, count: int) -> None:
    net = built(name, sobel="only")
    blocks = blocks_of(net)
    assert len(blocks) == count
    seen: list[nn.Module] = []
    for block in blocks:
        block.register_forward_hook(lambda module, _, __: seen.append(module))
    with torch.no_grad():
        net(torch.randn(1, 3, 32, 32))
    assert seen == blocks
    inside = sum(p.numel() for block in blocks for p in block.parameters())
    assert inside > 0.7 * sum(p.numel() for p in net.parameters())


def test_no_block_is_known() -> None:
    assert blocks_of(built("alexnet")) == []
    assert blocks_of(nn.Sequential(nn.Linear(2, 2))) == []
