"""Files as they should not be, and what the doctor must say of each: used by test_doctor.py."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Make = Callable[[Path], object]


def photo(seed: int, width: int = 80, height: int = 64) -> Image.Image:
    """Blots of all sizes, weaker the smaller they are, as in photos; another picture for every seed."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(4):
        small = Image.fromarray(rng.integers(0, 256, (3 << octave, 4 << octave, 3), dtype=np.uint8))
        total += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float64) / 2**octave
    return Image.fromarray((total / 1.875).round().astype(np.uint8))


def encoded(picture: Image.Image, kind: str, **more: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **more)
    return out.getvalue()


def saved(make: Callable[[], Image.Image], **more: Any) -> Make:
    return lambda path: make().save(path, **more)


def raw(make: Callable[[], bytes]) -> Make:
    return lambda path: path.write_bytes(make())


def cut(picture: Image.Image, kind: str, part: float = 0.5, **more: Any) -> Make:
    """Only the first part of the file."""

    def make() -> bytes:
        whole = encoded(picture, kind, **more)
        return whole[: int(len(whole) * part)]

    return raw(make)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand. `colour`: 0 gray, 2 RGB."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def deep_png() -> bytes:
    """16 bits a channel, in colour."""
    pixels = np.asarray(photo(24)).astype(">u2") * 257
    return png(80, 64, 16, 2, b"".join(b"\0" + row.tobytes() for row in pixels))


def gif_header(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0, 0, 0)
        + b"\x2c"
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x02\x00;"
    )


def bmp_header(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def turned(path: Path, how: int, seed: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = how
    photo(seed).save(path, exif=exif)


def several(seed: int, **more: Any) -> Make:
    """A picture of three frames."""
    frames = [photo(seed + i) for i in (1000, 2000)]
    return lambda path: photo(seed).save(path, save_all=True, append_images=frames, **more)


def deep(seed: int, dtype: Any) -> Image.Image:
    values = np.asarray(photo(seed).convert("L")).astype(np.float64) / 255
    return Image.fromarray((values * (1 if dtype == np.float32 else 65535)).astype(dtype))


def see_through(seed: int, mode: str) -> Image.Image:
    picture = photo(seed).convert(mode)
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def mpo(path: Path) -> None:
    """What phones write: a JPEG with another one inside."""
    path.write_bytes(encoded(photo(61), "MPO", save_all=True, append_images=[photo(62)]))


FILES: dict[str, tuple[Make, set[str]]] = {
    # sound ones
    "sound.jpg": (saved(lambda: photo(0)), set()),
    "sound.PNG": (saved(lambda: photo(1)), set()),
    "sound.webp": (saved(lambda: photo(2)), set()),
    "sound.bmp": (saved(lambda: photo(3)), set()),
    "sound.tif": (saved(lambda: photo(4)), set()),
    "lzw.tiff": (saved(lambda: photo(5), compression="tiff_lzw"), set()),
    "jpeg inside.tif": (saved(lambda: photo(6), compression="jpeg"), set()),
    "sound.ppm": (saved(lambda: photo(7)), set()),
    "sound.tga": (saved(lambda: photo(8)), set()),
    "sound.pcx": (saved(lambda: photo(9)), set()),
    "progressive.jpeg": (saved(lambda: photo(10), format="JPEG", progressive=True), set()),
    "more behind its end.jpg": (raw(lambda: encoded(photo(11), "JPEG") + b"tail" * 999), set()),
    "more behind its end.png": (raw(lambda: encoded(photo(12), "PNG") + b"tail" * 9999), set()),
    "more behind its end.gif": (raw(lambda: encoded(photo(14), "GIF") + b"tail" * 999), {"palette"}),
    "two in one.jpg": (mpo, set()),
    "broken exif.jpg": (saved(lambda: photo(13), exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), set()),
    # cut short
    "cut.jpg": (cut(photo(100), "JPEG"), {"truncated"}),
    "cut progressive.jpg": (cut(photo(101), "JPEG", progressive=True), {"truncated"}),
    "cut last bytes.jpg": (cut(photo(102), "JPEG", 0.99), {"truncated"}),
    "cut.png": (cut(photo(103), "PNG"), {"truncated"}),
    "cut header.png": (raw(lambda: b"\x89PNG\r\n\x1a\n"), {"truncated"}),
    "no end.png": (raw(lambda: encoded(photo(104), "PNG")[:-12]), {"truncated"}),
    "cut.gif": (cut(photo(105), "GIF"), {"truncated"}),
    "cut header.gif": (raw(lambda: encoded(photo(112), "GIF")[:11]), {"truncated"}),
    "cut colours.gif": (raw(lambda: encoded(photo(113), "GIF")[:50]), {"truncated"}),
    "cut animation.gif": (
        raw(lambda: encoded(photo(106), "GIF", save_all=True, append_images=[photo(1106), photo(2106)])[:-900]),
        {"truncated", "animated", "palette"},
    ),
    "cut.webp": (cut(photo(107), "WEBP"), {"truncated"}),
    "cut.tif": (cut(photo(108), "TIFF"), {"truncated"}),
    "cut lzw.tif": (cut(photo(109), "TIFF", compression="tiff_lzw"), {"truncated"}),
    "cut.bmp": (cut(photo(110), "BMP"), {"truncated"}),
    "cut.ppm": (cut(photo(111), "PPM"), {"truncated"}),
    # no pictures
    "zero.jpg": (raw(lambda: b""), {"empty"}),
    "text.jpg": (raw(lambda: b"this is no picture"), {"unreadable"}),
    "error page.jpg": (raw(lambda: b"<!doctype html><title>404</title>"), {"unreadable"}),
    "drawing.png": (raw(lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"), {"unreadable"}),
    "zeros.png": (raw(lambda: bytes(5000)), {"unreadable"}),
    "noise.jpg": (raw(lambda: np.random.default_rng(5).bytes(5000)), {"unreadable"}),
    "text bomb.png": (
        raw(lambda: png(8, 8, 8, 0, bytes(72), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 24))))),
        {"unreadable"},
    ),
    # too many pixels, as they say
    "bomb.png": (raw(lambda: png(30000, 30000, 8, 2, b"\0")), {"bomb"}),
    "bomb.gif": (raw(lambda: gif_header(65535, 65535)), {"bomb"}),
    "bomb.bmp": (raw(lambda: bmp_header(50000, 50000)), {"bomb"}),
    # another format than they say
    "png.jpg": (raw(lambda: encoded(photo(200), "PNG")), {"wrong_extension"}),
    "jpeg.png": (raw(lambda: encoded(photo(201), "JPEG")), {"wrong_extension"}),
    "gif.webp": (raw(lambda: encoded(photo(202), "GIF")), {"wrong_extension", "palette"}),
    "webp.jpeg": (raw(lambda: encoded(photo(203), "WEBP")), {"wrong_extension"}),
    # colours
    "cmyk.jpg": (saved(lambda: photo(300).convert("CMYK")), {"cmyk"}),
    "cmyk.tif": (saved(lambda: photo(301).convert("CMYK")), {"cmyk"}),
    "16 bit gray.png": (saved(lambda: deep(302, np.uint16)), {"16bit", "gray"}),
    "16 bit colour.png": (raw(deep_png), {"16bit"}),
    "16 bit.tif": (saved(lambda: deep(303, np.uint16)), {"16bit", "gray"}),
    "float.tif": (saved(lambda: deep(304, np.float32)), {"16bit", "gray"}),
    "alpha.png": (saved(lambda: see_through(305, "RGB")), {"alpha"}),
    "alpha.webp": (saved(lambda: see_through(306, "RGB")), {"alpha"}),
    "gray alpha.png": (saved(lambda: see_through(307, "L")), {"alpha", "gray"}),
    "one colour clear.png": (saved(lambda: photo(308), transparency=(9, 9, 9)), {"alpha"}),
    "palette.png": (saved(lambda: photo(309).quantize(64)), {"palette"}),
    "palette.gif": (saved(lambda: photo(310).quantize(64)), {"palette"}),
    "clear palette.png": (saved(lambda: photo(311).quantize(64), transparency=3), {"palette", "alpha"}),
    "gray.jpg": (saved(lambda: photo(312).convert("L")), {"gray"}),
    "gray as colour.png": (saved(lambda: photo(313).convert("L").convert("RGB")), {"gray"}),
    "bilevel.png": (saved(lambda: photo(314).convert("1")), {"gray"}),
    "fax.tif": (saved(lambda: photo(315).convert("1"), compression="group4"), {"gray"}),
    "blank.png": (saved(lambda: Image.new("RGB", (64, 64), (200, 30, 30))), {"blank"}),
    # frames
    "animated.gif": (several(400), {"animated", "palette"}),
    "animated.webp": (several(401), {"animated"}),
    "animated.png": (several(402), {"animated"}),
    "pages.tif": (several(403), {"animated"}),
    # sizes
    "1x1.png": (saved(lambda: Image.new("RGB", (1, 1))), {"tiny", "blank"}),
    "1x5000.png": (saved(lambda: photo(500, 1, 5000)), {"tiny", "extreme_aspect"}),
    "icon.png": (saved(lambda: photo(501, 12, 12)), {"tiny"}),
    "panorama.jpg": (saved(lambda: photo(502, 600, 100)), {"extreme_aspect"}),
    # turned
    **{f"turned {how}.jpg": (partial(turned, how=how, seed=600 + how), {"rotated"}) for how in range(2, 9)},
    "turned.png": (lambda path: turned(path, 6, 610), {"rotated"}),
    "turned.webp": (lambda path: turned(path, 3, 611), {"rotated"}),
    "turned.tif": (lambda path: turned(path, 8, 612), {"rotated"}),
    # names
    "with blanks .jpg": (saved(lambda: photo(700)), set()),
    "line\nbreak.jpg": (saved(lambda: photo(701)), set()),
    "日本 \U0001f431 ünï.jpg": (saved(lambda: photo(702)), set()),
    "-rf.jpg": (saved(lambda: photo(703)), set()),
    "#comment.jpg": (saved(lambda: photo(704)), set()),
    "[red]<b onload='x'>\"&amp;.jpg": (saved(lambda: photo(705)), set()),
    "escape \x1b[31m.jpg": (saved(lambda: photo(706)), set()),
    "no text \udcff\udcfe.jpg": (saved(lambda: photo(707)), set()),
}  # fmt: skip
"""Name -> how to make it, and all the kinds that must be found of it."""


def write(folder: Path) -> None:
    """All of them."""
    for name, (make, _) in FILES.items():
        make(folder / name)
