"""Run protocols: which parts each needs, its settings, one seed for all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from selfsight.errors import WrongUse, perhaps
from selfsight.evaluate import PICTURES, PROTOCOLS, UNLABELLED, WITHIN, moons
from selfsight.evaluate.stored import Sets, read
from selfsight.evaluate.subject import Subject

GIVEN = ("train", "labels", "test", "test_labels", "classes", "features", "views", "seed")  #: what is no setting
KNOWN: dict[str, Callable[..., dict[str, Any]]] = {**PROTOCOLS, **PICTURES}


def settings_of(name: str) -> dict[str, inspect.Parameter]:
    """Settings of a protocol, with their defaults. `labels` of one that sees pictures is a setting."""
    parameters = inspect.signature(KNOWN[name]).parameters
    given = ("subject", "seed") if name in PICTURES else GIVEN
    return {key: parameter for key, parameter in parameters.items() if key not in given}


def check(protocols: Sequence[str], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of each protocol, as its function takes them.

    Raises:
        WrongUse: an unknown protocol or setting (with a suggestion), or a value of another kind.
    """
    unknown = [name for name in protocols if name not in KNOWN]
    if unknown or not protocols:
        name = unknown[0] if unknown else ""
        raise WrongUse(f"unknown protocol {name!r}.{perhaps(name, set(KNOWN))}")
    found: dict[str, dict[str, Any]] = {name: {} for name in protocols}
    for name, given in settings.items():
        if name not in found:
            raise WrongUse(f"settings of {name!r}, which is not asked for.{perhaps(str(name), set(protocols))}")
        if not isinstance(given, Mapping):
            raise WrongUse(f"settings of {name}: write {name}: {{name: value}}, not {given!r}")
        known, kinds = settings_of(name), get_type_hints(KNOWN[name])
        for key, value in given.items():
            if key not in known:
                raise WrongUse(f"{name} has no setting {key!r}.{perhaps(str(key), set(known)) if known else ''}")
            found[name][key] = _value(f"{name}.{key}", kinds[key], known[key].default, value)
    return found


def _value(where: str, kind: Any, default: Any, value: Any) -> Any:
    """The value as a setting of this type and default takes it."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise WrongUse(f"{where} is {value!r}.{perhaps(str(value), {*get_args(kind)})}")
        return value
    if kind is str or kind == tuple[str, ...]:
        words = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(word, str) for word in words) or (kind is str and len(words) != 1):
            raise WrongUse(f"{where} is {value!r}: give {'a name' if kind is str else 'names'}")
        return words[0] if kind is str else tuple(words)
    if isinstance(default, tuple):
        numbers = tuple(_number(where, v) for v in (value if isinstance(value, list | tuple) else [value]))
        whole = int in get_args(kind) or bool(default and all(isinstance(entry, int) for entry in default))
        return tuple(_whole(where, v) for v in numbers) if whole else numbers
    number = _number(where, value)
    return (
        _whole(where, number) if isinstance(default, int) else float(number) if isinstance(default, float) else number
    )


def _whole(where: str, number: int | float) -> int:
    if number != int(number):
        raise WrongUse(f"{where} is {number!r}: give a whole number")
    return int(number)


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


def needs_features(protocols: Sequence[str]) -> bool:
    """Whether any of the protocols asks for features that are computed beforehand."""
    return not set(protocols) <= PICTURES.keys()


def measure(
    sets: Sets | None,
    settings: Mapping[str, Mapping[str, Any]],
    seed: int,
    facts: Mapping[str, Any],
    subject: Subject | None = None,
) -> dict[str, dict[str, Any]]:
    """Name -> numbers of each protocol in `settings` (see `check`), each with the seed, `facts` and its settings (`parameters`).

    Args:
        sets: features; None where no protocol asks for them.
        settings: of each protocol, as `check` gives them.
        seed: of all.
        facts: what is known of the features.
        subject: the encoder and pictures, for protocols that see these.

    Raises:
        WrongUse: a part or its labels are missing.
    """
    return {
        name: {
            **(_of_pictures(name, subject, seed, given) if name in PICTURES else _of_sets(name, sets, seed, given)),
            "seed": seed,
            **facts,
            "parameters": {key: given.get(key, parameter.default) for key, parameter in settings_of(name).items()},
        }
        for name, given in settings.items()
    }


def _of_pictures(name: str, subject: Subject | None, seed: int, given: Mapping[str, Any]) -> dict[str, Any]:
    if subject is None:
        raise WrongUse(f"{name} sees pictures, and these are features: give a run and --train and --test pictures")
    return PICTURES[name](subject, seed=seed, **given)


def _of_sets(name: str, sets: Sets | None, seed: int, given: Mapping[str, Any]) -> dict[str, Any]:
    assert sets is not None
    if name not in UNLABELLED and sets.test_labels is None:
        raise WrongUse(f"the test features have no labels, which {name} compares with; only geometry needs none")
    if name not in WITHIN and (sets.train is None or sets.labels is None):
        raise WrongUse(f"there are no labelled training features, which {name} learns from")
    most = [int(labels.max()) + 1 for labels in (sets.labels, sets.test_labels) if labels is not None]
    classes = max([len(sets.classes or ()), *most])
    views = {"views": sets.views} if name in UNLABELLED else {}
    return PROTOCOLS[name](sets.train, sets.labels, sets.test, sets.test_labels, classes, seed=seed, **given, **views)


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
