"""Variations of a run: `--grid NAME=a,b` and `METHOD:NAME=VALUE`, as text, to Runs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from selfsight import run as runs
from selfsight.errors import WrongUse, perhaps
from selfsight.run import Run

ELSEWHERE = {"seed": "--seeds", "out": "--out", "method": "`selfsight compare`", "recipe": "another study"}
LINK = "/"  #: between the names, and the values, of settings that vary together


def parts_of(text: str, separator: str = ",") -> list[str]:
    """Pieces between separators that are not inside brackets: 'a,[1,2]' -> 'a', '[1,2]'."""
    pieces, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == separator and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [piece.strip() for piece in pieces]


def value_of(text: str) -> Any:
    """A value as YAML reads it: 1, 0.5, true, null, [0.2, 1.0], text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def path_of(run: Run[Any], name: str) -> str:
    """Whole name of a setting: `temperature` is the method's, `batch_size` the run's, `optimizer.lr` is whole already.

    Raises:
        WrongUse: there is no such setting, or a study has another place for it.
    """
    name = name.strip().replace("-", "_")
    if name in ELSEWHERE:
        raise WrongUse(f"{name} cannot vary here: use {ELSEWHERE[name]}")
    if "." in name:
        return name
    own = {f.name for f in dataclasses.fields(run.method)}
    plain = {f.name for f in dataclasses.fields(run) if not dataclasses.is_dataclass(getattr(run, f.name))}
    if name in own:
        return f"method.{name}"
    if name not in plain:
        known = own | plain - set(ELSEWHERE)
        raise WrongUse(f"{run.method_name} has no setting {name!r}.{perhaps(name, known)}")
    return name


def changed(run: Run[Any], settings: Mapping[str, Any]) -> Run[Any]:
    """The run with other settings, named as in `path_of`. Raises WrongUse for names and values that do not fit."""
    plain: dict[str, Any] = {}
    for name, value in settings.items():
        *groups, last = path_of(run, name).split(".")
        inner = plain
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return runs.from_dict(plain, run)


@dataclasses.dataclass(frozen=True)
class Axis:
    """A line of a grid: settings that vary together, mostly one."""

    names: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]

    @property
    def label(self) -> str:
        """Name of the axis in tables."""
        return LINK.join(self.names)

    def point(self, index: int) -> dict[str, Any]:
        """The settings of one place on it."""
        return dict(zip(self.names, self.values[index], strict=True))


def axis(text: str) -> Axis:
    """Read NAME=a,b,... or NAME/NAME=a/b,c/d,... (settings that vary together)."""
    name, equals, values = text.partition("=")
    names = tuple(n.strip().replace("-", "_") for n in name.split(LINK))
    if not equals or not all(names) or not values.strip():
        raise WrongUse(f"--grid {text!r}: write --grid NAME=VALUE,VALUE such as method.temperature=0.1,0.5")
    rows = []
    for piece in parts_of(values):
        cells = parts_of(piece, LINK) if len(names) > 1 else [piece]
        if len(cells) != len(names) or not all(cells):
            raise WrongUse(f"--grid {text!r}: {piece!r} is not {len(names)} value(s) for {name}")
        rows.append(tuple(value_of(cell) for cell in cells))
    if any(row in rows[:i] for i, row in enumerate(rows)):
        raise WrongUse(f"--grid {text!r} has a value twice: give each once")
    return Axis(names, tuple(rows))


def grid(texts: Sequence[str], run: Run[Any]) -> list[Axis]:
    """The axes of a grid over `run`, under the whole names of their settings. Raises WrongUse for a name given twice."""
    axes = [axis(text) for text in texts]
    whole = [Axis(tuple(path_of(run, name) for name in found.names), found.values) for found in axes]
    names = [name for found in whole for name in found.names]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise WrongUse(f"--grid gives {twice[0]} twice: give all its values in one")
    return whole


def points(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Every combination, the last axis fastest."""
    for places in itertools.product(*(range(len(found.values)) for found in axes)):
        yield {name: value for found, i in zip(axes, places) for name, value in found.point(i).items()}


def short(names: Sequence[str]) -> dict[str, str]:
    """Whole name -> its last part, where that tells it from the others."""
    last = [name.rsplit(".", 1)[-1] for name in names]
    return {name: end if last.count(end) == 1 else name for name, end in zip(names, last)}


def described(point: Mapping[str, Any]) -> str:
    """A combination in words: temperature=0.1 lr=0.05."""
    names = short(list(point))
    return " ".join(f"{names[name]}={shown(value)}" for name, value in point.items())


def shown(value: Any) -> str:
    """A value as YAML writes it."""
    return str(yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip())


def specification(text: str) -> tuple[str, dict[str, Any]]:
    """Head and settings of METHOD:NAME=VALUE:NAME=VALUE; the head is a method or a YAML file."""
    head, *rest = parts_of(text, ":")
    found: dict[str, Any] = {}
    for piece in rest:
        name, equals, value = piece.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise WrongUse(f"{text!r}: write METHOD:NAME=VALUE such as byol:momentum=0.99")
        if name.strip() in found:
            raise WrongUse(f"{text!r} gives {name.strip()} twice: give it once")
        found[name.strip()] = value_of(value)
    return head, found
