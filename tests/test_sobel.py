"""Sobel edges as an encoder's input."""

import torch

from selfsight import encoders
from selfsight.encoders.sobel import OnEdges, Sobel


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
        net = encoders.build(name, 3, 32, encoders.EncoderConfig(sobel=True))
        assert isinstance(net, OnEdges)
        assert net(torch.randn(2, 3, 32, 32)).shape == (2, net.dim)
        assert "filters" not in str(net.state_dict().keys())  # fixed, not part of what is saved
        assert all(p.requires_grad for p in net.parameters())
