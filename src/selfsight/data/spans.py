"""Where encoded pictures lie: whole files, or parts of files; on this machine, or behind a URL that fsspec knows.

A million of them are a few tensors, not a million objects: worker processes share these and no copy is made.
Legend: N pictures, F files.
"""

import io
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from selfsight.errors import WrongUse

_SOME = 4096  # strings that are turned at a time


class Strings(Sequence[str]):
    """Immutable strings in one block of bytes. File names keep bytes that are no valid text."""

    def __init__(self, text: Tensor, start: Tensor, length: Tensor) -> None:
        """`text`: (bytes,) uint8; `start`, `length`: (N,) int64, where each string lies in it."""
        self.text, self.start, self.length = text, start, length

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Strings":
        """Packed; what is packed already is given back."""
        if isinstance(strings, Strings):
            return strings
        text, lengths, strings = bytearray(), [], iter(strings)
        while encoded := [os.fsencode(string) for string in islice(strings, _SOME)]:
            text += b"".join(encoded)
            lengths += [len(string) for string in encoded]
        length = torch.tensor(lengths, dtype=torch.int64)
        block = torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
        return cls(block, length.cumsum(0) - length, length)

    def __len__(self) -> int:
        return len(self.start)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> "Strings": ...
    def __getitem__(self, at: int | slice) -> "str | Strings":
        if isinstance(at, slice):
            return Strings(self.text, self.start[at], self.length[at])
        start = int(self.start[at])
        return os.fsdecode(self.text[start : start + int(self.length[at])].numpy().tobytes())

    def __iter__(self) -> Iterator[str]:
        text = memoryview(self.text.numpy())  # type: ignore[arg-type]
        for first in range(0, len(self), _SOME):
            part = slice(first, first + _SOME)
            for start, length in zip(self.start[part].tolist(), self.length[part].tolist()):
                yield os.fsdecode(bytes(text[start : start + length]))

    def encoded(self) -> Iterator[bytes]:
        """The bytes of each."""
        text = self.text.numpy().tobytes()
        for first in range(0, len(self), _SOME):
            part = slice(first, first + _SOME)
            for start, length in zip(self.start[part].tolist(), self.length[part].tolist()):
                yield text[start : start + length]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        more = f", ... {len(self)} in all" if len(self) > 3 else ""
        return f"Strings({', '.join(map(repr, self[:3]))}{more})"

    def select(self, rows: Tensor) -> "Strings":
        """Some of them, (n,) int64; the bytes are shared."""
        return Strings(self.text, self.start[rows], self.length[rows])


class Span(NamedTuple):
    """One encoded picture."""

    path: str  #: a file, or a URL
    start: int = 0  #: first byte
    length: int = -1  #: bytes; -1: the whole file

    def source(self) -> "str | io.BytesIO":
        """What Pillow opens: the file itself where it is one, else its bytes. OSError if they cannot be read."""
        return self.path if self.length < 0 and not is_remote(self.path) else io.BytesIO(self.read())

    def read(self) -> bytes:
        """All bytes. OSError if they cannot be read."""
        return self.ends(-1)[1] if self.length >= 0 or is_remote(self.path) else read_file(self.path)[0]

    def ends(self, most: int) -> tuple[int, bytes]:
        """Size, and the content; of a longer one than `most` bytes (-1: any) half of that from its head and its tail.

        OSError if it cannot be read, or if the file ends before.
        """
        if is_remote(self.path):
            return _again(lambda: self._ends_behind_url(most))
        with open(self.path, "rb") as file:
            size = self.length if self.length >= 0 else os.fstat(file.fileno()).st_size
            pieces = []
            for start, stop in ends_of(size, most):
                file.seek(self.start + start)
                pieces.append(file.read(stop - start))
        return size, self._whole(pieces, size, most)

    def _ends_behind_url(self, most: int) -> tuple[int, bytes]:
        system, path = filesystem(self.path)
        size = self.length if self.length >= 0 else int(system.info(path)["size"])
        ranges = [(self.start + a, self.start + b) for a, b in ends_of(size, most) if b > a]
        return size, self._whole([system.cat_file(path, start=a, end=b) for a, b in ranges], size, most)

    def _whole(self, pieces: list[bytes], size: int, most: int) -> bytes:
        content = b"".join(pieces)
        if len(content) < sum(b - a for a, b in ends_of(size, most)):
            raise OSError("the file that holds it is cut short")
        return content


class Spans(Sequence[Span]):
    """N encoded pictures."""

    def __init__(
        self, files: Strings, file: Tensor | None = None, start: Tensor | None = None, length: Tensor | None = None,
        names: Strings | None = None,
    ) -> None:  # fmt: skip
        """`files`: F paths or URLs. `file`: (N,) which of them, `start`, `length`: (N,) bytes; None: whole files, N = F.

        `names`: what messages call the pictures; None: by their files.
        """
        count = len(files) if file is None else len(file)
        self.files, self.names = files, names
        self.file = torch.arange(count) if file is None else file
        self.start = torch.zeros(count, dtype=torch.int64) if start is None else start
        self.length = torch.full((count,), -1) if length is None else length

    @classmethod
    def of(cls, paths: "Iterable[str | Path] | Spans") -> "Spans":
        """Whole files; what are spans already is given back."""
        return paths if isinstance(paths, Spans) else cls(Strings.of(str(path) for path in paths))

    def __len__(self) -> int:
        return len(self.file)

    @overload
    def __getitem__(self, at: int) -> Span: ...
    @overload
    def __getitem__(self, at: slice) -> "Spans": ...
    def __getitem__(self, at: int | slice) -> "Span | Spans":
        if isinstance(at, slice):
            return self.select(torch.arange(len(self))[at])
        return Span(self.files[int(self.file[at])], int(self.start[at]), int(self.length[at]))

    def __iter__(self) -> Iterator[Span]:
        for first in range(0, len(self), _SOME):
            rows = slice(first, first + _SOME)
            paths = self.files.select(self.file[rows])
            yield from map(Span, paths, self.start[rows].tolist(), self.length[rows].tolist())

    def select(self, rows: Tensor) -> "Spans":
        """Some of them, (n,) int64."""
        names = None if self.names is None else self.names.select(rows)
        return Spans(self.files, self.file[rows], self.start[rows], self.length[rows], names)

    def title(self, row: int) -> str:
        """What messages call a picture."""
        path = self.files[int(self.file[row])]
        return path if self.names is None else f"{self.names[row]} in {path}"

    def remote(self) -> bool:
        """Whether some of them are behind URLs."""
        return b"://" in self.files.text.numpy().tobytes()

    def void(self) -> list[int]:
        """Rows whose file is missing or empty, as far as that costs no look into a file or over the network."""
        if self.total() is not None:
            return (self.length == 0).nonzero()[:, 0].tolist()
        return [row for row, span in enumerate(self) if span.length == 0 or (span.length < 0 and _lost(span.path))]

    def total(self) -> int | None:
        """Bytes of all pictures; None where whole files are among them."""
        return None if len(self) and int(self.length.min()) < 0 else int(self.length.sum())


def read_file(path: str | bytes) -> tuple[bytes, os.stat_result]:
    """All of a file, and what the system tells of it: half the time of `open` for a small one. OSError."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        facts = os.fstat(handle)
        content = os.read(handle, facts.st_size)
        while len(content) < facts.st_size and (more := os.read(handle, facts.st_size - len(content))):
            content += more
        return content, facts
    finally:
        os.close(handle)


def is_remote(path: str) -> bool:
    """Whether this is a URL."""
    return "://" in path


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL and the path in it.

    Raises:
        WrongUse: a package is missing, or fsspec does not know this kind of URL.
    """
    return _system(os.getpid(), url.split("://")[0], url.split("://", 1)[1].split("/")[0]), url


@lru_cache(8)
def _system(process: int, protocol: str, host: str) -> Any:
    # one for all threads, but none from before a fork: its connections would be shared
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(f"{protocol}://{host}")[0]
    except ImportError as error:
        raise WrongUse(
            f"{protocol}:// needs a package that is missing ({error}): pip install 'selfsight[remote]'"
        ) from None
    except ValueError as error:
        raise WrongUse(f"{protocol}:// is no kind of URL that fsspec knows ({error}); check the address") from None


def _lost(path: str) -> bool:
    return not is_remote(path) and not (os.path.isfile(path) and os.path.getsize(path))


def ends_of(size: int, most: int) -> list[tuple[int, int]]:
    """(start, stop) of what is read of `size` bytes."""
    return [(0, size)] if most < 0 or size <= most else [(0, most // 2), (size - most // 2, size)]


def _again(read: Any) -> Any:
    """Networks fail now and then; a picture must not be taken for broken by that."""
    for wait in (0.5, 2.0, None):
        try:
            return read()
        except (FileNotFoundError, PermissionError, WrongUse):
            raise
        except Exception as error:  # each protocol has its own
            if wait is None:
                raise OSError(" ".join(str(error).split()) or type(error).__name__) from error
            time.sleep(wait)
