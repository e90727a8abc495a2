"""A run that is under way on one process: data, method, optimizer, state; what "auto" becomes. The training is train.steps."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from selfsight import checkpoint, distributed, measure, optim, probe, recipes
from selfsight._version import __version__
from selfsight.core import Method
from selfsight.data import DataSet, open_data
from selfsight.machine import set_up
from selfsight.run import Run
from selfsight.train import Pictures, build


def open_for(run: Run[Any], device: torch.device, log: Any = lambda line: None) -> DataSet:
    """The data of a run."""
    return open_data(
        run.data, root=Path(run.data_root).expanduser() if run.data_root else None, download=run.download,
        image_size=0 if run.image_size == "auto" else run.image_size,
        holdout=None if run.holdout == "auto" else run.holdout,
        fraction=run.fraction, per_class=run.per_class, bad_files=run.bad_files, exclude=run.exclude,
        workers=run.workers, cache=run.cache, channels=run.channels, seed=run.seed, device_type=device.type, log=log,
    )  # fmt: skip


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
