"""A child process that is waited for, and that hears of our end."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO


def run(command: Sequence[str], env: Mapping[str, str] | None = None, stdout: IO[str] | None = None) -> tuple[int, int]:
    """Start a command and wait for it; signals that want this process to end are passed on as SIGTERM.

    The child has a session of its own, so that Ctrl-C reaches this process alone and is passed on once.

    Returns:
        Its exit code (negative: the signal that ended it), and the first signal that this process got meanwhile, or 0.
    """
    child = subprocess.Popen(command, env=env, stdout=stdout, start_new_session=True, preexec_fn=_end_with_parent)
    caught: list[int] = []

    def forward(number: int, frame: object) -> None:
        caught.append(number)
        child.send_signal(signal.SIGTERM)

    # the last: a closed terminal
    numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    old = {s: signal.signal(s, forward) for s in numbers if signal.getsignal(s) != signal.SIG_IGN}  # nohup, say
    try:
        code = child.wait()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    return code, caught[0] if caught else 0


def _end_with_parent() -> None:
    """In a child on Linux: get a SIGTERM when the parent is gone, even by kill -9, which nobody can pass on."""
    with contextlib.suppress(OSError, AttributeError):  # another system
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
