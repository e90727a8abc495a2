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
from selfsight.rng import Stream, generator
from selfsight.session import Session, due
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
        self.knn: dict[str, Any] | None = None
        self.logs: dict[str, float] = {}
        self.waited, self.trained = 0.0, 1e-9  # seconds of this process: for pictures, and in all
        self.verdict = health.Verdict("too early to tell", NOT_YET, "")

    def baselines(self) -> None:
        """Monitors and k-NN of the untrained encoder, and k-NN of raw pixels, on the pictures that are asked all along."""
        session = self.session
        if self.study_every != -1:
            self.study()
        if session.run.probe.every == -1:
            return
        found = measure.monitors(session.method, session.held or session.train, session.run.probe, session.run.seed)
        self.tracker.measure(0, {"health": self.verdict.status, "why": "untrained", **found})
        self.knn = session.ask()
        if self.knn is not None and session.held is not None:
            rows = measure.rows_of(session.train, session.held, session.run.probe, session.run.seed, False)
            pixels = measure.pixel_knn(
                session.train, session.held, len(session.data.classes or ()), session.run.probe, rows, "holdout"
            )
            session.baselines = {"untrained": self.knn["top1"], "pixels": pixels["top1"]}
            self.tracker.measure(0, {"knn": self.knn})
            self.tracker.measure(0, {"pixels": pixels})

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
        """Measure k-NN and health; keep the best encoder by k-NN."""
        session = self.session
        found = self.judge() | measure.nmi_labels(session.method, session.train)
        self.tracker.measure(session.done, {"health": self.verdict.status, "why": self.verdict.why, **found})
        if session.held is not None:
            last = session.done - 1  # schedules as at the step just done
            step = Step(last, session.run.steps, session.per_epoch, generator(session.run.seed, Stream.SHARED, last))
            if held := measure.held_out(session.method, session.held, session.run, step):
                self.tracker.measure(session.done, {"validation": held})
        if self.verdict.remedy:
            self.tracker.log(f"{self.verdict.status}: {self.verdict.why}. {self.verdict.remedy}")
        self.knn = session.ask()
        if self.knn is not None:
            self.tracker.measure(session.done, {"knn": self.knn})
            if distributed.agree(self.knn["top1"] > session.best):  # all processes save, or none
                session.best = self.knn["top1"]
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
            "knn": self.knn, "untrained": session.baselines.get("untrained"), "pixels": session.baselines.get("pixels"),
            "health": self.verdict.status, "why": self.verdict.why,
        }  # fmt: skip

    def finish(self) -> dict[str, Any]:
        """The final measurements, on all pictures, and the encoder."""
        session = self.session
        if self.verdict.why == NOT_YET and session.run.probe.every != -1:  # resumed after the last step
            self.judge()
        held = session.ask(everything=True)
        test = session.ask(everything=True, test=True)
        self.knn = test or held or self.knn
        for found in (held, test):
            if found:
                self.tracker.measure(session.done, {"final_knn": found})
        checkpoint.save_encoder(self.folder / "encoder.safetensors", session.method.encoder, session.header())
        return {**self.summary(), "holdout": held, "test": test}


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
