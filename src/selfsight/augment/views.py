"""Views of pictures: every random number first, on the CPU, then pure batched work on the device.

`draw` makes the uniforms of the global batch and each process slices its rows; apply.py says what they mean.
Legend: V views, B batch, L small crops, C channels, s and t sides, n = V * B samples, view-major.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.augment import geometry
from selfsight.augment.apply import DRAWS, Group, Normal, make
from selfsight.augment.masks import MaskKind, Masks
from selfsight.augment.places import check_upright, places
from selfsight.augment.policies import POLICIES, Policy, entry, multi_crop
from selfsight.core import Images, Views
from selfsight.errors import WrongUse


@dataclass(frozen=True)
class ViewsConfig:
    """The views of a picture that a method sees."""

    policy: str = "auto"
    """Name of the augmentation, see `selfsight list policies`; auto: the method's own."""
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
    colour: Literal["fast", "exact"] = "fast"
    """fast: one colour matrix per sample, clamped once; exact: step by step as torchvision does, hue in HSV."""
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    """Kernel of the antialiased resize; auto: the policy's."""
    normalise: bool = True
    """Subtract the data's mean and divide by its deviation."""
    clean: bool = False
    """Add the whole picture without augmentation as the view "clean"."""
    mask: MaskKind = "none"
    """Hide patches of the whole views, for methods that predict them: block (rectangles) or random (single patches)."""
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    """Share of the patches that a mask hides, drawn from this range."""
    mask_share: float = 0.5
    """Share of the whole views that get a mask."""
    places: bool = False
    """Add where the whole views lie in their picture as "place", for methods that compare places."""


class Crops(nn.Module):
    """Random views of pictures. See `build`.

    `draw` then `forward`; for pictures that worker processes decode, `cut` does the geometry there and `forward` the
    rest.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, groups: tuple[Group, ...], mean: Tensor, std: Tensor, *, exact: bool = False, clean: int = 0,
        masks: Masks | None = None, placed: bool = False,
    ) -> None:  # fmt: skip
        """mean, std: (C,) in [0, 1] units, what the views are normalised with; clean: side of "clean", 0: none."""
        super().__init__()
        self.groups, self.exact, self.clean, self.masks, self.placed = groups, exact, clean, masks, placed
        self._numbers = list(zip(mean.tolist(), std.tolist(), strict=True))
        self.register_buffer("mean", mean.float().clone(), persistent=False)
        self.register_buffer("std", std.float().clone(), persistent=False)

    def draw(self, count: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Uniforms of `count` pictures: group name -> (count, V, DRAWS) float32 in [0, 1), on the CPU.

        With masks also "mask": (count, V, T) bool, which patches of the whole views are hidden.
        """
        draws = {g.name: torch.rand(count, len(g.policies), DRAWS, generator=rng) for g in self.groups}
        if self.masks:
            draws["mask"] = self.masks.draw(count, len(self.groups[0].policies), rng)
        return draws

    def crop_boxes(self, draws: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Boxes of the groups in `draws`: sizes (B, 2) -> name -> (B, V, 4) int64 top, left, height, width."""
        return {g.name: g.boxes(draws[g.name], sizes) for g in self.groups if g.name in draws}

    def cut(self, picture: Tensor, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Crop and resize one picture, rounded to uint8: what a decoding worker does.

        Args:
            picture: (C, H, W) uint8.
            draws: one row of `draw`: name -> (V, DRAWS).

        Returns:
            Name -> (V, C, s, s) uint8, not flipped; stacked along dimension 1 they are what `forward` takes; "place" ->
            (V, 4), which needs the picture's size. Uses the native uint8 kernel, within a level or two of the float path's.
        """
        sizes = torch.tensor([picture.shape[1:]])
        boxes = self.crop_boxes({name: u[None] for name, u in draws.items()}, sizes)
        jobs = [(g.name, boxes[g.name][0], g.size, g.policies[0].interpolation) for g in self.groups]
        if self.clean:
            jobs.append(("clean", geometry.central_boxes(sizes), self.clean, "bicubic"))
        out = {}
        for name, rows, size, interpolation in jobs:
            crops = []
            for top, left, height, width in rows.tolist():
                crop = picture[None, :, top : top + height, left : left + width]
                if (height, width) != (size, size):
                    crop = F.interpolate(crop, (size, size), mode=interpolation, antialias=True)
                crops.append(crop)
            out[name] = torch.cat(crops)
        if self.placed:
            out["place"] = places(self.groups[0], draws["global"][None], picture[None])[:, 0]
        return out

    @torch.no_grad()
    def forward(self, images: Tensor | Images | Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> Views:
        """Make the views.

        Args:
            images: (B, C, H, W) uint8; or Images; or what `cut` made, name -> (V, B, C, s, s) uint8, which is only
                flipped, rotated, blurred, coloured and normalised (in that order, `colour_first` or not).
            draws: the same rows of `draw`, on the CPU.

        Returns:
            Group name -> (V, B, C, s, s) float32; "clean" -> (1, B, C, s, s); "mask" -> (V, B, T) bool; "place" ->
            (V, B, 4) float32 x1, y1, x2, y2 as shares of the picture, x1 > x2 where the view is flipped.
        """
        views: Views = {}
        for group in self.groups:
            given = images[group.name] if isinstance(images, Mapping) else images
            pixels, sizes = self._checked(given)
            normal = Normal(self.mean, self.std, self._numbers)
            views[group.name] = make(group, draws[group.name].cpu(), pixels, sizes, normal, self.exact)
        if self.clean:
            given = images["clean"][0] if isinstance(images, Mapping) else images
            views["clean"] = self.plain(given, self.clean)[None]
        if self.masks:
            views["mask"] = draws["mask"].transpose(0, 1).contiguous().to(self.mean.device, non_blocking=True)
        if self.placed:
            views["place"] = places(self.groups[0], draws["global"], images).to(self.mean.device, non_blocking=True)
        return views

    @torch.no_grad()
    def plain(self, images: Tensor | Images, size: int) -> Tensor:
        """The largest central square at `size` px, normalised: (B, C, H, W) uint8 -> (B, C, size, size) float32.

        Bicubic, antialiased; square pictures of that size are left as they are.
        """
        pixels, sizes = self._checked(images)
        normal = Normal(self.mean, self.std, self._numbers)
        if sizes is None:
            side = min(pixels.shape[2:])
            top, left = (pixels.shape[2] - side) // 2, (pixels.shape[3] - side) // 2
            x = pixels[:, :, top : top + side, left : left + side].float()
            if side != size:
                x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp_(0, 255)
            return normal.apply(x.div_(255))
        group = Group("clean", size, POLICIES["none"])
        return make(group, torch.zeros(len(pixels), 1, DRAWS), pixels, sizes, normal, exact=True)[0]

    def _checked(self, images: Tensor | Images) -> Images:
        images = images if isinstance(images, Images) else Images(images)
        kind, channels = images.pixels.dtype, images.pixels.shape[-3]
        if kind != torch.uint8 or channels != len(self._numbers):
            raise WrongUse(
                f"views take uint8 pictures with {len(self._numbers)} channels, not {kind} with {channels}; "
                "convert them, or build the views for these channels"
            )
        return images


def _refuse(config: ViewsConfig) -> None:
    """Raise WrongUse for numbers that make no sense."""
    for field in ("gray", "blur", "solarise", "rotate", "mask_share"):
        value = getattr(config, field)
        if value is not None and not 0 <= value <= 1:
            raise WrongUse(f"views.{field} is a probability, not {value}; give a number from 0 to 1")
    for field in ("scale", "local_scale", "mask_ratio"):
        bounds = getattr(config, field)
        if bounds is not None and not 0 < bounds[0] <= bounds[1] <= 1:
            raise WrongUse(f"views.{field} {bounds} is not a range of areas; give two numbers, 0 < low <= high <= 1")
    for field, least in (("views", 1), ("size", 0), ("locals", 0), ("local_size", 0), ("strength", 0)):
        if getattr(config, field) < least:
            raise WrongUse(f"views.{field} is {getattr(config, field)}; give at least {least}")
    if config.policy == "auto":
        raise WrongUse("views.policy 'auto' stands for the method's policy; give a name when building views by hand")


def build(config: ViewsConfig, image_size: int, channels: int, mean: Tensor, std: Tensor, patch: int = 0) -> Crops:
    """The views that a configuration describes.

    Args:
        config: its `policy` must be a name.
        image_size: side of a view where the configuration says 0.
        channels: of the pictures.
        mean, std: (C,) of the data in [0, 1] units.
        patch: side of the encoder's patches in pixels, which masks consist of and small crops are made of unless they
            have a side of their own; 0: it has none.

    Returns:
        A module with the groups "global" (and "local", "clean" if asked for).

    Raises:
        WrongUse: an unknown policy, numbers that make no sense, colour operations on pictures that are not RGB, masks
            for an encoder without patches.
    """
    _refuse(config)
    if config.mask != "none" and not patch:
        raise WrongUse("views.mask hides patches, and this encoder has none: use a transformer such as vit-small")
    known, size = entry(config.policy), config.size or image_size
    changes: dict[str, object] = {
        field: getattr(config, field)
        for field in ("gray", "blur", "solarise", "rotate")
        if getattr(config, field) is not None
    }
    changes["degrees"] = config.rotate_degrees
    if config.interpolation != "auto":
        changes["interpolation"] = config.interpolation

    def adapted(policy: Policy, scale: tuple[float, float] | None) -> Policy:
        policy = replace(policy.stronger(config.strength), scale=scale, **changes)  # type: ignore[arg-type]
        wrong = policy.colour_operations()
        if wrong and channels != 3:
            raise WrongUse(
                f"policy {config.policy!r} uses {', '.join(wrong)}, which need 3 channels, and the pictures have "
                f"{channels}; use --views.policy plain, or convert the pictures to RGB"
            )
        return policy

    policies = [known.views[v % len(known.views)] for v in range(config.views)]
    crops = multi_crop(size)
    spare = crops.scale if config.locals and known.local is None else None
    groups = [
        Group("global", size, tuple(adapted(p, config.scale or (p.scale and spare) or p.scale) for p in policies))
    ]
    if config.locals:
        small = config.local_scale or (known.local and known.local.scale) or crops.local_scale
        if known.local and not config.local_scale and small:
            small = (max(small[0], crops.local_scale[0]), small[1])  # a 32 px picture has no crops of 0.05
        bases = [known.local or known.views[v % len(known.views)] for v in range(config.locals)]
        side = max(patch, crops.size // patch * patch) if patch else crops.size
        groups.append(Group("local", config.local_size or side, tuple(adapted(p, small) for p in bases)))
    if config.places:
        check_upright(groups[0])
    if not config.normalise:
        mean, std = torch.zeros(channels), torch.ones(channels)
    masks = None if config.mask == "none" else Masks(config.mask, size // patch, config.mask_ratio, config.mask_share)
    clean = size if config.clean else 0
    return Crops(
        tuple(groups), mean, std, exact=config.colour == "exact", clean=clean, masks=masks, placed=config.places
    )  # fmt: skip


@torch.no_grad()
def preview(views: Crops, images: Tensor | Images, rng: torch.Generator, gap: int = 2) -> Tensor:
    """A picture of what the augmentation does: one row per image, the image itself, then its views.

    Args:
        views: any Crops; what it normalises is undone.
        images: (B, C, H, W) uint8 or Images.
        rng: draws the views.
        gap: white pixels between the cells.

    Returns:
        (C, rows, columns) uint8; small crops sit in the corner of their cell.
    """
    images = images if isinstance(images, Images) else Images(images)
    count, size = len(images.pixels), views.groups[0].size
    made = views(images, views.draw(count, rng))
    cells = [views.plain(images, size)[None], *(made[g.name] for g in views.groups)]
    cell = max(x.shape[-1] for x in cells) + gap
    columns = sum(len(x) for x in cells)
    channels = len(views.mean)
    sheet = torch.ones(count, columns, channels, cell, cell)
    column = 0
    for group in cells:
        x = (group * views.std[:, None, None] + views.mean[:, None, None]).cpu()
        sheet[:, column : column + len(x), :, : x.shape[-1], : x.shape[-1]] = x.transpose(0, 1)
        column += len(x)
    grid = sheet.permute(2, 0, 3, 1, 4).reshape(channels, count * cell, columns * cell)
    return grid.mul(255).round().clamp(0, 255).byte()
