"""What methods, loop and optimizers need to know of several processes. Legend: W processes, B rows of one process.

Only this file and sharding.py import torch.distributed. A tensor is *sharded* if each process holds some of its first
axis (a DTensor of FSDP2); `shard`, `whole`, `write` and `norms` take any tensor, so their callers need not ask.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selfsight import children

T = TypeVar("T")
_hosts: Any = None  #: group of the hosts; None: the default group is that already


def world() -> int:
    """Number of processes."""
    return td.get_world_size() if td.is_available() and td.is_initialized() else 1


def rank() -> int:
    """This process's number, 0..W-1."""
    return td.get_rank() if td.is_available() and td.is_initialized() else 0


def start(device: torch.device) -> None:
    """Join the group that torchrun announced in the environment; alone, do nothing."""
    if is_worker() and not td.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where collectives work, and shards lie
        td.init_process_group(backend, timeout=timedelta(minutes=30))
        if backend != "gloo":  # small numbers of the host travel beside the device's queue of work
            global _hosts
            _hosts = td.new_group(backend="gloo")


def is_worker() -> bool:
    """This process is one of several that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def stop() -> None:
    """Leave the group."""
    if td.is_available() and td.is_initialized():
        td.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        td.barrier()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(world())]
        td.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        td.all_reduce(grad)  # every process's loss may depend on our rows: sum, then take ours
        return own(grad)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        td.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        td.all_reduce(grad)
        return grad


def gather(x: Tensor) -> Tensor:
    """(B, ...) of each process -> (W * B, ...) on every process, in rank order; gradients flow back to their owner."""
    return x if world() == 1 else cast(Tensor, _Gather.apply(x))


def all_sum(x: Tensor) -> Tensor:
    """Sum over processes, with gradient (backward: the sum of the gradients). Use as the reducer of assign.py."""
    return x if world() == 1 else cast(Tensor, _Sum.apply(x))


def all_max(x: Tensor) -> Tensor:
    """Elementwise maximum over processes, without gradient."""
    if world() == 1:
        return x
    x = x.detach().clone()
    td.all_reduce(x, td.ReduceOp.MAX)
    return x


def agree(number: int) -> int:
    """The largest of the processes' numbers, on each; costs no wait for the device."""
    if world() == 1:
        return number
    box = torch.tensor([number])
    td.all_reduce(box, td.ReduceOp.MAX, group=_hosts)
    return int(box)


def own(x: Tensor) -> Tensor:
    """The rows of a gathered (W * B, ...) tensor that belong to this process."""
    return x if world() == 1 else x.chunk(world())[rank()]


def own_rows(count: int, device: torch.device | None = None) -> Tensor:
    """Where this process's `count` rows lie in a gathered tensor: (count,) int64."""
    return torch.arange(count, device=device) + rank() * count


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every process."""
    if world() == 1:
        return value
    box = [value]
    td.broadcast_object_list(box, src=0)
    return box[0]


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns on the first process, on every process; its exception is raised on every one, too."""
    if world() == 1:
        return make()
    value, error = None, None
    if rank() == 0:
        try:
            value = make()
        except Exception as e:
            error = e
    value, error = broadcast_object((value, error))
    if error is not None:
        raise error
    return cast(T, value)


def wrap(module: nn.Module) -> nn.Module:
    """The module whose call averages gradients over the processes.

    Buffers are not broadcast: they are equal by construction (hooks see the rows of all ranks), and a contract
    test proves it.
    """
    if world() == 1 or any(is_sharded(p) for p in module.parameters()):  # shards average their gradients themselves
        return module
    with warnings.catch_warnings():  # the newer name of the flag copies buffers once more at the start
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=False)


def without_sync(model: nn.Module, skip: bool) -> AbstractContextManager[None]:
    """While `skip`, backward passes of a wrapped module leave gradients local (all but the last micro-batch).

    Sharded modules reduce the gradients of every micro-batch, so that whole ones never pile up.
    """
    if skip and isinstance(model, DistributedDataParallel):
        return cast(AbstractContextManager[None], model.no_sync())
    return nullcontext()


def is_sharded(x: Tensor) -> bool:
    """Whether each process holds a part of this tensor."""
    return hasattr(x, "to_local")  # DTensor, whose import takes most of a second


def shard(x: Any) -> Tensor:
    """This process's rows of a sharded tensor, in place of which they can be changed; any other tensor as it is."""
    return cast(Tensor, x.detach().to_local() if is_sharded(x) else x)


def part(x: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor the rows that this process holds of `like`; all of it if `like` is not sharded."""
    return x[rank() * _share(like) :][: len(shard(like))] if is_sharded(like) else x


@torch.no_grad()
def join(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `part`: the whole tensor, from what each process holds of it. Every process must call this."""
    if not is_sharded(like):
        return x
    rows = x.new_zeros(_share(like), *x.shape[1:])
    rows[: len(x)] = x
    return gather(rows)[: len(like)]


def whole(x: Tensor) -> Tensor:
    """A sharded tensor put together, on every process; any other tensor as it is. Every process must call this."""
    return join(shard(x), x)


def _share(x: Tensor) -> int:
    return -(-len(x) // world())


@torch.no_grad()
def write(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor, equal on every process, into `target`, sharded or not."""
    shard(target).copy_(part(value, target))


@torch.no_grad()
def norms(parts: list[Tensor], sharded: bool) -> Tensor:
    """Euclidean norm of each tensor, of which this process holds `parts` if they are sharded: (tensors,)."""
    each = torch.stack(torch._foreach_norm(parts))
    return all_sum(each.square()).sqrt() if sharded else each


STATUS = "SELFSIGHT_STATUS"  #: environment variable: the file in which the first worker leaves its exit code


def launch(processes: int, arguments: list[str], threads: int) -> int:
    """Start `processes` workers `python -m ARGUMENTS` through torchrun, pass signals on, wait; their exit code.

    A worker that ends in an orderly way writes its code to the file named by STATUS and exits with 0, because torchrun
    would report any other code as a crash.
    """
    with tempfile.TemporaryDirectory(prefix="selfsight-") as folder:
        status = Path(folder) / "status"
        environment = {**os.environ, STATUS: str(status), "OMP_NUM_THREADS": str(threads)}
        environment.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # a long step, then its checkpoint
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        code, caught = children.run([sys.executable, *torchrun, *arguments], environment)
        if caught:
            return 128 + caught
        return int(status.read_text()) if status.is_file() else (code and 1)


def leave_status(code: int) -> bool:
    """In a worker started by `launch`: report the exit code. False if this process is no such worker."""
    path = os.environ.get(STATUS)
    if path and int(os.environ.get("RANK", "0")) == 0:
        Path(path).write_text(str(code))
    return path is not None
