"""Losses are islands of full precision: a bfloat16 similarity is off by 0.004, 0.06 in a logit at temperature 0.07."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` with autocast off and its half-precision tensors (also in lists) raised to float32."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(_tensors((args, kwargs))).device.type
        with torch.autocast(device, enabled=False):
            return function(*_raised(args), **_raised(kwargs))

    return run


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _raised(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if isinstance(value, dict):
        return {name: _raised(item) for name, item in value.items()}
    return type(value)(_raised(item) for item in value) if isinstance(value, (list, tuple)) else value
