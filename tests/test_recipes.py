# mypy: disable-error-code="arg-type,unused-ignore,operator"
"""Recipes build what they say, and nothing stays at "auto"."""

import dataclasses
from typing import Any

import pytest
import torch

from selfsight import augment, encoders, optim, recipes
from selfsight import run as runs
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.recipes import RECIPES, default_recipe, recipe, resolve

# a data set as large as the recipe means
COUNT = {"cifar10": 45_000, "imagenet": 1_281_167, "shapes": 9_000}


def resolved(run: runs.Run[Any], **changes: Any) -> tuple[runs.Run[Any], list[str]]:
    size = run.image_size if isinstance(run.image_size, int) else 64
    given = {"pictures": COUNT.get(run.data, 512), "image_size": size, "channels": 3, "cuda": False, **changes}
    return resolve(run, **given)


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
    assert made["global"].shape == (run.views.views, 2, 3, side, side)
    assert ("local" in made) == bool(run.views.locals)
    assert isinstance(run.batch_size, int)
    assert optim.peak_rate(run.optimizer, run.batch_size) > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("size", [32, 64, 96, 224])
def test_what_follows_the_data(method: str, cuda: bool, size: int) -> None:
    run, choices = resolve(recipe(method, "any"), pictures=3000, image_size=size, channels=3, cuda=cuda)
    small, large = ("vit-mini", "vit-small") if METHODS[method].tokens else ("fastnet", "resnet18")
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
