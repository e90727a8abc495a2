"""Run protocols on features: which parts each needs, its settings, one seed for all."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsight.errors import WrongUse, perhaps
from selfsight.evaluate import PROTOCOLS, UNLABELLED, WITHIN, moons
from selfsight.evaluate.stored import Sets, read

GIVEN = ("train", "labels", "test", "test_labels", "classes", "features", "views", "seed")  #: what is no setting


def check(protocols: Sequence[str], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of each protocol, as its function takes them.

    Raises:
        WrongUse: an unknown protocol or setting (with a suggestion), or a value of another kind.
    """
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown or not protocols:
        name = unknown[0] if unknown else ""
        raise WrongUse(f"unknown protocol {name!r}.{perhaps(name, set(PROTOCOLS))}")
    found: dict[str, dict[str, Any]] = {name: {} for name in protocols}
    for name, given in settings.items():
        if name not in found:
            raise WrongUse(f"settings of {name!r}, which is not asked for.{perhaps(str(name), set(protocols))}")
        if not isinstance(given, Mapping):
            raise WrongUse(f"settings of {name}: write {name}: {{name: value}}, not {given!r}")
        known = {k: p.default for k, p in inspect.signature(PROTOCOLS[name]).parameters.items() if k not in GIVEN}
        for key, value in given.items():
            if key not in known:
                raise WrongUse(f"{name} has no setting {key!r}.{perhaps(str(key), set(known)) if known else ''}")
            found[name][key] = _value(f"{name}.{key}", known[key], value)
    return found


def _value(where: str, default: Any, value: Any) -> Any:
    """The value as a setting with this default takes it."""
    if isinstance(default, tuple):
        return tuple(_number(where, v) for v in (value if isinstance(value, list | tuple) else [value]))
    number = _number(where, value)
    if isinstance(default, int) and number != int(number):
        raise WrongUse(f"{where} is {value!r}: give a whole number")
    return int(number) if isinstance(default, int) else float(number) if isinstance(default, float) else number


def _number(where: str, value: Any) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        return float(str(value))  # YAML reads 1e-6 as text
    except ValueError:
        raise WrongUse(f"{where} is {value!r}: give a number") from None


def needs_train(protocols: Sequence[str]) -> bool:
    """Whether any of the protocols learns from a training part."""
    return not set(protocols) <= WITHIN


def needs_labels(protocols: Sequence[str]) -> bool:
    """Whether any of the protocols asks for labels."""
    return not set(protocols) <= UNLABELLED


def measure(
    sets: Sets, settings: Mapping[str, Mapping[str, Any]], seed: int, facts: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Name -> numbers of each protocol in `settings` (see `check`), each with `facts` and the seed.

    Raises:
        WrongUse: a part or its labels are missing.
    """
    names = list(settings)
    if needs_labels(names) and sets.test_labels is None:
        raise WrongUse("the test features have no labels, which these protocols compare with; only geometry needs none")
    if needs_train(names) and (sets.train is None or sets.labels is None):
        raise WrongUse("there are no labelled training features, which these protocols learn from")
    most = [int(labels.max()) + 1 for labels in (sets.labels, sets.test_labels) if labels is not None]
    classes = max([len(sets.classes or ()), *most])
    found = {}
    for name, given in settings.items():
        views = {"views": sets.views} if name in UNLABELLED else {}
        numbers = PROTOCOLS[name](
            sets.train, sets.labels, sets.test, sets.test_labels, classes, seed=seed, **given, **views
        )
        found[name] = {**numbers, "seed": seed, **facts}
    return found


def of_features(target: str, test: str | None) -> tuple[Sets, dict[str, Any]]:
    """The features in a file (or two, see `stored.read`), or those of two moons, and what is known of them."""
    if target.split(":")[0] == moons.NAME:
        if test is not None:
            raise WrongUse(f"{moons.NAME} has a test part of its own: leave out --test")
        header: dict[str, Any] = {}
        sets, name = moons.two_moons(target), target
    else:
        sets, header = read(Path(target), None if test is None else Path(test))
        name = Path(target).name
    facts = {
        "train": f"{name} ({len(sets.train) if sets.train is not None else 0})",
        "test": f"{test or name} ({len(sets.test)})",
        "features": "stored",
        "dim": sets.test.shape[1],
        "image_size": None,
    }
    return sets, {**facts, **header}
