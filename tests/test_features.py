"""Extraction touches nothing but its result."""

import importlib

import pytest
import torch
from torch import nn

from selfsight.errors import WrongUse
from selfsight.evaluate import extract, pixels


class Net(nn.Module):
    """Batch norm, dropout, a part in eval mode, and a careless draw."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.frozen = nn.BatchNorm2d(4)

    def train(self, mode=True):  # frozen parts override train, as here
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        torch.rand(3)
        return self.drop(self.frozen(self.norm(self.conv(x)))).mean((2, 3))


def chunks(generator=None):
    g = torch.Generator().manual_seed(0)
    for count in (5, 1, 3):
        torch.rand(2)  # a loader that draws from the global generator
        yield torch.randn(count, 3, 8, 8, generator=g)


@pytest.mark.parametrize("mode", [True, False])
def test_mode_rng_and_state_are_untouched(mode):
    torch.manual_seed(1)
    net = Net().train(mode)
    net.conv.train(not mode)
    flags = [m.training for m in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    rng = torch.random.get_rng_state()
    features = extract(net, chunks(), "cpu")
    assert [m.training for m in net.modules()] == flags
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert features.shape == (9, 4)
    assert not features.requires_grad
    net.eval()
    torch.testing.assert_close(features, net(torch.cat([*chunks()])).detach())


def test_an_error_restores_too():
    net = Net().train()

    def broken():
        yield torch.randn(2, 3, 8, 8)
        raise OSError("disk")

    rng = torch.random.get_rng_state()
    with pytest.raises(OSError, match="disk"):
        extract(net, broken(), "cpu")
    assert net.training
    assert net.drop.training
    assert not net.frozen.training
    net = Net().train()
    with pytest.raises(RuntimeError):
        extract(net, [torch.randn(2, 7, 8, 8)], "cpu")
    assert net.drop.training
    assert rng.shape == torch.random.get_rng_state().shape


def test_half_precision_gives_float32_close_to_it():
    net = Net()
    a, b = extract(net, chunks(), "cpu"), extract(net, chunks(), "cpu", torch.bfloat16)
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)


def test_pixels_are_the_pictures():
    found = pixels(chunks())
    assert torch.equal(found, torch.cat([*chunks()]).flatten(1))
    with pytest.raises(WrongUse, match="no picture"):
        pixels([])
    with pytest.raises(WrongUse, match="no picture"):
        extract(Net(), [], "cpu")


def test_the_packages_can_be_called(tmp_path):
    import selfsight
    import selfsight.evaluate
    import selfsight.report

    with pytest.raises(WrongUse, match="no run folder"):
        selfsight.report([tmp_path], tmp_path / "r.html")  # type: ignore[operator]
    with pytest.raises(WrongUse, match="protocol"):
        selfsight.evaluate("pixels", protocols=("loud",))
    assert importlib.import_module("selfsight.evaluate").knn is not None
