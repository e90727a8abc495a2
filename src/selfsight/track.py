"""What a run writes down while it trains, and the progress a person sees.

metrics.jsonl is the source; everything else is made from it. One JSON object a line, no NaN (null), flushed:

- `{"step", "epoch", "loss", "lr", "views_per_second", "seconds", ...}` a step, with the method's own logs;
- `{"step", "knn": {...}}`, `{"step", "pixels": {...}}`, `{"step", "health", "why", ...}`, ... a measurement.

`step` is the number of optimizer steps done, `epoch` the passes over the data done (a fraction within an epoch).

- steps.csv: the step lines, a column each; columns that appear later are empty before.
- epochs.csv: means over the step lines of each epoch (`epoch` counts from 1; `step` is its last line's) and `knn`, the
  last measured in it.
- log.txt: what was said, with times.
- results.json: see `Tracker.results`.
"""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from selfsight.sinks import Sink, open_sink
from selfsight.tables import EpochRows, Table, number_or_nan, read_lines, whole

SCHEMA = 1  #: of results.json
PLAIN_EVERY = 10.0  #: seconds between two progress lines in log.txt and where there is no terminal


class Tracker:
    """The files of a run folder, the console and the optional loggers. Use as a context manager.

    Args:
        folder: the run folder.
        resume_step: None for a new run; else lines of this step and later are dropped first (and a last line that was
            cut short), so that an interrupted run's files become those of an unbroken one, apart from times.
        loggers: names of optional loggers.
        quiet: nothing on the console; files are written all the same.
        enabled: False on every process but the first: everything does nothing.
        total: optimizer steps of the run, for the progress bar.
        config: settings, for the loggers.
        stream: where progress goes; standard output is kept for results.

    Raises:
        WrongUse: a logger is unknown or not installed.
    """

    def __init__(
        self,
        folder: Path,
        resume_step: int | None = None,
        loggers: Sequence[str] = (),
        quiet: bool = False,
        enabled: bool = True,
        total: int | None = None,
        config: Mapping[str, Any] | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self.folder, self.enabled, self.total = Path(folder), enabled, total
        self.losses: list[tuple[int, float]] = []  #: (step, loss) of every step line, those before a resume too
        self.monitors: list[dict[str, float]] = []  #: numbers of every health line, likewise
        self._sinks: list[Sink] = []
        self._warned: set[str] = set()
        self._spoke = -math.inf
        self._bar: Progress | None = None
        if not enabled:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sinks = [open_sink(name, self.folder, config or {}, resume_step) for name in loggers]
        kept: list[dict[str, Any]] = []
        path = self.folder / "metrics.jsonl"
        if resume_step is not None:
            kept = [line for line in read_lines(path) if line.get("step", 0) < resume_step]
        whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._metrics = path.open("a")
        self._log = (self.folder / "log.txt").open("a" if resume_step is not None else "w")
        self._steps, self._epochs = (Table(self.folder / f"{name}.csv") for name in ("steps", "epochs"))
        self._epoch = EpochRows()
        for line in kept:
            self._take(line)
        self._steps.flush()
        self._epochs.flush()
        self._console = Console(file=stream or sys.stderr, quiet=quiet, highlight=False, soft_wrap=True)
        if self._console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
                console=self._console,
            )  # fmt: skip
            self._task = self._bar.add_task("training", total=total, numbers="")
            self._bar.start()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.enabled:
            self.log(f"ended by {kind.__name__}: {error}")
        self.close()

    def step(self, step: int, **values: Any) -> None:
        """A step line: `epoch`, `loss`, `lr`, `views_per_second`, `seconds` and the method's logs (0-d tensors too)."""
        if not self.enabled:
            return
        line = {"step": step, **{name: _plain(value) for name, value in values.items()}}
        self._put(line)
        self._steps.flush()
        loss, lr, speed = (number_or_nan(line.get(name)) for name in ("loss", "lr", "views_per_second"))
        text = f"loss {loss:.4g}  lr {lr:.3g}  {speed:,.0f} views/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=text)
        now = time.monotonic()
        if now - self._spoke >= PLAIN_EVERY or step == self.total:
            self._spoke = now
            left = self._left(step, number_or_nan(line.get("seconds")))
            text = f"step {step}{f'/{self.total}' if self.total else ''}  {text}{left}"
            self._write_log(text)
            if self._bar is None:
                self._console.print(text, markup=False)
        self._send(step, line)

    def measure(self, step: int, values: Mapping[str, Any]) -> None:
        """A measurement line after `step` steps; the console says k-NN and health."""
        if not self.enabled:
            return
        line = {"step": step, **{name: _plain(value) for name, value in values.items()}}
        self._put(line)
        parts = [f"{name} {found['top1']:.2%}" for name, found in line.items() if _is_accuracy(found)]
        if "health" in line:
            parts.append(f"{line['health']}: {line.get('why', '')}")
        if parts:
            self.log(f"step {step}  " + "  ".join(parts))
        self._send(step, line)

    def log(self, text: str) -> None:
        """Say a line, to the console and log.txt."""
        if self.enabled:
            self._write_log(text)
            self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Say a warning, once however often it is given."""
        if text not in self._warned:
            self._warned.add(text)
            self.log(f"warning: {text}")

    def results(self, final: Mapping[str, Any]) -> None:
        """Write results.json, one object:

        - the entries of `final` as they are (`finished`, `summary`);
        - `schema`: 1;
        - `curves`: name -> {"step": [...], "value": [...]} for every number of the step lines and, with a dotted name
          such as `knn.top1`, of the measurements;
        - `measurements`: the measurement lines as they are.
        """
        if not self.enabled:
            return
        lines = read_lines(self.folder / "metrics.jsonl")
        curves: dict[str, dict[str, list[float | None]]] = {}
        for line in lines:
            for name, value in _numbers(line):
                curve = curves.setdefault(name, {"step": [], "value": []})
                curve["step"].append(line["step"])
                curve["value"].append(value)
        measurements = [line for line in lines if "loss" not in line]
        found = {**_plain(final), "schema": SCHEMA, "curves": curves, "measurements": measurements}
        whole(self.folder / "results.json", json.dumps(found, indent=1) + "\n")

    def close(self) -> None:
        """End the progress bar, the files and the loggers. A last epoch that is not complete gets its row."""
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.stop()
        if (row := self._epoch.row()) is not None:
            self._epochs.add(row)
            self._epochs.flush()
        self._metrics.close()
        self._steps.close()
        self._epochs.close()
        self._log.close()
        for sink in self._sinks:
            sink.close()
        self.enabled = False

    def _put(self, line: dict[str, Any]) -> None:
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()
        if self._take(line):
            self._epochs.flush()

    def _take(self, line: dict[str, Any]) -> bool:
        """Feed the tables; True when an epoch became complete."""
        if "health" in line:
            self.monitors.append({k: v for k, v in line.items() if k != "step" and isinstance(v, int | float)})
        done = self._epoch.take(line)
        if done is not None:
            self._epochs.add(done)
        if "loss" in line:
            self.losses.append((line["step"], number_or_nan(line["loss"])))
            self._steps.add(line)
        return done is not None

    def _send(self, step: int, line: Mapping[str, Any]) -> None:
        values = {name: value for name, value in _numbers(line) if value is not None}
        for sink in self._sinks:
            sink.scalars(step, values)

    def _left(self, step: int, seconds: float) -> str:
        if not self.total or not step or not math.isfinite(seconds) or step >= self.total:
            return ""
        return f"  {_duration(seconds / step * (self.total - step))} left"

    def _write_log(self, text: str) -> None:
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")
        self._log.flush()


def _plain(value: Any) -> Any:
    """What JSON can hold: 0-d tensors and arrays become numbers, numbers that are not finite None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, bool | str | int) or value is None:
        return value
    if hasattr(value, "item"):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def _numbers(line: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """Every number of a line but the step, of nested objects with a dotted name; None where it was not finite."""
    found: list[tuple[str, float | None]] = []
    for name, value in line.items():
        if isinstance(value, Mapping):
            found += [(f"{name}.{inner}", number) for inner, number in _numbers(value)]
        elif name != "step" and (value is None or isinstance(value, int | float)) and not isinstance(value, bool):
            found.append((name, value))
    return found


def _is_accuracy(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("top1"), float | int)


def _duration(seconds: float) -> str:
    whole_seconds = round(seconds)
    hours, rest = divmod(whole_seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
