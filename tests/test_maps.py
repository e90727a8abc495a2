"""Feature maps: their mean is what the encoder gives, whatever the family, the mode, checkpointing or shards."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from selfsight import distributed, encoders
from selfsight.encoders import ENCODERS, EncoderConfig, feature_map, regnet, vit
from selfsight.errors import WrongUse
from selfsight.recompute import checkpoint_blocks
from two import spawn

WITH = [name for name in ENCODERS if not name.startswith(("alexnet", "amdim", "cpc"))]
HUGE = (
    "vit-large",
    "wrn-28-10",
    *(name for name, shape in regnet.SHAPES.items() if shape.millions > 25),
)  # on no real device
CPU = torch.device("cpu")


def config(name: str) -> EncoderConfig:
    return EncoderConfig(pool="mean") if name in vit.SHAPES else EncoderConfig()


@pytest.mark.parametrize("name", [name for name in WITH if name not in HUGE])
def test_the_mean_of_the_map_is_what_the_encoder_gives(name: str) -> None:
    torch.manual_seed(0)
    net = encoders.build(name, 3, 32, config(name)).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, wanted = feature_map(net, x), net(x)
    assert found.shape[:2] == (2, net.dim)
    assert found.shape[2] == found.shape[3] > 1
    torch.testing.assert_close(found.mean((2, 3)), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", HUGE)
def test_large_networks_have_maps(name: str) -> None:
    with torch.device("meta"):
        net = encoders.build(name, 3, 64, config(name))
        found = feature_map(net, torch.zeros(2, 3, 64, 64))
    assert found.shape[:2] == (2, net.dim)


def test_places_of_a_map_are_those_of_the_picture() -> None:
    """What changes in a corner of the picture changes that corner of the map most, row before column."""
    for name in ("fastnet-tiny", "resnet18", "vit-toy"):
        torch.manual_seed(0)
        net = encoders.build(name, 3, 64, config(name)).eval()
        x = torch.randn(1, 3, 64, 64)
        y = x.clone()
        y[:, :, :8, -8:] += 3  # at the top right
        with torch.no_grad():
            change = (feature_map(net, y) - feature_map(net, x))[0].norm(dim=0)
        side = len(change)
        assert divmod(int(change.argmax()), side) == (0, side - 1), name


def test_edges_and_own_methods() -> None:
    net = encoders.build("fastnet-tiny", 3, 32, EncoderConfig(sobel="only")).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(feature_map(net, x).mean((2, 3)), net(x))

    class Own(nn.Module):
        dim = 3

        def feature_map(self, x: Tensor) -> Tensor:
            return 2 * x

    assert torch.equal(feature_map(Own(), x), 2 * x)


def test_who_has_no_map_is_told_which_have() -> None:
    refused = [
        encoders.build("alexnet", 3, 32),
        encoders.build("alexnet-tile", 3, 32),
        encoders.build("amdim-toy", 3, 32),
        encoders.build("cpc-toy", 3, 32),
        encoders.build("alexnet", 3, 32, EncoderConfig(sobel="only")),
        encoders.build("vit-toy", 3, 32),  # by its class token
        encoders.build("vit-toy", 3, 32, EncoderConfig(sobel="only")),
        nn.Flatten(),
    ]
    for net in refused:
        with pytest.raises(WrongUse, match="choose a ResNet, a RegNet, fastnet"):
            feature_map(net, torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["fastnet-tiny", "resnet18", "regnety-200mf", "vit-toy"])
def test_maps_under_checkpointing(name: str) -> None:
    torch.manual_seed(0)
    net, x = encoders.build(name, 3, 32, config(name)).double(), torch.randn(4, 3, 32, 32).double()
    found = []
    for _ in range(2):  # as it is, then checkpointed
        net.zero_grad()
        feature_map(net, x).square().mean().backward()
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        if len(found) == 1:
            checkpoint_blocks(net)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


class _Twice(nn.Module):
    """An encoder whose map is asked for beside a head, as methods do."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = encoders.build(name, 3, 32, config(name))
        self.head = nn.Sequential(nn.Linear(int(self.encoder.dim), 5))  # type: ignore[arg-type]

    def encode(self, x: Tensor) -> Tensor:
        features = feature_map(self.encoder, x)
        return self.head(features.flatten(2).mT).square().mean() + self.encoder(x).square().mean()


SHARDED = ("fastnet-tiny", "resnet18", "regnety-200mf", "vit-toy")


def _sharded(folder: str) -> None:
    from selfsight.sharding import shard

    for name in SHARDED:
        net, x = _Twice(name).double(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
        net.eval()
        shard(net, CPU)
        loss = net.encode(x)
        loss.backward()
        grads = {key: distributed.whole(p.grad) for key, p in net.named_parameters() if p.grad is not None}
        torch.save((loss.detach(), grads), f"{folder}/{name}.{distributed.rank()}")


@pytest.mark.xdist_group("two")
def test_maps_of_sharded_encoders(tmp_path: Path) -> None:
    spawn(_sharded, str(tmp_path))
    for name in SHARDED:
        net, x = _Twice(name).double(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
        net.eval()
        loss = net.encode(x)
        loss.backward()
        found, grads = torch.load(tmp_path / f"{name}.0")
        torch.testing.assert_close(found, loss.detach())
        for key, p in net.named_parameters():
            if p.grad is not None:
                torch.testing.assert_close(grads[key], p.grad, rtol=1e-9, atol=1e-12, msg=f"{name} {key}")
