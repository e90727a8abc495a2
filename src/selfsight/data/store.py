"""Pictures that are at hand: one flat uint8 tensor, in memory or mapped from a cache file that processes share.

Legend: N pictures, C channels, H, W height and width, B rows asked for.

Cache file: the pixels of all pictures, then a JSON footer, then 24 bytes that close it (magic, footer's length and
checksum). It is written beside its place, flushed and renamed, so that a reader sees a whole file or none; what is cut
short or changed fails a checksum and is built again.
"""

import contextlib
import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfsight.core import Images
from selfsight.data.spans import Span, Spans, Strings

CACHE_LIMIT = 4 << 30
"""Bytes: a set of photos that would need more is decoded by workers instead (`cache="disk"` builds it all the same)."""
_FREE = 1 << 30  # bytes to leave on the disk
_WHOLE = 64 << 10  # files up to this size are hashed in full, longer ones by size, head and tail (half of it each)
_READ = 100_000  # files that are hashed so, at most: evenly spaced ones of a larger set, the others by size alone
_SAMPLED = 256 << 20  # bytes of parts of files above which some of them stand for all
_CHECKED = 1 << 30  # cache files up to this size are checked byte by byte, longer ones in evenly spaced pieces
_MAGIC = b"selfsig1"
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


def content_of_files(names: Sequence[str], pictures: Spans | Sequence[Path]) -> str:
    """Hash of the names, sizes and bytes of files (in full up to 64 KiB, else head and tail): same set, same hash.

    Parts of files hash as files of their own; above 256 MiB in all it is their sizes, and the bytes of 1,024 evenly
    spaced ones, so that large shards need not be read to be opened. Of more than 100,000, evenly spaced ones are read, and
    of the others the size counts.
    """
    spans, total = Spans.of(pictures), hashlib.blake2b(digest_size=16)
    size = spans.total()
    if size is not None and size > _SAMPLED:
        total.update(spans.length.numpy().tobytes())
        rows = torch.linspace(0, len(spans) - 1, 1024).long().unique()
        for name in names:
            total.update(os.fsencode(name) + b"\0")
        names, spans = Strings.of(names).select(rows), spans.select(rows)

    every = -(-len(spans) // _READ)

    def piece(position: int, span: Span) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        try:
            size, content = span.ends(0 if position % every else _WHOLE)
            digest.update(struct.pack("<Q", size))
            digest.update(content)
        except OSError:  # decoding will say what is wrong with it
            digest.update(b"unreadable")
        return digest.digest()

    def pieces(start: int) -> list[bytes]:
        # a task for each would cost more than the reading
        return [piece(start + i, span) for i, span in enumerate(spans[start : start + 64])]

    with ThreadPoolExecutor(8) as pool:
        for start, digests in zip(range(0, len(spans), 64), pool.map(pieces, range(0, len(spans), 64))):
            for name, digest in zip(names[start : start + 64], digests):
                total.update(os.fsencode(name) + b"\0" + digest)
    return total.hexdigest()


def content_of_pixels(pixels: Tensor) -> str:
    """Hash of shape and bytes of a (N, C, H, W) tensor; above 1 GiB of 1,024 evenly spaced pictures."""
    digest = hashlib.blake2b(repr(tuple(pixels.shape)).encode(), digest_size=16)
    if pixels.numel() > _CHECKED:
        pixels = pixels[torch.linspace(0, len(pixels) - 1, 1024).long()]
    for part in pixels.split(1024):
        digest.update(part.contiguous().numpy())
    return digest.hexdigest()


def fits_on_disk(folder: Path, size: int) -> bool:
    """Whether `size` bytes can be written below `folder` with a GiB to spare."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= size + _FREE


Entry = tuple[Resident, list[tuple[int, str]]]
Built = Iterable[Tensor | str]
"""What a builder yields for each file: the picture (C, H, W) uint8, or why there is none."""


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
                for left in file.parent.glob(f"{file.name}.*.tmp"):  # of a builder that was killed
                    left.unlink(missing_ok=True)
                _write(file, channels, build())
                found = _open(file)
    if found is None:
        raise OSError(f"{file} cannot be read back after it was written: the disk is at fault")
    return found


def in_memory(channels: int, build: Built) -> Entry:
    """The same without a file."""
    pictures, bad = [], []
    for position, item in enumerate(build):
        if isinstance(item, str):
            bad.append((position, item))
        else:
            pictures.append(item)
    sizes = torch.tensor([p.shape[1:] for p in pictures], dtype=torch.int64).reshape(-1, 2)
    flat = torch.cat([p.reshape(-1) for p in pictures]) if pictures else torch.empty(0, dtype=torch.uint8)
    return Resident(flat, channels, sizes), bad


def _write(file: Path, channels: int, build: Built) -> None:
    draft = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    sizes, bad = [], []
    try:
        with draft.open("wb") as out:
            for position, item in enumerate(build):
                if isinstance(item, str):
                    bad.append((position, item))
                    continue
                sizes.append(list(item.shape[1:]))
                out.write(item.contiguous().numpy().data)
            length = out.tell()
            footer = json.dumps({"channels": channels, "sizes": sizes, "bad": bad, "bytes": length}).encode()
            out.flush()
            pixels = np.memmap(draft, np.uint8, "r", shape=(length,)) if length else np.empty(0, np.uint8)
            closing = _CLOSING.pack(_MAGIC, len(footer), zlib.crc32(footer), _checksum(pixels))
            del pixels
            out.write(footer + closing)
            out.flush()
            os.fsync(out.fileno())
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


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
    sizes = torch.tensor(facts["sizes"], dtype=torch.int64).reshape(-1, 2)
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
