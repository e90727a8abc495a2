"""Where the class token of a transformer looks: Emerging Properties in Self-Supervised Vision Transformers (arXiv 2104.14294).

Shapes legend: B batch, C channels of the pictures, S side of a picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsight import distributed
from selfsight.analysis.figure import table
from selfsight.checkpoint import Encoder, atomic
from selfsight.encoders import TokenEncoder
from selfsight.errors import WrongUse
from selfsight.measure import sample
from selfsight.train import Pictures, evaluating


def attention_maps(encoder: Any, images: Tensor, upsample: bool = True) -> Tensor:
    """Attention of the class token to the patches in the last block, a map per head.

    Args:
        encoder: a transformer, in eval mode; or one that `selfsight.load` returned.
        images: (B, C, S, S), normalised for the first, in [0, 1] for the second. What the patch does not divide is cut off
            at the right and the bottom.
        upsample: one value per pixel (nearest patch); False: one per patch.

    Returns:
        (B, heads, S, S), or (B, heads, S / patch, S / patch). The patches of a map sum to 1 less the class token's share.

    Raises:
        WrongUse: the encoder has no attention.
    """
    if isinstance(encoder, Encoder):
        images, encoder = (images - encoder.mean) / encoder.std, encoder.net
    if not isinstance(encoder, TokenEncoder):
        raise WrongUse(f"{type(encoder).__name__} has no attention maps: give a vision transformer, such as vit-small")
    rows, columns = (side // encoder.patch for side in images.shape[-2:])
    with torch.no_grad():
        attention = encoder.attention(images[..., : rows * encoder.patch, : columns * encoder.patch])
    maps = attention[:, :, 0, 1:].unflatten(-1, (rows, columns))
    return maps.repeat_interleave(encoder.patch, -2).repeat_interleave(encoder.patch, -1) if upsample else maps


def mass_mask(maps: Tensor, mass: float = 0.6) -> Tensor:
    """The most attended places that together hold this share of a map's attention: (..., H, W) -> bool (..., H, W).

    Places are sorted by attention, least first, and those kept where the running sum of shares exceeds 1 - mass.
    """
    flat = maps.flatten(-2).double()
    values, order = flat.sort(dim=-1, stable=True)
    kept = (values / values.sum(-1, keepdim=True)).cumsum(-1) > 1 - mass
    return torch.zeros_like(kept).scatter(-1, order, kept).unflatten(-1, maps.shape[-2:])


def save_attention(pictures: Pictures, encoder: Any, seed: int, path: Path, count: int = 6) -> None:
    """A PNG: sample pictures, the mean of their attention maps, and the map of each head, each in its own range.

    Every process computes it and the first one writes, since parameters may be shared out among them.
    """
    images = pictures.plain(sample(len(pictures), count, seed, 7))
    with evaluating(encoder):
        maps = attention_maps(encoder, images).cpu()
    if distributed.rank() != 0:
        return
    views = pictures.views
    shown = (images * views.std[:, None, None] + views.mean[:, None, None]).clamp(0, 1).cpu()
    columns = {"picture": shown[..., : maps.shape[-2], : maps.shape[-1]], "mean": _coloured(maps.mean(1))}
    image = table(columns | {f"head {i + 1}": _coloured(maps[:, i]) for i in range(maps.shape[1])})
    atomic(path, lambda part: image.save(part, "PNG"))


def _coloured(maps: Tensor) -> Tensor:
    """(B, S, S) -> (B, 3, S, S): dark where there is least attention, bright where there is most."""
    from matplotlib import colormaps  # slow to import

    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    scaled = (maps - low) / (high - low).clamp(min=1e-12)
    return torch.from_numpy(colormaps["viridis"](scaled.numpy())[..., :3]).permute(0, 3, 1, 2)
