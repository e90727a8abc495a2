"""Pictures that stay files: decoded now by threads, or ahead of the training loop by worker processes.

A worker gets rows and their draws, decodes and returns `views.cut(...)`, so only crops travel between processes.
Legend: V views, B rows of a step, C channels, H, W height and width, s side of a view.
"""

import copy
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from selfsight.core import Images
from selfsight.data import decode
from selfsight.data.processes import cores, spread
from selfsight.data.spans import Spans
from selfsight.data.store import padded
from selfsight.errors import WrongUse

BadFiles = Literal["skip", "error"]
Draws = Mapping[str, Tensor]
_JOB = 32  # rows a worker takes at a time, at least: a batch is shared out, so that its first picture is not late


class Cutter(Protocol):
    """The part of an augmentation that workers do."""

    def cut(self, picture: Tensor, draws: dict[str, Tensor]) -> dict[str, Tensor]:
        """(C, H, W) uint8 and one row of draws -> name -> (V, C, s, s) uint8."""
        ...


def default_workers(device_type: str) -> int:
    """Decoding processes: all cores up to 8 beside a GPU; half of them where the cores also train."""
    return min(8, cores()) if device_type != "cpu" else min(8, max(1, cores() // 2))


class Decoded:
    """Pictures read from their files each time."""

    uniform: Tensor | None = None

    def __init__(
        self,
        pictures: Spans | Sequence[str | Path],
        channels: int,
        shorter: int,
        bad_files: BadFiles = "skip",
        log: Callable[[str], None] = print,
        workers: int = 0,
    ) -> None:
        """`shorter`: see decode.py; `workers`: processes of `feed`, 0 decodes in this one."""
        self.spans, self.channels, self.shorter = Spans.of(pictures), channels, shorter
        self.bad_files, self.log, self.workers = bad_files, log, workers
        self.failed: dict[int, str] = {}  #: row -> why it could not be read, as found out so far

    def __len__(self) -> int:
        return len(self.spans)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "log": print}  # a closure does not travel to workers, and they do not log

    def one(self, row: int) -> tuple[Tensor, dict[int, str]]:
        """The picture of a row (C, H, W) uint8, and what failed on the way.

        Under `skip` the next readable file stands in for a broken one, so that every row has a picture and the order
        stays a function of the seed.
        """
        failed: dict[int, str] = {}
        for ahead in range(len(self)):
            at = (row + ahead) % len(self)
            try:
                return decode.read(self.spans[at], self.channels, self.shorter), failed
            except decode.Unreadable as error:
                failed[at] = str(error)
                if self.bad_files == "error":
                    break
        raise WrongUse(self.complaint(row, failed[row]))

    def complaint(self, row: int, why: str) -> str:
        return (
            f"{printable(self.spans.title(row))} cannot be read ({why}); repair or remove it, or use --bad-files skip"
        )

    def take(self, rows: Tensor) -> Images:
        """(B,) rows -> their pictures, decoded now."""
        with ThreadPoolExecutor(min(8, cores())) as pool:
            found = list(pool.map(self.one, rows.tolist()))
        for _, failed in found:
            self.note(failed)
        return padded([picture for picture, _ in found])

    def note(self, failed: Mapping[int, str]) -> None:
        """Remember and log files that turned out to be broken, each once."""
        for row, why in failed.items():
            if row not in self.failed:
                self.failed[row] = why
                self.log(
                    f"skipped {printable(self.spans.title(row))}: {why}; the next readable picture stands in for it"
                )

    def feed(self, steps: Iterable[tuple[Tensor, Draws]], views: Cutter) -> Iterator[dict[str, Tensor]]:
        """For each (rows (B,), draws) the crops of its pictures: name -> (V, B, C, s, s) uint8, in the order given.

        With workers `steps` is read ahead of what is yielded.
        """
        steps = iter(steps)
        first = next(steps, None)
        if first is None:
            return
        steps = itertools.chain([first], steps)
        lengths: deque[int] = deque()  # jobs of each step that is under way
        size = max(_JOB, -(-len(first[0]) // (4 * max(1, self.workers))))
        jobs = _jobs(steps, size, lengths)
        work = _Work(self, copy.deepcopy(views).to("cpu") if isinstance(views, nn.Module) else views)
        per_step = -(-len(first[0]) // size)
        ahead = max(2, -(-2 * per_step // max(1, self.workers)))  # two steps
        with closing(spread(work, jobs, self.workers, ahead)) as done:
            parts: list[dict[str, Tensor]] = []
            for crops, failed, complaint in done:
                if complaint:
                    raise WrongUse(complaint)
                self.note(failed)
                parts.append(crops)
                if len(parts) == lengths[0]:
                    lengths.popleft()
                    yield {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
                    parts = []


class _Work:
    """What a worker holds."""

    def __init__(self, files: Decoded, views: Cutter) -> None:
        self.files, self.views = files, views

    def __call__(self, job: tuple[Tensor, Draws]) -> tuple[dict[str, Tensor], dict[int, str], str]:
        """(rows (b,), draws) -> name -> (V, b, C, s, s), what failed, and the message that ends the run, if any."""
        rows, draws = job
        failed: dict[int, str] = {}
        crops = []
        try:
            for i, row in enumerate(rows.tolist()):
                picture, broken = self.files.one(row)
                failed |= broken
                crops.append(self.views.cut(picture, {name: values[i] for name, values in draws.items()}))
        except WrongUse as error:  # raised here it would come out with a traceback
            return {}, {}, str(error)
        return {name: torch.stack([c[name] for c in crops], 1) for name in crops[0]}, failed, ""


def _jobs(
    steps: Iterable[tuple[Tensor, Draws]], size: int, lengths: deque[int]
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    for rows, draws in steps:
        starts = range(0, len(rows), size)
        lengths.append(len(starts))
        for start in starts:
            part = slice(start, start + size)
            yield rows[part], {name: values[part] for name, values in draws.items()}


def printable(name: str) -> str:
    """A file name that can be printed, also where its bytes are no valid text."""
    return os.fsencode(name).decode("utf-8", "replace")
