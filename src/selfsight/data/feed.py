"""Pictures that stay files: decoded now by threads, or ahead of the training loop by worker processes.

A worker gets rows and their draws, decodes and returns `views.cut(...)`, so only crops travel between processes.
Legend: V views, B rows of a step, C channels, H, W height and width, s side of a view.
"""

import copy
import itertools
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from selfsight.core import Images
from selfsight.data import decode
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


def cores() -> int:
    """Cores that this process may use, shared fairly with the other processes of this machine's run."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


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
        done = (
            iter(self._loader(work, jobs, -(-len(first[0]) // size))) if self.workers else map(work.__getitem__, jobs)
        )
        try:
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
        finally:
            _end(done)

    def _loader(self, work: "_Work", jobs: Iterator[Any], per_step: int) -> "DataLoader[Any]":
        return DataLoader(
            work,
            sampler=jobs,
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_as_is,
            worker_init_fn=_ignore_signals,
            prefetch_factor=max(2, -(-2 * per_step // self.workers)),  # two steps ahead
            generator=torch.Generator(),  # else it would draw from the global one
            # forked workers start at once and need no `if __name__ == "__main__"` in the user's script
            multiprocessing_context="fork" if sys.platform == "linux" else None,
        )


class _Work(Dataset[Any]):
    """What a worker holds."""

    def __init__(self, files: Decoded, views: Cutter) -> None:
        self.files, self.views = files, views

    def __getitem__(self, job: tuple[Tensor, Draws]) -> tuple[dict[str, Tensor], dict[int, str], str]:
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


def _end(loader: Any) -> None:
    """End the workers of a loader's iterator. One that is stuck is killed: torch's SIGTERM is what they ignore."""
    workers = list(getattr(loader, "_workers", ()))
    getattr(loader, "_shutdown_workers", lambda: None)()  # waits a few seconds for each
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _as_is(x: Any) -> Any:
    return x


def _ignore_signals(_: int) -> None:
    """Ctrl-C and SIGTERM go to the whole group: the main process finishes its step, so the workers must live on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def printable(name: str) -> str:
    """A file name that can be printed, also where its bytes are no valid text."""
    return os.fsencode(name).decode("utf-8", "replace")
