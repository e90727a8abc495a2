"""Files -> pictures at hand or decoded later: a look at the headers, then the choice of a store.

Legend: N pictures, C channels, H, W height and width.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from selfsight.data import content, decode, split
from selfsight.data.feed import BadFiles, Decoded, printable
from selfsight.data.files import Pictures
from selfsight.data.processes import cores
from selfsight.data.spans import Span, Spans, read_file
from selfsight.data.store import (
    CACHE_LIMIT,
    Block,
    Built,
    Entry,
    Resident,
    cached,
    cached_first,
    fits_on_disk,
    in_memory,
)
from selfsight.errors import WrongUse
from selfsight.rng import Stream, generator

Cache = Literal["auto", "memory", "disk", "off"]
DETAIL = 2  # stored pictures have up to this many times the image size, so that a crop of a quarter is still sharp
PIXELS = 1  # raise when decode.py gives other pixels for the same file: part of the cache's key
_BLOCK = 2 << 20  # bytes of decoded pictures that travel between processes at a time
_HEADERS = 2000  # files looked at to choose size and channels


@dataclass(frozen=True)
class Settings:
    """How files become pictures."""

    channels: int
    image_size: int
    bad_files: BadFiles
    workers: int
    cache: Cache
    root: Path
    log: Callable[[str], None]

    @property
    def shorter(self) -> int:
        return DETAIL * self.image_size


class Look(NamedTuple):
    """What a sample of the pictures looks like."""

    sizes: list[tuple[int, int]]
    gray: bool


def look_at(pictures: Pictures, name: str) -> Look:
    """Sizes and kind of a sample, the same one each time.

    Raises:
        WrongUse: nothing in it can be read.
    """
    if pictures.pixels is not None:
        _, channels, height, width = pictures.pixels.shape
        return Look([(height, width)], channels == 1)
    spans = Spans.of(pictures.paths or [])
    order = torch.randperm(len(spans), generator=generator(0, Stream.SPLIT, split.HEADERS)).tolist()
    found: list[decode.Header] = []
    broken: list[tuple[str, str]] = []
    with ThreadPoolExecutor(min(8, cores())) as pool:
        for start in range(0, len(order), _HEADERS):
            sample = order[start : start + _HEADERS]
            for row, header in zip(sample, pool.map(try_probe, [spans[row] for row in sample])):
                if isinstance(header, str):
                    broken.append((printable(Path(spans.title(row)).name), header))
                else:
                    found.append(header)
            if found:
                break
    if not found:
        raise WrongUse(f"no readable picture in {name}: {some(broken)}; check the files")
    return Look([(h.height, h.width) for h in found], all(h.gray for h in found))


def try_probe(path: Path | Span) -> decode.Header | str:
    """The header of a file, or why it has none."""
    try:
        return decode.probe(path)
    except decode.Unreadable as error:
        return str(error)


def store_of(
    spans: Spans, names: Sequence[str], settings: Settings, look: Look, choices: list[str]
) -> tuple[Resident | Decoded, list[tuple[int, str]], str]:
    """Encoded pictures -> a store, the positions that are not in it with the reason, and the hash of the content."""
    sizes = [decode.fit(*size, settings.shorter) for size in look.sizes]
    need = settings.channels * len(spans) * sum(h * w for h, w in sizes) // len(sizes)
    each = max(1, min(1024, _BLOCK * len(spans) // max(1, need)))
    amount = f"{need / 2**20:,.0f} MiB"
    room = (settings.cache == "disk" or need <= CACHE_LIMIT) and fits_on_disk(settings.root, need)
    disk = settings.cache in ("auto", "disk")
    memory = content.Memory(settings.root, names, spans)
    found = known = memory.recall()
    told: list[tuple[bytes, bytes]] = []  # prints and facts of what has been read

    def file() -> Path:
        return settings.root / "store" / f"{found}-{settings.shorter}-{settings.channels}-{PIXELS}"

    def build() -> Built:
        settings.log(f"reading {len(spans):,} pictures into {amount}, once for this image size")
        for read in read_all(spans, settings, each):
            yield read.block
            told.append((read.prints, read.facts))

    def named() -> Path:
        nonlocal found
        found = found or content.joined(names, (prints for prints, _ in told))
        return file()

    def first() -> bool:
        """No cache can be that of these pictures: they are hashed while they are decoded, not before."""
        return not any(file().parent.glob(f"*{file().name}"))

    entry: Entry | None = None
    try:
        if disk and room and not found and memory.file is not None and first():
            entry = cached_first(memory.file, settings.channels, build, named, first)
        if entry is None:
            found = found or content.content_of_files(names, spans)
            if disk and (room or file().exists()):
                entry = cached(file(), settings.channels, build)
    except OSError as error:
        choices.append(f"no cache on disk: {error}")
    found = found or content.content_of_files(names, spans)
    if entry is not None:
        choices.append(f"{len(spans):,} pictures cached on disk: {file()}")
    if entry is None and settings.cache == "disk":
        raise WrongUse(f"a cache of {amount} cannot be written under {settings.root}; make room, or use --cache off")
    if entry is None and (settings.cache == "memory" or (settings.cache == "auto" and need <= CACHE_LIMIT // 4)):
        entry = in_memory(settings.channels, build())
        choices.append(f"{len(spans):,} pictures kept in memory")
    if not known:
        memory.keep(found, (facts for _, facts in told) if len(told) == -(-len(spans) // each) else None)
    if entry is not None:
        refuse_bad(entry[1], names, settings.bad_files)
        return *entry, found
    choices.append(f"{len(spans):,} pictures decoded as they are needed, by {settings.workers} processes")
    empty = [(i, "empty file") for i in spans.void()]
    refuse_bad(empty, names, settings.bad_files)
    usable = torch.ones(len(spans), dtype=torch.bool)
    usable[[i for i, _ in empty]] = False
    spans = spans.select(usable.nonzero()[:, 0])
    store = Decoded(spans, settings.channels, settings.shorter, settings.bad_files, settings.log, settings.workers)
    return store, empty, found


class Read(NamedTuple):
    """Files that have been read."""

    block: Block
    prints: bytes  #: their hashes, see content.py
    facts: bytes  #: their sizes and times


def read_all(spans: Spans, settings: Settings, each: int) -> Iterator[Read]:
    """Every picture in order, in blocks of `each` files."""
    whole = spans.total() is None and not spans.remote()

    def read(start: int) -> Read:
        items: list[Tensor | str] = []
        prints, facts = [], []
        for position, span in enumerate(spans[start : start + each], start):
            print_of, fact = content.UNREADABLE, content.LOST
            try:
                if whole:
                    found, told = read_file(span.path)
                    print_of, fact = content.print_of_whole(found, position, len(spans)), content.pack_facts(told)
                else:
                    found = span.read()
                items.append(decode.decoded(found, settings.channels, settings.shorter))
            except OSError as error:
                items.append(decode.reason(error))
            except decode.Unreadable as error:
                items.append(str(error))
            prints.append(print_of)
            facts.append(fact)
        return Read(Block.of(items), b"".join(prints), b"".join(facts))

    return content.shared_out(read, range(0, len(spans), each), spans)


def refuse_bad(bad: list[tuple[int, str]], names: Sequence[str], policy: BadFiles) -> None:
    """Raise WrongUse that names the bad files, if the policy is error."""
    if bad and policy == "error":
        listed = [(printable(names[i]), why) for i, why in bad]
        raise WrongUse(f"{len(bad)} pictures cannot be read: {some(listed)}; repair them, or use --bad-files skip")


def some(bad: list[tuple[str, str]], most: int = 5) -> str:
    """The first few of (file, reason) in one line."""
    shown = ", ".join(f"{name} ({why})" for name, why in bad[:most])
    return shown + (f" and {len(bad) - most} more" if len(bad) > most else "")
