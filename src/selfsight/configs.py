"""Recipes as YAML files for `pretrain --config`: `python -m selfsight.configs` writes configs/, and a test keeps them equal.

configs/METHOD.yaml is the recipe METHOD-cifar10-1000; the presets of the reference projects have the names of their recipes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from selfsight.methods import METHODS
from selfsight.recipes import RECIPES
from selfsight.recipes.celeba import CELEBA
from selfsight.recipes.eleven import ELEVEN
from selfsight.recipes.lars_sqrt import LARS_SQRT
from selfsight.recipes.siamese import SIAMESE
from selfsight.run import Run, to_dict

FILES = {
    **{name: f"{name}-cifar10-1000" for name, method in METHODS.items() if method.__module__.startswith("selfsight.")},
    **{name: name for presets in (CELEBA, ELEVEN, LARS_SQRT, SIAMESE) for name in presets},
}
"""Name of the file without .yaml -> recipe; methods of other packages have none."""
_FIRST = ("recipe", "method", "data", "image_size", "encoder", "epochs", "batch_size", "seed")  #: always told


def text(run: Run[Any]) -> str:
    """YAML of a run: all settings of its method, and of the others those that are not the defaults."""
    plain, default = to_dict(run), to_dict(Run(method=type(run.method)()))
    differing = _differing(plain, default)
    told = {name: plain[name] for name in _FIRST} | {k: v for k, v in differing.items() if k not in _FIRST}
    head = f"# selfsight pretrain --config THIS --data DATA --out DIR; the recipe {run.recipe}, written by `make configs`.\n"
    return head + yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def _differing(plain: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict) and isinstance(default.get(key), dict):
            if inner := _differing(value, default[key]):
                found[key] = inner
        elif value != default.get(key):
            found[key] = value
    return found


def write(folder: Path) -> list[Path]:
    """Write every file of FILES; files of other names stay."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.yaml" for name in FILES]
    for path, recipe in zip(paths, FILES.values(), strict=True):
        path.write_text(text(RECIPES[recipe]()), "utf-8")
    return paths


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else "configs")
    print(f"{len(write(place))} files in {place}")
