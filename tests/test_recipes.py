# mypy: disable-error-code="arg-type,unused-ignore,operator"
"""Recipes build what they say, and nothing stays at "auto"."""

import dataclasses
from typing import Any

import pytest
import torch

from selfsight import augment, encoders, optim, recipes
from selfsight import run as runs
from selfsight.core import Step
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.recipes import RECIPES, default_recipe, recipe, resolve
from selfsight.recipes.common import ENCODERS_OF

# a data set as large as the recipe means
COUNT = {"cifar10": 45_000, "imagenet": 1_281_167, "imagenet100": 114_000, "svhn": 65_932, "shapes": 9_000}


def resolved(run: runs.Run[Any], **changes: Any) -> tuple[runs.Run[Any], list[str]]:
    size = run.image_size if isinstance(run.image_size, int) else 64
    given = {"pictures": COUNT.get(run.data, 512), "image_size": size, "channels": 3, "cuda": False, **changes}
    return resolve(run, **given)


def group(run: runs.Run[Any], name: str) -> augment.Group | None:
    """Whole views or small crops as they are made."""
    half = torch.full((3,), 0.5)
    views = augment.build(run.views, 224, 3, half, half, patch=16)
    return next((found for found in views.groups if found.name == name), None)


def autos(plain: Any, where: str = "") -> list[str]:
    if isinstance(plain, dict):
        return [found for key, value in plain.items() for found in autos(value, f"{where}.{key}")]
    return [where] if plain == "auto" else []


def test_every_method_has_every_recipe() -> None:
    shorts = ("tiny", "shapes", "cifar10-cpu", "cifar10-200", "cifar10-1000", "imagenet", "any")
    assert {f"{method}-{short}" for method in METHODS for short in shorts} <= set(RECIPES)


def test_the_presets_of_the_siamese_family() -> None:
    """13 experiments of one replication, and 8 at higher rates; each is another run."""
    from selfsight.recipes.siamese import SIAMESE

    assert len(SIAMESE) == 13 + 8
    assert len({repr(make()) for make in SIAMESE.values()}) == 21
    run = RECIPES["simsiam-cifar10-101-fast-symmetric-decay"]()
    assert (run.optimizer.lr, run.method.predictor_lr) == (0.2, 10.0)
    assert (run.method.encoder_decay, run.method.projector_decay, run.method.predictor_decay) == (0.0, 0.0, 4e-4)
    assert run.method.symmetric


# ImageNet as spec/methods-clustering-pretext-masked.md has it, sections 0.5, 1, 3 to 6, 14, 15 and 17.
PAPERS: dict[str, dict[str, Any]] = {
    "swav-imagenet": {
        "encoder": "resnet50", "batch": 4096, "epochs": 200, "optimizer": "larc", "peak": 4.8, "end": 4.8e-3,
        "warmup": (10, 0.3), "decay": (1e-6, 1e-6), "thin": True, "whole": (2, 224, (0.14, 1.0)),
        "small": (6, 96, (0.05, 0.14)), "jitter": (0.8, 0.8, 0.8, 0.2), "outputs": 3000, "freeze": 313, "temperature": 0.1,
        "more": {"epsilon": 0.05, "iterations": 3, "queue": 0},
    },
    "swav-imagenet-batch256": {
        "encoder": "resnet50", "batch": 256, "epochs": 200, "optimizer": "larc", "peak": 0.6, "end": 6e-4,
        "warmup": (0, 0.6), "decay": (1e-6, 1e-6), "thin": True, "whole": (2, 224, (0.14, 1.0)),
        "small": (6, 96, (0.05, 0.14)), "jitter": (0.8, 0.8, 0.8, 0.2), "outputs": 3000, "freeze": 5005, "temperature": 0.1,
        "more": {"epsilon": 0.05, "iterations": 3, "queue": 3840, "queue_from_step": 15 * 5004},
    },
    "sela-imagenet": {
        "encoder": "resnet50", "batch": 256, "epochs": 400, "optimizer": "sgd", "peak": 0.08, "end": 0.08e-3,
        "warmup": (0, 0.08), "decay": (1e-5, 1e-5), "thin": True, "whole": (1, 224, (0.08, 1.0)), "small": None,
        "jitter": (0.4, 0.4, 0.4, 0.4), "outputs": 3000, "freeze": None, "temperature": None,
        "more": {"heads": 10, "sharpness": 25, "relabels": 100},
    },
    "deepcluster-imagenet": {
        "encoder": "alexnet", "batch": 256, "epochs": 200, "optimizer": "sgd", "peak": 0.05, "end": 0.05,
        "warmup": (0, 0.05), "decay": (1e-5, 1e-5), "thin": True, "whole": (1, 224, (0.08, 1.0)), "small": None,
        "jitter": None, "outputs": 10000, "freeze": None, "temperature": None,
        "more": {"pca": 256, "iterations": 20, "every": 1},
    },
    "deepclusterv2-imagenet": {
        "encoder": "resnet50", "batch": 4096, "epochs": 400, "optimizer": "larc", "peak": 4.8, "end": 4.8e-3,
        "warmup": (10, 0.3), "decay": (1e-6, 1e-6), "thin": True, "whole": (2, 160, (0.14, 1.0)),
        "small": (4, 96, (0.05, 0.14)), "jitter": (0.8, 0.8, 0.8, 0.2), "outputs": 3000, "freeze": None, "temperature": 0.1,
        "more": {"heads": 3, "iterations": 10},
    },
    "dino-imagenet": {
        "encoder": "vit-small", "batch": 1024, "epochs": 100, "optimizer": "adamw", "peak": 2e-3, "end": 1e-6,
        "warmup": (10, 0), "decay": (0.04, 0.4), "thin": False, "whole": (2, 224, (0.4, 1.0)),
        "small": (8, 96, (0.05, 0.4)), "jitter": (0.4, 0.4, 0.2, 0.1), "outputs": 65536, "freeze": 1251,
        "temperature": (0.1, 0.04, 0.04, 30), "more": {"momentum": 0.996, "momentum_end": 1, "unit_last": True},
    },
    "dino-imagenet-800": {
        "encoder": "vit-small", "batch": 1024, "epochs": 800, "optimizer": "adamw", "peak": 2e-3, "end": 1e-6,
        "warmup": (10, 0), "decay": (0.04, 0.4), "thin": False, "whole": (2, 224, (0.25, 1.0)),
        "small": (10, 96, (0.05, 0.25)), "jitter": (0.4, 0.4, 0.2, 0.1), "outputs": 65536, "freeze": 1251,
        "temperature": (0.1, 0.04, 0.07, 30), "more": {"momentum": 0.996, "momentum_end": 1, "unit_last": False},
    },
    "dino-imagenet-resnet50": {
        "encoder": "resnet50", "batch": 512, "epochs": 100, "optimizer": "sgd", "peak": 0.06, "end": 1e-6,
        "warmup": (10, 0), "decay": (1e-4, 1e-4), "thin": False, "whole": (2, 224, (0.14, 1.0)),
        "small": (8, 96, (0.05, 0.14)), "jitter": (0.4, 0.4, 0.2, 0.1), "outputs": 65536, "freeze": 2502,
        "temperature": (0.1, 0.04, 0.04, 30), "more": {"momentum": 0.996, "momentum_end": 1},
    },
    "ibot-imagenet": {
        "encoder": "vit-small", "batch": 1024, "epochs": 800, "optimizer": "adamw", "peak": 2e-3, "end": 1e-6,
        "warmup": (10, 0), "decay": (0.04, 0.4), "thin": False, "whole": (2, 224, (0.25, 1.0)),
        "small": (10, 96, (0.05, 0.25)), "jitter": (0.4, 0.4, 0.2, 0.1), "outputs": 8192, "freeze": 1251,
        "temperature": (0.1, 0.04, 0.07, 30),
        "more": {"momentum": 0.996, "patch_temperature": 0.04, "patch_temperature_end": 0.07, "patch_head": "shared"},
    },
    "dinov2-imagenet": {
        "encoder": "vit-small", "batch": 2048, "epochs": 100, "optimizer": "adamw", "peak": 4e-3 * 2**0.5, "end": 1e-6,
        "warmup": (10, 0), "decay": (0.04, 0.4), "thin": False, "whole": (2, 224, (0.32, 1.0)),
        "small": (8, 96, (0.05, 0.32)), "jitter": (0.4, 0.4, 0.2, 0.1), "outputs": 65536, "freeze": 625,
        "temperature": (0.1, 0.04, 0.07, 30),
        "more": {"momentum": 0.992, "koleo": 0.1, "layer_decay": 0.9, "embedding_lr": 0.2, "centring": "sinkhorn"},
    },
    "msn-imagenet": {
        "encoder": "vit-small", "batch": 1024, "epochs": 800, "optimizer": "adamw", "peak": 1e-3, "end": 9.92e-5,
        "warmup": (15, 2e-4), "decay": (0.04, 0.3656), "thin": False, "whole": (2, 224, (0.3, 1.0)),
        "small": (10, 96, (0.05, 0.3)), "jitter": (0.4, 0.4, 0.4, 0.1), "outputs": 1024, "freeze": None, "temperature": 0.1,
        "more": {"momentum": 0.996, "stretch": 1.25, "drop": 0.15, "sharpen": 0.25, "iterations": 3},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PAPERS)
def test_imagenet_is_the_papers(name: str) -> None:
    run, _ = resolved(RECIPES[name]())
    paper, optimizer, config = PAPERS[name], run.optimizer, run.method
    assert isinstance(run.batch_size, int)
    assert (run.encoder, run.batch_size, run.epochs) == (paper["encoder"], paper["batch"], paper["epochs"])

    name_of = optimizer.lars_dialect if optimizer.name == "lars" else optimizer.name
    assert (name_of, optimizer.momentum) == (paper["optimizer"], 0.9)
    assert optimizer.decay_bias_and_norm == paper["thin"]
    per_epoch = COUNT["imagenet"] // run.batch_size
    warmup, start = paper["warmup"]
    rates, decays = [], []
    for index in (0, warmup * per_epoch, run.steps):
        step = Step(index, run.steps, per_epoch, torch.Generator())
        rates.append(optim.peak_rate(optimizer, run.batch_size) * optim.factor(run.schedule, step))
        decays.append(optimizer.weight_decay * optim.decay_factor(optimizer, step, run.schedule.stretch))
    assert rates == pytest.approx([start, paper["peak"], paper["end"]], rel=1e-3)
    assert [decays[0], decays[-1]] == pytest.approx(paper["decay"], rel=1e-3)

    whole, small = group(run, "global"), group(run, "local")
    assert whole is not None
    assert (len(whole.policies), whole.size, whole.policies[0].scale) == paper["whole"]
    assert (small and (len(small.policies), small.size, small.policies[0].scale)) == paper["small"]
    for policy in (*whole.policies, *(small.policies if small else ())):
        jitter = (policy.brightness, policy.contrast, policy.saturation, policy.hue)
        assert jitter == (paper["jitter"] or (0, 0, 0, 0))
        assert policy.jitter == (1.0 if name.startswith("sela") else 0.8)
        assert policy.gray == (0.2 if paper["jitter"] else 0)
        assert policy.flip == 0.5

    sizes = [getattr(config, field) for field in ("prototypes", "clusters", "outputs") if hasattr(config, field)]
    assert sizes == [paper["outputs"]]
    assert getattr(config, "freeze_steps", None) == paper["freeze"]
    if isinstance(paper["temperature"], tuple):
        fields = ("student_temperature", "teacher_temperature", "teacher_temperature_end", "temperature_epochs")
        assert tuple(getattr(config, field) for field in fields) == paper["temperature"]
    else:
        assert getattr(config, "temperature", None) == paper["temperature"]
    assert {field: getattr(config, field) for field in paper["more"]} == paper["more"]


def test_blur_and_solarisation_on_imagenet() -> None:
    """Spec, sections 1, 4, 6 and 17: per whole view and small crop (blur, solarisation)."""
    expected: dict[str, tuple[list[tuple[float, float]], tuple[float, float] | None]] = {
        "swav": ([(0.5, 0), (0.5, 0)], (0.5, 0)),
        "deepcluster": ([(0, 0)], None),
        "sela": ([(0, 0)], None),
        "dino": ([(1, 0), (0.1, 0.2)], (0.5, 0)),
        "msn": ([(0.5, 0), (0.5, 0)], (0.5, 0)),
    }
    for method, (views, crop) in expected.items():
        whole, small = group(recipe(method, "imagenet"), "global"), group(recipe(method, "imagenet"), "local")
        assert whole is not None
        assert [(p.blur, p.solarise) for p in whole.policies] == views
        assert {(p.blur, p.solarise) for p in small.policies} == {crop} if small else crop is None


def test_networks_on_imagenet() -> None:
    assert recipe("dinov2", "imagenet").net == encoders.EncoderConfig(drop_path=0.3, layer_scale=1e-5)
    for method in ("dino", "ibot", "msn"):
        assert recipe(method, "imagenet").net == encoders.EncoderConfig(drop_path=0.1)
    for name in ("swav-imagenet", "swav-imagenet-batch256", "swav-seer", "deepclusterv2-imagenet"):
        run = RECIPES[name]()
        assert run.optimizer.lars_dialect == "larc"
        assert not run.net.zero_init_residual  # a norm of length 0 and LARC do not go together


@pytest.mark.parametrize("name", ["deepcluster-imagenet", "deepcluster-cifar10-200", "deepcluster-cifar10-1000"])
def test_what_sees_edges_gets_no_colours(name: str) -> None:
    run = RECIPES[name]()
    assert run.net.sobel == "only"
    assert (run.views.strength, run.views.gray) == (0, 0)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build(name: str) -> None:
    run, choices = resolved(RECIPES[name]())
    assert run.recipe == name
    assert run.method_name == name.split("-")[0]
    allowed = {".precision", ".device", ".holdout", ".cache", ".net.stem", ".views.interpolation"}
    assert set(autos(runs.to_dict(run))) <= allowed
    assert all(":" in choice for choice in choices)  # each with its reason
    assert run.steps > 0

    cls = METHODS[run.method_name]
    assert run.views.views == cls.global_views or (cls.more_views and run.views.views > cls.global_views)
    assert cls.local_views or not run.views.locals
    assert isinstance(run.image_size, int)
    stat = torch.full((3,), 0.5)
    with torch.device("meta"):
        net: Any = encoders.build(run.encoder, 3, run.image_size, run.net)
    assert net.dim > 0
    views = augment.build(run.views, run.image_size, 3, stat, stat, getattr(net, "patch", 0))
    draws = views.draw(2, torch.Generator().manual_seed(0))
    pixels = torch.randint(0, 256, (2, 3, run.image_size, run.image_size), dtype=torch.uint8)
    made = views(pixels, draws)
    side = run.views.size or run.image_size
    assert views.shapes.get("global", (0, side)) == (run.views.views, side)
    assert ("tiles" in views.shapes) == cls.tiled
    assert all(made[name].shape == (count, 2, 3, s, s) for name, (count, s) in views.shapes.items())
    assert ("local" in made) == bool(run.views.locals)
    assert isinstance(run.batch_size, int)
    assert optim.peak_rate(run.optimizer, run.batch_size) > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("size", [32, 64, 96, 224])
def test_what_follows_the_data(method: str, cuda: bool, size: int) -> None:
    run, choices = resolve(recipe(method, "any"), pictures=3000, image_size=size, channels=3, cuda=cuda)
    small, large = ("vit-mini", "vit-small") if METHODS[method].tokens else ("fastnet", "resnet18")
    small, large = ENCODERS_OF.get(method, (small, large))
    assert run.encoder == (small if size <= 64 and not cuda else large)
    assert run.image_size == size
    assert run.views.policy == recipes.POLICIES_OF[method][0 if size <= 64 else 1]
    assert isinstance(run.batch_size, int)
    assert run.batch_size <= 3000 // 8
    assert run.steps == round(run.epochs * (3000 // run.batch_size))  # type: ignore[operator]
    told = " ".join(choices)
    assert all(word in told for word in ("encoder", "policy", "batch size", "epochs"))


def test_gray_pictures_get_a_policy_without_colour() -> None:
    run, choices = resolve(recipe("simclr", "any"), pictures=3000, image_size=32, channels=1, cuda=False)
    assert run.views.policy == "plain"
    assert any("1 channel(s)" in choice for choice in choices)


@pytest.mark.parametrize("pictures", [2, 9, 16, 17, 100, 511, 10**4, 10**7])
@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (3, 2)])
def test_the_batch_fits_the_set(pictures: int, processes: int, accumulate: int) -> None:
    parts = processes * accumulate
    if pictures < parts:
        return
    base = dataclasses.replace(recipe("simclr", "any"), processes=processes, accumulate=accumulate)
    run, _ = resolve(base, pictures=pictures, image_size=32, channels=3, cuda=False)
    assert isinstance(run.batch_size, int)
    assert 2 <= run.batch_size <= min(256, pictures)
    assert run.batch_size % parts == 0
    assert run.steps >= 1


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"epochs": 4.0}, 32),  # 512 pictures in batches of 64: 8 steps an epoch
        ({"epochs": 0.5}, 4),
        ({"epochs": 4.0, "steps": 10}, 10),
        ({"epochs": 1.0, "steps": 10}, 8),  # the smaller of both
        ({"epochs": 0.0, "steps": 10}, 10),
        ({"epochs": "auto", "steps": 10}, 10),
        ({"epochs": 4.0, "batch_size": 512}, 4),
        ({"epochs": 4.0, "batch_size": 500}, 4),  # a batch that is not whole is left out
    ],
)
def test_the_length(changes: dict[str, Any], steps: int) -> None:
    run, _ = resolved(dataclasses.replace(recipe("simclr", "tiny"), **changes))
    assert run.steps == steps


def test_resolving_twice_changes_nothing() -> None:
    """A run.yaml given back as --config is the same run."""
    once, _ = resolved(recipe("simclr", "any"), image_size=64)
    twice, choices = resolved(once)
    assert twice == once
    assert choices == []


def test_refused() -> None:
    with pytest.raises(WrongUse, match="choose at most 510"):
        resolved(dataclasses.replace(recipe("simclr", "tiny"), batch_size=516, processes=3), pictures=512)
    with pytest.raises(WrongUse, match="at least one step"):
        resolved(dataclasses.replace(recipe("simclr", "tiny"), epochs=0.01))
    with pytest.raises(WrongUse, match="Perhaps you meant 'tiny'"):
        recipe("simclr", "tny")
    with pytest.raises(WrongUse, match="is for byol, not simclr"):
        recipe("simclr", "byol-tiny")
    with pytest.raises(WrongUse, match="unknown method"):
        recipe("simcl", "tiny")


def test_default_recipes() -> None:
    assert default_recipe("shapes:64:2000", False) == "shapes"
    assert default_recipe("cifar100", True) == "cifar10-200"
    assert default_recipe("cifar10", False) == "cifar10-cpu"
    assert default_recipe("photos/shapes", False) == "any"
