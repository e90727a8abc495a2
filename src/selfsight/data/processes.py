"""Work that is shared out to processes, its results in order. Legend: jobs are whatever the work takes."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


def cores() -> int:
    """Cores that this process may use, shared fairly with the other processes of this machine's run."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def may_fork() -> bool:
    """Whether processes start at once here, with all that this one has, and need no guard in the user's script."""
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def spread(work: Callable[[Any], Any], jobs: Iterable[Any], workers: int, ahead: int = 2) -> Generator[Any, None, None]:
    """`work` of each job, in order, done by processes; `ahead`: jobs that each of them has been given, at most.

    `jobs` is read ahead of what is yielded. Without workers all happens here and now.
    """
    if not workers:
        yield from map(work, jobs)
        return
    done = iter(
        DataLoader(
            _Work(work),
            sampler=jobs,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_is,
            worker_init_fn=_ignore_signals,
            prefetch_factor=ahead,
            generator=torch.Generator(),  # else it would draw from the global one
            multiprocessing_context="fork" if sys.platform == "linux" else None,
        )
    )
    try:
        yield from done
    finally:
        _end(done)


class _Work(Dataset[Any]):
    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work

    def __getitem__(self, job: Any) -> Any:
        return self.work(job)


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
