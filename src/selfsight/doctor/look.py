"""One picture after another: header, whole decoding by the code that loads, a digest, a thumbnail and its hash.

Legend: N pictures of a part, B of a chunk. A picture costs FACTS.itemsize bytes of memory, whatever its size.
"""

import io
import os
import stat
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from selfsight.data import decode, exclusion
from selfsight.data.files import Pictures
from selfsight.data.objects import with_channels
from selfsight.data.processes import cores
from selfsight.data.spans import Span, Spans, is_remote
from selfsight.doctor import near
from selfsight.doctor.kinds import BIT, BROKEN, Limits

FACTS = np.dtype([
    ("width", "u4"), ("height", "u4"), ("flags", "u4"), ("digest", "u8", 2), ("hash", "u8"), ("thumb", "u1", near.THUMB),
])  # fmt: skip
CHUNK = 64
LARGE = 1 << 24  # pixels: larger pictures are decoded one at a time, and reduced, to bound the memory
_REDUCED = 1024  # shorter side of those
_SAME = 2  # grey levels: channels that differ by no more are gray, pictures that vary by no more are blank
_ANY_BROKEN = sum(BIT[kind] for kind in BROKEN)
_one_at_a_time = threading.Lock()


class Picture(NamedTuple):
    """What one file tells."""

    width: int = 0  #: upright
    height: int = 0
    kinds: tuple[str, ...] = ()
    why: str = ""  #: why it cannot be read, or what it is instead
    digest: bytes = bytes(16)
    tile: np.ndarray | None = None  #: (SIDE, SIDE, 3) uint8
    format: str = ""
    mode: str = ""


@dataclass
class Seen:
    """A part of a data set, looked at."""

    name: str  #: train or test
    pictures: Pictures
    facts: np.ndarray  #: (N,) FACTS
    reasons: dict[int, str] = field(default_factory=dict)  #: row -> why it cannot be read, or what it is instead
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)

    def file(self, row: int) -> str:
        """What lists call the picture."""
        return exclusion.name_of(self.pictures, self.name, row)

    @property
    def broken(self) -> np.ndarray:
        """(N,) bool."""
        return (self.facts["flags"] & _ANY_BROKEN) > 0


def look_at(pictures: Pictures, name: str, limits: Limits, done: Callable[[int], None]) -> Seen:
    """Look at every picture of a part. `done` is called with the number of pictures of each finished chunk.

    Interrupted, it ends after the chunks under way.
    """
    seen = Seen(name, pictures, np.zeros(len(pictures), FACTS))

    def some(part: slice) -> list[Picture]:
        if pictures.pixels is not None:
            return _arrays(pictures.pixels[part], limits)
        spans, names = Spans.of((pictures.paths or [])[part]), (pictures.names or [])[part]
        return [_file(span, name, limits) for span, name in zip(spans, names)]

    def facts(start: int) -> tuple[int, list[Picture], np.ndarray]:
        found = some(slice(start, start + CHUNK))
        return start, [picture._replace(tile=None) for picture in found], _facts(found)

    with _threads() as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's: each becomes a finding, or is of no concern
        for start, found, rows in pool.map(facts, range(0, len(pictures), CHUNK)):
            seen.facts[start : start + len(found)] = rows
            seen.reasons |= {start + i: picture.why for i, picture in enumerate(found) if picture.why}
            seen.formats.update(picture.format for picture in found if picture.format)
            seen.modes.update(picture.mode for picture in found if picture.mode)
            done(len(found))
    return seen


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """A pool that drops what waits when the work is interrupted."""
    pool = ThreadPoolExecutor(min(8, cores()))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _facts(found: list[Picture]) -> np.ndarray:
    """B pictures -> (B,) FACTS."""
    rows = np.zeros(len(found), FACTS)
    for i, picture in enumerate(found):
        rows[i]["width"], rows[i]["height"] = picture.width, picture.height
        rows[i]["flags"] = sum(BIT[kind] for kind in picture.kinds)
        rows[i]["digest"] = np.frombuffer(picture.digest, np.uint64)
    at = [i for i, picture in enumerate(found) if picture.tile is not None]
    if at:
        tiles = np.stack([picture.tile for picture in found if picture.tile is not None])
        rows["hash"][at], rows["thumb"][at] = near.hashes(tiles)
        low, high = tiles.min((1, 2)).astype(int), tiles.max((1, 2)).astype(int)  # (B, 3)
        blank = (high - low).max(1) <= _SAME
        wide = tiles.astype(np.int16)
        gray = np.abs(wide - wide[..., :1]).max((1, 2, 3)) <= _SAME
        rows["flags"][at] |= (blank * BIT["blank"] | (gray & ~blank) * BIT["gray"]).astype(np.uint32)
    return rows


def _file(span: Span, name: str, limits: Limits) -> Picture:
    try:
        if span.length >= 0 or is_remote(span.path):  # a part of a file, or far away
            content = span.read()
            suffix = os.path.splitext(name)[1].lower()
            return _opened(io.BytesIO(content), suffix, limits) if content else Picture(kinds=("empty",), why="empty")
        path = Path(span.path)
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):  # a pipe would keep us waiting for ever
            return Picture(kinds=("unreadable",), why="no file" if not stat.S_ISDIR(info.st_mode) else "a folder")
        if not info.st_size:
            return Picture(kinds=("empty",), why="empty file")
        with open(path, "rb") as file:
            return _opened(file, path.suffix.lower(), limits)
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or decode.reason(error))
        return Picture(kinds=("unreadable",), why=why)


def _opened(file: BinaryIO, suffix: str, limits: Limits) -> Picture:
    try:
        picture = Image.open(file)
    except Image.DecompressionBombError as error:
        return Picture(kinds=("bomb",), why=decode.reason(error))
    except Exception as error:  # decoders raise anything on broken files
        return _unreadable(file, decode.reason(error))
    large = picture.width * picture.height > LARGE
    try:
        kinds = _kinds_of(picture, suffix)
        turn = decode.orientation(picture)
        format_, mode, (width, height) = picture.format or "", picture.mode, picture.size
        if 5 <= turn <= 8:
            width, height = height, width
        with _one_at_a_time if large else nullcontext():
            pixels = decode.read(picture, 3, _REDUCED if large else 0)
    except Exception as error:
        why = str(error) if isinstance(error, decode.Unreadable) else decode.reason(error)
        return _unreadable(file, why)
    told = []
    if "wrong_extension" in kinds:
        told.append(f"the content is {format_}")
    if format_ in ("PNG", "GIF") and _cut_short(file):  # the others would not have decoded
        kinds += ("truncated",)
        told.append("it decodes, but its end is missing")
    kinds += _by_size(width, height, limits) + (("rotated",) if 2 <= turn <= 8 else ())
    digest, tile = _digest(pixels, width, height), _tile(pixels)
    return Picture(width, height, kinds, "; ".join(told), digest, tile, format_, mode)


def _unreadable(file: BinaryIO, why: str) -> Picture:
    """A file that does not decode: cut short, or something else."""
    cut = "truncat" in why.lower() or _cut_short(file)
    return Picture(kinds=("truncated" if cut else "unreadable",), why=why)


def _cut_short(file: BinaryIO) -> bool:
    """Whether the container says that there should be more of the file. False for formats that do not tell."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(32)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        file.seek(max(0, size - 4096))
        return b"IEND" not in file.read() and not _has(file, b"IEND")  # there may be much behind the end
    if head.startswith(b"GIF8"):
        return len(head) < 13 or not _gif_ends(file)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return int.from_bytes(head[4:8], "little") + 8 > size
    if head[:4] in (b"II*\0", b"MM\0*"):  # TIFF: where its directory lies
        return int.from_bytes(head[4:8], "little" if head[:1] == b"I" else "big") + 6 > size
    if head.startswith(b"BM"):
        return int.from_bytes(head[2:6], "little") > size
    return False


def _has(file: BinaryIO, mark: bytes) -> bool:
    """Whether the bytes occur in a file, read in pieces."""
    file.seek(0)
    last = b""
    while piece := file.read(1 << 20):
        if mark in last + piece:
            return True
        last = piece[-len(mark) :]
    return False


def _gif_ends(file: BinaryIO) -> bool:
    """Whether the blocks of a GIF lead to its trailer."""

    def skip_table(flags: int) -> None:
        if flags & 0x80:
            file.seek(3 << ((flags & 7) + 1), os.SEEK_CUR)

    file.seek(10)
    skip_table(file.read(3)[0])
    while block := file.read(1):
        if block == b";":
            return True
        if block == b",":
            skip_table((file.read(9) or b"\0")[-1])
        if block in (b",", b"!"):
            file.read(1)  # the size of a code, or the kind of an extension
            while size := file.read(1)[:1]:
                if size == b"\0":
                    break
                file.seek(size[0], os.SEEK_CUR)
    return False


def _kinds_of(picture: Image.Image, suffix: str) -> tuple[str, ...]:
    """What the header tells."""
    mode, format_ = picture.mode, picture.format or ""
    told = Image.registered_extensions().get(suffix, "")
    try:
        several = getattr(picture, "is_animated", False) and format_ != "MPO"  # that is a JPEG with previews in it
    except Exception:  # a second frame that is broken
        several = True
    deep = mode.startswith(("I", "F")) or ";16" in str(getattr(picture, "tile", ""))
    found = {
        "wrong_extension": bool(told) and _family(told) != _family(format_),
        "giant": picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or 1 << 62),
        "animated": several,
        "16bit": deep,
        "cmyk": mode == "CMYK",
        "alpha": picture.has_transparency_data,
        "palette": mode in ("P", "PA"),
    }
    return tuple(kind for kind, there in found.items() if there)


def _family(format_: str) -> str:
    return {"MPO": "JPEG", "DIB": "BMP"}.get(format_, format_)


def _by_size(width: int, height: int, limits: Limits) -> tuple[str, ...]:
    short, long = sorted((width, height))
    return ("tiny",) * (short < limits.smallest) + ("extreme_aspect",) * (long > limits.aspect * short)


def _digest(pixels: Tensor, width: int, height: int) -> bytes:
    """Of all pixels (3, H, W): pictures of the same size that load alike have the same."""
    digest = blake2b(b"%d %d " % (width, height), digest_size=16)
    digest.update(pixels.contiguous().numpy().data)
    return digest.digest()


def _tile(pixels: Tensor) -> np.ndarray:
    """(3, H, W) uint8 -> (SIDE, SIDE, 3) uint8: the whole picture, squeezed."""
    array = pixels.permute(1, 2, 0).numpy()
    if array.shape[:2] == (near.SIDE, near.SIDE):
        return array
    small = Image.fromarray(np.ascontiguousarray(array)).resize((near.SIDE, near.SIDE), Image.Resampling.BOX)
    return np.asarray(small)


def _arrays(pixels: Tensor, limits: Limits) -> list[Picture]:
    """Pictures (B, C, H, W) uint8 of an array."""
    channels, height, width = pixels.shape[1:]
    colour = with_channels(pixels, 3)
    tiles = F.adaptive_avg_pool2d(colour.float(), near.SIDE).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    kinds = _by_size(width, height, limits) + (("alpha",) if channels == 4 else ())
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return [
        Picture(width, height, kinds, "", _digest(picture, width, height), tile, "array", mode)
        for picture, tile in zip(colour, tiles)
    ]
