"""Around the steps of a run: numbers out, checkpoints, probes, and the pictures and the page at the end."""

from __future__ import annotations

import math
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfsight import checkpoint, distributed, health, measure
from selfsight.analysis import save_attention, save_drawn
from selfsight.core import Step
from selfsight.encoders import TokenEncoder
from selfsight.errors import WrongUse
from selfsight.rng import Stream, generator
from selfsight.session import Session, due
from selfsight.tables import ACCURACIES
from selfsight.track import Tracker
from selfsight.train import Done, steps

NOT_YET = "no measurement yet"


class Watch:
    """Everything around the steps of a run: numbers out, checkpoints, probes."""

    def __init__(self, session: Session, tracker: Tracker, folder: Path, text: str) -> None:
        self.session, self.tracker, self.folder, self.text = session, tracker, folder, text
        self.study_every = session.run.probe.study_every or session.run.probe.every
        self.loss = tracker.losses[-1][1] if tracker.losses else float("nan")  # of the part before a resume
        self.speed = 0.0
        self.found: dict[str, dict[str, Any]] = {}  # the last accuracies, by protocol
        self.logs: dict[str, float] = {}
        self.waited, self.trained = 0.0, 1e-9  # seconds of this process: for pictures, and in all
        self.verdict = health.Verdict("too early to tell", NOT_YET, "")

    def baselines(self) -> None:
        """Monitors and accuracies of the untrained encoder, and k-NN of raw pixels, on the pictures asked all along."""
        session = self.session
        if self.study_every != -1:
            self.study()
        if session.run.probe.every == -1:
            return
        found = measure.monitors(session.method, session.held or session.train, session.run.probe, session.run.seed)
        self.tracker.measure(0, {"health": self.verdict.status, "why": "untrained", **found})
        self.ask()
        if "knn" in self.found and session.held is not None:
            rows = measure.rows_of(session.train, session.held, session.run.probe, session.run.seed, False)
            pixels = measure.pixel_knn(
                session.train, session.held, len(session.data.classes or ()), session.run.probe, rows, "holdout"
            )
            session.baselines = {"untrained": self.found["knn"]["top1"], "pixels": pixels["top1"]}
            self.tracker.measure(0, {"pixels": pixels})

    def ask(self) -> None:
        """Measure accuracies on the hold-out part."""
        self.found = self.session.ask()
        for name, numbers in self.found.items():
            self.tracker.measure(self.session.done, {name: numbers})

    def train(self, caught: list[int]) -> int:
        """Run the steps; the exit code."""
        session, run = self.session, self.session.run
        probes = due(run.probe.every, run.steps, session.per_epoch)
        studies = due(self.study_every, run.steps, session.per_epoch)
        exports = _export_steps(run.export_every, session.per_epoch, run.steps)
        saved = lap = time.monotonic()
        views, waited = 0, 0.0
        for done in steps(session.method, session.optimizer, session.train, run, start=session.done):
            session.done = at = done.step.index + 1
            views += done.views
            waited += done.waited
            if at % run.log_every == 0 or at in (1, run.steps):
                self.read(done)
                now = time.monotonic()
                took = max(1e-9, now - lap)
                session.seconds += took
                self.waited, self.trained = self.waited + waited, self.trained + took
                self.speed, self.logs["waiting"] = views / took, min(1.0, waited / took)
                lap, views, waited = now, 0, 0.0
                self.line(done)
                if not math.isfinite(self.loss):
                    return self.diverged()
            began = time.monotonic()
            if at in studies:
                self.study()
            if at in probes:
                self.look()
            lap += time.monotonic() - began  # not training
            if at in exports:
                name = f"encoder-{at:07d}.safetensors"
                checkpoint.save_encoder(self.folder / "checkpoints" / name, session.method.encoder, session.header())
            overdue = time.monotonic() - saved > 60  # of one clock or more; all processes save at once
            stop, late = divmod(distributed.agree(2 * (caught[0] if caught else 0) + overdue), 2)
            regular = at % run.checkpoint_every == 0 if run.checkpoint_every else late or at % session.per_epoch == 0
            if stop or regular or at == run.steps:
                if session.done % run.log_every:
                    self.read(done)
                if not (math.isfinite(self.loss) and math.isfinite(float(done.gradient))):
                    return self.diverged()  # the last good checkpoint stays
                session.save(self.folder, "last.pt", self.text)
                saved = time.monotonic()
            if stop and at < run.steps:
                self.tracker.log(
                    f"interrupted after step {at} of {run.steps}; go on with: selfsight resume {self.folder}"
                )
                return 128 + stop
        return 0

    def read(self, done: Done) -> None:
        """Loss and logs of the global batch: the mean over processes. Waits for the device."""
        mean = distributed.all_sum(torch.stack([done.loss, *done.logs.values()]).float()) / distributed.world()
        self.loss, *logs = mean.tolist()
        self.logs = dict(zip(done.logs, logs, strict=True))

    def line(self, done: Done) -> None:
        """A line of metrics."""
        at = self.session.done
        epoch = at / self.session.per_epoch
        self.tracker.step(
            at, epoch=round(epoch, 6), loss=self.loss, lr=done.rate, gradient_norm=float(done.gradient),
            views_per_second=round(self.speed, 2), seconds=round(self.session.seconds, 3),
            cpu_seconds=round(time.process_time(), 3), **self.logs,
        )  # fmt: skip

    def judge(self) -> dict[str, float]:
        """Set the verdict; the monitors that it rests on."""
        session = self.session
        found = measure.monitors(session.method, session.held or session.train, session.run.probe, session.run.seed)
        assert isinstance(session.run.batch_size, int)
        self.verdict = health.verdict(
            found, self.tracker.losses, progress=session.done / session.run.steps, logs=self.logs,
            waiting=self.waited / self.trained,
            constant_loss=session.method.constant_loss(session.run.batch_size // session.run.accumulate),
            history=self.tracker.monitors,
        )  # fmt: skip
        return found

    def study(self) -> None:
        """Keep the arrays that the method lets be studied."""
        session = self.session
        arrays = measure.study(session.method, session.train, session.run.probe, session.run.seed)
        if arrays and distributed.rank() == 0:
            path = self.folder / "study" / f"{session.done:07d}.npz"
            checkpoint.atomic(path, lambda part: _savez(part, arrays))

    def look(self) -> None:
        """Measure accuracies and health; keep the state that is the best by the monitor."""
        session = self.session
        found = self.judge() | measure.nmi_labels(session.method, session.train)
        held: dict[str, float] = {}
        self.tracker.measure(session.done, {"health": self.verdict.status, "why": self.verdict.why, **found})
        if session.held is not None:
            last = session.done - 1  # schedules as at the step just done
            step = Step(last, session.run.steps, session.per_epoch, generator(session.run.seed, Stream.SHARED, last))
            if held := measure.held_out(session.method, session.held, session.run, step):
                self.tracker.measure(session.done, {"validation": held})
        if self.verdict.remedy:
            self.tracker.log(f"{self.verdict.status}: {self.verdict.why}. {self.verdict.remedy}")
        self.ask()
        numbers = {name: accuracy["top1"] for name, accuracy in self.found.items()}
        if session.held is not None:
            numbers |= {"rank": found["features_rank"]} | ({"loss": -held["loss"]} if held else {})
        value = numbers.get(session.run.probe.monitor, -math.inf)
        if distributed.agree(value > session.best):  # all processes save, or none
            session.best, session.best_step = value, session.done
            session.save(self.folder, "best.pt", self.text)

    def diverged(self) -> int:
        """The loss or its gradient is no number: say so and stop; the last checkpoint stays."""
        self.verdict = health.verdict({"finite": 0.0}, [(self.session.done, self.loss)], progress=1.0)
        self.tracker.measure(self.session.done, {"health": self.verdict.status, "why": self.verdict.why})
        self.tracker.log(f"stopped: {self.verdict.why}. {self.verdict.remedy}")
        return 1

    def summary(self) -> dict[str, Any]:
        """The object of --json."""
        session = self.session
        return {
            "run": str(self.folder), "steps": session.done, "seconds": round(session.seconds, 3),
            "views_per_second": round(self.speed, 2), "final_loss": self.loss if math.isfinite(self.loss) else None,
            **{name: self.found.get(name) for name in ACCURACIES},
            "untrained": session.baselines.get("untrained"), "pixels": session.baselines.get("pixels"),
            "best": self.best(), "health": self.verdict.status, "why": self.verdict.why,
        }  # fmt: skip

    def best(self) -> dict[str, Any] | None:
        """What checkpoints/best.pt is; None if there is none."""
        session, monitor = self.session, self.session.run.probe.monitor
        if not math.isfinite(session.best) or not session.best_step:
            return None
        value = -session.best if monitor == "loss" else session.best
        return {"monitor": monitor, "value": value, "step": session.best_step}

    def finish(self) -> dict[str, Any]:
        """The final measurements, on all pictures, and the encoder."""
        session = self.session
        if self.verdict.why == NOT_YET and session.run.probe.every != -1:  # resumed after the last step
            self.judge()
        held = session.ask(everything=True)
        test = session.ask(everything=True, test=True)
        self.found = test or held or self.found
        for found in (held, test):
            for name, numbers in found.items():
                self.tracker.measure(session.done, {f"final_{name}": numbers})
        checkpoint.save_encoder(self.folder / "encoder.safetensors", session.method.encoder, session.header())
        return {**self.summary(), "holdout": held.get("knn"), "test": test.get("knn")}


def check_monitor(session: Session) -> str | None:
    """A line to say if no best.pt will be kept, for want of labels.

    Raises:
        WrongUse: the monitor was chosen, and cannot be measured.
    """
    monitor, held = session.run.probe.monitor, session.held
    if session.run.probe.every == -1 or (monitor in ACCURACIES and session.labelled and session.run.probe.protocols):
        return None
    if monitor in ACCURACIES:
        return (
            f"no checkpoints/best.pt: {monitor} needs held-out pictures with labels (--probe.monitor rank and loss need "
            "no labels, but --holdout 0.1)"
        )
    if held is None:
        raise WrongUse(f"--probe.monitor {monitor} needs held-out pictures: add --holdout 0.1")
    size = int(session.run.batch_size) // session.run.accumulate
    if monitor == "loss" and (session.method.indexed or len(held) < size):
        why = f"a batch has {size} pictures, the hold-out part {len(held)}"
        if session.method.indexed:
            why = f"the loss of {session.run.method_name} rests on what it keeps of each training picture"
        raise WrongUse(f"--probe.monitor loss cannot be measured, {why}: choose another monitor, such as rank")
    return None


def _export_steps(every: float, per_epoch: int, total: int) -> set[int]:
    return set(range(max(1, round(every * per_epoch)), total + 1, max(1, round(every * per_epoch)))) if every else set()


def save_pictures(session: Session, folder: Path) -> None:
    """Pictures for the report: neighbours of samples, a grid of views, attention maps, what the method draws itself."""
    figures = folder / "figures"
    save_drawn(session.train, session.method, session.run.seed, figures / "drawn.png")
    if isinstance(session.method.encoder, TokenEncoder):
        save_attention(session.train, session.method.encoder, session.run.seed, figures / "attention.png")
    held = session.held or session.train
    arrays = measure.nearest_pictures(session.method.encoder, session.train, held, session.run.seed)
    if distributed.rank() != 0:  # every process takes part in the search, the first one writes
        return
    if session.data.classes:
        arrays["class_names"] = np.array(session.data.classes)
    checkpoint.atomic(figures / "neighbours.npz", lambda part: _savez(part, arrays))
    measure.save_preview(session.train, session.run.seed, figures / "views.png")


def _savez(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_report(folder: Path) -> None:
    """The report of a finished run. Training is done and kept whatever happens here."""
    from selfsight.report import curves, report  # reads run folders only

    try:
        curves(folder)
        report([folder], folder / "report.html")
    except Exception:
        print(
            f"selfsight: the run is complete, but its report failed: {traceback.format_exc(limit=3)}", file=sys.stderr
        )
