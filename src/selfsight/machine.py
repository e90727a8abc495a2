"""This machine: devices, threads, memory, signals."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from selfsight.errors import WrongUse, perhaps
from selfsight.run import Run


def pick_device(name: str) -> torch.device:
    """The device of that name; auto: a GPU if there is one. In a worker, the GPU of its local rank."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"  # mps has no float64, which clusterings and monitors use
    if name.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise WrongUse(f"unknown device {name!r}.{perhaps(name, {'auto', 'cpu', 'cuda', 'mps'})}")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise WrongUse(
            f"device {name!r} is not usable here ({str(error).splitlines()[0]}): try --device auto"
        ) from None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return device


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def keep_memory() -> None:
    """On glibc: keep freed memory in the process. By default each large activation goes back to the kernel at once and
    is paged in anew at every step, which costs a CPU run a tenth of its speed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library: as it is
        return
    mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: no private mapping for buffers below 1 GiB
    mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: do not shrink the heap


def set_up(run: Run[Any], device: torch.device) -> None:
    """Threads, memory and determinism of this process."""
    if run.threads:
        torch.set_num_threads(run.threads)
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(run.deterministic)
    if device.type == "cpu":
        keep_memory()


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one of a kind is obeyed at once."""
    caught: list[int] = []

    def note(number: int, frame: object) -> None:
        if number in caught:
            raise KeyboardInterrupt
        caught.append(number)

    old = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: whoever runs us handles signals
        old = {}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
