"""What the random numbers of a group of views mean. All on the CPU, so it is the same whatever the device.

Legend: V views, B batch, b rows of a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from selfsight.augment import colour, geometry
from selfsight.augment.policies import Policy
from selfsight.errors import WrongUse

# Columns of the uniforms after the box's. Every policy draws all of them: switching one operation on or off leaves
# the others' random numbers as they were.
(FLIP, ROTATE, ANGLE, JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GRAY, BLUR, SIGMA, SOLARISE, DRAWS) = range(
    geometry.CROP_DRAWS, geometry.CROP_DRAWS + 14
)


@dataclass(frozen=True)
class Group:
    """Views of one size: one policy per view."""

    name: str
    size: int
    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        if len({p.kind for p in self.policies}) != 1:
            raise WrongUse(
                f"the policies of {self.name!r} views differ in interpolation, order or whether they crop; "
                "give them the same, or use two groups"
            )

    @property
    def more(self) -> int:
        """Uniforms of a view beside those that all policies have: what steps draw."""
        return max(sum(step.draws for step in policy.steps) for policy in self.policies)

    @property
    def draws(self) -> int:
        """Uniforms of a view."""
        return DRAWS + self.more

    def table(self, *fields: str) -> Tensor:
        """(V, 1, fields) numbers of the policies."""
        return torch.tensor([[[float(getattr(p, f)) for f in fields]] for p in self.policies])

    def ranges(self, field: str) -> Tensor:
        """(V, 1, 2) a range of the policies."""
        return torch.tensor([[getattr(p, field)] for p in self.policies], dtype=torch.float64)

    def boxes(self, draws: Tensor, sizes: Tensor) -> Tensor:
        """Draws (B, V, DRAWS or more), sizes (B, 2) height and width -> (B, V, 4) int64 top, left, height, width."""
        size = sizes.cpu()[:, None].expand(-1, len(self.policies), -1)
        if self.policies[0].scale is None:
            return geometry.central_boxes(size)
        scale, ratio = (self.ranges(field).transpose(0, 1) for field in ("scale", "ratio"))
        return geometry.random_boxes(draws, size, scale, ratio)


class Plan(NamedTuple):
    """What the uniforms of one group mean, on the CPU; every field is (V, B, ...)."""

    flip: Tensor  #: bool
    shift: Tensor  #: bool
    offset: Tensor  #: (V, B, 2) pixels down and to the right
    rotate: Tensor  #: bool
    degrees: Tensor
    jitter: Tensor  #: bool
    factors: Tensor  #: (V, B, 4) as colour.compose takes them; neutral where the jitter is off
    order: Tensor  #: int64, which of colour.ORDERS
    gray: Tensor  #: bool
    blur: Tensor  #: bool
    sigma: Tensor  #: pixels
    solarise: Tensor  #: bool
    threshold: Tensor

    @classmethod
    def of(cls, group: Group, draws: Tensor) -> Plan:
        """Draws (B, V, DRAWS or more): uniforms in [0, 1)."""
        u = draws.transpose(0, 1)
        gates = u[..., [FLIP, ROTATE, JITTER, GRAY, BLUR, SOLARISE]] < group.table(
            "flip", "rotate", "jitter", "gray", "blur", "solarise"
        )
        flip, rotate, jitter, gray, blur, solarise = gates.unbind(-1)
        factors = colour.factors(
            u[..., BRIGHTNESS : HUE + 1], group.table("brightness", "contrast", "saturation", "hue")
        )
        sigma = group.ranges("sigma").float()
        # a picture that is not cropped has the box's uniforms to spare
        most = group.size // 8 if group.policies[0].scale is None else 0
        shift = (u[..., 0] < group.table("shift")[..., 0]) & (most > 0)
        return cls(
            flip=flip,
            shift=shift,
            offset=(u[..., geometry.CROP_DRAWS - 2 : geometry.CROP_DRAWS] * (2 * most + 1)).long() - most,
            rotate=rotate,
            degrees=(2 * u[..., ANGLE] - 1) * group.table("degrees")[..., 0],
            jitter=jitter,
            factors=torch.where(jitter[..., None], factors, colour.NEUTRAL),
            order=(u[..., ORDER] * len(colour.ORDERS)).long(),
            gray=gray,
            blur=blur,
            sigma=sigma[..., 0] + (sigma[..., 1] - sigma[..., 0]) * u[..., SIGMA],
            solarise=solarise,
            threshold=group.table("threshold")[..., 0].expand_as(solarise),
        )

    def part(self, view: int, rows: slice) -> Plan:
        """One view of some rows; every field is (b, ...)."""
        return Plan(*(field[view, rows] for field in self))
