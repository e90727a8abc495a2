"""A figure of small pictures: a row per sample, a column per kind of picture."""

from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP, HEADING = 4, 18  #: pixels between the parts of the figure, and above its columns


def figure(columns: Mapping[str, Tensor]) -> Image.Image:
    """Heading -> (B, C, H, W) in [0, 1], all of one B, on the CPU. Small pictures are shown larger, pixel by pixel."""
    height, width = (max(x.shape[axis] for x in columns.values()) for axis in (-2, -1))
    zoom = max(1, 96 // max(height, width))
    high, wide = zoom * height + GAP, zoom * width + GAP
    count = len(next(iter(columns.values())))
    image = Image.new("RGB", (len(columns) * wide - GAP, HEADING + count * high - GAP), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for i, (name, cells) in enumerate(columns.items()):
        draw.text((i * wide, 2), name, fill="black", font=font)
        colours = cells if cells.shape[1] == 3 else cells[:, :1].expand(-1, 3, -1, -1)
        for j, cell in enumerate(colours.mul(255).round().byte().permute(0, 2, 3, 1).numpy()):
            shown = Image.fromarray(cell).resize((zoom * cell.shape[1], zoom * cell.shape[0]), Image.Resampling.NEAREST)
            image.paste(shown, (i * wide, HEADING + j * high))
    return image
