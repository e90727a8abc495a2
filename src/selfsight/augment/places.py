"""Where the whole views lie in their picture, for methods that compare the same places of two views."""

from collections.abc import Mapping

import torch
from torch import Tensor

from selfsight.augment.plan import Group, Plan
from selfsight.core import Images
from selfsight.errors import WrongUse


def check_upright(group: Group) -> None:
    """WrongUse if the views of a group may be turned or shifted: then they are no boxes of the picture."""
    if any(policy.rotate for policy in group.policies):
        raise WrongUse("views.places are boxes, which rotated views are not: leave out --views.rotate")
    if any(policy.shift for policy in group.policies):
        raise WrongUse("views.places are boxes, which shifted views are not: choose another --views.policy")
    moving = [step.name for policy in group.policies for step in policy.steps if step.moves]
    if moving:
        raise WrongUse(f"views.places are boxes, which {moving[0]} moves after the crop: leave it out")


def places(group: Group, draws: Tensor, images: Tensor | Images | Mapping[str, Tensor]) -> Tensor:
    """Corners of the views as shares of the picture's width and height: x1, y1, x2, y2.

    draws: (B, V, DRAWS) of `Crops.draw`; images: the pictures, or what workers made of them, who knew their sizes.
    Returns (V, B, 4) float32; x1 is what the left edge of the view shows, so x1 > x2 where it is flipped.
    """
    if isinstance(images, Mapping):
        return images["place"]
    pixels, sizes = images if isinstance(images, Images) else Images(images)
    sizes = torch.tensor([pixels.shape[2:]]).expand(len(pixels), 2) if sizes is None else sizes.cpu()
    draws = draws.cpu()
    top, left, tall, wide = group.boxes(draws, sizes).transpose(0, 1).unbind(-1)
    height, width = sizes.unbind(-1)
    x1, x2, y1, y2 = left / width, (left + wide) / width, top / height, (top + tall) / height
    flip = Plan.of(group, draws).flip
    return torch.stack([torch.where(flip, x2, x1), y1, torch.where(flip, x1, x2), y2], -1)
