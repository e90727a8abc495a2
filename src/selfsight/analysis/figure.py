"""A table of pictures as one image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from selfsight import distributed
from selfsight.checkpoint import atomic
from selfsight.core import Method
from selfsight.measure import sample
from selfsight.rng import Stream, generator
from selfsight.train import Pictures, evaluating, to_device

GAP, HEADING = 4, 18  #: pixels between the parts of the figure, and above its columns


def table(columns: Mapping[str, Tensor]) -> Image.Image:
    """Heading -> (B, 1 or 3, H, W) in [0, 1]: a column each with its heading above, and a row per picture."""
    height, width = (max(x.shape[axis] for x in columns.values()) for axis in (-2, -1))
    zoom = max(1, 96 // max(height, width))  # small pictures are shown larger, pixel by pixel
    high, wide = zoom * height + GAP, zoom * width + GAP
    count = len(next(iter(columns.values())))
    figure = Image.new("RGB", (len(columns) * wide - GAP, HEADING + count * high - GAP), "white")
    draw, font = ImageDraw.Draw(figure), ImageFont.load_default(12)
    for i, (name, cells) in enumerate(columns.items()):
        draw.text((i * wide, 2), name, fill="black", font=font)
        colours = cells if cells.shape[1] == 3 else cells[:, :1].expand(-1, 3, -1, -1)
        for j, cell in enumerate(colours.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()):
            shown = Image.fromarray(cell).resize((zoom * cell.shape[1], zoom * cell.shape[0]), Image.Resampling.NEAREST)
            figure.paste(shown, (i * wide, HEADING + j * high))
    return figure


def save_drawn(pictures: Pictures, method: Method, seed: int, path: Path, count: int = 6) -> None:
    """A PNG of what a method draws of sample pictures (`Method.pictures`); none if it draws nothing.

    Every process computes it and the first one writes, since parameters may be shared out among them.
    """
    rows = sample(len(pictures), count, seed, 8)
    draws = method.views.draw(len(rows), generator(seed, Stream.PROBE, 9))
    with evaluating(method):
        made = method.pictures(method.views(to_device(pictures.part.gather(rows), pictures.device), draws))
    if not made or distributed.rank() != 0:
        return
    mean, std = method.views.mean[:, None, None], method.views.std[:, None, None]
    image = table({name: (x.float() * std + mean).clamp(0, 1) for name, x in made.items()})
    atomic(path, lambda part: image.save(part, "PNG"))
