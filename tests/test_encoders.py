"""The registry: shapes, stems, options, and features that see the whole picture."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from selfsight import encoders
from selfsight.encoders import ENCODERS, EncoderConfig, amdim, cpc, regnet, stems, vit
from selfsight.errors import WrongUse

LIGHT = {"fastnet": 256, "fastnet-tiny": 32, "resnet18": 512, "resnet34": 512, "vit-toy": 32, "vit-tiny": 192}
LIGHT |= {"wrn-28-2": 128, "mininet": 64, "alexnet-tile": 1024}
MIDDLE = {"resnet50": 2048, "resnext50": 2048, "wide_resnet50_2": 2048}
HEAVY = {"resnet101": 2048, "resnet152": 2048, "resnext101": 2048, "wide_resnet101_2": 2048}
OTHERS = {
    "alexnet",
    "wrn-28-10",
    *vit.SHAPES,
    *regnet.SHAPES,
    *amdim.SHAPES,
    *cpc.SHAPES,
}  # test_alexnet.py, test_vit.py, ...
SEEING = ["wrn-28-2", "mininet", "alexnet-tile"]
TIMM = {"resnext50": "resnext50_32x4d", "resnext101": "resnext101_32x8d"}


def built(name: str, channels: int = 3, size: int = 32, **config: Any) -> Any:
    torch.manual_seed(0)
    return encoders.build(name, channels, size, EncoderConfig(**config)).eval()


def test_every_encoder_is_tested() -> None:
    assert {*LIGHT, *MIDDLE, *HEAVY, *OTHERS} == set(ENCODERS)
    assert all(entry.about for entry in ENCODERS.values())


@pytest.mark.parametrize(
    ("name", "size"), [(n, s) for n in LIGHT for s in (32, 64, 96, 224)] + [(n, s) for n in MIDDLE for s in (32, 64)]
)
def test_shapes(name: str, size: int) -> None:
    net = built(name, size=size)
    with torch.no_grad():
        y = net(torch.randn(2 if size < 96 else 1, 3, size, size))
    assert y.shape == (2 if size < 96 else 1, {**LIGHT, **MIDDLE}[name])
    assert net.dim == y.shape[1]
    assert torch.isfinite(y).all()
    assert y.std() > 0


@pytest.mark.parametrize("name", [*MIDDLE, *HEAVY])
def test_networks_have_the_parameters_of_timm(name: str) -> None:
    with torch.device("meta"):
        ours = encoders.build(name, 3, 224)
        theirs = timm.create_model(TIMM.get(name, name), num_classes=0)
    assert ours.dim == {**MIDDLE, **HEAVY}[name]
    shapes = lambda net: {key: value.shape for key, value in net.state_dict().items()}
    assert shapes(ours) == shapes(theirs)


@pytest.mark.parametrize("size", [16, 32, 64, 96, 97, 128, 224])
def test_the_stem_follows_the_size(size: int) -> None:
    with torch.device("meta"):
        net: Any = encoders.build("resnet18", 3, size)
    small = size <= 96
    assert net.conv1.kernel_size == ((3, 3) if small else (7, 7))
    assert net.conv1.stride == ((1, 1) if small else (2, 2))
    assert isinstance(net.maxpool, nn.Identity) == small
    assert net.made_by.settings["stem"] == ("small" if small else "imagenet") == stems.choose(size)


@pytest.mark.parametrize(("stem", "side"), [("small", 64 // 8), ("legacy", 64 // 16), ("imagenet", 64 // 32)])
def test_a_stem_can_be_chosen(stem: str, side: int) -> None:
    net = built("resnet18", size=224 if stem == "small" else 32, stem=stem)
    assert net.made_by.settings["stem"] == stem
    with torch.no_grad():
        assert net.forward_features(torch.randn(1, 3, 64, 64)).shape[-2:] == (side, side)


@pytest.mark.parametrize("size", [32, 64, 96, 224])
@pytest.mark.parametrize(
    "name", [*SEEING, "fastnet", "fastnet-tiny", "resnet18", "alexnet", "regnety-200mf", "vit-toy"]
)
def test_every_part_of_the_picture_counts(name: str, size: int) -> None:
    """Row T13: a change in any quadrant, or in the last rows and columns, changes the features."""
    net = built(name, size=size, **({"zero_init_residual": False} if name.startswith(("resnet", "regnet")) else {}))
    x = torch.randn(1, 3, size, size)
    half = size // 2
    regions = [(slice(a, a + half), slice(b, b + half)) for a in (0, half) for b in (0, half)]
    regions += [(slice(size - 4, size), slice(0, size)), (slice(0, size), slice(size - 4, size))]
    with torch.no_grad():
        whole = net(x)
        for rows, columns in regions:
            changed = x.clone()
            changed[..., rows, columns] += 1
            assert (net(changed) - whole).abs().max() > 1e-4 * whole.abs().max(), (rows, columns)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", ["fastnet-tiny", "resnet18", "wrn-28-2", "mininet", "alexnet-tile"])
def test_channels(name: str, channels: int) -> None:
    for size in (32, 128):
        net = built(name, channels, size)
        with torch.no_grad():
            assert net(torch.randn(1, channels, size, size)).shape == (1, net.dim)
        with pytest.raises(RuntimeError):
            net(torch.randn(1, channels + 1, size, size))


@pytest.mark.parametrize(("name", "last"), [("resnet18", "bn2"), ("resnet50", "bn3")])
@pytest.mark.parametrize("zero", [True, False])
def test_zero_init_of_the_residual_branches(name: str, last: str, zero: bool) -> None:
    net = built(name, zero_init_residual=zero)
    weights = [p for key, p in net.named_parameters() if key.endswith(f"{last}.weight")]
    assert len(weights) == (8 if name == "resnet18" else 16)
    assert all(bool((w == 0).all()) == zero for w in weights)


def test_group_norm() -> None:
    net = built("resnet18", norm="group")
    kinds = [m for m in net.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)]
    assert kinds
    assert all(isinstance(m, nn.GroupNorm) and m.num_groups == 32 for m in kinds)
    x = torch.randn(4, 3, 32, 32)
    net.train()
    assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)  # a sample does not see its batch


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_stride(stride: int) -> None:
    """Row B12: dilations instead of strides keep the map large, with the same weights."""
    net = built("resnet50", size=224, output_stride=stride)
    with torch.no_grad():
        assert net.forward_features(torch.randn(1, 3, 64, 64)).shape[-1] == 64 // stride
        assert net(torch.randn(1, 3, 64, 64)).shape == (1, 2048)
    dilated = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.dilation[0] > 1]
    assert bool(dilated) == (stride < 32)
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in built("resnet50", size=224).state_dict().items()
    }


def test_weights_come_from_the_seed() -> None:
    a, b = built("resnet18"), built("resnet18")
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
    torch.manual_seed(1)
    c = encoders.build("resnet18", 3, 32)
    assert not torch.equal(next(a.parameters()), next(c.parameters()))


def test_the_new_stem_is_initialised_as_timm_does() -> None:
    net = built("resnet18")
    expected = (2 / (64 * 9)) ** 0.5  # kaiming, fan out
    assert float(net.conv1.weight.detach().std()) == pytest.approx(expected, rel=0.1)


def test_wrong_use() -> None:
    with pytest.raises(WrongUse, match=r"unknown encoder 'resnet81'\. Perhaps you meant 'resnet18'"):
        encoders.build("resnet81", 3, 32)
    with pytest.raises(WrongUse, match=r"net\.norm is no setting of fastnet, which has none"):
        encoders.build("fastnet", 3, 32, EncoderConfig(norm="group"))
    with pytest.raises(WrongUse, match=r"net\.norm is 'none', which resnet18 does not have: choose batch or group"):
        encoders.build("resnet18", 3, 32, EncoderConfig(norm="none"))
    with pytest.raises(WrongUse, match=r"net\.dropout at least 0 and less than 1"):
        EncoderConfig(dropout=1.0)
