"""Two processes on this machine, for tests."""

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from selfsight import distributed


def spawn(work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(*arguments)` in two processes that form a group; raises what one of them raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_child, (port, work, arguments), nprocs=2)


def _child(rank: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    distributed.start(torch.device("cpu"))
    work(*arguments)
    distributed.stop()
    # without the interpreter's end: threads of gloo that still drop tensors then would abort the process
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
