"""Two moons: points of the plane that no line divides, a set of features for a first look at protocols."""

import math

import torch
from torch import Tensor

from selfsight.errors import WrongUse
from selfsight.evaluate.stored import Sets
from selfsight.rng import Stream, generator

NAME = "two-moons"


def two_moons(name: str = NAME) -> Sets:
    """Points on two half circles that reach into each other; a fifth more to test.

    Args:
        name: two-moons, two-moons:COUNT or two-moons:COUNT:NOISE; COUNT points to train on (1000), in the same order each
            time, with normal NOISE (0.1) on both coordinates.

    Raises:
        WrongUse: options that are no numbers, or out of range.
    """
    try:
        count, noise = [float(option) for option in name.split(":")[1:]] + [1000, 0.1][len(name.split(":")) - 1 :]
    except ValueError:
        raise WrongUse(f"{name!r}: write {NAME}, {NAME}:COUNT or {NAME}:COUNT:NOISE") from None
    if not (10 <= count <= 1_000_000 and count == int(count) and 0 <= noise < math.inf):
        raise WrongUse(f"{name!r}: COUNT is a number of points from 10 to 1000000, NOISE is not negative")

    def part(number: int, count: int) -> tuple[Tensor, Tensor]:
        rng = generator(0, Stream.DATA, number, count)
        labels = torch.arange(count) % 2
        angle = math.pi * torch.rand(count, generator=rng)
        upper, lower = (angle.cos(), angle.sin()), (1 - angle.cos(), 0.5 - angle.sin())
        points = torch.where(labels[:, None] == 0, torch.stack(upper, 1), torch.stack(lower, 1))
        return points + noise * torch.randn(count, 2, generator=rng), labels

    return Sets(*part(0, int(count)), *part(1, max(10, int(count) // 5)), ["upper", "lower"])
