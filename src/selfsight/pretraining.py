"""Drive a pre-training from its settings to a finished run folder: start, go on, finish."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from selfsight import checkpoint, distributed, recipes, sinks
from selfsight import run as runs
from selfsight.errors import WrongUse
from selfsight.folder import alone_in, check_out, folder_for, provenance
from selfsight.machine import pick_device, set_up, signals
from selfsight.pacing import steps_that_fit
from selfsight.run import Run
from selfsight.session import Session, choose_precision, open_for, prepare
from selfsight.track import Tracker
from selfsight.watch import Watch, check_monitor, save_pictures, write_report


class Result(NamedTuple):
    """How a pre-training ended."""

    folder: Path
    code: int  #: 0 done, 1 failed, 130 or 143 interrupted with a checkpoint
    summary: dict[str, Any]  #: run, steps, seconds, views_per_second, final_loss, knn, health, ...


def start(run: Run[Any], encoder: nn.Module | None = None) -> Result:
    """A new run. Raises WrongUse before anything is written if the settings or the data are wrong."""
    if not distributed.is_worker():  # who started the workers looked, and the first of them looks once more
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
    if untold := check_monitor(session):
        choices.append(untold)
    facts = provenance(data, device, choices) | {"own_encoder": encoder is not None}

    def begin() -> tuple[Path, str]:
        folder = folder_for(run)
        text = runs.to_yaml(dataclasses.replace(session.run, out=str(folder)), facts)
        checkpoint.write_text(folder / "run.yaml", text)
        return folder, text

    folder, text = distributed.from_first(begin)
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
    facts = plain.get("provenance", {})
    if facts.get("own_encoder") and encoder is None:
        raise WrongUse(f"the encoder of {folder} is your own module: selfsight.resume({str(folder)!r}, encoder=module)")
    was = facts.get("data", {})
    if was.get("fingerprint") not in (None, data.fingerprint):
        raise WrongUse(f"the pictures of {run.data!r} changed since {folder} began: restore them, or start a new run")
    set_up(run, device)
    last = folder / "checkpoints" / "last.pt"
    saved = checkpoint.load(last) if last.is_file() else None
    session = Session(run, data, device, encoder)
    if saved:
        session.restore(saved, str(last))
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
        return Result(folder, code, {})
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
    # held from before the tracker touches a file
    stack = ExitStack()
    distributed.from_first(lambda: stack.enter_context(alone_in(folder)))
    tracker = Tracker(folder, resume_step=session.done + 1 if resumed else None, loggers=run.log_to, quiet=run.quiet,
                      enabled=first, total=run.steps, config=runs.to_dict(run))  # fmt: skip
    with stack, tracker, signals() as caught:
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
        if run.micro_batch:
            tracker.log(
                f"micro-batch {run.micro_batch}: loss and gradient of all {run.batch_size} pictures, encoded twice; batch "
                "normalisation sees the parts"
            )
        tracker.log(f"{'going on' if resumed else 'start'} at step {session.done} of {run.steps}, run folder {folder}")
        watch = Watch(session, tracker, folder, text)
        if session.done == 0:
            watch.baselines()
        code = watch.train(caught)
        if code == 0:
            summary = watch.finish()
            save_pictures(session, folder)
        else:
            summary = watch.summary()
        tracker.results({"finished": code == 0, "summary": summary})
    if first and code == 0:
        write_report(folder)
    return Result(folder, code, summary)


if __name__ == "__main__":
    code = _worker(*sys.argv[1:])
    sys.exit(0 if distributed.leave_status(code) else code)
