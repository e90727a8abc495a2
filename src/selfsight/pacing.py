"""How long a run takes and how much memory: some of its steps are done, measured, and undone."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch

from selfsight import distributed, optim
from selfsight.session import Session, due
from selfsight.train import steps

TIMED = 6  #: steps whose middle one counts


class Pace(NamedTuple):
    """Seconds that a run's parts take."""

    step: float  #: of a step that is not an epoch's first
    epoch_start: float  #: more for the first of an epoch, such as clustering
    look: float  #: of a measurement by the probe

    def seconds(self, session: Session, count: int) -> float:
        """Of a run of `count` steps. The last probe, which takes every picture, counts like three more."""
        looks = len(due(session.run.probe.every, count, session.per_epoch)) + 3
        return count * self.step + math.ceil(count / session.per_epoch) * self.epoch_start + looks * self.look


def pace(session: Session) -> Pace:
    """Time some steps and a probe from a state at step 0, which is put back afterwards."""
    kept = copy.deepcopy(session.method.state_dict())
    laps: list[float] = []
    for count in (2, TIMED):  # the first pass builds kernels and fills caches
        laps, lap = [], time.perf_counter()
        long = dataclasses.replace(session.run, steps=max(session.run.steps, TIMED + 2))
        for _ in steps(session.method, session.optimizer, session.train, long, 0, count):
            if session.device.type == "cuda":
                torch.cuda.synchronize(session.device)
            laps.append(time.perf_counter() - lap)
            lap = time.perf_counter()
    session.method.load_state_dict(kept)
    session.optimizer = optim.build(session.run.optimizer, session.method, int(session.run.batch_size))
    lap = time.perf_counter()
    if session.run.probe.every != -1:
        session.ask()
    one = sorted(laps[1:])[len(laps) // 2]
    return Pace(one, max(0.0, laps[0] - one), time.perf_counter() - lap)


def steps_that_fit(session: Session, minutes: float, started: float) -> tuple[int, str]:
    """How many steps fit into the minutes.

    Args:
        session: at step 0.
        minutes: for everything since `started`.
        started: `time.perf_counter()` when the program began its work.

    Returns:
        Steps (the same on every process), and what was measured.
    """
    found = pace(session)
    said = f"{found.step:.3f} s a step, {found.look:.1f} s a probe measured"
    return int(distributed.broadcast_object(fitting(session, found, minutes, started))), said


def fitting(session: Session, found: Pace, minutes: float, started: float) -> int:
    """The largest number of steps whose time fits into what is left of the minutes since `started`; at least one."""
    left = 0.95 * (60 * minutes - (time.perf_counter() - started))
    low, high = 1, max(1, int(left / found.step))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if found.seconds(session, middle) <= left else (low, middle - 1)
    return low


# ---------------------------------------------------------------------------------------------- memory


def forget_peak(device: torch.device) -> None:
    """Start to watch this process's memory anew."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: `peak` is None then
        return


def peak(device: torch.device) -> int | None:
    """Bytes that this process held at most since `forget_peak`; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None


def available(device: torch.device) -> int | None:
    """Bytes that this process may hold: of the GPU, or of the machine's memory and its control group's."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    found = []
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
        found.append((int(lines["MemAvailable"].split()[0]) + int(own.split()[1])) * 1024)
    except (OSError, StopIteration, KeyError):
        return None
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # another system, or no limit ("max")
            continue
    return min(found)


class Memory(NamedTuple):
    """Bytes of a training process by its batch: `fixed` and `of_picture` for each picture."""

    fixed: float
    of_picture: float

    def largest(self, room: int) -> int:
        """The largest batch for this many bytes."""
        return max(0, int((room - self.fixed) / self.of_picture))


def line_through(first: tuple[int, int], second: tuple[int, int]) -> Memory:
    """From (pictures, bytes) at two batch sizes. What a smaller batch does not save counts as fixed."""
    (few, less), (many, more) = first, second
    of_picture = max(1.0, (more - less) / (many - few))
    return Memory(more - many * of_picture, of_picture)
