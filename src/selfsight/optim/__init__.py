"""Optimizers, parameter groups and schedules: LARS and Muon are ours, the rest is torch.optim; no scheduler objects."""

from selfsight.optim.build import build, clip, drop_unstarted, forget, peak_rate, set_rates
from selfsight.optim.config import OptimizerConfig, ScheduleConfig
from selfsight.optim.lars import LARS
from selfsight.optim.muon import Muon, newton_schulz
from selfsight.optim.schedule import cosine_ramp, decay_factor, factor

__all__ = [
    "LARS",
    "Muon",
    "OptimizerConfig",
    "ScheduleConfig",
    "build",
    "clip",
    "cosine_ramp",
    "decay_factor",
    "drop_unstarted",
    "factor",
    "forget",
    "newton_schulz",
    "peak_rate",
    "set_rates",
]
