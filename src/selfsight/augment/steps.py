"""Steps: operations in an order that is given, each on a share of the samples. Policies end in them, pipelines consist of them.

A step is data with one function, `act`, on views in [0, 1] at their own size. Its first uniform says which samples it is
for, the others what happens to them. `STEPS` lists all by name.
Legend: n samples, C channels, s side, k uniforms of a step beside the first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from selfsight.augment import colour, geometry, randaugment
from selfsight.augment.gates import gray, jitter, mirror, where_open
from selfsight.augment.geometry import Interpolation
from selfsight.errors import WrongUse


@dataclass(frozen=True)
class Step(ABC):
    """An operation, and for which share of the samples."""

    apply_prob: float = 1.0
    """Probability that a sample is changed."""

    name: ClassVar[str] = "step"
    moves: ClassVar[bool] = False  #: pixels change their places
    where: ClassVar[str] = ""  #: where it may stand, if not anywhere
    draws: ClassVar[int] = 1  #: uniforms of a sample

    def __post_init__(self) -> None:
        self.rule("apply_prob", 0 <= self.apply_prob <= 1, "a probability, from 0 to 1")

    def rule(self, field: str, kept: bool, rule: str) -> None:
        """Raise WrongUse, with the rule, unless it is kept."""
        if not kept:
            value = getattr(self, field)
            raise WrongUse(
                f"{self.name}: {field} is {list(value) if isinstance(value, tuple) else value}, must be {rule}"
            )

    def needs(self) -> tuple[str, ...]:
        """What it does that means something for three colour channels only."""
        return ()

    @abstractmethod
    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        """Change x in place: (n, C, s, s) in [0, 1]; gate (n,), u (n, k) on the CPU; blank (C,) the colour of holes."""


def _range(low: float, high: float, u: Tensor) -> Tensor:
    return low + (high - low) * u


@dataclass(frozen=True)
class Crop(Step):
    """A random box, resized to the view."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Area of the box as a fraction of the picture."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of the box."""
    interpolation: Interpolation = "bicubic"
    """Kernel of the resize, antialiased."""

    name, moves, draws = "crop", True, 1 + geometry.CROP_DRAWS

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.scale
        self.rule("scale", 0 < low <= high <= 1, "two areas, 0 < low <= high <= 1")
        self.rule("ratio", 0 < self.ratio[0] <= self.ratio[1], "two ratios, 0 < low <= high")

    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        side = x.shape[-1]
        sizes = torch.full((len(x), 2), side)
        scale, ratio = (torch.tensor([bounds]).expand(len(x), 2) for bounds in (self.scale, self.ratio))

        def change(y: Tensor, box: Tensor) -> Tensor:
            still = torch.zeros(len(y), dtype=torch.bool, device=y.device)
            top, left, height, width = box.unbind(1)
            rows = geometry.resize_weights(top, height, still, side, side, self.interpolation)
            columns = geometry.resize_weights(left, width, still, side, side, self.interpolation)
            return geometry.resample(y, rows, columns.transpose(1, 2)).clamp_(0, 1)

        where_open(x, gate, change, geometry.random_boxes(u, sizes, scale, ratio))


@dataclass(frozen=True)
class Flip(Step):
    """Left becomes right."""

    apply_prob: float = 0.5
    """Probability that a sample is changed."""

    name, moves = "flip", True

    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        where_open(x, gate, mirror)


@dataclass(frozen=True)
class Shift(Step):
    """A translation, the gap filled by reflection."""

    share: float = 0.125
    """By up to this share of the side, in both directions."""

    name, moves, draws = "shift", True, 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rule("share", 0 < self.share < 1, "above 0 and below 1")

    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        most = int(self.share * x.shape[-1])
        where_open(x, gate, geometry.shift, (u * (2 * most + 1)).long() - most)


@dataclass(frozen=True)
class Rotate(Step):
    """A rotation about the centre, black outside."""

    degrees: float = 30.0
    """Drawn from -degrees..degrees."""

    name, moves, draws = "rotate", True, 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rule("degrees", 0 < self.degrees <= 180, "above 0 and at most 180")

    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        where_open(x, gate, geometry.rotate, (2 * u[:, 0] - 1) * self.degrees)


@dataclass(frozen=True)
class Jitter(Step):
    """Brightness, contrast, saturation and hue, in a random order of each sample."""

    brightness: float = 0.4
    """Multiplier drawn from 1 - x..1 + x, as contrast and saturation."""
    contrast: float = 0.4
    """See brightness."""
    saturation: float = 0.4
    """See brightness."""
    hue: float = 0.1
    """Drawn from -x..x turns."""

    name, draws = "jitter", 6

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("brightness", "contrast", "saturation"):
            self.rule(field, getattr(self, field) >= 0, "at least 0")
        self.rule("hue", 0 <= self.hue <= 0.5, "from 0 to 0.5 turns")

    def needs(self) -> tuple[str, ...]:
        return tuple(field for field in ("saturation", "hue") if self.apply_prob and getattr(self, field))

    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        spread = torch.tensor([self.brightness, self.contrast, self.saturation, self.hue])
        jitter(x, gate, colour.factors(u[:, :4], spread), (u[:, 4] * len(colour.ORDERS)).long())


@dataclass(frozen=True)
class Gray(Step):
    """Luminance in every channel."""

    name = "gray"

    def needs(self) -> tuple[str, ...]:
        return ("gray",) if self.apply_prob else ()

    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        where_open(x, gate, gray)


@dataclass(frozen=True)
class Blur(Step):
    """A Gaussian blur; its kernel is a tenth of the side."""

    sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the standard deviation in pixels."""

    name, draws = "blur", 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rule("sigma", 0 < self.sigma[0] <= self.sigma[1], "two deviations, 0 < low <= high")

    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        where_open(x, gate, geometry.blur, _range(*self.sigma, u[:, 0]))


@dataclass(frozen=True)
class Solarise(Step):
    """Bright pixels are inverted."""

    threshold: float = 0.5
    """What is bright, from 0 to 1."""

    name = "solarise"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rule("threshold", 0 < self.threshold <= 1, "above 0 (which would invert everything) and at most 1")

    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        where_open(x, gate, colour.solarise, torch.full((len(x),), self.threshold))


@dataclass(frozen=True)
class RandAugment(Step):
    """Operations drawn from fourteen, all of one magnitude (arXiv 1909.13719): see randaugment.py for their strengths."""

    operations: int = 2
    """How many, one after the other; section 4.3 has 2 for ImageNet."""
    magnitude: float = 9.0
    """Strength, at most 10; section 4.3 has 9 for a ResNet-50. Small pictures and networks want less."""

    name, moves = "randaugment", True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rule("operations", 1 <= self.operations <= 10, "from 1 to 10")
        most = randaugment.MOST
        self.rule("magnitude", 0 < self.magnitude <= most, f"above 0 and at most {most:g}")

    @property
    def draws(self) -> int:  # type: ignore[override]
        """Beside the gate, which operation and in which direction, for each."""
        return 1 + 2 * self.operations

    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        for one in range(self.operations):
            which, direction = u[:, 2 * one], u[:, 2 * one + 1]
            operation = torch.where(gate, (which * len(randaugment.OPERATIONS)).long(), 0)
            strength = torch.where(direction < 0.5, -1.0, 1.0) * (self.magnitude / randaugment.MOST)
            randaugment.operate(x, operation, strength, blank)


@dataclass(frozen=True)
class Cutout(Step):
    """A square anywhere, also over the border, that normalises to 0 (arXiv 1708.04552)."""

    side: float = 0.5
    """Of the square, as a share of the view's: 16 of 32 pixels in section 4.1."""

    name, draws = "cutout", 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rule("side", 0 < self.side <= 1, "above 0 and at most 1")

    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        line, hole = torch.arange(x.shape[-1]), max(1, round(self.side * x.shape[-1]))
        start = (u * x.shape[-1]).long() - hole // 2  # (n, 2) the centre is a pixel of the view
        inside = (line >= start[..., None]) & (line < start[..., None] + hole)  # (n, 2, s) rows, columns

        def change(y: Tensor, covered: Tensor) -> Tensor:
            hidden = covered[:, 0, :, None] & covered[:, 1, None, :]
            return torch.where(hidden[:, None], blank[:, None, None], y)

        where_open(x, gate, change, inside)


@dataclass(frozen=True)
class Normalise(Step):
    """Says where normalisation comes, which every pipeline ends in (unless it is off): only cutout may follow."""

    name, where = "normalise", "the last step, or the last but cutout"

    def __post_init__(self) -> None:
        self.rule("apply_prob", self.apply_prob == 1, "1: all pictures are normalised or none (--views.no-normalise)")

    def act(self, x: Tensor, gate: Tensor, u: Tensor, blank: Tensor) -> None:
        """Nothing: holes have the colour that normalises to 0, before or after."""


STEPS: dict[str, type[Step]] = {
    cls.name: cls for cls in (Crop, Flip, Shift, Rotate, Jitter, Gray, Blur, Solarise, RandAugment, Cutout, Normalise)
}
"""Every step by name."""


def follow(steps: tuple[Step, ...], x: Tensor, u: Tensor, blank: Tensor) -> None:
    """All steps in their order, in place: x (n, C, s, s) in [0, 1], u (n, uniforms of all steps or more) on the CPU."""
    column = 0
    for step in steps:
        own = u[:, column : column + step.draws]
        step.act(x, own[:, 0] < step.apply_prob, own[:, 1:], blank)
        column += step.draws
