"""Views of pictures: every random number first, on the CPU, then pure batched work on the device.

`draw` makes the uniforms of the global batch; each process slices its rows. What they mean (boxes, gates, factors,
colour matrices) is worked out on the CPU, so it is the same whatever the device, and pixels are touched afterwards
without a host-device synchronisation.
Legend: V views, B batch, L small crops, C channels, s and t sides, n = V * B samples, view-major.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.augment import colour, geometry
from selfsight.augment.policies import Policy, entry, multi_crop
from selfsight.core import Images, Views
from selfsight.errors import WrongUse

# Columns of the uniforms after the box's. Every policy draws all of them: switching one operation on or off leaves
# the others' random numbers as they were.
(FLIP, ROTATE, ANGLE, JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GRAY, BLUR, SIGMA, SOLARISE, DRAWS) = range(
    geometry.CROP_DRAWS, geometry.CROP_DRAWS + 14
)


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


@dataclass(frozen=True)
class Group:
    """Views of one size: one policy per view."""

    name: str
    size: int
    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        if len({(p.interpolation, p.colour_first, p.gray_first, p.scale is None) for p in self.policies}) != 1:
            raise WrongUse(
                f"the policies of {self.name!r} views differ in interpolation, order or whether they crop; "
                "give them the same, or use two groups"
            )

    def table(self, *fields: str) -> Tensor:
        """(V, 1, fields) numbers of the policies."""
        return torch.tensor([[[float(getattr(p, f)) for f in fields]] for p in self.policies])

    def pairs(self, field: str) -> Tensor:
        """(V, 1, 2) a range of the policies."""
        return torch.tensor([[getattr(p, field)] for p in self.policies])


class Plan(NamedTuple):
    """What the uniforms of one group mean, on the CPU; every field is (V, B, ...)."""

    flip: Tensor  #: bool
    rotate: Tensor  #: bool
    degrees: Tensor
    factors: Tensor  #: (V, B, 4) as colour.compose takes them; neutral where the jitter is off
    order: Tensor  #: (V, B, 4) int64
    jitter: Tensor  #: bool
    gray: Tensor  #: bool
    blur: Tensor  #: bool
    sigma: Tensor  #: pixels
    solarise: Tensor  #: bool


def _plan(group: Group, draws: Tensor) -> Plan:
    """draws (B, V, DRAWS) -> Plan."""
    u = draws.transpose(0, 1)
    gates = group.table("flip", "rotate", "jitter", "gray", "blur", "solarise")
    flip, rotate, jitter, gray, blur, solarise = (u[..., [FLIP, ROTATE, JITTER, GRAY, BLUR, SOLARISE]] < gates).unbind(
        -1
    )
    spread = group.table("brightness", "contrast", "saturation", "hue")
    low = torch.cat([(1 - spread[..., :3]).clamp_(min=0), -spread[..., 3:]], -1)
    high = torch.cat([1 + spread[..., :3], spread[..., 3:]], -1)
    neutral = torch.tensor([1.0, 1, 1, 0])
    factors = torch.where(jitter[..., None], low + (high - low) * u[..., BRIGHTNESS : HUE + 1], neutral)
    sigma = group.pairs("sigma")
    return Plan(
        flip=flip,
        rotate=rotate,
        degrees=(2 * u[..., ANGLE] - 1) * group.table("degrees")[..., 0],
        factors=factors,
        order=colour.ORDERS[(u[..., ORDER] * 24).long()],
        jitter=jitter,
        gray=gray,
        blur=blur,
        sigma=sigma[..., 0] + (sigma[..., 1] - sigma[..., 0]) * u[..., SIGMA],
        solarise=solarise,
    )


class Crops(nn.Module):
    """Random views of pictures. See `build`.

    `draw` then `forward`; for pictures that worker processes decode, `cut` does the geometry there and `forward` the
    rest.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        groups: tuple[Group, ...],
        mean: Tensor,
        std: Tensor,
        *,
        exact: bool = False,
        normalise: bool = True,
        clean: int = 0,
    ) -> None:
        """mean, std: (C,) of the data in [0, 1] units; clean: side of the view "clean", 0: no such view."""
        super().__init__()
        self.groups, self.exact, self.normalise, self.clean = groups, exact, normalise, clean
        self.channels = len(mean)
        self._numbers = list(zip(mean.tolist(), std.tolist(), strict=True))
        self.register_buffer("mean", mean.float().clone(), persistent=False)
        self.register_buffer("std", std.float().clone(), persistent=False)

    def draw(self, count: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Uniforms of `count` pictures: group name -> (count, V, DRAWS) float32 in [0, 1), on the CPU."""
        return {g.name: torch.rand(count, len(g.policies), DRAWS, generator=rng) for g in self.groups}

    def crop_boxes(self, draws: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Boxes of every group in `draws`: sizes (B, 2) -> name -> (B, V, 4) int64 top, left, height, width."""
        boxes = {}
        for group in self.groups:
            if group.name in draws:
                size = sizes[:, None].expand(-1, len(group.policies), -1)
                if group.policies[0].scale is None:
                    boxes[group.name] = geometry.central_boxes(size)
                else:
                    scale, ratio = (group.pairs(f).transpose(0, 1) for f in ("scale", "ratio"))
                    boxes[group.name] = geometry.random_boxes(draws[group.name], size, scale, ratio)
        return boxes

    def cut(self, picture: Tensor, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Crop and resize one picture, rounded to uint8: what a decoding worker does.

        Args:
            picture: (C, H, W) uint8.
            draws: one row of `draw`: name -> (V, DRAWS).

        Returns:
            Name -> (V, C, s, s) uint8, not flipped; stacked along dimension 1 they are what `forward` takes. Uses the
            native uint8 kernel, within one level of the float path's.
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
        return out

    @torch.no_grad()
    def forward(self, images: Tensor | Images | Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> Views:
        """Make the views.

        Args:
            images: (B, C, H, W) uint8; or Images; or what `cut` made, name -> (V, B, C, s, s) uint8, which is only
                flipped, rotated, blurred, coloured and normalised (`colour_first` then means before the flip).
            draws: the same rows of `draw`, on the CPU.

        Returns:
            Group name -> (V, B, C, s, s) float32; "clean" -> (1, B, C, s, s).
        """
        views: Views = {}
        with torch.autocast(self.mean.device.type, enabled=False):
            boxes: dict[str, Tensor] = {}
            if not isinstance(images, Mapping):
                images = images if isinstance(images, Images) else Images(images)
                self._check(images.pixels)
                boxes = self.crop_boxes({name: u.cpu() for name, u in draws.items()}, _sizes(images))
            for group in self.groups:
                plan = _plan(group, draws[group.name].cpu())
                if isinstance(images, Mapping):
                    self._check(images[group.name])
                    views[group.name] = self._cropped(images[group.name], plan, group)
                else:
                    views[group.name] = self._whole(images, boxes[group.name], plan, group)
            if self.clean:
                given = images["clean"][0] if isinstance(images, Mapping) else images
                views["clean"] = self.plain(given, self.clean)[None]
        return views

    @torch.no_grad()
    def plain(self, images: Tensor | Images, size: int) -> Tensor:
        """The largest central square at `size` px, normalised: (B, C, H, W) uint8 -> (B, C, size, size) float32.

        Bicubic, antialiased; pictures of that size are left as they are.
        """
        images = images if isinstance(images, Images) else Images(images)
        pixels, sizes = images.pixels, images.sizes
        self._check(pixels)
        if sizes is None and pixels.shape[2:] == (size, size):
            x = pixels.float().div_(255)
        elif sizes is None:
            side = min(pixels.shape[2:])
            top, left = (pixels.shape[2] - side) // 2, (pixels.shape[3] - side) // 2
            x = pixels[:, :, top : top + side, left : left + side].float().div_(255)
            if side != size:
                x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp_(0, 1)
        else:
            boxes = geometry.central_boxes(sizes)[:, None]
            still = torch.zeros(len(pixels), 1, dtype=torch.bool)
            x = _resize(pixels, boxes, still, size, "bicubic")[0]
        return self._normal(x)

    def _check(self, pixels: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.shape[-3] != self.channels:
            raise WrongUse(
                f"views take uint8 pictures with {self.channels} channels, not {pixels.dtype} with {pixels.shape[-3]}; "
                "convert them, or build the views for these channels"
            )

    def _normal(self, x: Tensor) -> Tensor:
        """(..., C, s, s) in [0, 1], changed in place."""
        return x.sub_(self.mean[:, None, None]).div_(self.std[:, None, None]) if self.normalise else x

    def _whole(self, images: Images, boxes: Tensor, plan: Plan, group: Group) -> Tensor:
        first = group.policies[0]
        flip = plan.flip.T
        if first.colour_first and self.exact:
            pixels = images.pixels.float().div_(255)
            mask = _valid(images)
            parts = []
            for v in range(len(group.policies)):
                one = Plan(*(field[v : v + 1] for field in plan))
                x = self._jitter(pixels.clone(), one, first.gray_first, mask)
                parts.append(_resize(x, boxes[:, v : v + 1], flip[:, v : v + 1], group.size, first.interpolation))
            x = torch.cat(parts)
            self._rotate(x.flatten(0, 1), plan)
            return self._finish(x, plan, group)
        # A blur that follows nothing but linear operations is part of the resize.
        folded = not self.exact and not bool(plan.rotate.any()) and bool(plan.blur.any())
        x = _resize(
            images.pixels, boxes, flip, group.size, first.interpolation, (plan.blur.T, plan.sigma.T) if folded else None
        )
        mean = _mean(images) if first.colour_first else None
        return self._coloured(x, plan, group, mean, blurred=folded)

    def _cropped(self, crops: Tensor, plan: Plan, group: Group) -> Tensor:
        x = crops.float().div_(255).flatten(0, 1)
        rows = _rows(plan.flip, x.device)
        if rows is not None:
            x.index_copy_(0, rows, x.index_select(0, rows).flip(-1))
        return self._coloured(x.view(crops.shape), plan, group, None, blurred=False)

    def _coloured(self, x: Tensor, plan: Plan, group: Group, mean: Tensor | None, blurred: bool) -> Tensor:
        """Everything after the crop. x (V, B, C, s, s) in [0, 1]; mean (B, C) where contrast sees another picture."""
        gray_first = group.policies[0].gray_first
        flat = x.flatten(0, 1)
        self._rotate(flat, plan)
        if self.exact:
            return self._finish(self._jitter(flat, plan, gray_first, None).view(x.shape), plan, group)
        if not blurred:
            self._blur(flat, plan)
        views, count, channels = x.shape[:3]
        matrix, offset = colour.compose(
            plan.factors.flatten(0, 1), plan.order.flatten(0, 1), plan.gray.flatten(), channels, gray_first
        )
        matrix, offset = torch.stack([matrix, offset]).to(x.device, non_blocking=True)
        pixels = flat.view(len(flat), channels, -1)
        centre = pixels.mean(2) if mean is None else mean.repeat(views, 1)
        bias = torch.bmm(offset, centre[:, :, None])
        if self.normalise:
            matrix = matrix / self.std[:, None]
            bias = (bias - self.mean[:, None]) / self.std[:, None]
        out = torch.bmm(matrix, pixels).add_(bias)
        bounds = [((0 - m) / s, (1 - m) / s) if self.normalise else (0.0, 1.0) for m, s in self._numbers]
        for c, (low, high) in enumerate(bounds):
            out[:, c].clamp_(low, high)
        out = out.view(len(flat), *x.shape[2:])
        rows = _rows(plan.solarise, x.device)
        if rows is not None:
            y = out.index_select(0, rows)
            if self.normalise:
                y = y.mul_(self.std[:, None, None]).add_(self.mean[:, None, None])
            out.index_copy_(0, rows, self._normal(self._solarised(y, plan, group)))
        return out.view(x.shape)

    def _jitter(self, x: Tensor, plan: Plan, gray_first: bool, mask: Tensor | None) -> Tensor:
        """Exact jitter and gray, in place. x (n, C, H, W) in [0, 1], mask (B, 1, H, W) valid pixels."""
        if gray_first:
            self._gray(x, plan)
        for k in range(4):
            for operation in range(4):
                neutral = 0.0 if operation == colour.HUE else 1.0
                factor = plan.factors[..., operation]
                due = plan.jitter & (plan.order[..., k] == operation) & (factor != neutral)
                rows = _rows(due, x.device)
                if rows is not None:
                    valid = None if mask is None else mask.index_select(0, rows)
                    y = colour.step(x.index_select(0, rows), operation, factor[due].to(x.device), valid)
                    x.index_copy_(0, rows, y)
        if not gray_first:
            self._gray(x, plan)
        return x

    def _gray(self, x: Tensor, plan: Plan) -> None:
        rows = _rows(plan.gray, x.device)
        if rows is not None:
            x.index_copy_(0, rows, colour.to_gray(x.index_select(0, rows)).expand(-1, x.shape[1], -1, -1))

    def _rotate(self, x: Tensor, plan: Plan) -> None:
        rows = _rows(plan.rotate, x.device)
        if rows is not None:
            degrees = plan.degrees[plan.rotate].to(x.device)
            x.index_copy_(0, rows, geometry.rotate(x.index_select(0, rows), degrees))

    def _blur(self, x: Tensor, plan: Plan) -> None:
        rows = _rows(plan.blur, x.device)
        if rows is not None:
            x.index_copy_(0, rows, geometry.blur(x.index_select(0, rows), plan.sigma[plan.blur].to(x.device)))

    def _solarised(self, x: Tensor, plan: Plan, group: Group) -> Tensor:
        threshold = group.table("threshold")[..., 0].expand_as(plan.solarise)[plan.solarise]
        return colour.solarise(x, threshold.to(x.device))

    def _finish(self, x: Tensor, plan: Plan, group: Group) -> Tensor:
        """Exact blur, solarisation and normalisation, in place. x (V, B, C, s, s) in [0, 1]."""
        flat = x.flatten(0, 1)
        self._blur(flat, plan)
        rows = _rows(plan.solarise, x.device)
        if rows is not None:
            flat.index_copy_(0, rows, self._solarised(flat.index_select(0, rows), plan, group))
        return self._normal(flat).view(x.shape)


def _sizes(images: Images) -> Tensor:
    """(B, 2) height and width of the pictures, on the CPU."""
    if images.sizes is not None:
        return images.sizes.cpu()
    return torch.tensor(images.pixels.shape[2:]).expand(len(images.pixels), 2)


def _valid(images: Images) -> Tensor | None:
    """(B, 1, H, W) 1 where there is a picture; None: everywhere."""
    if images.sizes is None:
        return None
    sizes, (height, width) = images.sizes.to(images.pixels.device), images.pixels.shape[2:]
    rows = torch.arange(height, device=sizes.device) < sizes[:, :1]
    columns = torch.arange(width, device=sizes.device) < sizes[:, 1:]
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def _mean(images: Images) -> Tensor:
    """(B, C) mean colour of the pictures in [0, 1]."""
    x, mask = images.pixels.float(), _valid(images)
    return (x.mean((2, 3)) if mask is None else (x * mask).sum((2, 3)) / mask.sum((2, 3))).div_(255)


def _rows(gate: Tensor, device: torch.device) -> Tensor | None:
    """Numbers of the samples whose gate (V, B) is open, on the device; None if there are none."""
    rows = gate.flatten().nonzero()[:, 0]
    return rows.to(device, non_blocking=True) if len(rows) else None


def _resize(
    pixels: Tensor,
    boxes: Tensor,
    flip: Tensor,
    size: int,
    interpolation: geometry.Interpolation,
    blur: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Crop, flip, resize, optionally blur. pixels (B, C, H, W) uint8 or [0, 1] floats, boxes (B, V, 4), flip (B, V),
    blur (gate, sigma) (B, V) each -> (V, B, C, s, s) in [0, 1]."""
    height, width = pixels.shape[2:]
    place = torch.cat([boxes, flip[..., None]], -1).flatten(0, 1).to(pixels.device, non_blocking=True)
    top, left, tall, wide, mirror = place.unbind(1)
    mirror = mirror.bool()
    rows = geometry.axis_weights(top, tall, torch.zeros_like(mirror), height, size, interpolation)
    columns = geometry.axis_weights(left, wide, mirror, width, size, interpolation)
    if blur is not None:
        gate, sigma = blur
        blurred = _rows(gate, pixels.device)
        if blurred is not None:
            matrix = geometry.blur_matrices(sigma[gate].to(pixels.device), size)
            for axis in (rows, columns):
                axis.index_copy_(0, blurred, torch.bmm(matrix, axis.index_select(0, blurred)))
    if pixels.dtype == torch.uint8:
        columns = columns.mul_(1 / 255)
    x = geometry.resample(pixels, rows.view(*flip.shape, size, height), columns.view(*flip.shape, size, width))
    return x.clamp_(0, 1) if interpolation == "bicubic" else x


def _refuse(config: ViewsConfig, channels: int) -> None:
    """Raise WrongUse for numbers that make no sense."""
    for field in ("gray", "blur", "solarise", "rotate"):
        value = getattr(config, field)
        if value is not None and not 0 <= value <= 1:
            raise WrongUse(f"views.{field} is a probability, not {value}; give a number from 0 to 1")
    for field in ("scale", "local_scale"):
        bounds = getattr(config, field)
        if bounds is not None and not 0 < bounds[0] <= bounds[1] <= 1:
            raise WrongUse(f"views.{field} {bounds} is not a range of areas; give two numbers, 0 < low <= high <= 1")
    for field, least in (("views", 1), ("size", 0), ("locals", 0), ("local_size", 0), ("strength", 0)):
        if getattr(config, field) < least:
            raise WrongUse(f"views.{field} is {getattr(config, field)}; give at least {least}")
    if config.policy == "auto":
        raise WrongUse("views.policy 'auto' stands for the method's policy; give a name when building views by hand")


def build(config: ViewsConfig, image_size: int, channels: int, mean: Tensor, std: Tensor) -> Crops:
    """The views that a configuration describes.

    Args:
        config: its `policy` must be a name.
        image_size: side of a view where the configuration says 0.
        channels: of the pictures.
        mean, std: (C,) of the data in [0, 1] units.

    Returns:
        A module with the groups "global" (and "local", "clean" if asked for).

    Raises:
        WrongUse: an unknown policy, numbers that make no sense, colour operations on pictures that are not RGB.
    """
    _refuse(config, channels)
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
        groups.append(Group("local", config.local_size or crops.size, tuple(adapted(p, small) for p in bases)))
    return Crops(
        tuple(groups),
        mean,
        std,
        exact=config.colour == "exact",
        normalise=config.normalise,
        clean=size if config.clean else 0,
    )


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
    sheet = torch.ones(count, columns, views.channels, cell, cell)
    column = 0
    for group in cells:
        x = group.cpu()
        if views.normalise:
            x = x * views.std.cpu()[:, None, None] + views.mean.cpu()[:, None, None]
        sheet[:, column : column + len(x), :, : x.shape[-1], : x.shape[-1]] = x.transpose(0, 1)
        column += len(x)
    grid = sheet.permute(2, 0, 3, 1, 4).reshape(views.channels, count * cell, columns * cell)
    return grid.mul(255).round().clamp(0, 255).byte()
