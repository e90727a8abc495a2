"""Change some pictures of a batch: those whose gate is open. Gates and values are drawn on the CPU, pixels are anywhere.

Legend: n samples, C channels, s side.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from selfsight.augment import colour


def where_open(x: Tensor, gate: Tensor, change: Callable[..., Tensor], *values: Tensor) -> None:
    """x[i] = change(x, *values)[i] where gate[i], in place, working on those rows only.

    x (b, ...) on any device; gate (b,) bool and values (b, ...) on the CPU.
    """
    rows = gate.nonzero()[:, 0]
    if len(rows):
        values = tuple(value[rows].to(x.device, non_blocking=True) for value in values)
        rows = rows.to(x.device, non_blocking=True)
        x.index_copy_(0, rows, change(x.index_select(0, rows), *values))


def gray(x: Tensor) -> Tensor:
    """Luminance in every channel: (n, C, s, s)."""
    return colour.to_gray(x).expand(-1, x.shape[1], -1, -1)


def mirror(x: Tensor) -> Tensor:
    """Left to right: (n, C, s, s)."""
    return x.flip(-1)


def jitter(x: Tensor, gate: Tensor, factors: Tensor, order: Tensor, mask: Tensor | None = None) -> None:
    """Colour jitter step by step, in place.

    Args:
        x: (n, C, H, W) in [0, 1].
        gate: (n,) bool, on the CPU as all that follows but the mask.
        factors: (n, 4) brightness, contrast, saturation, hue.
        order: (n,) int64, which row of colour.ORDERS.
        mask: (n, 1, H, W) 1 where padded pictures are.
    """
    places = colour.ORDERS[order]
    extra = () if mask is None else (mask,)
    for k in range(4):
        for operation in range(4):
            factor = factors[:, operation]
            due = gate & (places[:, k] == operation) & (factor != float(operation != colour.HUE))

            def change(y: Tensor, f: Tensor, *valid: Tensor, operation: int = operation) -> Tensor:
                return colour.step(y, operation, f, *valid)

            where_open(x, due, change, factor, *extra)
