"""The folder of a run: where it may be, who works in it, what it came from."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision

from selfsight._version import __version__
from selfsight.data import DataSet
from selfsight.errors import WrongUse
from selfsight.machine import cpu_name
from selfsight.run import Run


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


def provenance(data: DataSet, device: torch.device, choices: list[str]) -> dict[str, Any]:
    """Where a run came from: versions, data, code, machine, decisions."""
    git: dict[str, Any] | None = None
    home = Path(__file__).parent
    try:
        ask = lambda *words: subprocess.run(
            ["git", "-C", str(home), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        if ask("ls-files", "--", "folder.py"):  # an installed copy inside someone else's repository has no commit
            git = {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "--", str(home)))}
    except (OSError, subprocess.SubprocessError):
        git = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
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
