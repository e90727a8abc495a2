"""Settings of the views."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from selfsight.augment.masks import MaskKind
from selfsight.augment.pipeline import Pipeline
from selfsight.augment.tiles import NO_TILES, TilesConfig
from selfsight.errors import WrongUse


@dataclass(frozen=True)
class ViewsConfig:
    """The views of a picture that a method sees."""

    policy: str = "auto"
    """Name of the augmentation, see `selfsight list policies`; auto: the method's own."""
    pipeline: Pipeline | None = None
    """A YAML file of steps in their order (docs/augmentation.md), in place of the policy and all that changes it: scale to
    interpolation. Steps as text are taken, too."""
    views: int = 2
    """Whole views of each picture."""
    size: int = 0
    """Side of a view in pixels; 0: the data's image size."""
    locals: int = 0
    """Small crops of each picture beside the whole views (multi-crop)."""
    local_size: int = 0
    """Side of a small crop in pixels; 0: from the size of the views."""
    scale: tuple[float, float] | None = None
    """Area of the crops as a fraction of the picture; None: the policy's."""
    local_scale: tuple[float, float] | None = None
    """Area of the small crops; None: from the policy or the size of the views."""
    strength: float = 1.0
    """Multiplies the colour jitter's brightness, contrast, saturation and hue."""
    gray: float | None = None
    """Probability of grayscale; None: the policy's."""
    blur: float | None = None
    """Probability of blur; None: the policy's."""
    solarise: float | None = None
    """Probability of solarisation; None: the policy's."""
    rotate: float | None = None
    """Probability of a rotation; None: the policy's."""
    rotate_degrees: float = 30.0
    """A rotation is drawn from -degrees..degrees."""
    randaugment: float | None = None
    """Probability of RandAugment, after the policy's operations; None: the policy's."""
    randaugment_magnitude: float = 9.0
    """Strength of its two operations, at most 10."""
    cutout: float | None = None
    """Probability of Cutout, after the policy's operations; None: the policy's."""
    cutout_side: float = 0.5
    """Side of the square that it blanks, as a share of the view's."""
    colour: Literal["fast", "exact"] = "fast"
    """fast: one colour matrix per sample, clamped once; exact: step by step as torchvision does, hue in HSV."""
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    """Kernel of the antialiased resize; auto: the policy's."""
    shared_flip: bool = False
    """All views of a picture are mirrored, or none: positions in them then agree. Tiles are never mirrored alone then."""
    normalise: bool = True
    """Subtract the data's mean and divide by its deviation."""
    clean: bool = False
    """Add the whole picture without augmentation as the view "clean"."""
    mask: MaskKind = "none"
    """Hide patches of the whole views: block (rectangles), random (patches or units), multiblock (four targets, a context)."""
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    """Share of the patches that a mask hides, or one target of multiblock, drawn from this range."""
    mask_share: float = 0.5
    """Share of the whole views that get a mask; block and random."""
    mask_unit: int = 1
    """Side, in patches, of the squares that random masks consist of."""
    places: bool = False
    """Add where the whole views lie in their picture as "place", for methods that compare places."""
    tiles: TilesConfig = NO_TILES
    """Cut pictures into tiles, for methods that compare these."""


PROBABILITIES = ("gray", "blur", "solarise", "rotate", "randaugment", "cutout")
"""Settings that change a policy, None where they do not."""
_OF_POLICIES = ("scale", "strength", *PROBABILITIES, "interpolation")


def untouched(config: ViewsConfig, policy: str) -> ViewsConfig:
    """The settings with another policy, as it is."""
    return replace(config, policy=policy, **{name: getattr(ViewsConfig, name) for name in _OF_POLICIES})


def overruled(config: ViewsConfig) -> list[str]:
    """Settings that would change a policy, and do nothing since a pipeline stands in its place."""
    changed = [name for name in _OF_POLICIES if getattr(config, name) != getattr(ViewsConfig, name)]
    return changed if config.pipeline else []


def check(config: ViewsConfig) -> None:
    """Raise WrongUse for numbers that make no sense."""
    for field in (*PROBABILITIES, "mask_share"):
        value = getattr(config, field)
        if value is not None and not 0 <= value <= 1:
            raise WrongUse(f"views.{field} is a probability, not {value}; give a number from 0 to 1")
    for field in ("scale", "local_scale", "mask_ratio"):
        bounds = getattr(config, field)
        if bounds is not None and not 0 < bounds[0] <= bounds[1] <= 1:
            raise WrongUse(f"views.{field} {bounds} is not a range of areas; give two numbers, 0 < low <= high <= 1")
    for field, least in (
        ("views", 0 if config.tiles.grid and not config.places else 1),
        ("size", 0),
        ("locals", 0),
        ("local_size", 0),
        ("strength", 0),
    ):
        if getattr(config, field) < least:
            raise WrongUse(f"views.{field} is {getattr(config, field)}; give at least {least}")
    if config.policy == "auto" and not config.pipeline:
        raise WrongUse("views.policy 'auto' stands for the method's policy; give a name when building views by hand")
