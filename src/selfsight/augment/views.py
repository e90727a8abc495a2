"""Views of pictures: every random number first, on the CPU, then pure batched work on the device.

`draw` makes the uniforms of the global batch and each process slices its rows; apply.py says what they mean.
Legend: V views, B batch, L small crops, C channels, s and t sides, n = V * B samples, view-major.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.augment import geometry
from selfsight.augment.apply import Normal, make
from selfsight.augment.config import PROBABILITIES, ViewsConfig, check
from selfsight.augment.masks import NAMES, Masks, MultiBlock, masking
from selfsight.augment.multicrop import multi_crop
from selfsight.augment.places import check_upright, places
from selfsight.augment.plan import DRAWS, FLIP, Group
from selfsight.augment.policies import POLICIES, Entry, Policy, entry
from selfsight.augment.steps import Cutout, RandAugment, Step
from selfsight.augment.tiles import Tiles
from selfsight.core import Images, Views
from selfsight.errors import WrongUse


class Crops(nn.Module):
    """Random views of pictures. See `build`.

    `draw` then `forward`; for pictures that worker processes decode, `cut` does the geometry there and `forward` the
    rest.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, groups: tuple[Group, ...], mean: Tensor, std: Tensor, *, exact: bool = False, clean: int = 0,
        masks: Masks | MultiBlock | None = None, tiles: Tiles | None = None, shared_flip: bool = False,
        placed: bool = False,
    ) -> None:  # fmt: skip
        """mean, std: (C,) in [0, 1] units, what the views are normalised with; clean: side of "clean", 0: none."""
        super().__init__()
        self.groups, self.exact, self.clean, self.masks, self.tiles = groups, exact, clean, masks, tiles
        self.shared_flip, self.placed = shared_flip, placed
        self._numbers = list(zip(mean.tolist(), std.tolist(), strict=True))
        self.register_buffer("mean", mean.float().clone(), persistent=False)
        self.register_buffer("std", std.float().clone(), persistent=False)

    def draw(self, count: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Uniforms of `count` pictures: group name -> (count, V, group.draws) float32 in [0, 1), on the CPU.

        What steps need is drawn after all else: the other random numbers are those of a policy without steps. With masks
        also "mask": (count, V, T) bool, which patches of the whole views are hidden (or see MultiBlock); with tiles also
        theirs.
        """
        draws = {g.name: torch.rand(count, len(g.policies), DRAWS, generator=rng) for g in self.groups}
        if self.shared_flip:
            first = draws[self.groups[0].name][:, :1, FLIP].clone()
            for uniforms in draws.values():
                uniforms[..., FLIP] = first
        if self.masks:
            draws |= self.masks.draws(count, len(self.groups[0].policies), rng)
        if self.tiles:
            draws |= self.tiles.draw(count, rng)
        each = [*self.groups, *([self.tiles.each] if self.tiles and self.tiles.each else [])]
        for group in (group for group in each if group.more):
            own = draws[group.name]
            draws[group.name] = torch.cat([own, torch.rand(*own.shape[:2], group.more, generator=rng)], -1)
        return draws

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """What encoders get of each picture: name -> number of views (or tiles), side in pixels."""
        found = {g.name: (len(g.policies), g.size) for g in self.groups}
        return found | {"tiles": (self.tiles.count, self.tiles.side)} if self.tiles else found

    def crop_boxes(self, draws: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Boxes of the groups in `draws`: sizes (B, 2) -> name -> (B, V, 4) int64 top, left, height, width."""
        return {g.name: g.boxes(draws[g.name], sizes) for g in self.groups if g.name in draws}

    def cut(self, picture: Tensor, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Crop and resize one picture, rounded to uint8: what a decoding worker does.

        Args:
            picture: (C, H, W) uint8.
            draws: one row of `draw`: name -> (V, uniforms).

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
            Group name -> (V, B, C, s, s) float32; "clean" -> (1, B, C, s, s); "mask" -> (V, B, T) bool; "shuffle" ->
            (1, B, T) uniforms, from which a method takes the order of "tiles" (T, B, C, t, t); "place" -> (V, B, 4) float32
            x1, y1, x2, y2 as shares of the picture, x1 > x2 where the view is flipped.
        """
        views: Views = {}
        normal = self._normal()
        for group in self.groups:
            given = images[group.name] if isinstance(images, Mapping) else images
            pixels, sizes = self._checked(given)
            crop = partial(make, group, draws[group.name].cpu(), pixels, sizes, exact=self.exact)
            if self.tiles and group is self.tiles.group:
                views["tiles"] = self.tiles(crop, draws, normal, self.exact)
                views["shuffle"] = draws["shuffle"].transpose(0, 1).to(self.mean.device, non_blocking=True)
            else:
                views[group.name] = crop(normal)
        if self.clean:
            given = images["clean"][0] if isinstance(images, Mapping) else images
            views["clean"] = self.plain(given, self.clean)[None]
        for name in (name for name in NAMES if name in draws):
            views[name] = draws[name].transpose(0, 1).contiguous().to(self.mean.device, non_blocking=True)
        if self.placed:
            views["place"] = places(self.groups[0], draws["global"], images).to(self.mean.device, non_blocking=True)
        return views

    @torch.no_grad()
    def plain(self, images: Tensor | Images, size: int) -> Tensor:
        """The largest central square at `size` px, normalised: (B, C, H, W) uint8 -> (B, C, size, size) float32.

        Bicubic, antialiased; square pictures of that size are left as they are.
        """
        pixels, sizes = self._checked(images)
        normal = self._normal()
        if sizes is None:
            side = min(pixels.shape[2:])
            top, left = (pixels.shape[2] - side) // 2, (pixels.shape[3] - side) // 2
            x = pixels[:, :, top : top + side, left : left + side].float()
            if side != size:
                x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp_(0, 255)
            return normal.apply(x.div_(255))
        group = Group("clean", size, POLICIES["none"])
        return make(group, torch.zeros(len(pixels), 1, DRAWS), pixels, sizes, normal, exact=True)[0]

    def _normal(self) -> Normal:
        return Normal(self.mean, self.std, self._numbers, self.mean)

    def _checked(self, images: Tensor | Images) -> Images:
        images = images if isinstance(images, Images) else Images(images)
        kind, channels = images.pixels.dtype, images.pixels.shape[-3]
        if kind != torch.uint8 or channels != len(self._numbers):
            raise WrongUse(
                f"views take uint8 pictures with {len(self._numbers)} channels, not {kind} with {channels}; "
                "convert them, or build the views for these channels"
            )
        return images


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
        A module with the groups "global", "local", "tiles" (and "clean") that are asked for.

    Raises:
        WrongUse: an unknown policy, numbers that make no sense, colour operations on pictures that are not RGB, masks
            for an encoder without patches.
    """
    check(config)
    if config.mask != "none" and not patch:
        raise WrongUse("views.mask hides patches, and this encoder has none: use a transformer such as vit-small")
    pipeline, size = config.pipeline, config.size or image_size
    known = pipeline.entry() if pipeline else entry(config.policy)
    if pipeline and config.shared_flip and _flips_late(known):
        raise WrongUse("--views.shared-flip mirrors all views alike: in the pipeline, put flip right after crop")

    def adapted(policy: Policy, scale: tuple[float, float] | None) -> Policy:
        policy = replace(policy, scale=scale) if pipeline else replace(_changed(policy, config), scale=scale)
        wrong = policy.colour_operations()
        if wrong and channels != 3:
            way = "leave them out" if pipeline else "use --views.policy plain"
            raise WrongUse(
                f"{'the pipeline' if pipeline else f'policy {config.policy!r}'} uses {', '.join(wrong)}, which need 3 "
                f"channels, and the pictures have {channels}; {way}, or convert the pictures to RGB"
            )
        return policy

    policies = [known.views[v % len(known.views)] for v in range(config.views)]
    crops = multi_crop(size)
    spare = crops.scale if config.locals and known.local is None and not pipeline else None
    groups = []
    if config.views:
        own = None if pipeline else config.scale
        scales = [own or (p.scale and spare) or p.scale for p in policies]
        groups.append(Group("global", size, tuple(adapted(p, s) for p, s in zip(policies, scales, strict=True))))
    if config.locals:
        small = config.local_scale or (known.local and known.local.scale) or crops.local_scale
        if known.local and not config.local_scale and small and not pipeline:
            small = (max(small[0], crops.local_scale[0]), small[1])  # a 32 px picture has no crops of 0.05
        bases = [known.local or known.views[v % len(known.views)] for v in range(config.locals)]
        side = max(patch, crops.size // patch * patch) if patch else crops.size
        groups.append(Group("local", config.local_size or side, tuple(adapted(p, small) for p in bases)))
    if config.places:
        check_upright(groups[0])
    tiles = None
    if config.tiles.grid:
        first = known.views[0]
        policy = adapted(first, config.tiles.scale or (not pipeline and config.scale) or first.scale)
        tiles = Tiles(config.tiles, policy, size, config.shared_flip)
        groups.append(tiles.group)
    if not config.normalise:
        mean, std = torch.zeros(channels), torch.ones(channels)
    masks = masking(config.mask, size // max(1, patch), config.mask_ratio, config.mask_share, config.mask_unit)
    clean = size if config.clean else 0
    return Crops(
        tuple(groups), mean, std, exact=config.colour == "exact", clean=clean, masks=masks, tiles=tiles,
        shared_flip=config.shared_flip, placed=config.places,
    )  # fmt: skip


def _changed(policy: Policy, config: ViewsConfig) -> Policy:
    """The policy with what the settings change of it."""
    given = {name: getattr(config, name) for name in PROBABILITIES if getattr(config, name) is not None}
    shares = {kind: given.pop(kind.name, None) for kind in (RandAugment, Cutout)}
    policy = replace(policy.stronger(config.strength), degrees=config.rotate_degrees, **given)
    if config.interpolation != "auto":
        policy = replace(policy, interpolation=config.interpolation)
    for kind, share in shares.items():
        step: Step | None = next((step for step in policy.steps if isinstance(step, kind)), None)
        if step or share is not None:
            step = replace(step or kind(), **({} if share is None else {"apply_prob": share}))
            if isinstance(step, RandAugment):
                step = replace(step, magnitude=config.randaugment_magnitude)
            elif isinstance(step, Cutout):
                step = replace(step, side=config.cutout_side)
            policy = _ending_in(policy, step)
    return policy


def _ending_in(policy: Policy, step: Step) -> Policy:
    """The policy with this step in place of its own of that kind, else as the last; without it if it never acts."""
    kinds = [own.name for own in policy.steps]
    steps = tuple(step if own.name == step.name else own for own in policy.steps)
    steps = steps if step.name in kinds else (*steps, step)
    return replace(policy, steps=tuple(own for own in steps if own.apply_prob))


def _flips_late(known: Entry) -> bool:
    """Whether a step mirrors views, with random numbers of its own."""
    policies = (*known.views, known.local) if known.local else known.views
    return any(step.name == "flip" for policy in policies for step in policy.steps)
