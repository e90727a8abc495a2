"""Pipelines: steps in an order that the user gives, as plain lists and mappings; see docs/augmentation.md for their form.

A pipeline becomes a policy: the longest beginning whose order is a policy's is done by matrices, as any policy, and what is
left step by step, at the size of the view.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from selfsight.augment.policies import Entry, Policy
from selfsight.augment.steps import STEPS, Crop, Normalise, Shift, Step
from selfsight.errors import WrongUse, perhaps

Steps = tuple[Step, ...]
_FORM = "expected a list of steps such as `- flip` or `- blur: {apply_prob: 0.5}`, or such lists as `views` and `local`"
# how much of a policy's order the beginnings of pipelines may take; views of one size must agree in its kind
_ORDERS = (
    ("crop", "flip", "shift", "rotate", "jitter", "gray", "blur", "solarise"),
    ("crop", "flip", "shift", "rotate"),
    (),
)


class Pipeline:
    """Steps of each view. Immutable; equal to another of the same steps. No dataclass: settings hold it as one value."""

    def __init__(self, views: tuple[Steps, ...], local: Steps | None = None) -> None:
        """views: view v takes views[v % len(views)]; local: what small crops take, None: the views' with smaller boxes."""
        for steps in (*views, *([] if local is None else [local])):
            _check_end(steps)
        self._parts = views, local

    @classmethod
    def parse(cls, plain: Any) -> Pipeline:
        """From plain lists and mappings, which stay as they are. Raises WrongUse: says which step is wrong, and the rule."""
        if isinstance(plain, Mapping):
            for key in plain:
                if key not in ("views", "local"):
                    way = (
                        f"write `- {key}`, steps are a list" if key in STEPS else perhaps(str(key), ["views", "local"])
                    )
                    _refuse(f"{key!r} is no part of it: {way.strip()}")
            lists = plain.get("views")
            if not isinstance(lists, list) or not lists or not all(isinstance(steps, list) for steps in lists):
                _refuse("`views` must be a list with one list of steps for each view")
            views = tuple(_steps(steps, f"view {v + 1}, ") for v, steps in enumerate(lists))
            local = None if plain.get("local") is None else _steps(plain["local"], "local, ")
            return cls(views, local)
        return cls((_steps(plain, ""),))

    @property
    def views(self) -> tuple[Steps, ...]:
        """Steps of each whole view."""
        return self._parts[0]

    @property
    def local(self) -> Steps | None:
        """Steps of small crops."""
        return self._parts[1]

    @property
    def names(self) -> list[str]:
        """Names of the first view's steps, in their order."""
        return [step.name for step in self.views[0]]

    def plain(self) -> Any:
        """What `parse` takes, with every setting spelt out."""
        if len(self.views) == 1 and self.local is None:
            return _plain(self.views[0])
        local = {} if self.local is None else {"local": _plain(self.local)}
        return {"views": [_plain(steps) for steps in self.views], **local}

    def entry(self) -> Entry:
        """The policies that do the same."""
        made = (tuple(as_policy(steps, order) for steps in self.views) for order in _ORDERS)
        policies = next(found for found in made if len({policy.kind for policy in found}) == 1)
        local = None if self.local is None else as_policy(self.local)
        return Entry(policies, "steps in their own order", "--views.pipeline", "ours", local)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    def __repr__(self) -> str:
        return f"Pipeline.parse({self.plain()!r})"


def as_policy(steps: Steps, order: Sequence[str] = _ORDERS[0]) -> Policy:
    """The policy that does these steps; what it takes of `order` at its beginning, and the rest as its steps.

    A flip before the crop is one after it, and jitter and gray before it are `colour_first`.
    """
    left = [step for step in steps if not isinstance(step, Normalise)]
    at = next((i for i, step in enumerate(left) if isinstance(step, Crop)), 0)
    early = {step.name: step for step in left[:at]}
    movable = len(early) == at and left[at : at + 1] and _whole(left[at]) and "jitter" in order
    taken: dict[str, Step] = {}
    if early and movable and early.keys() <= {"flip", "jitter", "gray"}:
        taken = {name: step for name, step in early.items() if name != "flip"}
        left = [left[at], *([early["flip"]] if "flip" in early else []), *left[at + 1 :]]
    colour_first = bool(taken)
    names = [step.name for step in left]
    free = [name for name in order if not (colour_first and name in ("jitter", "gray"))]
    if {"jitter", "gray"} <= set(free) & set(names) and names.index("gray") < names.index("jitter"):
        at = free.index("jitter")
        free[at : at + 2] = ["gray", "jitter"]
    while left and left[0].name in free and _fits(left[0], taken):
        step = left.pop(0)
        free = free[free.index(step.name) + 1 :]
        taken[step.name] = step
    return _policy(taken, colour_first, tuple(left))


def _whole(step: Step) -> bool:
    """The step is for every sample."""
    return step.apply_prob == 1


def _fits(step: Step, taken: Mapping[str, Step]) -> bool:
    """A policy can say this: its crop is for every sample, and its shift for uncropped pictures, by an eighth."""
    if isinstance(step, Shift):
        return "crop" not in taken and step.share == Shift.share
    return not isinstance(step, Crop) or _whole(step)


def _policy(taken: Mapping[str, Step], colour_first: bool, steps: Steps) -> Policy:
    fields: dict[str, Any] = {"scale": None, "flip": 0.0, "jitter": 0.0, "gray": 0.0}
    for name, step in taken.items():
        own = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
        share = own.pop("apply_prob")
        own.pop("share", None)
        fields |= own if name == "crop" else {**own, name: share}
    order = list(taken)
    both = "gray" in taken and "jitter" in taken
    gray_first = both and order.index("gray") < order.index("jitter")
    return Policy(**fields, colour_first=colour_first, gray_first=gray_first, steps=steps)


def _check_end(steps: Steps) -> None:
    names = [step.name for step in steps]
    if "normalise" in names:
        late = [name for name in names[names.index("normalise") + 1 :] if name != "cutout"]
        if late:
            _refuse(f"{late[0]} comes after normalise, which must be {Normalise.where}: it works on pictures in [0, 1]")


def _refuse(message: str) -> NoReturn:
    raise WrongUse(f"views.pipeline: {message}")


def _steps(plain: Any, where: str) -> Steps:
    if not isinstance(plain, list):
        _refuse(f"{where}{_FORM}, found {plain!r}")
    if not plain:
        _refuse(f"{where}no step; --views.policy none leaves pictures as they are")
    return tuple(_step(one, f"{where}step {i + 1}") for i, one in enumerate(plain))


def _step(plain: Any, where: str) -> Step:
    if isinstance(plain, Mapping) and len(plain) > 1:
        _refuse(
            f"{where} has several names ({', '.join(map(str, plain))}): begin each with `- `, and indent its settings"
        )
    name, given = next(iter(plain.items())) if isinstance(plain, Mapping) and plain else (plain, None)
    if not isinstance(name, str):
        _refuse(f"{where}: {_FORM}, found {plain!r}")
    if name not in STEPS:
        _refuse(f"{where}: no step is called {name!r}.{perhaps(name, list(STEPS))}")
    cls = STEPS[name]
    if not isinstance(given, Mapping | None):
        _refuse(f"{where}: {name} takes settings such as {{apply_prob: 0.5}}, not {given!r}")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    values = {}
    for field, value in (given or {}).items():
        if field not in known:
            _refuse(f"{where}: {name} has no setting {field!r}.{perhaps(str(field), known)}")
        values[field] = _value(hints[field], value, f"{where}: {name}: {field}")
    try:
        return cls(**values)
    except WrongUse as error:
        _refuse(f"{where}: {error}")


def _value(hint: Any, value: Any, where: str) -> Any:
    """A value of a step's setting as its type says."""
    if hint in (int, float):
        number = _number(value)
        if number is None or (hint is int and number != int(number)):
            _refuse(f"{where} is {value!r}, must be a {'whole ' if hint is int else ''}number")
        return hint(number)
    if typing.get_origin(hint) is tuple:
        numbers = [_number(one) for one in value] if isinstance(value, list | tuple) else []
        if len(numbers) != 2 or None in numbers:
            _refuse(f"{where} is {value!r}, must be two numbers such as [0.2, 1.0]")
        return tuple(numbers)
    if value not in typing.get_args(hint):
        _refuse(f"{where} is {value!r}, must be {' or '.join(typing.get_args(hint))}")
    return value


def _number(value: Any) -> float | None:
    """A finite number, also where YAML reads text (1e-4); else None."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        return None
    return number if number is not None and abs(number) < float("inf") else None


def _plain(steps: Steps) -> list[dict[str, Any]]:
    def own(step: Step) -> dict[str, Any]:
        values = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    return [{step.name: own(step)} for step in steps]
