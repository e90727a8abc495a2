"""SimCLR as one reference project ran it: LARS, a rate that grows with the root of the batch, a projector without normalisation.

Defaults are that project's; those with 801 epochs are the best runs of its sweeps. Pictures are not normalised.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from selfsight.augment import ViewsConfig
from selfsight.encoders import EncoderConfig
from selfsight.methods.simclr import SimCLRConfig
from selfsight.optim import OptimizerConfig, ScheduleConfig
from selfsight.recipes.common import views_of
from selfsight.run import ProbeConfig, Run

# Colours at half strength, which `seed002` and `svhn` have already; digits are neither cropped nor mirrored.
SMALL = views_of("simclr", "seed002", normalise=False)
DIGITS = views_of("simclr", "svhn", blur=0.5, rotate=0.33, normalise=False)
LARGE = views_of("simclr", "simclr", interpolation="bilinear", normalise=False)


def _simclr(
    data: str, views: ViewsConfig, *, encoder: str = "resnet18", size: int = 32, lr: float = 0.075,
    temperature: float = 0.1, dim: int = 64, batch_size: int = 1024, epochs: int = 100, accumulate: int = 1,
) -> Run[Any]:  # fmt: skip
    """The rate for a batch of 1024 is 0.075 * 32 = 2.4; it warms up over ten epochs from a hundredth of that."""
    wide = encoder.startswith("wrn")
    return Run(
        SimCLRConfig(temperature=temperature, hidden=dim, dim=dim, norm=False), data=data, encoder=encoder,
        net=EncoderConfig(dropout=0.3) if wide else EncoderConfig(zero_init_residual=False), image_size=size,
        views=views, optimizer=OptimizerConfig(name="lars", scaling="sqrt", lr=lr, weight_decay=1e-6),
        schedule=ScheduleConfig(name="cosine", warmup_epochs=10, warmup_start=0.01), epochs=epochs,
        batch_size=batch_size, accumulate=accumulate, probe=ProbeConfig(every=5), seed=42,
    )  # fmt: skip


_LONG: dict[str, Any] = {"epochs": 801, "batch_size": 512, "dim": 128, "temperature": 0.5}

LARS_SQRT: dict[str, Callable[[], Run[Any]]] = {
    "simclr-cifar10-100-sqrt": partial(_simclr, "cifar10", SMALL),
    "simclr-cifar10-801-sqrt": partial(_simclr, "cifar10", SMALL, lr=0.175, **_LONG),
    "simclr-cifar10-801-sqrt-resnet50": partial(
        _simclr, "cifar10", SMALL, encoder="resnet50", lr=0.125, **{**_LONG, "temperature": 0.1}
    ),
    "simclr-cifar10-801-sqrt-wrn": partial(_simclr, "cifar10", SMALL, encoder="wrn-28-10", lr=0.125, **_LONG),
    "simclr-svhn-801-sqrt": partial(_simclr, "svhn", DIGITS, lr=0.125, **_LONG),
    "simclr-svhn-801-sqrt-wrn": partial(_simclr, "svhn", DIGITS, encoder="wrn-28-10", lr=0.075, **_LONG),
    "simclr-imagenet100-801-sqrt": partial(
        _simclr, "imagenet100", LARGE, encoder="resnet50", size=224, dim=128, batch_size=4096, epochs=801,
        accumulate=16,
    ),
}  # fmt: skip
"""Name -> Run."""
