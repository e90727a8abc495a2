"""What training would see: a picture of sample pictures and their views, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from selfsight import augment, checkpoint, encoders, recipes
from selfsight.api import settings
from selfsight.errors import WrongUse
from selfsight.measure import save_preview
from selfsight.session import open_for
from selfsight.train import Pictures


@dataclass(frozen=True)
class PreviewFlags:
    """Flags of `selfsight preview`."""

    count: int = 8
    """Pictures: a row each, a seeded choice."""
    out: str = "views.png"
    """The .png file."""
    seed: int = 0
    """Another one shows other pictures and other views of them."""
    image_size: int | Literal["auto"] = "auto"
    """Side of a whole view in pixels; auto: as in a run."""
    channels: int = 0
    """Channels of the pictures: 1 gray, 3 colour; 0: as the files say."""
    encoder: str = "auto"
    """The network whose patches masks and small crops are made of."""
    data_root: str | None = None
    """Where named sets live."""
    views: augment.ViewsConfig = field(default_factory=augment.ViewsConfig)
    """How views are made; defaults: the recipe's."""


def preview(
    data: str = "shapes", *, method: str = "simclr", out: str | Path = "views.png", count: int = 8, views: Any = None,
    **given: Any,
) -> dict[str, Any]:  # fmt: skip
    """Write a grid of pictures and their views, as the method's recipe for these data makes them.

    Args:
        data: a data name, folder or file.
        method: whose views.
        out: a .png file that is not there yet.
        count: pictures, a row each; a seeded choice.
        views: changes to the views: `{"policy": "byol", "locals": 6}`, or a ViewsConfig in their place.
        **given: other fields of Run: seed, encoder (whose patches masks hide), image_size, channels, data_root, ...

    Returns:
        out, rows, columns (what they show), policy (or the steps of a pipeline), image_size.
    """
    path = Path(out).expanduser()
    if path.suffix.lower() != ".png":
        raise WrongUse(f"--out {str(path)!r}: the preview is a PNG picture, name a file that ends in .png")
    if count < 1:
        raise WrongUse(f"--count is {count}: show at least one picture")
    checkpoint.check_out(path)
    run = settings(method, data=data, **given, **({} if views is None else {"views": views}))
    device = torch.device("cpu")
    opened = open_for(run, device)
    size, channels = opened.image_size, opened.channels
    run, _ = recipes.follow_pictures(run, image_size=size, channels=channels, cuda=False)
    patch = 0
    if run.views.mask != "none" or run.views.locals:  # made of the encoder's patches
        patch = int(getattr(encoders.build(run.encoder, channels, size, run.net), "patch", 0))
    pictures = Pictures(opened.train, size, channels, device)
    pictures.views = augment.build(run.views, size, channels, opened.mean, opened.std, patch)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_preview(pictures, run.seed, path, count)
    steps = run.views.pipeline and ", ".join(run.views.pipeline.names)
    return {
        "out": str(path), "rows": min(count, len(opened.train)), "columns": augment.columns(pictures.views),
        "policy": steps or run.views.policy, "image_size": size,
    }  # fmt: skip
