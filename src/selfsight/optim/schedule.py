"""Schedules as pure functions of where training is."""

import math

from selfsight.core import Step
from selfsight.optim.config import OptimizerConfig, ScheduleConfig


def factor(schedule: ScheduleConfig, step: Step) -> float:
    """Multiple of the peak rate at `step`.

    With t steps done of T = stretch * steps of the run, and Tw = warmup_epochs * steps per epoch: t < Tw gives
    start + (1 - start) * t / Tw, and t = Tw is the peak exactly. After it, x = (t - Tw) / (T - Tw) in 0..1:
    cosine final + (1 - final) * (1 + cos(pi * x)) / 2 (SGDR, arXiv 1608.03983, eq. 5); polynomial
    final + (1 - final) * (1 - x)^power; exponential final^x. step and multistep count from the start of the run.
    """
    t, total, warmup = float(step.index), schedule.stretch * step.total, schedule.warmup_epochs * step.per_epoch
    if t < warmup:
        return schedule.warmup_start + (1 - schedule.warmup_start) * t / warmup
    if schedule.per == "epoch":
        t = max(float(step.epoch * step.per_epoch), warmup)
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "step":
        return schedule.gamma ** math.floor(t / step.per_epoch / schedule.step_epochs)
    if schedule.name == "multistep":
        return schedule.gamma ** sum(t / total >= m for m in schedule.milestones)
    x = (t - warmup) / (total - warmup)
    if schedule.name == "cosine":
        return cosine_ramp(1.0, schedule.final, x)
    if schedule.name == "polynomial":
        return schedule.final + (1 - schedule.final) * (1 - x) ** schedule.power
    return schedule.final**x


def decay_factor(optimizer: OptimizerConfig, step: Step, stretch: float = 1.0) -> float:
    """Multiple of the weight decay at `step`: half a cosine from 1 towards weight_decay_end / weight_decay.

    It would get there at `stretch` times the run, which is ScheduleConfig's.
    """
    if optimizer.weight_decay_end is None:
        return 1.0
    return cosine_ramp(1.0, optimizer.weight_decay_end / optimizer.weight_decay, step.progress / stretch)


def cosine_ramp(start: float, end: float, progress: float) -> float:
    """`start` at progress 0, `end` at 1, half a cosine between: end - (end - start) * (1 + cos(pi * progress)) / 2.

    The momentum of a teacher in BYOL (arXiv 2006.07733, section 3.3): cosine_ramp(0.996, 1, step.progress).
    """
    return end - (end - start) * (1 + math.cos(math.pi * progress)) / 2
