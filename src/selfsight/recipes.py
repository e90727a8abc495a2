"""Named runs, and the settings that follow the data. A recipe is a function returning a Run.

`RECIPES["simclr-cifar10-200"]()`; on the command line `pretrain simclr --recipe cifar10-200`. Sources of the numbers:
the papers for `imagenet`; the published CIFAR configurations of solo-learn (1000 epochs) and our 200-epoch presets
built from them; our own measurements (docs/results.md) for `shapes` and `cifar10-cpu`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from selfsight.augment import ViewsConfig
from selfsight.encoders import EncoderConfig
from selfsight.errors import WrongUse, perhaps
from selfsight.methods import METHODS, method_named
from selfsight.methods.byol import BYOLConfig
from selfsight.methods.deepcluster import DeepClusterConfig
from selfsight.methods.simclr import SimCLRConfig
from selfsight.methods.swav import SwAVConfig
from selfsight.optim import OptimizerConfig, ScheduleConfig
from selfsight.run import ProbeConfig, Run

# What a method takes for views: policy for small pictures (up to 64 px), policy for large ones, number of whole views.
POLICIES_OF = {
    "simclr": ("simclr-cifar", "simclr"),
    "byol": ("asym", "byol"),
    "swav": ("simclr-cifar", "simclr"),
    "deepcluster": ("deepcluster", "deepcluster"),
}


# What a method's encoder sees: DeepCluster clusters by colour unless it sees edges (section 4.1).
NETS = {"deepcluster": EncoderConfig(sobel=True)}


# Where no negatives push views apart, small networks answer by colour alone unless the jitter is strong.
STRONG_JITTER: dict[str, dict[str, Any]] = {name: {"policy": "sym", "blur": 0.0} for name in ("byol", "swav")}


def _net(method: str) -> EncoderConfig:
    return NETS.get(method, EncoderConfig())


def _views(method: str, policy: str = "auto", **settings: Any) -> ViewsConfig:
    return ViewsConfig(policy=policy, views=METHODS[method].global_views, **settings)


def _lars(lr: float, weight_decay: float) -> OptimizerConfig:
    """LARS as solo-learn runs it on CIFAR: step length min(eta |p| / |g|, lr)."""
    return OptimizerConfig(name="lars", lars_dialect="clipped", lr=lr, weight_decay=weight_decay, lars_eta=0.02)


COSINE10 = ScheduleConfig(name="cosine", warmup_epochs=10)


def _cifar10(method: str, epochs: int) -> Run[Any]:
    """ResNet-18, batch 256, for a GPU: solo-learn's published settings at 1000 epochs, our presets at 200."""
    common: dict[str, Any] = {
        "data": "cifar10", "encoder": "resnet18", "image_size": 32, "epochs": epochs, "batch_size": 256,
        "schedule": COSINE10, "probe": ProbeConfig(every=10, k=200, temperature=0.1),
    }  # fmt: skip
    per_epoch = 45000 // 256  # a tenth is held out
    if method == "simclr":
        config = SimCLRConfig(temperature=0.2, hidden=2048, dim=256, norm=False)
        return Run(config, optimizer=_lars(0.4, 1e-4), views=_views(method, "sym", blur=0.0), **common)
    if method == "byol":
        return Run(BYOLConfig(), optimizer=_lars(1.0, 1e-5), views=_views(method, "asym"), **common)
    if method == "swav":
        swav = SwAVConfig(
            prototypes=512 if epochs <= 200 else 3000, queue=3840, queue_from_step=epochs // 20 * per_epoch,
            freeze_steps=2 * per_epoch,
        )  # fmt: skip
        return Run(swav, optimizer=_lars(0.6, 1e-6), views=_views(method, "sym", blur=0.0), **common)
    common["schedule"] = ScheduleConfig(name="constant")
    return Run(
        DeepClusterConfig(clusters=128),
        optimizer=OptimizerConfig(name="sgd", lr=0.05, weight_decay=5e-4),
        views=_views(method),
        **common,
    )


def _imagenet(method: str) -> Run[Any]:
    """ResNet-50 at 224 px with the paper's numbers; for many GPUs (sizes are global)."""
    common: dict[str, Any] = {"data": "imagenet", "encoder": "resnet50", "net": _net(method), "image_size": 224}
    if method == "simclr":  # section 5.1 and B.1; weight decay 1e-6, batch 4096, 100 epochs as in the ablations
        optimizer = OptimizerConfig(name="lars", lars_dialect="tf", lr=0.3, weight_decay=1e-6)
        return Run(
            SimCLRConfig(), views=_views(method, "simclr"), optimizer=optimizer, schedule=COSINE10, epochs=100,
            batch_size=4096, **common,
        )  # fmt: skip
    if method == "byol":  # section 3.3, the 300-epoch schedule of appendix G
        optimizer = OptimizerConfig(name="lars", lars_dialect="standard", lr=0.3, weight_decay=1e-6)
        return Run(
            BYOLConfig(), views=_views(method, "byol"), optimizer=optimizer, schedule=COSINE10, epochs=300,
            batch_size=4096, **common,
        )  # fmt: skip
    if method == "swav":  # section 4 and appendix A: 2 x 224 + 6 x 96
        views = _views(method, "simclr", scale=(0.14, 1.0), locals=6, local_size=96, local_scale=(0.05, 0.14))
        optimizer = OptimizerConfig(
            name="lars", lars_dialect="larc", decay_bias_and_norm=True, lr=0.3, weight_decay=1e-6
        )
        schedule = ScheduleConfig(name="cosine", warmup_epochs=10, warmup_start=0.0625, final=0.001)
        return Run(
            SwAVConfig(), views=views, optimizer=optimizer, schedule=schedule, epochs=200, batch_size=4096, **common
        )
    optimizer = OptimizerConfig(name="sgd", lr=0.05, weight_decay=1e-5)  # section 4.1
    return Run(
        DeepClusterConfig(), views=_views(method), optimizer=optimizer, schedule=ScheduleConfig(name="constant"),
        epochs=200, batch_size=256, **common,
    )  # fmt: skip


def _small_method(method: str) -> Any:
    """Heads and constants for small networks and small data, found on held-out pictures (docs/results.md)."""
    return {
        "simclr": SimCLRConfig(temperature=0.2, hidden=512, dim=128),
        "byol": BYOLConfig(hidden=512, dim=128, momentum=0.9, joint_views=True),
        "swav": SwAVConfig(hidden=512, dim=128, prototypes=256, queue=0, freeze_steps=20),
        "deepcluster": DeepClusterConfig(clusters=100, pca=64, iterations=10),
    }[method]


# `make demo` is SimCLR on `shapes` and must take less than three minutes of two cores.
SHAPES_EPOCHS = {"simclr": 3, "byol": 8, "swav": 6, "deepcluster": 6}
SHAPES_BATCH = {"byol": 128}  # a teacher takes steps to move; others: 256

MUON = OptimizerConfig(
    name="muon", lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.002, muon_steps=3, muon_aux_lr=0.1
)


def _cpu(method: str, data: str) -> Run[Any]:
    """fastnet on two CPU cores: about half an hour on CIFAR-10, about two minutes on `shapes`.

    Views are 24 px, the density of the pixels in an average crop; the encoder is measured on whole 32 px pictures.
    """
    length: dict[str, Any] = {
        "cifar10": {"epochs": 16, "max_minutes": 29},
        "shapes": {"epochs": SHAPES_EPOCHS[method]},
    }[data]
    views = _views(method, size=24, scale=(0.2, 1.0), **STRONG_JITTER.get(method, {}))
    if METHODS[method].local_views:
        views = replace(views, locals=4, local_size=16, local_scale=(0.08, 0.4))
    return Run(
        _small_method(method), data=data, encoder="fastnet", net=_net(method), image_size=32, views=views,
        batch_size=SHAPES_BATCH.get(method, 256) if data == "shapes" else 256, optimizer=MUON,
        schedule=ScheduleConfig(name="cosine", warmup_epochs=0.05 * length["epochs"]), **length,
    )  # fmt: skip


def _any(method: str) -> Run[Any]:
    """A folder of pictures: encoder, policy, batch and epochs follow the data (see `resolve`)."""
    base = _cpu(method, "shapes")
    views = replace(base.views, policy="auto", blur=None, size=0, scale=None, locals=0, local_size=0, local_scale=None)
    return replace(base, encoder="auto", epochs="auto", batch_size="auto", image_size="auto", views=views)


def _tiny(method: str) -> Run[Any]:
    """A few hundred pictures, a few seconds: for tests, gates and a first look."""
    config = {
        "simclr": SimCLRConfig(temperature=0.2, hidden=64, dim=32),
        "byol": BYOLConfig(hidden=64, dim=32, momentum=0.9, joint_views=True),
        "swav": SwAVConfig(hidden=64, dim=32, prototypes=30, queue=128, queue_from_step=4, freeze_steps=3),
        "deepcluster": DeepClusterConfig(clusters=20, pca=16, iterations=5),
    }[method]
    crops: dict[str, Any] = {"locals": 2, "local_size": 12} if METHODS[method].local_views else {}
    return Run(
        config, data="shapes:16:640", encoder="fastnet-tiny", image_size=16, batch_size=64, epochs=4, holdout=128,
        views=_views(method, **crops), optimizer=OptimizerConfig(name="sgd", lr=0.1, weight_decay=1e-4),
        schedule=ScheduleConfig(name="cosine", warmup_epochs=0.5),
    )  # fmt: skip


_BUILDERS: dict[str, Callable[[str], Run[Any]]] = {
    "tiny": _tiny,
    "shapes": partial(_cpu, data="shapes"),
    "cifar10-cpu": partial(_cpu, data="cifar10"),
    "cifar10-200": partial(_cifar10, epochs=200),
    "cifar10-1000": partial(_cifar10, epochs=1000),
    "imagenet": _imagenet,
    "any": _any,
}


def _named(method: str, short: str) -> Run[Any]:
    return replace(_BUILDERS[short](method), recipe=f"{method}-{short}")


RECIPES: dict[str, Callable[[], Run[Any]]] = {
    f"{method}-{short}": partial(_named, method, short) for method in METHODS for short in _BUILDERS
}


def recipe(method: str, name: str) -> Run[Any]:
    """The recipe `name` (short or whole) of a method. Raises WrongUse for an unknown name or another method's recipe."""
    method_named(method)
    full = name if name in RECIPES else f"{method}-{name}"
    if full not in RECIPES:
        raise WrongUse(f"unknown recipe {name!r} for {method}.{perhaps(name, set(_BUILDERS))}")
    run = RECIPES[full]()
    if run.method_name != method:
        raise WrongUse(f"recipe {name!r} is for {run.method_name}, not {method}: leave out one of the two")
    return run


def default_recipe(data: str, cuda: bool) -> str:
    """The recipe for a data set when none is named."""
    if data.split(":")[0] == "shapes":
        return "shapes"
    if data in ("cifar10", "cifar100"):
        return "cifar10-200" if cuda else "cifar10-cpu"
    return "any"


def _batch(pictures: int, cuda: bool, multiple: int) -> int:
    """The largest power of two with at least eight steps an epoch, at most 256 on a CPU and 1024 on a GPU."""
    most = 1024 if cuda else 256
    size = 2 ** max(1, int(math.log2(max(2, pictures // 8))))
    return max(multiple, min(most, size) // multiple * multiple)


def resolve(run: Run[Any], *, pictures: int, image_size: int, channels: int, cuda: bool) -> tuple[Run[Any], list[str]]:
    """Replace every "auto" that follows from the data.

    Args:
        run: may hold "auto".
        pictures: number of training pictures.
        image_size: side of a whole view, as the data side decided.
        channels: of the pictures.
        cuda: a GPU does the work.

    Returns:
        The run without "auto" (but precision), with `steps` fixed, and each choice with its reason.

    Raises:
        WrongUse: a batch larger than the set, or a run without a step.
    """
    choices: list[str] = []

    def choose(setting: str, value: Any, why: str) -> Any:
        choices.append(f"{setting} {value}: {why}")
        return value

    run = replace(run, image_size=image_size)
    if run.encoder == "auto":
        small = image_size <= 64 and not cuda
        why = f"{image_size} px views on {'a GPU' if cuda else 'a CPU'}"
        run = replace(run, encoder=choose("encoder", "fastnet" if small else "resnet18", why))
    if run.views.policy == "auto":
        policies = POLICIES_OF[run.method_name]
        if channels == 3:
            policy = choose("policy", policies[0 if image_size <= 64 else 1], f"{run.method_name} at {image_size} px")
        else:
            policy = choose("policy", "plain", f"pictures have {channels} channel(s), colour operations need 3")
        run = replace(run, views=replace(run.views, policy=policy))
    multiple = run.processes * run.accumulate
    if run.batch_size == "auto":
        size = _batch(pictures, cuda, multiple)
        run = replace(run, batch_size=choose("batch size", size, f"{pictures} training pictures"))
    assert isinstance(run.batch_size, int)
    if run.batch_size > pictures:
        raise WrongUse(
            f"--batch-size {run.batch_size} is larger than the {pictures} training pictures: "
            f"choose at most {pictures // multiple * multiple}, or give more pictures"
        )
    per_epoch = pictures // run.batch_size
    if run.epochs == "auto":
        seen = 20_000_000 if cuda else 300_000
        epochs = float(min(800 if cuda else 100, max(1, round(seen / pictures))))
        why = f"about {seen:,} pictures seen on {'a GPU' if cuda else 'a CPU'}"
        run = replace(run, epochs=choose("epochs", epochs, why) if not run.steps else math.ceil(run.steps / per_epoch))
    assert not isinstance(run.epochs, str)
    by_epochs = round(run.epochs * per_epoch)
    total = min(run.steps, by_epochs) if run.steps and by_epochs else run.steps or by_epochs
    if total < 1:
        raise WrongUse(f"--epochs {run.epochs} and --steps {run.steps} make no step: choose at least one step")
    return replace(run, steps=total), choices


def fit_warmup(run: Run[Any], per_epoch: int) -> tuple[Run[Any], list[str]]:
    """Shorten a warm-up that would fill more than half of the run: the peak rate would come late or never."""
    half = run.steps / per_epoch / 2
    if run.schedule.warmup_epochs <= half:
        return run, []
    told = f"warm-up {half:.3g} epochs: {run.schedule.warmup_epochs:g} would be more than half of the run"
    return replace(run, schedule=replace(run.schedule, warmup_epochs=half)), [told]
