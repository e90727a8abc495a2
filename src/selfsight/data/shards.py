"""Tar shards in the layout of webdataset: KEY.jpg with KEY.cls, KEY.json or KEY.txt beside it, or a folder as a tar.

A scan of the headers tells where each picture lies; from then on a picture is a part of a file like any other.
"""

import glob
import json
import os
import re
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import IO

from selfsight.data.decode import SUFFIXES
from selfsight.data.files import JUNK, LABEL_COLUMNS, Request, Source
from selfsight.data.index import Index, Scan, kept, key_of, merged, source_of
from selfsight.data.processes import cores
from selfsight.data.spans import filesystem, is_remote
from selfsight.errors import WrongUse

_SIDES = ("cls", "json", "txt")  # what labels a picture, first come first
_LONGEST = 64 << 10  # bytes of a label
_BUFFER = 16 << 10  # bytes read at a time: headers and labels lie side by side, pictures are stepped over
_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
_PARALLEL = 64 << 20  # bytes of shards below which processes are not worth their start


def from_shards(pattern: str, request: Request) -> Source:
    """A .tar, a pattern with {000..099}, {a,b} or *, a folder of shards; each also as a URL.

    Raises:
        WrongUse: a shard is missing or compressed, or there is no picture in them.
    """
    files = list_shards(pattern)
    base = pattern.rstrip("/") + "/"
    if not all(file.startswith(base) for file in files):
        base = ""
    names = [file[len(base) :] if base else re.split(r"[/\\]", file)[-1] for file in files]

    def build() -> Index:
        request.log(f"listing the pictures in {len(files):,} shards, once")
        with _pool(files) as pool:
            return merged(pool.map(scan, files))

    return source_of(kept(key_of("tar", files, names), request.root, build), files, names, [])


def list_shards(pattern: str) -> list[str]:
    """The shards that a pattern, a folder or a name stands for, each of which exists."""
    if not is_remote(pattern):
        pattern = str(Path(pattern).expanduser())
        if os.path.isdir(pattern):
            found = sorted(str(p) for deep in ("*.tar", "*/*.tar") for p in Path(pattern).glob(deep))
        else:
            found = sorted(glob.glob(pattern)) if "*" in pattern else expand(pattern)
        missing = [file for file in found if not os.path.isfile(file)]
    else:
        found, missing = _list_remote(pattern)
    if missing:
        few = ", ".join(missing[:3]) + (", ..." if missing[3:] else "")
        raise WrongUse(f"{len(missing)} of {len(found)} shards are not there: {few}; fetch them, or change {pattern!r}")
    other = next((file for file in found if not file.endswith(".tar")), None)
    if other is not None:
        raise WrongUse(f"{other} is no .tar; of other files give the folder, or a .txt list of paths")
    if not found:
        raise WrongUse(
            f"no .tar in {pattern}; give a folder of shards, a .tar, or a pattern such as a-{{000..099}}.tar"
        )
    return found


def _list_remote(pattern: str) -> tuple[list[str], list[str]]:
    system, path = filesystem(pattern)
    try:
        if "*" not in pattern and ("{" in pattern or pattern.endswith(".tar")):
            found = expand(pattern)
            with ThreadPoolExecutor(16) as pool:
                there = list(pool.map(system.exists, found))
            return found, [file for file, is_there in zip(found, there) if not is_there]
        names = system.glob(path) if "*" in path else [file for file in system.find(path) if file.endswith(".tar")]
    except OSError as error:
        raise WrongUse(f"{pattern} cannot be listed ({' '.join(str(error).split())[:100]}); check it") from None
    return sorted(system.unstrip_protocol(name) for name in names), []


def expand(pattern: str) -> list[str]:
    """`a-{08..10}.tar` -> a-08.tar, a-09.tar, a-10.tar; `{a,b}.tar` -> a.tar, b.tar."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if not first <= last < first + 1_000_000:
            raise WrongUse(f"{pattern!r}: the first number in braces must not be above the last; write {{000..099}}")
        items = [f"{i:0{len(numbers[1])}}" for i in range(first, last + 1)]
    else:
        items = braces[1].split(",")
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [before + item + rest for item in items for rest in expand(after)]


def _pool(files: list[str]) -> Executor:
    local = sys.platform == "linux" and not any(map(is_remote, files))
    if local and cores() > 1 and len(files) > 1 and sum(map(os.path.getsize, files)) > _PARALLEL:
        return ProcessPoolExecutor(min(16, cores(), len(files)), get_context("fork"))
    return ThreadPoolExecutor(min(8, len(files)))


def scan(path: str) -> Scan:
    """Where the pictures of a shard lie and what labels them.

    Raises:
        WrongUse: it is compressed, or is no tar file at all.
    """
    found, sides = Scan(), {}
    pictures: list[tuple[str, int, int]] = []
    with _open(path) as file:
        _refuse_compressed(path, file.read(8))
        file.seek(0)
        for member in _members(file, found):
            name = member.name.removeprefix("./")
            if any(part.startswith(".") or part in JUNK for part in name.split("/")):
                continue
            base, suffix = os.path.splitext(name)
            suffix = suffix.lower()
            if not member.isreg() or member.issparse():
                if not member.isdir():
                    found.ignored["links"] += 1
            elif suffix in SUFFIXES:
                pictures.append((name, member.offset_data, member.size))
            elif suffix[1:] in _SIDES and member.size <= _LONGEST:
                file.seek(member.offset_data)
                sides[base, suffix[1:]] = file.read(member.size)
            else:
                found.ignored[suffix or "no suffix"] += 1
    _fill(found, pictures, sides)
    return found


def _fill(found: Scan, pictures: list[tuple[str, int, int]], sides: dict[tuple[str, str], bytes]) -> None:
    """Choose the pictures and label them. KEY.jpg goes before KEY.mask.png, which belongs to the same sample."""
    plain = {_key(name)[0] for name, _, _ in pictures if "." not in _key(name)[1]}
    for name, start, length in pictures:
        key, ending = _key(name)
        if "." in ending and key in plain:
            found.ignored[f".{ending}"] += 1
            continue
        found.names.append(name)
        found.starts.append(start)
        found.lengths.append(length)
        found.labels.append(None)
        for side in _SIDES:
            text = sides.get((os.path.splitext(name)[0], side), sides.get((key, side)))
            label = None if text is None else _label(text, side)
            if label is not None:
                found.labels[-1] = label
                found.captions |= side == "txt"
                break


def _key(name: str) -> tuple[str, str]:
    """Sample and ending of a member: at the first dot of its file name."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return folder + slash + stem, ending


def _label(content: bytes, side: str) -> str | None:
    text = content.decode("utf-8", "replace").strip()
    if side != "json":
        return text or None
    try:
        facts = json.loads(text)
    except ValueError:
        return None
    if isinstance(facts, dict):
        facts = next((facts[k] for k in ("cls", *LABEL_COLUMNS) if facts.get(k) is not None), None)
    return str(facts) if isinstance(facts, str | int) else None


def _open(path: str) -> IO[bytes]:
    try:
        if not is_remote(path):
            return open(path, "rb", buffering=_BUFFER)
        system, inside = filesystem(path)
        opened: IO[bytes] = system.open(inside, "rb")
        return opened
    except OSError as error:
        raise WrongUse(f"{path} cannot be read ({error.strerror or error}); check the file") from None


def _members(file: IO[bytes], found: Scan) -> Iterator[tarfile.TarInfo]:
    """Members in order; what is wrong with the file goes to `found`."""
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (the file is closed by its owner)
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
            yield member
        file.seek(tar.offset)
        end = file.read(512)
    except (tarfile.TarError, OSError) as error:
        found.damage = f"cut short or damaged: {error}"
        return
    if len(end) < 512 or end.strip(b"\0"):
        found.damage = "cut short or damaged: its end mark is missing"


def _refuse_compressed(path: str, head: bytes) -> None:
    for magic, (kind, command) in _PACKED.items():
        if head.startswith(magic):
            raise WrongUse(
                f"{path} is compressed ({kind}), so that no picture in it can be read by itself; unpack it once: "
                f"{command} {path} (pictures are compressed already: it grows little)"
            )
