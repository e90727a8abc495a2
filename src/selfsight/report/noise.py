"""Which runs belong together, what their accuracy is, and how far chance alone would move it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfsight.report.read import RunFolder

ABSENT = object()  #: the value of a setting that a run does not have
_BESIDE = {
    "out", "seed", "provenance", "data_root", "download", "workers", "cache", "device", "threads", "quiet", "log_to",
    "log_every", "checkpoint_every", "export_every", "recipe",
}  # fmt: skip
"""Settings that change where and how a run is kept, not what it learns; and the seed."""
_BUDGET = {"steps", "epochs", "schedule.warmup_epochs", "schedule.warmup"}  #: what a budget of minutes turned into


@dataclass(frozen=True)
class Measured:
    """An accuracy of a run, with what it was measured on."""

    top1: float
    part: str
    queries: int | None
    found: Mapping[str, Any]

    @property
    def error(self) -> float | None:
        """Binomial standard error of the pictures asked: another draw of them would move the accuracy so far."""
        return math.sqrt(self.top1 * (1 - self.top1) / self.queries) if self.queries else None


@dataclass(frozen=True)
class Group:
    """Runs whose settings are equal but for the seed."""

    name: str
    runs: list[int]  #: which of the runs
    values: list[float]  #: an accuracy each, of those that have one
    measured: list[Measured]

    @property
    def mean(self) -> float | None:
        """Mean accuracy."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None with fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def error(self) -> float | None:
        """Standard error of the mean: over seeds, and not below what the pictures asked allow."""
        asked = [m.error for m in self.measured if m.error is not None]
        drawn = statistics.fmean(asked) / math.sqrt(len(asked)) if asked else None
        if self.deviation is None:
            return drawn
        return max(self.deviation / math.sqrt(len(self.values)), drawn or 0.0)

    @property
    def noise(self) -> tuple[float | None, str]:
        """What stands behind the plus-minus sign, and its name."""
        if self.deviation is not None:
            return self.deviation, f"deviation over {len(self.values)} seeds"
        return self.error, "standard error of the pictures asked"


def headline(run: RunFolder, part: str | None = None) -> Measured | None:
    """The k-NN accuracy of the end: of that part, else of the test part, else held-out pictures; else the last one measured."""
    final = [found for name, found in run.finals if name == "knn"]
    order = [part] if part else ["test", "holdout"]
    chosen = next((found for wanted in order for found in final if found.get("part") == wanted), None)
    if chosen is None and run.accuracy() and part in (None, run.accuracy()[-1][1].get("part")):
        chosen = run.accuracy()[-1][1]
    if chosen is None:
        return None
    queries = chosen.get("queries")
    return Measured(chosen["top1"], str(chosen.get("part", "?")), queries if isinstance(queries, int) else None, chosen)


def common(runs: Sequence[RunFolder]) -> list[Measured | None]:
    """The headline of each run, on one part for all: the first of test and hold-out that all have, else as they come."""
    for part in ("test", "holdout"):
        found = [headline(run, part) for run in runs]
        if all(m is not None for m in found):
            return found
    return [headline(run) for run in runs]


def comparable(runs: Sequence[RunFolder], found: Sequence[Measured | None]) -> str:
    """Why the accuracies must not be ranked; empty if they may."""
    known = [m for m in found if m is not None]
    if len(known) < len(runs):
        return "Not every run has an accuracy, so they are not ranked."
    prints = {str(run.setting("provenance", "data", "fingerprint")) for run in runs}
    if len(prints) > 1:
        return "The runs learned from different data, so their accuracies are not ranked."
    if len({m.part for m in known}) > 1:
        return "The accuracies are of different parts of the data, so they are not ranked."
    for name in ("k", "temperature", "weighting", "bank", "queries"):
        values = {str(m.found.get(name)) for m in known}
        if len(values) > 1:
            told = ", ".join(sorted(values))
            return f"The accuracies were measured with different settings ({name}: {told}), so they are not ranked."
    return ""


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def settings_of(run: RunFolder) -> dict[str, Any]:
    """What decides what a run learns, the seed apart."""
    found = flat({k: v for k, v in run.config.items() if k not in _BESIDE})
    if run.config.get("max_minutes"):  # the steps are what the machine made of the minutes
        found = {k: v for k, v in found.items() if k not in _BUDGET}
    return found


def differences(runs: Sequence[RunFolder]) -> dict[str, list[Any]]:
    """Setting -> its value in each run (ABSENT: it has none), of the settings that are not equal in all of them."""
    found = [settings_of(run) for run in runs]
    names = dict.fromkeys(name for one in found for name in one)
    rows = {name: [one.get(name, ABSENT) for one in found] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def grouped(runs: Sequence[RunFolder], found: Sequence[Measured | None]) -> list[Group]:
    """Runs that differ by the seed alone, together; the most accurate first, those without an accuracy last."""
    settings = [settings_of(run) if run.config else {"": i} for i, run in enumerate(runs)]
    groups: list[list[int]] = []
    for i in range(len(runs)):
        own = next((g for g in groups if settings[g[0]] == settings[i]), None)
        if own is None:
            groups.append([i])
        else:
            own.append(i)
    made = []
    for members in groups:
        known = [m for i in members if (m := found[i]) is not None]
        made.append(Group(_name(runs, members), members, [m.top1 for m in known], known))
    return sorted(made, key=lambda g: -math.inf if g.mean is None else g.mean, reverse=True)


def _name(runs: Sequence[RunFolder], members: Sequence[int]) -> str:
    """A run's own name; of several, what their names begin with."""
    names = [runs[i].name for i in members]
    if len(names) == 1:
        return names[0]
    start = names[0]
    while not all(name.startswith(start) for name in names):
        start = start[:-1]
    stem = start.rstrip("-_./ ")
    for end in ("seed", "-s", "_s"):
        stem = stem.removesuffix(end).rstrip("-_./ ")
    return f"{stem or runs[members[0]].method} ({len(names)} seeds)"
