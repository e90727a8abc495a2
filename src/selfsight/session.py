"""One pre-training as a run folder: start, watch, interrupt, go on. The training itself is train.steps."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import os
import platform
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
import torchvision
from torch import nn

from selfsight import checkpoint, distributed, measure, optim, probe, recipes
from selfsight._version import __version__
from selfsight.core import Method
from selfsight.data import DataSet, open_data
from selfsight.errors import WrongUse, perhaps
from selfsight.run import Run
from selfsight.train import Pictures, build


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


def open_for(run: Run[Any], device: torch.device, log: Any = lambda line: None) -> DataSet:
    """The data of a run."""
    return open_data(
        run.data, root=Path(run.data_root).expanduser() if run.data_root else None, download=run.download,
        image_size=0 if run.image_size == "auto" else run.image_size,
        holdout=None if run.holdout == "auto" else run.holdout,
        fraction=run.fraction, per_class=run.per_class, bad_files=run.bad_files, exclude=run.exclude,
        workers=run.workers, cache=run.cache, channels=run.channels, seed=run.seed, device_type=device.type, log=log,
    )  # fmt: skip


def check_out(run: Run[Any]) -> None:
    """Refuse an --out that is in use."""
    if run.out:
        folder = Path(run.out).expanduser()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            way = f"go on with `selfsight resume {folder}`" if (folder / "run.yaml").is_file() else "empty it"
            raise WrongUse(f"--out {str(folder)!r} exists and is not empty: choose another name, or {way}")


def folder_for(run: Run[Any]) -> Path:
    """The run folder: --out, or the first free runs/METHOD-DATA-NNN. It exists afterwards, empty."""
    check_out(run)
    if run.out:
        folder = Path(run.out).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WrongUse(f"--out {str(folder)!r} cannot be made ({error.strerror}): choose another place") from None
        return folder
    stem = re.sub(r"[^\w.]+", "-", Path(run.data.rstrip("/")).name.split(":")[0]).strip("-.") or "data"
    for number in range(1, 100000):
        folder = Path("runs") / f"{run.method_name}-{stem}-{number:03d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise WrongUse("runs/ is full: give a name with --out")


def provenance(data: DataSet, device: torch.device, choices: list[str]) -> dict[str, Any]:
    """Where a run came from: versions, data, code, machine, decisions."""
    git: dict[str, Any] | None = None
    home = Path(__file__).parent
    try:
        ask = lambda *words: subprocess.run(
            ["git", "-C", str(home), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        if ask("ls-files", "--", "session.py"):  # an installed copy inside someone else's repository has no commit
            git = {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "--", str(home)))}
    except (OSError, subprocess.SubprocessError):
        git = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "selfsight": __version__, "torch": str(torch.__version__), "torchvision": str(torchvision.__version__),
        "timm": timm.__version__, "numpy": np.__version__, "python": platform.python_version(),
        "platform": platform.platform(), "device": str(device), "device_name": name, "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "git": git, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "data": {
            "name": data.name, "fingerprint": data.fingerprint, "train": len(data.train),
            "holdout": len(data.holdout or ()), "test": len(data.test or ()), "skipped": len(data.skipped),
            "classes": data.classes if data.classes and len(data.classes) <= 100 else len(data.classes or ()),
            "mean": [round(float(v), 6) for v in data.mean], "std": [round(float(v), 6) for v in data.std],
        },
        "choices": choices,
    }  # fmt: skip


def _cpu_name() -> str:
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


def prepare(run: Run[Any], data: DataSet, device: torch.device) -> tuple[Run[Any], list[str]]:
    """Resolve every "auto" but precision; set the process up."""
    set_up(run, device)
    run, choices = recipes.resolve(
        run, pictures=len(data.train), image_size=data.image_size, channels=data.channels, cuda=device.type == "cuda",
        policy_of_data=data.policy,
    )  # fmt: skip
    assert isinstance(run.batch_size, int)
    run, told = recipes.fit_warmup(run, len(data.train) // run.batch_size)
    return dataclasses.replace(run, threads=torch.get_num_threads()), [*data.choices, *choices, *told]


def choose_precision(run: Run[Any], method: Method, device: torch.device) -> tuple[Run[Any], str]:
    """bf16 or fp32, as asked or as the start-up probe finds; the same on every process."""
    if run.precision != "auto":
        return run, f"precision {run.precision}: as asked"
    if run.strategy == "fsdp":  # shards cannot be copied for a trial
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        picked: Literal["bf16", "fp32"] = "bf16" if half else "fp32"
        return dataclasses.replace(run, precision=picked), f"precision {picked}: {device.type}, not timed under fsdp"
    count, size = max(method.views.shapes.values(), key=lambda shape: shape[0] * shape[1] ** 2)  # most of the work
    channels = len(method.views.mean)
    assert isinstance(run.batch_size, int)
    share = run.batch_size * count // run.processes
    found = distributed.broadcast_object(probe.precision(method.encoder, (channels, size, size), share, device))
    return dataclasses.replace(run, precision=found.precision), f"precision {found.precision}: {found.why}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a run folder; WrongUse while one does. The system lets go of what is killed."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / "run.yaml").open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongUse(f"{folder} is being trained by another process: wait for it, or end it first") from None
        except OSError:  # some network disks have no locks
            pass
        yield


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


class Session:
    """A run that is under way, on one process."""

    def __init__(self, run: Run[Any], data: DataSet, device: torch.device, encoder: nn.Module | None = None) -> None:
        self.run, self.data, self.device = run, data, device
        self.method, self.train = build(run, data, device, encoder)
        self.optimizer = optim.build(run.optimizer, self.method, int(run.batch_size))
        self.custom = encoder is not None
        self.held = self._pictures(data.holdout)
        self.test = self._pictures(data.test)
        self.done, self.seconds = 0, 0.0
        self.best, self.best_step = -math.inf, 0  # of the monitor, the higher the better; when
        self.baselines: dict[str, Any] = {}

    def _pictures(self, part: Any) -> Pictures | None:
        if part is None or not len(part):
            return None
        pictures = Pictures(part, self.train.image_size, self.train.channels, self.device)
        pictures.views = self.method.views
        return pictures

    @property
    def labelled(self) -> bool:
        """Accuracy can be measured on the hold-out part."""
        return bool(self.held) and self.data.train.labels is not None and self.data.classes is not None

    @property
    def per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        assert isinstance(self.run.batch_size, int)
        return len(self.train) // self.run.batch_size

    # ------------------------------------------------------------------ measuring

    def ask(self, everything: bool = False, test: bool = False) -> dict[str, dict[str, Any]]:
        """Accuracies of the encoder as it is, by protocol, on the hold-out part or the test part; none without labels in
        common.
        """
        held, part = (self.test, "test") if test else (self.held, "holdout")
        if not self.labelled or held is None or held.part.labels is None or (test and self.data.disjoint):
            return {}
        rows = measure.rows_of(self.train, held, self.run.probe, self.run.seed, everything)
        classes = len(self.data.classes or ())
        return measure.accuracies(self.method.encoder, self.train, held, classes, self.run.probe, rows, part)

    # ------------------------------------------------------------------ state

    def header(self) -> dict[str, Any]:
        """How to rebuild the encoder, and where it came from."""
        return {
            "selfsight": __version__, "encoder": "custom" if self.custom else self.run.encoder,
            "net": dataclasses.asdict(self.run.net), "channels": self.data.channels, "image_size": self.run.image_size,
            "dim": int(self.method.encoder.dim),  # type: ignore[arg-type]
            "mean": self.method.views.mean.flatten().tolist(), "std": self.method.views.std.flatten().tolist(),
            "method": self.run.method_name, "data": self.data.name, "fingerprint": self.data.fingerprint,
            "steps": self.done, "seed": self.run.seed,
        }  # fmt: skip

    def save(self, folder: Path, name: str, text: str) -> None:
        """Write a checkpoint: the first process does, and every one must call it."""
        method = checkpoint.gathered(self.method.state_dict())
        optimizer = checkpoint.gathered(self.optimizer.state_dict())
        if distributed.rank() == 0:
            extra = {
                "seconds": self.seconds, "best": self.best, "best_step": self.best_step,
                "baselines": json.dumps(self.baselines),
                "encoder": json.dumps(self.header()),
            }  # fmt: skip
            state = checkpoint.Checkpoint(self.done, method, optimizer, text, extra)
            checkpoint.save(folder / "checkpoints" / name, state)

    def restore(self, saved: checkpoint.Checkpoint, where: str) -> None:
        """Go back to a checkpoint."""
        checkpoint.load_into(self.method, saved.method, where)
        checkpoint.load_optimizer(self.optimizer, saved.optimizer)
        self.done, self.seconds, self.best = saved.step, saved.extra["seconds"], saved.extra["best"]
        self.best_step = saved.extra.get("best_step", 0)  # 0: of an older version
        self.baselines = json.loads(saved.extra["baselines"])


def due(every: float, total: int, per_epoch: int) -> set[int]:
    """Steps after which something is due that comes every so many epochs, as `ProbeConfig.every` says; the last one always.

    0: about ten times in the run, at least an epoch apart; -1: never.
    """
    if every == -1:
        return set()
    gap = max(1, round((every or max(1.0, total / per_epoch / 10)) * per_epoch))
    return {*range(gap, total, gap), total}
