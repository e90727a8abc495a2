"""Pictures that are at hand: one flat uint8 tensor, in memory or mapped from a cache file that processes share.

Legend: N pictures, C channels, H, W height and width, B rows asked for.

Cache file: the pixels of all pictures, then a JSON footer (sizes as [how many, height, width] of equal ones in a row),
then 24 bytes that close it (magic, footer's length and checksum). It is written beside its place, flushed and renamed, so
that a reader sees a whole file or none; what is cut short or changed fails a checksum and is built again.
"""

import contextlib
import itertools
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfsight.core import Images

CACHE_LIMIT = 4 << 30
"""Bytes: a set of photos that would need more is decoded by workers instead (`cache="disk"` builds it all the same)."""
_FREE = 1 << 30  # bytes to leave on the disk
_CHECKED = 1 << 30  # cache files up to this size are checked byte by byte, longer ones in evenly spaced pieces
_MAGIC = b"selfsig2"
_CLOSING = struct.Struct("<8sQII")  # magic, length of the footer, its checksum, the pixels' checksum


class Resident:
    """Pictures in memory. Uniform ones are a (N, C, H, W) view of `flat`; ragged ones are padded when taken."""

    def __init__(self, flat: Tensor, channels: int, sizes: Tensor) -> None:
        """`flat`: (bytes,) uint8, picture after picture as C x H x W; `sizes`: (N, 2) int64."""
        self.channels, self.sizes = channels, sizes
        self.offsets = (sizes.prod(1) * channels).cumsum(0).roll(1)
        self.flat = flat
        self.uniform: Tensor | None = None  #: (N, C, H, W), not a copy
        if len(sizes):
            self.offsets[0] = 0
            if bool((sizes == sizes[0]).all()):
                self.uniform = flat.view(len(sizes), channels, *sizes[0].tolist())

    @classmethod
    def of(cls, pixels: Tensor) -> "Resident":
        """(N, C, H, W) uint8, kept as it is (also where its memory is not contiguous)."""
        store = cls(pixels.new_empty(0), pixels.shape[1], torch.empty(0, 2, dtype=torch.int64))
        store.sizes = torch.tensor(pixels.shape[2:]).expand(len(pixels), 2)
        store.uniform = pixels
        return store

    def __len__(self) -> int:
        return len(self.sizes)

    def one(self, row: int) -> Tensor:
        """(C, H, W) uint8, not a copy."""
        if self.uniform is not None:
            return self.uniform[row]
        height, width = self.sizes[row].tolist()
        return self.flat.narrow(0, int(self.offsets[row]), self.channels * height * width).view(-1, height, width)

    def take(self, rows: Tensor) -> Images:
        """(B,) rows -> their pictures."""
        if self.uniform is not None:
            return Images(self.uniform.index_select(0, rows))
        return padded([self.one(row) for row in rows.tolist()])


def padded(pictures: list[Tensor]) -> Images:
    """B pictures (C, H, W) -> one tensor, zeros at the right and the bottom of the smaller ones."""
    sizes = torch.tensor([p.shape[1:] for p in pictures], dtype=torch.int64).reshape(-1, 2)
    if bool((sizes == sizes[:1]).all()):
        return Images(torch.stack(pictures))
    height, width = sizes.amax(0).tolist()
    pixels = pictures[0].new_zeros(len(pictures), pictures[0].shape[0], height, width)
    for slot, picture in zip(pixels, pictures):
        slot[:, : picture.shape[1], : picture.shape[2]] = picture
    return Images(pixels, sizes)


def home() -> Path:
    """Where data sets and caches live: $SELFSIGHT_HOME, else ~/.cache/selfsight."""
    return Path(os.environ.get("SELFSIGHT_HOME") or "~/.cache/selfsight").expanduser()


def fits_on_disk(folder: Path, size: int) -> bool:
    """Whether `size` bytes can be written below `folder` with a GiB to spare."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= size + _FREE


Entry = tuple[Resident, list[tuple[int, str]]]


class Block(NamedTuple):
    """Pictures side by side."""

    files: int  #: n
    pixels: Tensor  #: (bytes,) uint8, picture after picture as C x H x W
    sizes: list[list[int]]  #: height and width of each picture there is
    bad: list[tuple[int, str]]  #: (place among the n, reason) of files without

    @classmethod
    def of(cls, items: Sequence[Tensor | str]) -> "Block":
        """Pictures (C, H, W) uint8, or reasons why there is none."""
        pictures = [item for item in items if not isinstance(item, str)]
        flat, at = np.empty(sum(p.numel() for p in pictures), np.uint8), 0
        for picture in pictures:
            flat[at : (at := at + picture.numel())].reshape(picture.shape)[:] = picture.numpy()
        bad = [(place, item) for place, item in enumerate(items) if isinstance(item, str)]
        return cls(len(items), torch.from_numpy(flat), [list(p.shape[1:]) for p in pictures], bad)


Built = Iterable[Tensor | str | Block]
"""What a builder yields: for each file the picture (C, H, W) uint8, or why there is none; or several in a block."""


def cached(file: Path, channels: int, build: Callable[[], Built]) -> Entry:
    """The store in `file`, built first where it is missing or damaged: (store, [(position, reason) without picture]).

    Several processes may ask at once: one builds, the others wait for it.
    """
    found = _open(file)
    if found is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_suffix(".lock")):
            found = _open(file)  # another process may have been faster
            if found is None:
                found = _built(file, channels, build(), lambda: file)
    return found


def cached_first(
    key: Path, channels: int, build: Callable[[], Built], named: Callable[[], Path], first: Callable[[], bool]
) -> Entry | None:
    """The same where the building tells the name: `named` is asked after it. None where it is not the `first` (any more).

    `key`: what processes that build the same agree on.
    """
    key.parent.mkdir(parents=True, exist_ok=True)
    with locked(key.with_suffix(".lock")):
        return _built(key, channels, build(), named) if first() else None


def _built(key: Path, channels: int, build: Built, named: Callable[[], Path]) -> Entry:
    for left in key.parent.glob(f"{key.name}.*.tmp"):  # of a builder that was killed
        left.unlink(missing_ok=True)
    draft = key.with_name(f"{key.name}.{os.getpid()}.tmp")
    try:
        _write(draft, channels, build)
        os.replace(draft, named())
    finally:
        draft.unlink(missing_ok=True)
    found = _open(named())
    if found is None:
        raise OSError(f"{named()} cannot be read back after it was written: the disk is at fault")
    return found


def in_memory(channels: int, build: Built) -> Entry:
    """The same without a file."""
    pieces: list[Tensor] = []
    sizes: list[list[int]] = []
    bad: list[tuple[int, str]] = []
    for first, block in _placed(build):
        pieces.append(block.pixels.clone())  # what comes from another process lies in memory that is shared, and scarce
        sizes += block.sizes
        bad += [(first + place, why) for place, why in block.bad]
    flat = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.uint8)
    return Resident(flat, channels, torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2)), bad


def _placed(build: Built) -> Iterator[tuple[int, Block]]:
    """Blocks, and the position of the first file of each."""
    first = 0
    for item in build:
        block = item if isinstance(item, Block) else Block.of([item])
        yield first, block
        first += block.files


def _write(draft: Path, channels: int, build: Built) -> None:
    sizes: list[list[int]] = []
    bad: list[tuple[int, str]] = []
    with draft.open("wb") as out:
        for first, block in _placed(build):
            out.write(block.pixels.numpy().data)
            sizes += block.sizes
            bad += [(first + place, why) for place, why in block.bad]
        length = out.tell()
        runs = [(len(list(run)), *size) for size, run in itertools.groupby(sizes)]
        footer = json.dumps({"channels": channels, "sizes": runs, "bad": bad, "bytes": length}).encode()
        out.flush()
        pixels = np.memmap(draft, np.uint8, "r", shape=(length,)) if length else np.empty(0, np.uint8)
        closing = _CLOSING.pack(_MAGIC, len(footer), zlib.crc32(footer), _checksum(pixels))
        del pixels
        out.write(footer + closing)
        out.flush()
        os.fsync(out.fileno())


def _open(file: Path) -> Entry | None:
    """The store, or None where the file is missing, cut short or changed."""
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            handle.seek(-_CLOSING.size, os.SEEK_END)
            magic, length, footer_sum, pixel_sum = _CLOSING.unpack(handle.read())
            handle.seek(-_CLOSING.size - length, os.SEEK_END)
            footer = handle.read(length)
    except (OSError, ValueError, struct.error):
        return None
    if magic != _MAGIC or zlib.crc32(footer) != footer_sum:
        return None
    facts = json.loads(footer)
    if facts["bytes"] + length + _CLOSING.size != size:
        return None
    if facts["bytes"]:
        # copy-on-write: torch wants a writable array, and the pages stay shared as nobody writes
        pixels = np.memmap(file, np.uint8, "c", shape=(facts["bytes"],))
    else:
        pixels = np.empty(0, np.uint8)  # type: ignore[assignment]
    if _checksum(pixels) != pixel_sum:
        return None
    runs = torch.tensor(facts["sizes"], dtype=torch.int64).reshape(-1, 3)
    sizes = runs[:, 1:].repeat_interleave(runs[:, 0], 0)
    return Resident(torch.from_numpy(pixels), facts["channels"], sizes), [(i, why) for i, why in facts["bad"]]


def _checksum(pixels: np.ndarray) -> int:
    if len(pixels) <= _CHECKED:
        return zlib.crc32(pixels.data)
    total, piece = 0, _CHECKED // 4096
    for start in np.linspace(0, len(pixels) - piece, 1024).astype(int).tolist():
        total = zlib.crc32(pixels[start : start + piece].data, total)
    return total


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process at a time, where the system can; else all build the same, and the last rename holds."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with file.open("w") as handle:
        with contextlib.suppress(OSError):  # some network disks have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
