"""What a run will do and cost, before it is started."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from selfsight import optim, pacing
from selfsight import run as runs
from selfsight.data import DataSet
from selfsight.errors import WrongUse
from selfsight.machine import pick_device
from selfsight.run import Run
from selfsight.session import Session, choose_precision, open_for, prepare
from selfsight.train import steps

SPARE = 0.9  #: of the memory that is free now


def plan(run: Run[Any], measure: bool = False) -> dict[str, Any]:
    """The resolved settings of a run, effective learning rate and length, without training.

    Args:
        run: as `api.settings` or the command line makes it.
        measure: also do some steps and report `seconds_per_step`, `seconds`, `peak_memory_mib`, `largest_batch`; nothing is
            written. Of several processes it is one, with its share of the batch.
    """
    device = pick_device(run.device)
    data = open_for(run, device)
    run, choices = prepare(run, data, device)
    assert isinstance(run.batch_size, int)
    facts: dict[str, Any] = {
        "settings": runs.to_dict(run), "choices": choices, "device": str(device), "pictures": len(data.train),
        "steps": run.steps, "steps_per_epoch": len(data.train) // run.batch_size,
        "peak_learning_rate": optim.peak_rate(run.optimizer, run.batch_size),
    }  # fmt: skip
    return facts | (_measured(run, data, device) if measure else {})


def _measured(run: Run[Any], data: DataSet, device: torch.device) -> dict[str, Any]:
    """Seconds and memory of a run, from some of its steps."""
    assert isinstance(run.batch_size, int)
    if run.strategy == "fsdp":
        raise WrongUse("plan measures in one process, where fsdp has nothing to shard: leave out --strategy")
    share = run.batch_size // run.processes
    alone = dataclasses.replace(run, processes=1, batch_size=share, micro_batch=run.micro_batch // run.processes)
    alone, why = choose_precision(alone, Session(alone, data, device).method, device)
    less = _peak(dataclasses.replace(alone, batch_size=share // 2), data, device)  # first: a peak cannot sink
    session = Session(alone, data, device)
    more = _peak_of(session)
    room, memory = pacing.available(device), None
    if less and more and room:
        memory = pacing.line_through((share // 2, less), (share, more))
    found = pacing.pace(session)
    told = f"{pacing.TIMED} steps on {device}, {why}"
    if run.processes > 1:
        told += f"; one of {run.processes} processes with its share, without their talk"
    count = run.steps
    if run.max_minutes:
        count = min(count, pacing.fitting(session, found, run.max_minutes, time.perf_counter()))
        told += f"; --max-minutes {run.max_minutes:g} allows {count} steps"
    views = share * sum(views for views, _ in session.method.views.shapes.values())
    return {
        "steps": count, "measured": told, "seconds_per_step": round(found.step, 4),
        "views_per_second": round(run.processes * views / found.step),
        "seconds": round(found.seconds(session, count), 1),
        "peak_memory_mib": None if more is None else more >> 20,
        "memory_mib": None if room is None else room >> 20,
        "largest_batch": None if memory is None or room is None else run.processes * memory.largest(int(SPARE * room)),
    }  # fmt: skip


def _peak(run: Run[Any], data: DataSet, device: torch.device) -> int | None:
    """Bytes held at most by training; None where that cannot be told, or the method refuses such a batch."""
    try:
        return _peak_of(Session(run, data, device))
    except WrongUse:
        return None


def _peak_of(session: Session) -> int | None:
    """Bytes held at most during two steps, which stay done."""
    pacing.forget_peak(session.device)
    for _ in steps(session.method, session.optimizer, session.train, session.run, 0, 2):
        pass
    return pacing.peak(session.device)
