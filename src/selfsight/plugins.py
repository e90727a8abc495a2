"""What other installed packages bring to the registries: entry points, read when a registry is first used.

A package names its parts in its pyproject.toml, a line each:

    [project.entry-points."selfsight.methods"]
    plain = "myplugin.method:Plain"

One that cannot be used is left out, with a line that says why; the rest works.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUPS = {
    "selfsight.methods": "a subclass of selfsight.core.Method with a Config of its own",
    "selfsight.encoders": "a selfsight.encoders.Encoder",
    "selfsight.data": "a selfsight.data.Known",
    "selfsight.policies": "a selfsight.augment.Entry",
    "selfsight.steps": "a subclass of selfsight.augment.Step, named like its entry point",
    "selfsight.recipes": "a function that returns a selfsight.Run, named METHOD-RECIPE",
}
"""Group of entry points -> what one of them must be."""


_waiting: list[Callable[[], None]] = []


def add(group: str, registry: dict[str, Any], fits: Callable[[str, Any], bool]) -> None:
    """Put what other packages bring into a registry.

    Args:
        group: a name of GROUPS.
        registry: name -> entry.
        fits: whether (name, entry) is what GROUPS says.
    """
    taken = dict.fromkeys(registry, "selfsight")
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, _package(point))):
        if point.name in taken:
            _leave_out(point, f"{taken[point.name]} has one of that name: rename it")
            continue
        taken[point.name] = _package(point)
        if _under_way(point):  # somebody imports it, and it imports us
            _waiting.append(partial(_take, point, registry, fits))
        else:
            _take(point, registry, fits)


def settle() -> None:
    """Take what was still being imported when its registry asked for it."""
    while _waiting:
        _waiting.pop()()


def _under_way(point: EntryPoint) -> bool:
    spec = getattr(sys.modules.get(point.module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def _take(point: EntryPoint, registry: dict[str, Any], fits: Callable[[str, Any], bool]) -> None:
    try:
        found = point.load()
    except Exception as error:  # whatever another package's import raises
        _leave_out(point, f"{type(error).__name__}: {error}")
        return
    if fits(point.name, found):
        registry[point.name] = found
    else:
        _leave_out(point, f"{point.value} is not {GROUPS[point.group]}")


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "a package"


def _leave_out(point: EntryPoint, why: str) -> None:
    what = point.group.removeprefix("selfsight.")
    told = " ".join(why.split())
    print(f"selfsight: {point.name!r} of {_package(point)} ({what}) is left out: {told}", file=sys.stderr)
