"""What there is, by name, each with a line about it: the contents of `selfsight list`."""

from __future__ import annotations

from collections.abc import Callable


def _methods() -> dict[str, str]:
    import sys

    from selfsight.methods import METHODS

    return {name: (sys.modules[cls.__module__].__doc__ or "").splitlines()[0] for name, cls in METHODS.items()}


def _encoders() -> dict[str, str]:
    from selfsight.encoders import ENCODERS

    return {name: entry.about for name, entry in ENCODERS.items()}


def _data() -> dict[str, str]:
    from selfsight.data import DATASETS

    return {name: f"{k.about} ({k.train:,} + {k.test:,} pictures, {k.image_size} px)" for name, k in DATASETS.items()}


def _recipes() -> dict[str, str]:
    from selfsight.recipes import RECIPES

    about = {}
    for name, recipe in RECIPES.items():
        run = recipe()
        about[name] = f"{run.data}, {run.encoder}, batch {run.batch_size}, {run.epochs} epochs"
    return about


def _policies() -> dict[str, str]:
    from selfsight.augment import ENTRIES

    return {name: entry.about for name, entry in ENTRIES.items()}


def _protocols() -> dict[str, str]:
    from selfsight.evaluate import PICTURES, PROTOCOLS

    return {name: (fn.__doc__ or "").splitlines()[0] for name, fn in {**PROTOCOLS, **PICTURES}.items()}


def _formats() -> dict[str, str]:
    from selfsight.formats import FORMATS

    return {name: entry.about for name, entry in FORMATS.items()}


_LISTS: dict[str, Callable[[], dict[str, str]]] = {
    "methods": _methods,
    "encoders": _encoders,
    "data": _data,
    "recipes": _recipes,
    "policies": _policies,
    "protocols": _protocols,
    "formats": _formats,
}


def entries(what: str) -> dict[str, str]:
    """Name -> one line, for a kind of thing that `selfsight list` knows."""
    return _LISTS[what]()
