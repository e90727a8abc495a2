"""Work through a study: a child process for each cell, so that what one leaves in memory, or dies of, is its own.

Ctrl-C and SIGTERM reach the child, which writes a checkpoint; the same command goes on from there.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

from selfsight import children
from selfsight.errors import WrongUse
from selfsight.studies.study import Cell, Study

BUSY = 75  #: as work.BUSY; that file would import torch


def work(study: Study, say: Callable[[str], None]) -> int:
    """Do every cell that is not done. Failed ones are tried again, and the others go on.

    Returns:
        0, or 128 plus the signal that this process got.
    """
    total = len(study.cells)
    for i, cell in enumerate(study.cells, 1):
        if study.done(cell):
            say(f"[{i}/{total}] {cell.name}: done already")
            continue
        say(f"[{i}/{total}] {cell.name}: {'goes on' if (study.path(cell) / 'run.yaml').is_file() else 'starts'}")
        code, caught = children.run(
            [sys.executable, "-m", "selfsight.studies.work", str(study.folder), cell.name], stdout=sys.stderr
        )
        if caught:
            say(f"interrupted in {cell.name}: give the same command to go on")
            return 128 + caught
        say(f"[{i}/{total}] {cell.name}: {_told(study, cell, code)}")
    return 0


def work_alone(study: Study, number: int) -> int:
    """Do one cell in this process, as a task of a job array does; its exit code."""
    if not 0 <= number < len(study.cells):
        raise WrongUse(f"--cell {number}: the study has cells 0 to {len(study.cells) - 1}")
    from selfsight.studies.work import do

    return do(study, study.cells[number])


def _told(study: Study, cell: Cell, code: int) -> str:
    """How a cell ended. What its process could not write down itself is written down here."""
    if code == BUSY:
        return "another process is at it"
    record: dict[str, Any] = study.record(cell) or {}
    if code not in (0, 1):
        why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        record = {"status": "failed", "error": why + (", perhaps for want of memory" if code == -9 else "")}
        study.write(cell, record)
    if record.get("status") == "failed":
        return f"failed: {record['error']}"
    return "done" if code == 0 else f"ended with code {code}"


def states(study: Study) -> dict[str, list[dict[str, Any]]]:
    """Records of the cells that are done and that failed, and those of which there is none yet."""
    found: dict[str, list[dict[str, Any]]] = {"done": [], "failed": [], "missing": []}
    for i, cell in enumerate(study.cells):
        record = study.record(cell)
        head = {"cell": i, "name": cell.name}
        found["missing" if record is None else record["status"]].append({**head, **(record or {})})
    return found
