"""Named runs, and the settings that follow the data. A recipe is a function returning a Run.

`RECIPES["simclr-cifar10-200"]()`; on the command line `pretrain simclr --recipe cifar10-200`. Sources of the numbers:
the papers and their code for `imagenet`; published CIFAR configurations (1000 epochs) and our 200-epoch presets
built from them; our own measurements (docs/results.md) for `shapes`, and for `cifar10-cpu` of the methods that its table
there lists, which the others follow unmeasured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from selfsight import plugins
from selfsight.errors import WrongUse, perhaps
from selfsight.methods import METHODS, method_named
from selfsight.recipes.celeba import CELEBA
from selfsight.recipes.cifar10 import cifar10, dcl, emp_short, moco_demo
from selfsight.recipes.common import POLICIES_OF as POLICIES_OF
from selfsight.recipes.eleven import ELEVEN
from selfsight.recipes.imagenet import cpc_v1, dino_long, dino_resnet, imagenet, moco_v1, simclr_v2, swav_small_batch
from selfsight.recipes.lars_sqrt import LARS_SQRT
from selfsight.recipes.resolving import fit_warmup as fit_warmup
from selfsight.recipes.resolving import follow_pictures as follow_pictures
from selfsight.recipes.resolving import resolve as resolve
from selfsight.recipes.seer import SEER
from selfsight.recipes.siamese import SIAMESE
from selfsight.recipes.small import any_folder, cpu, tiny
from selfsight.run import Run

_BUILDERS: dict[str, Callable[[str], Run[Any]]] = {
    "tiny": tiny,
    "shapes": partial(cpu, data="shapes"),
    "cifar10-cpu": partial(cpu, data="cifar10"),
    "cifar10-200": partial(cifar10, epochs=200),
    "cifar10-1000": partial(cifar10, epochs=1000),
    "imagenet": imagenet,
    "any": any_folder,
}
"""Recipes that every method has."""

_MORE: dict[str, Callable[[], Run[Any]]] = {
    "simclr-cifar10-200-dcl": partial(dcl, weighted=False),
    "simclr-cifar10-200-dclw": partial(dcl, weighted=True),
    "simclr-imagenet-v2": simclr_v2,
    "moco-cifar10-200-demo": partial(moco_demo, direction="one"),
    "moco-cifar10-200-demo-symmetric": partial(moco_demo, direction="sum"),
    "moco-imagenet-v1": moco_v1,
    "empssl-cifar10-10": emp_short,
    "cpc-imagenet-v1": cpc_v1,
    "swav-imagenet-batch256": swav_small_batch,
    "dino-imagenet-800": dino_long,
    "dino-imagenet-resnet50": dino_resnet,
    **CELEBA,
    **ELEVEN,
    **LARS_SQRT,
    **SIAMESE,
    **SEER,
}


def _named(make: Callable[[], Run[Any]], name: str) -> Run[Any]:
    return replace(make(), recipe=name)


def _borrowed(method: str, short: str) -> Run[Any]:
    """For a method of another package: the recipe of SimCLR, or of MSN where it works on tokens, with its own settings."""
    cls = METHODS[method]
    base = _BUILDERS[short]("msn" if cls.tokens else "simclr")
    views = replace(base.views, views=cls.global_views, locals=base.views.locals if cls.local_views else 0)
    return replace(base, method=cls.Config(), views=views)


_ALL: dict[str, Callable[[], Run[Any]]] = {
    f"{method}-{short}": partial(make, method) for method in POLICIES_OF for short, make in _BUILDERS.items()
}
_ALL |= _MORE
plugins.add("selfsight.recipes", _ALL, lambda _, found: callable(found))
for _method in METHODS.keys() - POLICIES_OF.keys():
    for _short in _BUILDERS:
        _ALL.setdefault(f"{_method}-{_short}", partial(_borrowed, _method, _short))
RECIPES: dict[str, Callable[[], Run[Any]]] = {name: partial(_named, make, name) for name, make in _ALL.items()}


def recipe(method: str, name: str) -> Run[Any]:
    """The recipe `name` (short or whole) of a method. Raises WrongUse for an unknown name or another method's recipe."""
    method_named(method)
    full = name if name in RECIPES else f"{method}-{name}"
    if full not in RECIPES:
        known = {key.removeprefix(f"{method}-") for key in RECIPES if key.startswith(f"{method}-")}
        raise WrongUse(f"unknown recipe {name!r} for {method}.{perhaps(name, known)}")
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
