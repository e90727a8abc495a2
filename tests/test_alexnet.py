"""AlexNet: maps, initial weights, features before the last ReLU, other sizes; its trunk for tiles."""

from typing import Any

import pytest
import torch
from torch import nn

from selfsight import encoders
from selfsight.encoders import EncoderConfig
from selfsight.errors import WrongUse


def alexnet(size: int = 32, channels: int = 3, name: str = "alexnet", **config: Any) -> Any:
    torch.manual_seed(0)
    return encoders.build(name, channels, size, EncoderConfig(**config)).eval()


def convolutions(net: nn.Module) -> list[tuple[int, int, int, int]]:
    """Channels, kernel, stride and padding of each."""
    found = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    return [(m.out_channels, m.kernel_size[0], m.stride[0], int(m.padding[0])) for m in found]


LATER = [(256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1)]


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
    assert convolutions(net) == [(96, 11, 4, 2), *LATER]
    assert all(m.groups == 1 for m in net.modules() if isinstance(m, nn.Conv2d))
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
@pytest.mark.parametrize(("sobel", "channels"), [("none", 3), ("only", 2), ("concat", 5)])
def test_features_come_before_the_last_relu(sobel: str, channels: int) -> None:
    net = alexnet(sobel=sobel)
    assert net.pre_activation
    assert not encoders.build("fastnet-tiny", 3, 32, EncoderConfig(sobel="only")).pre_activation
    x = torch.randn(4, 3, 32, 32)
    y = net(x)
    assert 0.2 < float((y < 0).float().mean()) < 0.8
    inner = net if sobel == "none" else net.net
    assert inner.features[0].in_channels == channels
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


@pytest.mark.parametrize("name", ["alexnet", "alexnet-tile"])
def test_without_normalisation_there_are_biases(name: str) -> None:
    with_norm, net = alexnet(name=name), alexnet(name=name, norm="none")
    for found, norms in ((with_norm, 5), (net, 0)):
        assert sum(isinstance(m, nn.BatchNorm2d) for m in found.modules()) == norms
        assert all((m.bias is None) == bool(norms) for m in found.modules() if isinstance(m, nn.Conv2d))
    assert convolutions(net) == convolutions(with_norm)
    assert not any(p.any() for name, p in net.features.named_parameters() if name.endswith("bias"))
    x = torch.randn(4, 3, 32, 32)
    net.train()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)  # a picture does not see its batch
    with pytest.raises(WrongUse, match=f"'group', which {name} does not have: choose batch or none"):
        alexnet(name=name, norm="group")


@torch.no_grad()
def test_the_trunk_for_tiles() -> None:
    """Row B08: the siamese form. Stride 2, and the usual five convolutions; 5x5 without stride for the smallest tiles."""
    large, small = alexnet(224, name="alexnet-tile"), alexnet(32, name="alexnet-tile")
    assert convolutions(large) == [(96, 11, 2, 2), *LATER]
    assert convolutions(small) == [(96, 5, 1, 2), *LATER]
    assert sides(large, 64) == [29, 14, 14, 7, 7, 7, 7, 3, 2]
    assert sides(small, 24) == [24, 12, 12, 6, 6, 6, 6, 3, 2]
    for net, some in ((large, (32, 64, 75, 224)), (small, (12, 13, 16, 24, 32))):
        for side in some:  # tiles, and the whole picture
            features = net(torch.randn(2, 3, side, side))
            assert features.shape == (2, net.dim) == (2, 1024)
            assert float(features.std()) > 0
        assert not getattr(net, "pre_activation", False)
        encoders.check_side(net, net.least, "views.size")
        assert net(torch.randn(1, 3, net.least, net.least)).shape == (1, 1024)
        with pytest.raises(RuntimeError):
            net(torch.randn(1, 3, net.least - 1, net.least - 1))


def test_tiles_share_the_trunk() -> None:
    """Each of nine tiles gives what it gives alone, in any order, and all of them move the weights."""
    net, tiles = alexnet(name="alexnet-tile"), torch.randn(9, 3, 12, 12)
    order = torch.randperm(9)
    torch.testing.assert_close(net(tiles[order]), net(tiles)[order])
    torch.testing.assert_close(net(tiles)[:1], net(tiles[:1]))
    net.train()(tiles).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
