"""The start-up probe picks bf16 only where it is faster and right."""

import pytest
import torch
from torch import nn

from selfsight import probe

CPU = torch.device("cpu")


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.fixture
def clocks(monkeypatch):
    """Pretend speeds: seconds of a pass in fp32 and in bf16."""
    monkeypatch.setattr(probe, "_cpu_has_bf16", lambda: True)

    def pretend(single, half):
        monkeypatch.setattr(probe, "_seconds", lambda net, x, dtype, repeats, limit: single if dtype is None else half)

    return pretend


def test_slower_bf16_is_not_picked(net, clocks):
    clocks(1.0, 3.0)
    found = probe.precision(net, (3, 8, 8), 8, CPU)
    assert found.precision == "fp32"
    assert "0.33x" in found.why


def test_a_teacher_is_timed_as_its_student(net, clocks):
    clocks(2.0, 1.0)
    found = probe.precision(net.requires_grad_(False), (3, 8, 8), 8, CPU)
    assert found.precision == "bf16", found.why
    assert not any(p.requires_grad for p in net.parameters())


def test_faster_and_right_bf16_is_picked(net, clocks):
    clocks(2.0, 1.0)
    found = probe.precision(net, (3, 8, 8), 8, CPU)
    assert found.precision == "bf16"
    assert "2.00x" in found.why


def test_wrong_results_are_not_picked(net, clocks, monkeypatch):
    clocks(2.0, 1.0)
    real = probe._pass

    def broken(net, x, dtype):
        y, grads = real(net, x, dtype)
        return (y, [g * 1.5 for g in grads]) if dtype is not None else (y, grads)

    monkeypatch.setattr(probe, "_pass", broken)
    found = probe.precision(net, (3, 8, 8), 8, CPU)
    assert found.precision == "fp32"
    assert "differ" in found.why


def test_a_processor_without_bf16_is_not_even_timed(net, monkeypatch):
    monkeypatch.setattr(probe, "_cpu_has_bf16", lambda: False)
    monkeypatch.setattr(probe, "_seconds", lambda *a: pytest.fail("timed"))
    assert probe.precision(net, (3, 8, 8), 8, CPU).precision == "fp32"


def test_the_network_is_left_as_it_was(net):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.eval()
    probe.precision(net, (3, 8, 8), 8, CPU)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not net.training
    assert all(p.grad is None for p in net.parameters())


def test_bf16_training_runs_and_stays_close_to_fp32():
    """O12: the same losses within bf16's rounding."""
    from dataclasses import replace

    from tiny import losses, make, tiny

    run, data = tiny("simclr")
    single = losses(run, make(run, data), 0, 3)
    half = losses(replace(run, precision="bf16"), make(run, data), 0, 3)
    assert half == pytest.approx(single, rel=0.02)
    assert half != single
