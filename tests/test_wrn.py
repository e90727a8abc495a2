"""WRN-28-k and the small jigsaw network: published sizes, order of layers, maps, dropout."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight import encoders
from selfsight.encoders import EncoderConfig
from selfsight.encoders.wrn import Block
from selfsight.errors import WrongUse


def built(name: str = "wrn-28-2", size: int = 32, channels: int = 3, **config: Any) -> Any:
    torch.manual_seed(0)
    return encoders.build(name, channels, size, EncoderConfig(**config)).eval()


@pytest.mark.parametrize(("name", "dim", "count"), [("wrn-28-2", 128, 1_467_610), ("wrn-28-10", 640, 36_479_194)])
def test_published_sizes(name: str, dim: int, count: int) -> None:
    """Table 1 and the authors' code, with the classifier of ten classes: 1.5 and 36.5 million parameters."""
    with torch.device("meta"):
        net = encoders.build(name, 3, 32)
    assert net.dim == dim
    assert sum(p.numel() for p in net.parameters()) + 10 * dim + 10 == count
    blocks = encoders.blocks_of(net)
    assert len(blocks) == 12
    assert 2 * len(blocks) + 4 == 28  # the depth, as the paper counts it
    convs: list[Any] = [b.shortcut for b in blocks if b.shortcut is not None]
    widths = [(conv.in_channels, conv.out_channels, conv.stride[0]) for conv in convs]
    k = dim // 64
    assert widths == [(16, 16 * k, 1), (16 * k, 32 * k, 2), (32 * k, 64 * k, 2)]


@torch.no_grad()
@pytest.mark.parametrize(("size", "stem", "side"), [(32, "small", 8), (96, "small", 24), (128, "imagenet", 8)])
def test_small_and_large_pictures(size: int, stem: str, side: int) -> None:
    """Row B06: the stem follows the size, or the setting; the features are the mean of the map."""
    net, x = built(size=size), torch.randn(1, 3, size, size)
    assert net.stem[0].kernel_size == ((3, 3) if stem == "small" else (7, 7))
    assert net.feature_map(x).shape == (1, 128, side, side)
    torch.testing.assert_close(net(x), net.feature_map(x).mean((2, 3)))
    assert net(torch.randn(1, 3, size // 2, size // 2)).shape == (1, 128)
    other = built(size=size, stem="imagenet" if stem == "small" else "small")
    assert other.stem[0].kernel_size != net.stem[0].kernel_size


@torch.no_grad()
@pytest.mark.parametrize(("inputs", "stride"), [(8, 1), (4, 1), (4, 2)])
def test_a_block_by_hand(inputs: int, stride: int) -> None:
    torch.manual_seed(0)
    block, x = Block(inputs, 8, stride, 0.3).eval(), torch.randn(2, inputs, 6, 6)

    def norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
        layer.weight.uniform_(0.5, 1.5), layer.bias.normal_(), layer.running_mean.normal_()  # type: ignore[union-attr]
        x = (x - layer.running_mean[:, None, None]) / (1 + layer.eps) ** 0.5  # type: ignore[index]
        return x * layer.weight[:, None, None] + layer.bias[:, None, None]

    first = norm(block.norm1, x).clamp(min=0)
    second = norm(block.norm2, F.conv2d(first, block.conv1.weight, stride=stride, padding=1)).clamp(min=0)
    short = x if block.shortcut is None else F.conv2d(first, block.shortcut.weight, stride=stride)
    torch.testing.assert_close(block(x), short + F.conv2d(second, block.conv2.weight, padding=1))


@torch.no_grad()
def test_dropout_between_the_convolutions_in_training_only() -> None:
    net, x = built(dropout=0.3), torch.randn(4, 3, 16, 16)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.3] * 12
    assert torch.equal(net(x), built()(x))  # evaluation does not know of it
    seen: list[Tensor] = []
    net.blocks[0].dropout.register_forward_hook(lambda _, given, got: seen.extend((given[0], got)))
    net.train()(x)
    given, got = seen
    alive = given > 0
    assert float((got[alive] == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    torch.testing.assert_close(got[got > 0], given[got > 0] / 0.7)
    assert not torch.equal(net(x), net(x))


def test_initial_weights_and_gradients() -> None:
    net = built().train()
    for m in net.modules():
        if isinstance(m, nn.Conv2d) and m.weight.numel() > 5000:
            expected = (2 / (m.kernel_size[0] ** 2 * m.out_channels)) ** 0.5
            assert float(m.weight.detach().std()) == pytest.approx(expected, rel=0.05)
    (net(torch.randn(4, 3, 16, 16)) @ torch.randn(128)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_wrong_use() -> None:
    with pytest.raises(WrongUse, match="'legacy', which wrn-28-2 does not have: choose small or imagenet"):
        built(stem="legacy")
    with pytest.raises(WrongUse, match=r"net\.norm is no setting of wrn-28-2, which has stem, dropout"):
        built(norm="group")
    with pytest.raises(WrongUse, match=r"net\.dropout is no setting of resnet18"):
        built("resnet18", dropout=0.3)


# ---- mininet


def test_mininet_is_the_reference_network() -> None:
    net = built("mininet")
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0]) for m in convs] == [
        (3, 32, 5), (32, 64, 5), (64, 92, 5), (92, 128, 3), (128, 128, 3), (128, 64, 3)
    ]  # fmt: skip
    assert [m.negative_slope for m in net.modules() if isinstance(m, nn.LeakyReLU)] == [0.2] * 6
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout2d)] == [0.2] * 3
    assert not any(isinstance(m, nn.Softmax | nn.BatchNorm2d) for m in net.modules())


@torch.no_grad()
def test_mininet_takes_tiles_and_pictures() -> None:
    """Row B09: the same features whether a tile comes alone or among others, and at any size."""
    net = built("mininet")
    for side in (8, 12, 16, 24, 64, 128):
        x = torch.randn(9, 3, side, side)
        assert net.feature_map(x).shape == (9, 64, side // 8, side // 8)
        torch.testing.assert_close(net(x), net.feature_map(x).mean((2, 3)))
        torch.testing.assert_close(net(x)[:1], net(x[:1]))
    assert net(torch.randn(1, 3, 216, 168)).shape == (1, 64)
    encoders.check_side(net, 8, "views.size")
    with pytest.raises(WrongUse, match="at least 8 px"):
        encoders.check_side(net, 7, "views.size")
    assert 0.1 < float(net(torch.randn(64, 3, 64, 64)).abs().mean()) < 10  # neither vanished nor exploded


def test_mininet_learns_everywhere_and_drops_whole_maps() -> None:
    net, x = built("mininet").train(), torch.randn(8, 3, 16, 16)
    seen: list[Tensor] = []
    net.features[2].register_forward_hook(lambda _, given, got: seen.append(got))
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    dead = (seen[0] == 0).all((2, 3)).float().mean()
    assert 0.05 < float(dead) < 0.4
    assert torch.equal((seen[0] == 0).all((2, 3)), (seen[0] == 0).any((2, 3)))
