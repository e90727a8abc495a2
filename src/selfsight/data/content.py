"""What tells one set of pictures from another: hashes of content, and stamps that stand for them as long as files do not
change. Legend: N pictures, C channels, H, W height and width.
"""

import contextlib
import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from selfsight.data.processes import cores, may_fork, spread
from selfsight.data.spans import Spans, Strings, ends_of

WHOLE = 64 << 10  # files up to this size are hashed in full, longer ones by size, head and tail (half of it each)
_READ = 100_000  # files that are hashed so, at most: evenly spaced ones of a larger set, the others by size alone
_SAMPLED = 256 << 20  # bytes of parts of files above which some of them stand for all
_PIXELS = 1 << 30  # bytes of an array above which some pictures stand for all
_MANY = 2000  # files from which on processes are worth their start
_AT_A_TIME = 256
R = TypeVar("R")
_YOUNG = 2 * 10**9  # nanoseconds: what changed later may change again without another time of its own


def content_of_files(names: Sequence[str], pictures: Spans | Sequence[Path]) -> str:
    """Hash of the names, sizes and bytes of files (in full up to 64 KiB, else head and tail): same set, same hash.

    Parts of files hash as files of their own; above 256 MiB in all it is their sizes, and the bytes of 1,024 evenly
    spaced ones, so that large shards need not be read to be opened. Of more than 100,000, evenly spaced ones are read, and
    of the others the size counts.
    """
    spans, head = Spans.of(pictures), b""
    size = spans.total()
    if size is not None and size > _SAMPLED:
        rows = torch.linspace(0, len(spans) - 1, 1024).long().unique()
        head = spans.length.numpy().tobytes() + b"".join(os.fsencode(name) + b"\0" for name in names)
        names, spans = Strings.of(names).select(rows), spans.select(rows)

    def prints(start: int) -> bytes:
        found = []
        for i, span in enumerate(spans[start : start + _AT_A_TIME], start):
            try:
                found.append(print_of(*span.ends(read_of(i, len(spans)))))
            except OSError:  # decoding will say what is wrong with it
                found.append(UNREADABLE)
        return b"".join(found)

    return joined(names, shared_out(prints, range(0, len(spans), _AT_A_TIME), spans), head)


def read_of(position: int, count: int) -> int:
    """Bytes that count of the file at this place of `count`, half at its head and half at its tail; 0: its size alone."""
    return 0 if position % -(-count // _READ) else WHOLE


def print_of(size: int, content: bytes) -> bytes:
    """Hash of a file: 16 bytes. `content`: what counts of it."""
    return hashlib.blake2b(struct.pack("<Q", size) + content, digest_size=16).digest()


UNREADABLE = hashlib.blake2b(b"unreadable", digest_size=16).digest()  #: print of a file that cannot be read


def print_of_whole(content: bytes, position: int, count: int) -> bytes:
    """The same of a file that has been read."""
    size = len(content)
    counts = [content[start:stop] for start, stop in ends_of(size, read_of(position, count))]
    return print_of(size, b"".join(counts))


def joined(names: Sequence[str], prints: Iterable[bytes], head: bytes = b"") -> str:
    """Hash of a set of files: their names, and their prints (in order, some at a time)."""
    total, each = hashlib.blake2b(head, digest_size=16), Strings.of(names).encoded()
    for some in prints:
        total.update(b"".join(next(each) + b"\0" + some[i : i + 16] for i in range(0, len(some), 16)))
    return total.hexdigest()


def shared_out(work: Callable[[int], R], jobs: Sequence[int], spans: Spans) -> Iterator[R]:
    """Work on files, in order: by processes where there are many, else (and where a network is waited for) by threads."""
    workers = min(8, cores())
    if len(spans) >= _MANY and workers > 1 and may_fork() and not spans.remote():
        yield from spread(work, jobs, workers)
        return
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, len(jobs), 16):
            yield from pool.map(work, jobs[start : start + 16])


def content_of_pixels(pixels: Tensor) -> str:
    """Hash of shape and bytes of a (N, C, H, W) tensor; above 1 GiB of 1,024 evenly spaced pictures."""
    digest = hashlib.blake2b(repr(tuple(pixels.shape)).encode(), digest_size=16)
    if pixels.numel() > _PIXELS:
        pixels = pixels[torch.linspace(0, len(pixels) - 1, 1024).long()]
    for part in pixels.split(1024):
        digest.update(part.contiguous().numpy())
    return digest.hexdigest()


class Memory:
    """Content of files that have been hashed before, for as long as their sizes and times stay. One small file a set."""

    def __init__(self, root: Path, names: Sequence[str], spans: Spans) -> None:
        """Parts of files and what is behind URLs are not remembered: `file` is None."""
        self.file: Path | None = None
        if spans.total() is None and not spans.remote():
            self.paths = spans.files.select(spans.file)
            key = hashlib.blake2b(os.fsencode(os.getcwd()), digest_size=16)
            for strings in (Strings.of(names), self.paths):
                key.update(b"\0".join(strings.encoded()) + b"\0")
            self.file = root / "store" / f"content-{key.hexdigest()}"

    def recall(self) -> str:
        """The content, "" where it is not known or files have changed."""
        if self.file is None:
            return ""
        with contextlib.suppress(OSError, ValueError):
            stamp, content = self.file.read_text().split()
            if stamp == self.stamp(map(facts_of, self.paths.encoded())):
                return content
        return ""

    def keep(self, content: str, facts: Iterable[bytes] | None = None) -> None:
        """Remember it, where something can be written. `facts`: of all files, some at a time; None: ask for them."""
        if self.file is None:
            return
        stamp = self.stamp(map(facts_of, self.paths.encoded()) if facts is None else facts)
        if not stamp:
            return
        draft = self.file.with_name(f"{self.file.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(f"{stamp} {content}")
            os.replace(draft, self.file)

    @staticmethod
    def stamp(facts: Iterable[bytes]) -> str:
        """Hash of the facts of all files; "" if one changed just now: it may do so again, and nothing would tell."""
        block = b"".join(facts)
        times = torch.frombuffer(bytearray(block), dtype=torch.int64).view(-1, 3)[:, 1:]
        if int(times.max()) > time.time_ns() - _YOUNG:
            return ""
        return hashlib.blake2b(block, digest_size=16).hexdigest()


def facts_of(path: bytes) -> bytes:
    """Size and times of a file, as bytes."""
    try:
        return pack_facts(os.stat(path))
    except OSError:
        return LOST


def pack_facts(found: os.stat_result) -> bytes:
    """The same of what the system told."""
    return struct.pack("<qqq", found.st_size, found.st_mtime_ns, found.st_ctime_ns)


LOST = struct.pack("<qqq", -1, 0, 0)  #: facts of a file that is not there
