"""Drive a pre-training from its settings to a finished run folder: start, go on, finish."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from selfsight import checkpoint, distributed, health, measure, recipes, sinks
from selfsight import run as runs
from selfsight.errors import WrongUse
from selfsight.run import Run
from selfsight.session import (
    Session,
    check_out,
    choose_precision,
    due,
    folder_for,
    open_for,
    pick_device,
    prepare,
    provenance,
    set_up,
    signals,
    steps_that_fit,
)
from selfsight.track import Tracker
from selfsight.train import Done, steps


class Result(NamedTuple):
    """How a pre-training ended."""

    folder: Path
    code: int  #: 0 done, 1 failed, 130 or 143 interrupted with a checkpoint
    summary: dict[str, Any]  #: run, steps, seconds, views_per_second, final_loss, knn, health, ...


def start(run: Run[Any], encoder: nn.Module | None = None) -> Result:
    """A new run. Raises WrongUse before anything is written if the settings or the data are wrong."""
    check_out(run)
    sinks.check(run.log_to)
    if run.processes > 1 and not distributed.is_worker():
        return _launch(run, encoder)
    began = time.perf_counter()
    device = pick_device(run.device)
    distributed.start(device)
    data = open_for(run, device, _say(run))
    run, choices = prepare(run, data, device)
    session = Session(run, data, device, encoder)
    session.run, why = choose_precision(run, session.method, device)
    choices.append(why)
    if run.max_minutes:
        fit, measured = steps_that_fit(session, run.max_minutes, began)
        total = min(fit, run.steps)
        kept = "fits" if fit <= run.steps else f"would allow {fit}, the length asked for is smaller"
        choices.append(f"steps {total}: --max-minutes {run.max_minutes:g} {kept} ({measured})")
        session.run, told = recipes.fit_warmup(dataclasses.replace(session.run, steps=total), session.per_epoch)
        choices += told
    folder = Path(distributed.broadcast_object(folder_for(run) if distributed.rank() == 0 else None))
    text = runs.to_yaml(dataclasses.replace(session.run, out=str(folder)), provenance(data, device, choices))
    if distributed.rank() == 0:
        checkpoint.write_text(folder / "run.yaml", text)
    return _drive(session, folder, text, choices, resumed=False)


def go_on(folder: str | Path, encoder: nn.Module | None = None) -> Result:
    """Continue an interrupted run exactly; a finished one is left as it is."""
    folder = Path(folder).expanduser()
    path = folder / "run.yaml"
    if not path.is_file():
        raise WrongUse(
            f"{str(folder)!r} is not a run folder (no run.yaml): give a folder that `selfsight pretrain` wrote"
        )
    text = path.read_text()
    plain = runs.read_yaml(text, str(path))
    run = runs.from_dict(plain)
    results = folder / "results.json"
    if results.is_file() and json.loads(results.read_text()).get("finished"):
        return Result(folder, 0, {**json.loads(results.read_text())["summary"], "note": "the run had finished already"})
    if run.processes > 1 and not distributed.is_worker():
        return _launch(run, encoder, resume=folder)
    device = pick_device(run.device)
    distributed.start(device)
    data = open_for(run, device, _say(run))
    was = plain.get("provenance", {}).get("data", {})
    if was.get("fingerprint") not in (None, data.fingerprint):
        raise WrongUse(f"the pictures of {run.data!r} changed since {folder} began: restore them, or start a new run")
    set_up(run, device)
    session = Session(run, data, device, encoder)
    last = folder / "checkpoints" / "last.pt"
    if last.is_file():
        session.restore(checkpoint.load(last), str(last))
    return _drive(session, folder, text, [], resumed=True)


def _say(run: Run[Any]) -> Callable[[str], None]:
    """Lines about the data, before there is a log: to the console of the first process, unless it shall be quiet."""

    def say(line: str) -> None:
        if distributed.rank() == 0 and not run.quiet:
            print(line, file=sys.stderr)

    return say


def _launch(run: Run[Any], encoder: nn.Module | None, resume: Path | None = None) -> Result:
    """The same run in several processes, under torchrun."""
    if encoder is not None:
        raise WrongUse(
            "--processes above 1 starts new Python processes, which cannot get your module: start torchrun yourself"
        )
    device = pick_device(run.device)
    count = torch.cuda.device_count() if device.type == "cuda" else run.processes
    if run.processes > count:
        raise WrongUse(f"--processes {run.processes}, but this machine has {count} GPU(s): ask for at most {count}")
    threads = run.threads or max(1, torch.get_num_threads() // run.processes)
    folder = resume or folder_for(run)
    run = dataclasses.replace(run, out=str(folder), threads=threads)
    request = folder / ".request.yaml"
    if resume is None:
        checkpoint.write_text(request, runs.to_yaml(run))
    code = distributed.launch(
        run.processes, ["selfsight.pretraining", "resume" if resume else "start", str(folder)], threads
    )
    request.unlink(missing_ok=True)
    if resume is None and not (folder / "run.yaml").exists():
        folder.rmdir()  # refused before it began: leave nothing behind
    path = folder / "results.json"
    summary = json.loads(path.read_text())["summary"] if path.is_file() else {"run": str(folder)}
    return Result(folder, code, summary)


def _worker(verb: str, folder: str) -> int:
    """What each process of `_launch` does; its exit code."""
    try:
        if verb == "resume":
            return go_on(folder).code
        request = Path(folder) / ".request.yaml"
        run = runs.load(request)
        distributed.start(pick_device(run.device))
        distributed.barrier()  # everyone has read the request
        if distributed.rank() == 0:
            request.unlink()
        return start(run).code
    except WrongUse as error:
        if distributed.rank() == 0:
            print(f"selfsight: {error}", file=sys.stderr)
        return 2
    finally:
        distributed.stop()


def _drive(session: Session, folder: Path, text: str, choices: list[str], resumed: bool) -> Result:
    """Train, log, measure, checkpoint; then finish. `session` is at the step it starts from."""
    run, data = session.run, session.data
    first = distributed.rank() == 0
    tracker = Tracker(folder, resume_step=session.done + 1 if resumed else None, loggers=run.log_to, quiet=run.quiet,
                      enabled=first, total=run.steps, config=runs.to_dict(run))  # fmt: skip
    with tracker, signals() as caught:
        for line in choices:
            tracker.log(line)
        for path, reason in data.skipped:
            tracker.log(f"skipped {path}: {reason}")
        if data.skipped:
            tracker.log(f"skipped {len(data.skipped)} unreadable file(s), {len(data.train)} pictures left to train on")
        if run.accumulate > 1 and not session.method.sample_mean:
            tracker.log(
                f"accumulate {run.accumulate}: {run.method_name} compares samples, so each micro-batch of "
                f"{run.batch_size // run.accumulate} pictures is its own batch"  # type: ignore[operator]
            )
        tracker.log(f"{'going on' if resumed else 'start'} at step {session.done} of {run.steps}, run folder {folder}")
        watch = Watch(session, tracker, folder, text)
        if session.done == 0:
            watch.baselines()
        code = watch.train(caught)
        if code == 0:
            summary = watch.finish()
            _pictures(session, folder)
        else:
            summary = watch.summary()
        tracker.results({"finished": code == 0, "summary": summary})
    if first and code == 0:
        _report(folder)
    return Result(folder, code, summary)


NOT_YET = "no measurement yet"


class Watch:
    """Everything around the steps of a run: numbers out, checkpoints, probes."""

    def __init__(self, session: Session, tracker: Tracker, folder: Path, text: str) -> None:
        self.session, self.tracker, self.folder, self.text = session, tracker, folder, text
        self.loss = tracker.losses[-1][1] if tracker.losses else float("nan")  # of the part before a resume
        self.speed = 0.0
        self.knn: dict[str, Any] | None = None
        self.logs: dict[str, float] = {}
        self.spent = 0.0
        self.verdict = health.Verdict("too early to tell", NOT_YET, "")

    def baselines(self) -> None:
        """Monitors and k-NN of the untrained encoder, and k-NN of raw pixels, on the pictures that are asked all along."""
        session = self.session
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
        probes = due(run.probe, run.steps, session.per_epoch)
        exports = _export_steps(run.export_every, session.per_epoch, run.steps)
        saved = lap = time.monotonic()
        views = 0
        for done in steps(session.method, session.optimizer, session.train, run, start=session.done):
            session.done = at = done.step.index + 1
            views += done.views
            if at % run.log_every == 0 or at in (1, run.steps):
                self.loss = float(done.loss)  # waits for the device
                now = time.monotonic()
                session.seconds += now - lap
                self.speed, lap, views = views / max(1e-9, now - lap), now, 0
                self.line(done)
                if not math.isfinite(self.loss):
                    return self.diverged()
            if at in probes:
                self.look()
                lap += self.spent
            if at in exports and distributed.rank() == 0:
                name = f"encoder-{at:07d}.safetensors"
                checkpoint.save_encoder(self.folder / "checkpoints" / name, session.method.encoder, session.header())
            stop = self.stopping(caught, at)
            regular = at % run.checkpoint_every == 0 if run.checkpoint_every else (
                at % session.per_epoch == 0 or time.monotonic() - saved > 60
            )  # fmt: skip
            if stop or regular or at == run.steps:
                session.save(self.folder, "last.pt", self.text)
                saved = time.monotonic()
            if stop and at < run.steps:
                self.tracker.log(
                    f"interrupted after step {at} of {run.steps}; go on with: selfsight resume {self.folder}"
                )
                return 128 + stop
        return 0

    def stopping(self, caught: list[int], at: int) -> int:
        """The signal to stop for, agreed on by all processes; 0: none."""
        if distributed.world() == 1:
            return caught[0] if caught else 0
        if at % self.session.run.log_every:  # agreeing costs a synchronisation
            return 0
        mine = torch.tensor([caught[0] if caught else 0], device=self.session.device)
        return int(distributed.all_max(mine))

    def line(self, done: Done) -> None:
        """A line of metrics."""
        at = self.session.done
        epoch = at / self.session.per_epoch
        self.logs = logs = {name: float(value) for name, value in done.logs.items()}
        self.tracker.step(
            at, epoch=round(epoch, 6), loss=self.loss, lr=done.rate, gradient_norm=float(done.gradient),
            views_per_second=round(self.speed, 2), seconds=round(self.session.seconds, 3), **logs,
        )  # fmt: skip

    def judge(self) -> dict[str, float]:
        """Set the verdict; the monitors that it rests on."""
        session = self.session
        found = measure.monitors(session.method, session.held or session.train, session.run.probe, session.run.seed)
        assert isinstance(session.run.batch_size, int)
        self.verdict = health.verdict(
            found, self.tracker.losses, progress=session.done / session.run.steps, logs=self.logs,
            constant_loss=session.method.constant_loss(session.run.batch_size // session.run.accumulate),
            history=self.tracker.monitors,
        )  # fmt: skip
        return found

    def look(self) -> None:
        """Measure k-NN and health; keep the best encoder by k-NN."""
        began = time.monotonic()
        session = self.session
        found = self.judge()
        self.tracker.measure(session.done, {"health": self.verdict.status, "why": self.verdict.why, **found})
        if self.verdict.remedy:
            self.tracker.log(f"{self.verdict.status}: {self.verdict.why}. {self.verdict.remedy}")
        self.knn = session.ask()
        if self.knn is not None:
            self.tracker.measure(session.done, {"knn": self.knn})
            if self.knn["top1"] > session.best:
                session.best = self.knn["top1"]
                session.save(self.folder, "best.pt", self.text)
        self.spent = time.monotonic() - began

    def diverged(self) -> int:
        """The loss is no number: say so and stop; the last checkpoint stays."""
        self.verdict = health.verdict({}, [(self.session.done, self.loss)], progress=1.0)
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
        if distributed.rank() == 0:
            checkpoint.save_encoder(self.folder / "encoder.safetensors", session.method.encoder, session.header())
        return {**self.summary(), "holdout": held, "test": test}


def _export_steps(every: float, per_epoch: int, total: int) -> set[int]:
    return set(range(max(1, round(every * per_epoch)), total + 1, max(1, round(every * per_epoch)))) if every else set()


def _pictures(session: Session, folder: Path) -> None:
    """Pictures for the report: neighbours of samples, and a grid of views."""
    held = session.held or session.train
    arrays = measure.nearest_pictures(session.method.encoder, session.train, held, session.run.seed)
    if distributed.rank() != 0:  # every process takes part in the search, the first one writes
        return
    if session.data.classes:
        arrays["class_names"] = np.array(session.data.classes)
    figures = folder / "figures"
    checkpoint.atomic(figures / "neighbours.npz", lambda part: _savez(part, arrays))
    measure.save_preview(session.train, session.run.seed, figures / "views.png")


def _savez(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _report(folder: Path) -> None:
    """The report of a finished run. Training is done and kept whatever happens here."""
    from selfsight.report import curves, report  # reads run folders only

    try:
        curves(folder)
        report([folder], folder / "report.html")
    except Exception:
        print(
            f"selfsight: the run is complete, but its report failed: {traceback.format_exc(limit=3)}", file=sys.stderr
        )


if __name__ == "__main__":
    code = _worker(*sys.argv[1:])
    sys.exit(0 if distributed.leave_status(code) else code)
