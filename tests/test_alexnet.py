"""AlexNet: maps, initial weights, features before the last ReLU, other sizes."""

from typing import Any

import pytest
import torch
from torch import nn

from selfsight import encoders
from selfsight.encoders import EncoderConfig


def alexnet(size: int = 32, channels: int = 3, **config: Any) -> Any:
    torch.manual_seed(0)
    return encoders.build("alexnet", channels, size, EncoderConfig(**config)).eval()


def sides(net: Any, size: int) -> list[int]:
    """Side of the map after each convolution and pool."""
    found = []
    x = torch.zeros(1, net.features[0].in_channels, size, size)
    with torch.no_grad():
        for module in net.features:
            x = module(x)
            if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AdaptiveAvgPool2d):
                found.append(x.shape[-1])
    return found


def test_large_pictures() -> None:
    with torch.device("meta"):
        net = alexnet(224)
        assert sides(net, 224) == [55, 27, 27, 13, 13, 13, 13, 6, 6]
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0], m.groups) for m in convs] == [
        (96, 11, 4, 2, 1), (256, 5, 1, 2, 1), (384, 3, 1, 1, 1), (384, 3, 1, 1, 1), (256, 3, 1, 1, 1),
    ]  # fmt: skip
    linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(256 * 6 * 6, 4096), (4096, 4096)]
    assert net.dim == 4096


@pytest.mark.parametrize(
    ("size", "map_sides"),
    [
        (32, [32, 15, 15, 7, 7, 7, 7, 3, 3]),
        (64, [64, 31, 31, 15, 15, 15, 15, 7, 6]),
        (128, [31, 15, 15, 7, 7, 7, 7, 3, 3]),
    ],
)
def test_smaller_pictures(size: int, map_sides: list[int]) -> None:
    net = alexnet(size)
    assert sides(net, size) == map_sides
    assert net.units[1].in_features == 256 * map_sides[-1] ** 2
    assert net.dim == (4096 if size == 128 else 1024)
    with torch.no_grad():
        for other in (size, size // 2, 2 * size):  # crops, and larger pictures
            assert net(torch.randn(1, 3, other, other)).shape == (1, net.dim)


@torch.no_grad()
def test_initial_weights() -> None:
    net = alexnet()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            assert float(module.weight.std()) == pytest.approx(expected, rel=0.05)
        elif isinstance(module, nn.Linear):
            assert float(module.weight.std()) == pytest.approx(0.01, rel=0.01)
            assert not module.bias.any()


@torch.no_grad()
@pytest.mark.parametrize("sobel", [False, True])
def test_features_come_before_the_last_relu(sobel: bool) -> None:
    net = alexnet(sobel=sobel)
    assert net.pre_activation
    assert not encoders.build("fastnet-tiny", 3, 32, EncoderConfig(sobel=True)).pre_activation
    x = torch.randn(4, 3, 32, 32)
    y = net(x)
    assert 0.2 < float((y < 0).float().mean()) < 0.8
    inner = net.net if sobel else net
    assert inner.features[0].in_channels == (2 if sobel else 3)
    inner.units[-1].weight.zero_()
    inner.units[-1].bias.fill_(-1)
    assert (net(x) == -1).all()  # the last layer is linear


@torch.no_grad()
def test_dropout_in_training_only() -> None:
    net, x = alexnet(), torch.randn(4, 3, 32, 32)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert torch.equal(net(x), net(x))
    net.train()
    torch.manual_seed(1)
    a, b = net(x), net(x)
    torch.manual_seed(1)
    assert not torch.equal(a, b)
    assert torch.equal(net(x), a)


def test_every_parameter_learns() -> None:
    net = alexnet().train()
    net(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
