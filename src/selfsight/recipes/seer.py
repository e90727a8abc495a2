"""SEER: Self-supervised Pretraining of Visual Features in the Wild (arXiv 2103.01988; 10 billion: arXiv 2202.08360).

SwAV with a RegNetY, six small crops and a head without batch normalisation, over pictures as they come: name yours with
`--data`. `swav-seer` is for sets of ImageNet's size; the others see a web-scale set once, in shards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from selfsight.encoders import EncoderConfig
from selfsight.methods.swav import SwAVConfig
from selfsight.optim import OptimizerConfig, ScheduleConfig
from selfsight.recipes.common import views_of
from selfsight.recipes.small import cpu
from selfsight.run import Run


def _imagenet() -> Run[Any]:
    """RegNetY-16GF. Epochs, batch and warm-up are SwAV's on ImageNet, all else the paper's (section 3)."""
    return Run(
        SwAVConfig(layers=3, hidden=8192, dim=256, norm="none", prototypes=16000, epsilon=0.03, iterations=10),
        data="imagenet", encoder="regnety-16gf", image_size=160, epochs=100, batch_size=4096,
        # LARC steps by the raw gradient where a weight is 0
        net=EncoderConfig(zero_init_residual=False),
        views=views_of(
            "swav", "simclr", scale=(0.14, 1.0), locals=4, local_size=96, local_scale=(0.05, 0.14)
        ),
        optimizer=OptimizerConfig(
            name="lars", lars_dialect="larc", decay_bias_and_norm=True, lr=0.3, weight_decay=1e-5
        ),
        schedule=ScheduleConfig(name="cosine", warmup_epochs=10, warmup_start=1 / 64, final=0.001),
    )  # fmt: skip


def _web(size: str, batch: int = 8192, warmup: float = 8 / 122) -> Run[Any]:
    """One epoch; warm-up over 8,000 of 122,000 steps, from a rate of 0.15 to 9.6, then down to 0.0096."""
    run = _imagenet()
    return replace(
        run, encoder=f"regnety-{size}", epochs=1, batch_size=batch, strategy="fsdp", checkpoint_activations=True,
        schedule=replace(run.schedule, warmup_epochs=warmup),
    )  # fmt: skip


def _cpu() -> Run[Any]:
    """RegNetY-200MF at 32 px on two CPU cores; our choice, made on a long-tailed folder (tests/test_seer.py)."""
    run = cpu("swav", "shapes")
    config = SwAVConfig(
        hidden=256, dim=128, prototypes=512, temperature=0.2, epsilon=0.03, iterations=10, freeze_steps=5
    )
    return replace(run, method=config, encoder="regnety-200mf")


SEER: dict[str, Callable[[], Run[Any]]] = {
    "swav-seer": _imagenet,
    "swav-seer-32gf": partial(_web, "32gf"),
    "swav-seer-64gf": partial(_web, "64gf"),
    "swav-seer-128gf": partial(_web, "128gf"),
    "swav-seer-256gf": partial(_web, "256gf"),
    "swav-seer-10b": partial(_web, "10b", batch=7936, warmup=0.0436),
    "swav-seer-cpu": _cpu,
}
"""Name -> Run."""
