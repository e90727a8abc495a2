"""Schedules against their closed forms at the first step, the warm-up boundary, the middle and the last step."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch

from selfsight.core import Step
from selfsight.errors import WrongUse
from selfsight.optim import OptimizerConfig, ScheduleConfig, cosine_ramp, decay_factor, factor, peak_rate
from selfsight.optim.config import ScheduleName

PER_EPOCH, EPOCHS = 7, 100
TOTAL = PER_EPOCH * EPOCHS


def at(schedule: ScheduleConfig, index: int) -> float:
    return factor(schedule, Step(index, TOTAL, PER_EPOCH, torch.Generator()))


def test_cosine_without_warmup() -> None:
    schedule = ScheduleConfig(name="cosine", final=0.001)
    for t in (0, 1, TOTAL // 2, TOTAL - 1):
        expected = 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * t / TOTAL))
        assert at(schedule, t) == pytest.approx(expected, abs=1e-12)
    assert at(schedule, 0) == 1.0
    assert at(schedule, TOTAL // 2) == pytest.approx(0.5005, abs=1e-12)


@pytest.mark.parametrize("start", [0.0, 0.0625])
def test_warmup_is_linear_and_meets_the_peak(start: float) -> None:
    schedule = ScheduleConfig(name="cosine", warmup_epochs=10, warmup_start=start)
    assert at(schedule, 0) == start
    assert at(schedule, 35) == pytest.approx((start + 1) / 2, abs=1e-12)
    assert at(schedule, 69) == pytest.approx(start + (1 - start) * 69 / 70, abs=1e-12)
    assert at(schedule, 70) == 1.0
    assert at(schedule, 71) == pytest.approx(0.5 * (1 + math.cos(math.pi / 630)), abs=1e-12)
    assert at(schedule, 70 + 315) == pytest.approx(0.5, abs=1e-12)
    assert at(schedule, TOTAL - 1) == pytest.approx(0.5 * (1 + math.cos(math.pi * 629 / 630)), abs=1e-12)


def test_fractional_warmup_epochs() -> None:
    schedule = ScheduleConfig(name="constant", warmup_epochs=0.5)
    assert [at(schedule, t) for t in range(5)] == pytest.approx([0, 1 / 3.5, 2 / 3.5, 3 / 3.5, 1])


def test_per_epoch_cosine_changes_only_where_an_epoch_starts() -> None:
    schedule = ScheduleConfig(name="cosine", per="epoch")
    for epoch in (0, 1, 50, 99):
        values = {at(schedule, epoch * PER_EPOCH + i) for i in range(PER_EPOCH)}
        assert len(values) == 1
        assert values.pop() == pytest.approx(0.5 * (1 + math.cos(math.pi * epoch / EPOCHS)), abs=1e-12)


def test_per_epoch_warmup_stays_per_step() -> None:
    schedule = ScheduleConfig(name="cosine", per="epoch", warmup_epochs=1.5)
    assert at(schedule, 3) == pytest.approx(3 / 10.5)
    assert at(schedule, 11) == at(schedule, 13) == 1.0  # the epoch began within the warm-up: the peak, not below 0


def test_step_and_multistep_and_constant() -> None:
    step = ScheduleConfig(name="step", step_epochs=35, gamma=0.2)
    assert [at(step, e * PER_EPOCH) for e in (0, 34, 35, 69, 70, 99)] == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])
    assert at(step, 35 * PER_EPOCH - 1) == 1
    multi = ScheduleConfig(name="multistep", milestones=(0.6, 0.8))
    assert [at(multi, t) for t in (0, 419, 420, 559, 560, 699)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert {at(ScheduleConfig(name="constant"), t) for t in (0, 350, 699)} == {1.0}


def test_polynomial_and_exponential() -> None:
    polynomial = ScheduleConfig(name="polynomial", power=2, final=0.01, warmup_epochs=10)
    assert at(polynomial, 70) == 1.0
    assert at(polynomial, 385) == pytest.approx(0.01 + 0.99 * 0.25)
    assert at(polynomial, 699) == pytest.approx(0.01 + 0.99 / 630**2)
    exponential = ScheduleConfig(name="exponential", final=1e-4)
    assert [at(exponential, t) for t in (0, 175, 350)] == pytest.approx([1, 0.1, 0.01])
    gamma = 1e-4 ** (1 / EPOCHS)  # torch's ExponentialLR
    assert at(exponential, 3 * PER_EPOCH) == pytest.approx(gamma**3)


def test_a_stretched_schedule_stops_before_its_end() -> None:
    """MSN's: 800 epochs of a schedule of 1000, of which 15 warm up from 2e-4 to 1e-3; the end would be 1e-6 and 0.4."""
    schedule = ScheduleConfig(name="cosine", warmup_epochs=15, warmup_start=0.2, final=0.001, stretch=1.25)
    optimizer = OptimizerConfig(name="adamw", weight_decay=0.04, weight_decay_end=0.4)
    golden = ((0, 2e-4, 0.04), (15, 1e-3, 0.04019982), (400, 6.684249e-4, 0.1643769), (800, 9.922371e-5, 0.3656231))
    for epoch, rate, decay in golden:
        step = Step(epoch * PER_EPOCH, 800 * PER_EPOCH, PER_EPOCH, torch.Generator())
        assert 1e-3 * factor(schedule, step) == pytest.approx(rate, rel=1e-6)
        assert 0.04 * decay_factor(optimizer, step, schedule.stretch) == pytest.approx(decay, rel=1e-6)


@pytest.mark.parametrize("per", ["step", "epoch"])
@pytest.mark.parametrize("name", ["constant", "cosine", "step", "multistep", "polynomial", "exponential"])
def test_a_stretched_schedule_is_that_of_a_longer_run(name: ScheduleName, per: Literal["step", "epoch"]) -> None:
    plain = ScheduleConfig(name=name, warmup_epochs=10, warmup_start=0.1, final=0.01, per=per)
    stretched = replace(plain, stretch=1.5)
    for t in range(TOTAL):
        longer = Step(t, TOTAL * 3 // 2, PER_EPOCH, torch.Generator())
        assert at(stretched, t) == factor(plain, longer)
    assert at(stretched, 69) == at(plain, 69)  # the warm-up stays


def test_teacher_momentum() -> None:
    assert cosine_ramp(0.996, 1, 0) == pytest.approx(0.996, abs=1e-15)
    assert cosine_ramp(0.996, 1, 0.5) == pytest.approx(0.998, abs=1e-15)
    assert cosine_ramp(0.996, 1, 0.99) == pytest.approx(0.99999901, abs=5e-9)
    assert cosine_ramp(0.996, 1, 1) == 1.0
    assert cosine_ramp(0.99, 0.99, 0.3) == 0.99  # constant


def test_peak_rates() -> None:
    assert peak_rate(OptimizerConfig(lr=0.3), 4096) == pytest.approx(4.8)
    assert peak_rate(OptimizerConfig(lr=0.06, base_batch=128), 512) == pytest.approx(0.24)
    assert peak_rate(OptimizerConfig(lr=0.075, scaling="sqrt"), 4096) == pytest.approx(4.8)
    assert peak_rate(OptimizerConfig(lr=0.06, scaling="none"), 4096) == 0.06


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "cosin"}, "Perhaps you meant 'cosine'"),
        ({"name": "exponential"}, "schedule.final"),
        ({"milestones": (120, 160)}, "fractions"),
        ({"warmup_epochs": -1}, "at least 0"),
        ({"gamma": 0.0}, "above 0"),
        ({"per": "batch"}, "step or epoch"),
        ({"stretch": 0.8}, "give 1 to end with the run, or more"),
    ],
)
def test_wrong_schedules_are_refused(fields: dict, said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        ScheduleConfig(**fields)
