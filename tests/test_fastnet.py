"""The small fast network: shapes, sizes, gradients, and the work its docstring claims."""

import pytest
import torch
from torch import Tensor, nn

from selfsight.encoders.fastnet import FastNet
from selfsight.errors import WrongUse


def multiply_adds(net: nn.Module, size: int, channels: int = 3) -> int:
    """Multiply-adds of all convolutions and linear layers for one picture, counted by hooks from real outputs."""
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
            total += output[0].numel() * kernel
        elif isinstance(module, nn.Linear):
            total += output[0].numel() * module.in_features

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    net.eval()
    with torch.no_grad():
        net(torch.zeros(1, channels, size, size))
    for hook in hooks:
        hook.remove()
    return total


def test_the_docstring_states_the_work() -> None:
    net = FastNet()
    assert f"{multiply_adds(net, 32) / 1e6:.1f} million multiply-adds at 32 x 32" in " ".join(
        (FastNet.__doc__ or "").split()
    )
    assert f"{multiply_adds(net, 24) / 1e6:.1f} million at 24 x 24" in (FastNet.__doc__ or "")


def test_work_is_at_most_a_quarter_of_resnet18() -> None:
    assert multiply_adds(FastNet(), 32) < 555_000_000 / 4


@pytest.mark.parametrize("size", [16, 17, 24, 31, 32, 96, 224])
def test_any_size(size: int) -> None:
    net = FastNet()
    out = net(torch.randn(2, 3, size, size))
    assert out.shape == (2, net.dim) == (2, 256)
    assert torch.isfinite(out).all()


def test_a_picture_need_not_be_square() -> None:
    assert FastNet(widths=(8, 16))(torch.randn(2, 3, 20, 36)).shape == (2, 16)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_channel_counts(channels: int) -> None:
    net = FastNet(channels=channels, widths=(16, 32, 32))
    assert net.dim == 32
    assert net(torch.randn(2, channels, 16, 16)).shape == (2, 32)
    assert net.stem[0].in_channels == channels


def test_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    net = FastNet(widths=(16, 32, 64))
    weights = torch.randn(64)
    (net(torch.randn(8, 3, 24, 24)) @ weights).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_maps_are_coarse_to_fine_and_forward_averages_the_coarsest() -> None:
    net = FastNet(widths=(8, 16, 24)).eval()
    x = torch.randn(2, 3, 32, 32)
    maps = net.maps(x)
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 4, 4), (16, 8, 8), (8, 16, 16)]
    torch.testing.assert_close(net(x), maps[0].flatten(2).mean(2))


def test_features_do_not_depend_on_the_rest_of_the_batch_in_eval_mode() -> None:
    net = FastNet(widths=(8, 16)).eval()
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(net(x)[:1], net(x[:1]))


def test_weights_come_from_the_default_generator() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in FastNet(widths=(8, 16)).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_layout_changes_nothing() -> None:
    net = FastNet(widths=(16, 32, 32)).eval()
    x = torch.randn(2, 3, 24, 24)
    plain = net(x)
    torch.testing.assert_close(
        net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last)),
        plain,
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(("channels", "widths"), [(3, ()), (3, (8, 0)), (0, (8, 8))])
def test_wrong_counts_are_refused(channels: int, widths: tuple[int, ...]) -> None:
    with pytest.raises(WrongUse, match="positive counts"):
        FastNet(channels=channels, widths=widths)
