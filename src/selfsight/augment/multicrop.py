"""Sizes of small crops beside whole views (multi-crop)."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class MultiCrop:
    """Sizes of small crops beside whole views."""

    size: int
    """Side of a small crop in pixels."""
    local_scale: tuple[float, float]
    """Area of a small crop."""
    scale: tuple[float, float]
    """Area of a large crop when there are small ones."""


_MULTI_CROP = (
    (160, MultiCrop(96, (0.05, 0.14), (0.14, 1.0))),  # SwAV, arXiv 2006.09882
    (96, MultiCrop(48, (0.05, 0.3), (0.14, 1.0))),
    (64, MultiCrop(32, (0.08, 0.4), (0.2, 1.0))),
    (32, MultiCrop(18, (0.08, 0.5), (0.2, 1.0))),  # solo-learn
)


def multi_crop(size: int) -> MultiCrop:
    """Defaults for whole views of `size` pixels.

    Between the listed sizes the next lower one holds, with the small crop's side in proportion (above 32 px a multiple
    of 16, so that patches tile it); from 160 to 224 px it is 96.
    """
    at, crops = next((row for row in _MULTI_CROP if size >= row[0]), _MULTI_CROP[-1])
    if at == 160:
        at = min(size, 224)
    side = max(8, crops.size * size // at)
    return replace(crops, size=side // 16 * 16 if side > 32 else side)
