"""YAML files of the project of eleven methods: their keys become settings of a run here.

Keys may stand alone or in groups; the name of a group only tells apart what is called alike (`lr` of the optimizer and of
`linear_eval`). Nothing is passed over in silence: a key is a setting, or a remark says why it is none, or it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from selfsight import run as runs
from selfsight.errors import WrongUse, perhaps
from selfsight.recipes import RECIPES
from selfsight.recipes.eleven import name_for
from selfsight.references.eleven_keys import ALGORITHMS, GENERAL, KINDS, METHODS, PREDICTED, PROJECTED, REMARKS, SAME
from selfsight.references.eleven_transforms import views_from
from selfsight.run import Run


@dataclass
class Found:
    """What a file says: settings here by dotted name, settings of the linear evaluation, remarks."""

    settings: dict[str, Any] = field(default_factory=dict)
    linear: dict[str, Any] = field(default_factory=dict)
    transforms: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_ours(plain: Mapping[str, Any]) -> bool:
    """Whether a YAML file is one of this system's: those name their method or recipe."""
    return "method" in plain or "recipe" in plain


def read(plain: Mapping[str, Any], algorithm: str, where: str) -> tuple[Run[Any], Run[Any], dict[str, Any], list[str]]:
    """A run from a file of the project: (recipe it starts from, run, settings of its linear protocol, remarks).

    Raises:
        WrongUse: an unknown key (with a suggestion), or a value that makes no sense.
    """
    found = Found()
    for path, value in _leaves(plain):
        _take(found, path, value, algorithm, where)
    base = RECIPES[name_for(ALGORITHMS[algorithm])]()
    settings = _finished(found, base, algorithm)
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        inner = nested
        *groups, last = name.split(".")
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return base, runs.from_dict(nested, base), _linear(found.linear), list(dict.fromkeys(found.notes))


def _leaves(plain: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(names from the top to it, value) of every key that is no group; a set of transforms counts as one."""
    for key, value in plain.items():
        here = (*path, str(key).lower().replace("-", "_"))
        if isinstance(value, Mapping) and _kind(here) not in ("transforms", "test"):
            yield from _leaves(value, here)
        else:
            yield here, value


def _kind(path: tuple[str, ...]) -> str:
    """Kind of the group that a key lies in, or is: the linear evaluation's optimizer is the linear evaluation's."""
    kinds = [KINDS[name] for name in path if name in KINDS]
    for first in ("linear", "test", "transforms"):
        if first in kinds:
            return first
    return kinds[-1] if kinds else "run"


def _take(found: Found, path: tuple[str, ...], value: Any, algorithm: str, where: str) -> None:
    kind, leaf = _kind(path), SAME.get(path[-1], path[-1])
    if kind == "test":
        found.notes.append("transforms of test pictures: features are made of whole pictures, resized and normalised")
        return
    if kind == "transforms":
        found.transforms |= value if isinstance(value, Mapping) else _listed(value, where)
        return
    if kind == "schedule" and leaf == "eta_min":
        leaf = "final"
    tables = _tables(kind, algorithm)
    table = next((t for t in tables if leaf in t), None)
    if table is None:
        known = {name for t in tables for name in t}
        raise WrongUse(f"{where}: unknown key {'.'.join(path)}.{perhaps(leaf, known)}")
    if kind == "linear" and table[leaf]:
        found.linear[table[leaf]] = value
    elif table[leaf]:
        found.settings[table[leaf]] = value
    _remark(found, kind, leaf, value, algorithm)


def _tables(kind: str, algorithm: str) -> list[dict[str, str]]:
    own = METHODS[algorithm]
    if kind == "projector":
        return [PROJECTED.get(algorithm, {}), own]
    if kind == "predictor":
        heads = {"input_dim": "", "hidden_dim": "method.predictor_hidden", "output_dim": ""}
        return [heads if algorithm in PREDICTED else {"hidden_dim": "", "output_dim": "", "input_dim": ""}]
    if kind == "run":  # also groups of the method's own
        return [own, GENERAL["run"], {k: v for k, v in GENERAL["optimizer"].items() if k not in ("name", "momentum")}]
    return [GENERAL[kind], own] if kind == "encoder" else [GENERAL[kind]]


def _remark(found: Found, kind: str, leaf: str, value: Any, algorithm: str) -> None:
    if kind == "predictor" and algorithm not in PREDICTED:
        found.notes.append(f"{leaf} of the predictor: {algorithm}'s is as wide as its projector")
    text = REMARKS.get(f"{kind}.{leaf}") or REMARKS.get(f"{algorithm}.{leaf}")
    if text:
        found.notes.append(text)
    if leaf == "normalize" and algorithm == "simclr" and not value:
        raise WrongUse("normalize: False is not there: SimCLR compares directions; leave it out")
    if (kind, leaf) == ("encoder", "pretrained") and value:
        raise WrongUse("pretrained: True contradicts the point: encoders start untrained here; leave it out")
    if (kind, leaf) == ("linear", "name") and str(value).lower() not in ("sgd", "cosine"):
        raise WrongUse(f"linear_eval: {value} is not there: it is SGD with a cosine (see `selfsight list protocols`)")


def _listed(value: Any, where: str) -> dict[str, Any]:
    """Transforms as a list: names, or mappings of one name."""
    if not isinstance(value, list):
        raise WrongUse(f"{where}: transforms are {value!r}: give a list or a mapping of them")
    found: dict[str, Any] = {}
    for entry in value:
        found |= entry if isinstance(entry, Mapping) else {str(entry): {}}
    return found


def _finished(found: Found, base: Run[Any], algorithm: str) -> dict[str, Any]:
    """Settings with the values that they have here."""
    settings = dict(found.settings)
    if "data" in settings:
        settings["data"] = str(settings["data"]).lower().replace("-", "")
    if "net.stem" in settings:
        settings["net.stem"] = "small" if settings["net.stem"] else "imagenet"
        if settings["net.stem"] == "small":
            found.notes.append(
                "reduce_bottom_conv: also without the max-pool that stayed there, small pictures need none "
                "(--net.stem legacy keeps it)"
            )
            settings["net.stem"] = "auto"
    if algorithm == "moco" and "method.momentum" in settings:
        settings["method.momentum_end"] = settings["method.momentum"]
    if "method.head" in settings:
        settings["method.head"] = "matched" if settings["method.head"] else "new"
    if "views.tiles.cell" in settings:
        settings["views.tiles.size"] = settings["views.tiles.cell"]
    if "views.tiles.grid" in settings:
        settings["views.tiles.grid"] = math.isqrt(int(settings["views.tiles.grid"]))
    epochs, batch = settings.get("epochs", base.epochs), int(settings.get("batch_size", base.batch_size))
    decay = settings.get("optimizer.weight_decay")
    if isinstance(decay, list | tuple):  # from, to
        settings["optimizer.weight_decay"], settings["optimizer.weight_decay_end"] = decay
    if str(settings.get("optimizer.name", base.optimizer.name)).lower() != "sgd":
        if settings.pop("optimizer.nesterov", False):
            found.notes.append("nesterov: belongs to SGD")
        settings |= {"optimizer.nesterov": False} if base.optimizer.nesterov else {}
    if "schedule.milestones" in settings:
        settings["schedule.milestones"] = [float(m) / float(epochs) for m in settings["schedule.milestones"]]
    if "schedule.name" in settings:
        settings["schedule.name"] = str(settings["schedule.name"]).lower().replace("_", "")
    if "schedule.final" in settings:
        settings["schedule.final"] = float(settings["schedule.final"]) / float(
            settings.get("optimizer.lr", base.optimizer.lr)
        )
    rows = settings.get("method.queue")
    if rows and int(rows) % batch:
        settings["method.queue"] = -(-int(rows) // batch) * batch
        found.notes.append(f"queue of {rows}: {settings['method.queue']}, a multiple of the batch of {batch}")
    if found.transforms:
        settings |= views_from(found.transforms, found.notes)
    return settings


def _linear(given: dict[str, Any]) -> dict[str, Any]:
    """Settings of the protocol that differ from the project's; its rate is for 256 rows."""
    found: dict[str, Any] = {k: int(v) if k in ("epochs", "batch_size") else float(v) for k, v in given.items()}
    if "lr" in found or "batch_size" in found:
        found["base_lr"] = found.pop("lr", 0.1) * 256 / found.get("batch_size", 256)
    usual = {"epochs": 100, "batch_size": 256, "base_lr": 0.1, "weight_decay": 1e-6, "momentum": 0.9}
    return {name: value for name, value in found.items() if value != usual[name]}
