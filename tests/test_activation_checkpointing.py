"""--checkpoint-activations: less memory, and nothing else changes. Two processes: tests/test_fsdp.py."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfsight import encoders
from selfsight.errors import WrongUse
from selfsight.recompute import checkpoint_blocks
from tiny import losses, make, same, state, tiny

# with dropped paths, whose random numbers must come again
NETS = {
    "resnet18": encoders.EncoderConfig(),
    "regnety-200mf": encoders.EncoderConfig(),
    "vit-toy": encoders.EncoderConfig(drop_path=0.5),
    "fastnet-tiny": encoders.EncoderConfig(),
    "wrn-28-2": encoders.EncoderConfig(dropout=0.3),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """The same network in float64 without and with checkpointing, in train mode."""
    torch.manual_seed(0)
    plain = encoders.build(name, 3, 16, NETS[name]).double().train()
    other = copy.deepcopy(plain)
    checkpoint_blocks(other)
    return plain, other


def run(net: nn.Module) -> tuple[Tensor, int]:
    """Loss after forward and backward of fixed pictures, and bytes of activations that were kept between them."""
    own = {p.untyped_storage().data_ptr() for p in [*net.parameters(), *net.buffers()]}
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    pictures = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = net(pictures).square().sum()
    loss.backward()
    return loss.detach(), sum(kept.values())


@pytest.mark.parametrize("name", NETS)
def test_loss_gradients_and_statistics_are_the_same(name: str) -> None:
    plain, other = pair(name)
    (a, whole), (b, spared) = run(plain), run(other)
    assert torch.equal(a, b)
    assert plain.state_dict().keys() == other.state_dict().keys()
    for (key, p), q in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=1e-12, msg=key)
    for (key, b1), b2 in zip(plain.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(b1, b2), key  # batch statistics count once
    assert spared < 0.5 * whole


def test_dropped_paths_are_exercised() -> None:
    """Otherwise the test above says nothing about random numbers."""
    net, _ = pair("vit-toy")
    x = torch.randn(4, 3, 16, 16).double()
    assert not torch.equal(net(x), net(x))


def test_each_block_runs_twice_in_training_and_once_in_evaluation() -> None:
    _, net = pair("resnet18")
    calls: list[nn.Module] = []
    for block in encoders.blocks_of(net):
        block.conv1.register_forward_hook(lambda module, *_: calls.append(module))  # type: ignore[union-attr]
    run(net)
    assert len(calls) == 2 * 8
    assert calls[8:] == calls[:8][::-1]
    calls.clear()
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, 16, 16).double())
    assert len(calls) == 8


def test_a_copy_recomputes_itself() -> None:
    """Teachers and trials are deep copies: theirs must not run the original's layers."""
    plain, other = pair("resnet18")
    twin = copy.deepcopy(other)
    for p in other.parameters():
        p.data.zero_()
    (a, _), (b, _) = run(plain), run(twin)
    assert torch.equal(a, b)


@pytest.mark.parametrize("changes", [{}, {"micro_batch": 32}, {"accumulate": 2}])
def test_a_run_is_the_same(changes: dict[str, Any]) -> None:
    """BYOL has a teacher, and batch statistics of both; parts of a batch are encoded twice or alone."""
    found = []
    for spare in (False, True):
        made = make(*tiny("byol", checkpoint_activations=spare, **changes))
        settings = tiny("byol", checkpoint_activations=spare, **changes)[0]
        found.append((losses(settings, made, 0, 3), state(made)))
    (a, first), (b, second) = found
    assert a == b
    assert same(first, second)


def test_a_network_without_known_blocks_is_refused() -> None:
    with pytest.raises(WrongUse, match="leave it out"):
        checkpoint_blocks(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
