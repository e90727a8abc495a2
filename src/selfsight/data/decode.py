"""One picture file -> one uint8 tensor, the same whether it is cached, decoded ahead or decoded now.

Legend: H, W height and width, C channels. The *canonical* picture is upright (EXIF), 8 bit, gray or RGB, its shorter
side at most `shorter` pixels and its longer side at most `LONGEST * shorter`.

Plain JPEG files that need no reduction go to libjpeg by way of torchvision, the others by way of Pillow: both give the
same pixels, Pillow takes several times as long for a small picture.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selfsight.data.spans import Span

LONGEST = 4  # a panorama is reduced until it fits, so that it cannot blow up the batch it is padded into
_GRAY = {"1", "L", "I", "F", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODES = {1: 1, 3: 3}  # torchvision's ImageReadMode: gray, RGB
_TOPS = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif"}
    | {".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx"}
)
"""Files that are taken for pictures; the others in a folder are left alone."""


class Unreadable(Exception):
    """A file that is no picture, with the reason in a few words."""


class Header(NamedTuple):
    """What the first bytes of a file tell."""

    height: int
    width: int
    gray: bool


def probe(source: str | Path | Span) -> Header:
    """Size and kind of a picture without decoding it.

    Raises:
        Unreadable: not a picture.
    """
    try:
        with Image.open(source.source() if isinstance(source, Span) else source) as picture:
            return Header(picture.height, picture.width, picture.mode in _GRAY)
    except Exception as error:  # decoders raise anything on broken files
        raise Unreadable(reason(error)) from None


def read(source: str | Path | Span | Image.Image, channels: int, shorter: int) -> Tensor:
    """The canonical picture: (C, H, W) uint8. `channels`: 1 or 3; `shorter`: 0 keeps the size.

    Raises:
        Unreadable: not a picture, truncated, or so large that it looks like a decompression bomb.
    """
    try:
        if isinstance(source, Image.Image):
            return _canonical(source, channels, shorter)
        content = (source if isinstance(source, Span) else Span(str(source))).read()
        return decoded(content, channels, shorter).contiguous()
    except Unreadable:
        raise
    except Exception as error:  # decoders raise anything on broken files
        raise Unreadable(reason(error)) from None


def decoded(content: bytes, channels: int, shorter: int) -> Tensor:
    """The same from the bytes of a file, perhaps not contiguous."""
    try:
        plain = _plain_jpeg(content, channels, shorter)
        if plain is not None:
            return plain
        with Image.open(io.BytesIO(content)) as picture:
            return _canonical(picture, channels, shorter)
    except Exception as error:  # decoders raise anything on broken files
        raise Unreadable(reason(error)) from None


def fit(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Height and width of the canonical picture of a `height` x `width` one."""
    if not shorter:
        return height, width
    scale = min(1.0, shorter / min(height, width), LONGEST * shorter / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def reason(error: BaseException) -> str:
    """Why a picture cannot be read, in a few words."""
    if isinstance(error, Image.DecompressionBombError):
        return "too large: more than twice Pillow's limit of pixels"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = " ".join(str(error).split())[:120]
    return text or type(error).__name__


def _plain_jpeg(content: bytes, channels: int, shorter: int) -> Tensor | None:
    """The picture in a JPEG file of the wanted channels and size; None: Pillow is to look at it, and to say what is wrong."""
    height, width, found = _frame(content)
    if not found or found > channels or (found, channels) == (1, 2):
        return None
    if height * width > (Image.MAX_IMAGE_PIXELS or 1 << 30) or fit(height, width, shorter) != (height, width):
        return None
    import torchvision.io  # noqa: F401  (slow; it brings the operator)

    try:
        encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return torch.ops.image.decode_jpeg(encoded, _MODES[channels], False)
    except RuntimeError:
        return None


def _frame(content: bytes) -> tuple[int, int, int]:
    """Height, width and components that the header of a JPEG file tells; zeros where it is no plain one.

    Plain: 8 bit, one or three components, and no APP1 segment, which may say how the picture is turned.
    """
    at = 2
    if content[:2] == b"\xff\xd8":
        while at + 9 < len(content) and content[at] == 0xFF:
            kind = content[at + 1]
            if kind in (0xC0, 0xC1, 0xC2):
                height, width = int.from_bytes(content[at + 5 : at + 7]), int.from_bytes(content[at + 7 : at + 9])
                plain = content[at + 4] == 8 and content[at + 9] in (1, 3) and b"\xff\xe1" not in content
                return (height, width, content[at + 9]) if plain and height and width else (0, 0, 0)
            if kind == 0xE1 or not (0xE0 <= kind <= 0xEF or kind in (0xDB, 0xC4, 0xDD, 0xFE)):
                break
            at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return 0, 0, 0


def _canonical(picture: Image.Image, channels: int, shorter: int) -> Tensor:
    height, width = fit(picture.height, picture.width, shorter)
    if (width, height) != picture.size:
        # JPEG can be decoded at 1/2, 1/4 or 1/8 for much less; twice the wanted size keeps the resize honest
        picture.draft(None, (2 * width, 2 * height))
    picture.load()
    turn = _TURNS.get(orientation(picture))  # asked for after load: Pillow turns TIFF by itself, and says so then
    picture = _eight_bit(picture, "L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    if turn is not None:
        picture = picture.transpose(turn)
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def orientation(picture: Image.Image) -> int:
    """What EXIF says of how the picture is turned: 1 not at all, 2 to 8 as its standard has it."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF in a sound picture
        return 1


def _eight_bit(picture: Image.Image, mode: str) -> Image.Image:
    """Any Pillow mode -> "L" or "RGB"; transparent parts show white, as a viewer would show them."""
    if picture.mode.startswith(("I", "F")):
        tops = _TOPS.get(picture.mode, (65535.0,))  # the others are I;16 of some byte order
        picture = Image.fromarray(_to_bytes(np.asarray(picture), tops))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    if picture.mode not in (mode, "RGB", "L"):
        picture = picture.convert("RGB")
    return picture if picture.mode == mode else picture.convert(mode)


def _to_bytes(values: np.ndarray[Any, Any], tops: tuple[float, ...]) -> np.ndarray[Any, Any]:
    """(H, W) integers or floats -> uint8: the first range 0..top that holds them, else their own range."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("values that are not numbers")
    low, high = float(values.min()), float(values.max())
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is None:
        values, top = values - low, max(high - low, 1e-12)
    return (values * (255 / top)).round().astype(np.uint8)
