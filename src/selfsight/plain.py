"""Dataclasses of settings to plain values and back, with types checked and errors that name the setting."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from selfsight.augment import Pipeline
from selfsight.errors import WrongUse
from selfsight.pipelines import read_pipeline


def plain(value: Any) -> Any:
    """Settings as dicts, lists and plain values."""
    if isinstance(value, Pipeline):
        return value.plain()
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value


def merge(cls: type, base: Any, plain: Any, where: str, skip: str = "") -> Any:
    """`base`, a dataclass of type `cls`, with the changes of a nested dict. `where`: its name, with a dot behind.

    Raises:
        WrongUse: unknown key (with a suggestion), or a value of a wrong type.
    """
    if not isinstance(plain, Mapping):
        raise WrongUse(f"{where.rstrip('.')}: expected a group of settings, found {plain!r}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.name != skip]
    changes: dict[str, Any] = {}
    for key, value in plain.items():
        key = str(key).replace("-", "_")
        if key not in names:
            raise WrongUse(f"unknown setting {where}{key}.{_suggestion(key, where, base)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            changes[key] = merge(typing.cast(type, hint), getattr(base, key), value, f"{where}{key}.")
        else:
            changes[key] = _coerce(hint, value, f"{where}{key}")
    return dataclasses.replace(base, **changes)


_NO = object()


def _suggestion(key: str, where: str, base: Any) -> str:
    """The nearest setting of this group, else of one further in, by its whole name."""
    names = {f.name: f"{where}{f.name}" for f in dataclasses.fields(base)}
    for f in dataclasses.fields(base):
        inner = getattr(base, f.name)
        for g in dataclasses.fields(inner) if dataclasses.is_dataclass(inner) else ():
            names.setdefault(g.name, f"{where}{f.name}.{g.name}")
    close = difflib.get_close_matches(key, list(names), n=1, cutoff=0.6)
    return f" Perhaps you meant {names[close[0]]}." if close else " See `selfsight pretrain --help` for all of them."


def _coerce(hint: Any, value: Any, where: str) -> Any:
    found = _fit(hint, value)
    if found is _NO:
        raise WrongUse(f"{where}: {value!r} is not {_kind(hint)}")
    return found


def _kind(hint: Any) -> str:
    """A type in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(a) for a in args)
    if origin is Literal:
        return " or ".join(str(a) for a in args)
    if origin is tuple:
        return f"a list of {'' if args[-1] is Ellipsis else f'{len(args)} times '}{_kind(args[0])}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(hint, str(hint))


def _fit(hint: Any, value: Any) -> Any:
    """`value` as the type says, or _NO."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return next((found for a in args if (found := _fit(a, value)) is not _NO), _NO)
    if origin is Literal:
        return next((a for a in args if a == value and type(a) is type(value)), _NO)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return _NO
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        fitted = [_fit(a, v) for a, v in zip(inner, value)] if len(inner) == len(value) else [_NO]
        return _NO if any(f is _NO for f in fitted) else tuple(fitted)
    if hint is Pipeline:
        return _NO if value is None else read_pipeline(value)
    if hint is type(None):
        return None if value is None else _NO
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            return _NO
    if hint is int and isinstance(value, bool):
        return _NO
    if hint is Any:
        return value
    return value if isinstance(hint, type) and isinstance(value, hint) else _NO
