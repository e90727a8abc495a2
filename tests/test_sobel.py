"""Sobel edges as an encoder's input, alone or beside the colours."""

import json
from typing import Any

import pytest
import torch

from selfsight import encoders, run
from selfsight.checkpoint import load_encoder, save_encoder
from selfsight.encoders import EncoderConfig, TokenEncoder
from selfsight.encoders.sobel import OnEdges, Sobel
from selfsight.errors import WrongUse


def test_edges_of_simple_pictures():
    sobel = Sobel()
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert float(sobel(torch.full((1, 3, 8, 8), 0.7))[inside].abs().max()) < 1e-6
    ramp = torch.arange(8.0).expand(1, 3, 8, 8) * 0.1  # rises to the right
    across, down = sobel(ramp)[inside].unbind(1)
    torch.testing.assert_close(across.abs(), torch.full_like(across, 0.8))
    assert float(down.abs().max()) < 1e-6
    _, down = sobel(ramp.mT)[inside].unbind(1)
    torch.testing.assert_close(down.abs(), torch.full_like(down, 0.8))


def test_colour_is_gone():
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Sobel()(x), Sobel()(x[:, [2, 0, 1]]), atol=1e-6)


def test_any_named_encoder_can_see_edges():
    torch.manual_seed(0)
    for name in ("fastnet", "resnet18"):
        net = encoders.build(name, 3, 32, encoders.EncoderConfig(sobel="only"))
        assert isinstance(net, OnEdges)
        assert net(torch.randn(2, 3, 32, 32)).shape == (2, net.dim)
        assert "filters" not in str(net.state_dict().keys())  # fixed, not part of what is saved
        assert all(p.requires_grad for p in net.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("channels", "name", "first"), [(3, "resnet18", "conv1"), (1, "resnet18", "conv1")])
def test_edges_beside_the_colours(channels, name, first):
    """Row A08: concatenated, the network has the colours, then the two edge maps."""
    net: Any = encoders.build(name, channels, 32, EncoderConfig(sobel="concat")).eval()
    x = torch.randn(2, channels, 32, 32)
    assert getattr(net.net, first).in_channels == channels + 2
    assert torch.equal(net.seen(x)[:, :channels], x)
    assert torch.equal(net.seen(x)[:, channels:], Sobel()(x))
    assert torch.equal(net(x), net.net(torch.cat([x, Sobel()(x)], 1)))
    if channels == 3:  # colours count
        assert not torch.allclose(net(x), net(x[:, [2, 0, 1]]))


@torch.no_grad()
@pytest.mark.parametrize("sobel", ["only", "concat"])
def test_a_transformer_on_edges_has_tokens(sobel):
    torch.manual_seed(0)
    net: Any = encoders.build("vit-toy", 3, 32, EncoderConfig(sobel=sobel)).eval()
    whole: object = net
    assert isinstance(whole, TokenEncoder)
    assert (net.patch, net.dim, net.embedding()) == (4, 32, net.net.patch_embed)
    x, seen, mask = torch.randn(2, 3, 32, 32), net.seen, torch.rand(2, 64) < 0.5
    assert torch.equal(net.tokens(x, mask, torch.ones(32)), net.net.tokens(seen(x), mask, torch.ones(32)))
    assert torch.equal(net.pooled(net.tokens(x)), net(x))
    assert torch.equal(net.attention(x), net.net.attention(seen(x)))
    assert {id(p) for layer in net.layers() for p in layer} == {id(p) for p in net.parameters()}
    with pytest.raises(WrongUse, match=r"--views\.size 18: pictures of 18 px cannot be cut"):
        encoders.check_side(net, 18, "views.size")


def test_runs_and_encoders_of_version_0_1_had_a_flag(tmp_path):
    for old, new in ((True, "only"), (False, "none")):
        assert run.from_dict({"net": {"sobel": old}}).net.sobel == new
        net = encoders.build("fastnet-tiny", 3, 32, EncoderConfig(sobel=new))
        header = {"encoder": "fastnet-tiny", "net": {"sobel": old}, "channels": 3, "image_size": 32}
        header |= {"mean": [0.5] * 3, "std": [0.5] * 3}
        save_encoder(tmp_path / f"{new}.safetensors", net, json.loads(json.dumps(header)))
        assert isinstance(load_encoder(tmp_path / f"{new}.safetensors").net, OnEdges) == old
    with pytest.raises(WrongUse, match=r"net\.sobel: 'all' is not none or only or concat"):
        run.from_dict({"net": {"sobel": "all"}})
