"""What a run folder holds, as far as it got."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from selfsight.errors import WrongUse
from selfsight.tables import ACCURACIES, read_lines


@dataclass(frozen=True)
class RunFolder:
    """A run, finished or not."""

    path: Path
    name: str
    config: Mapping[str, Any]  #: run.yaml; empty if it is missing or damaged
    lines: list[dict[str, Any]]  #: metrics.jsonl, whole lines only
    results: Mapping[str, Any] = field(default_factory=dict)  #: results.json; empty until the run ends

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """The step lines."""
        return [line for line in self.lines if "loss" in line]

    @cached_property
    def health(self) -> list[dict[str, Any]]:
        """The health lines."""
        return [line for line in self.lines if "health" in line]

    def accuracy(self, name: str = "knn") -> list[tuple[int, dict[str, Any]]]:
        """(step, measurement) of a protocol over the run, untrained first where it was measured."""
        return [(line["step"], line[name]) for line in self.lines if _measured(line.get(name))]

    def untrained(self, name: str = "knn") -> float | None:
        """Top-1 of the untrained encoder."""
        found = self.accuracy(name)
        return found[0][1]["top1"] if found and found[0][0] == 0 else None

    @property
    def pixels(self) -> float | None:
        """k-NN top-1 of raw pixels."""
        return next((line["pixels"]["top1"] for line in self.lines if _measured(line.get("pixels"))), None)

    @property
    def finals(self) -> list[tuple[str, dict[str, Any]]]:
        """(protocol, measurement) of the end: final accuracies, and every accuracy under results.json's `evaluation`."""
        found = [
            (name, line[f"final_{name}"])
            for name in ACCURACIES
            for line in self.lines
            if _measured(line.get(f"final_{name}"))
        ]
        later = self.results.get("evaluation")
        if isinstance(later, Mapping):
            found += [(str(name), dict(entry)) for name, entry in later.items() if _measured(entry)]
        return found

    @property
    def total(self) -> int | None:
        """Optimizer steps the run is meant to have."""
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) and steps > 0 else None

    @property
    def done(self) -> int:
        """Optimizer steps seen."""
        return max((line["step"] for line in self.lines), default=0)

    @property
    def finished(self) -> bool:
        """The run came to its end."""
        return bool(self.results.get("finished"))

    def setting(self, *path: str) -> Any:
        """A setting of run.yaml by path; None if it is not there."""
        value: Any = self.config
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    @property
    def method(self) -> str:
        """Name of the method."""
        method = self.config.get("method")
        return str(method.get("name", "?") if isinstance(method, Mapping) else method or "?")

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of a number of the step lines."""
        points = [(line["step"], line[name]) for line in self.steps if isinstance(line.get(name), int | float)]
        return [step for step, _ in points], [value for _, value in points]

    def validation(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of a number of the held-out pictures."""
        held = [
            (line["step"], line["validation"]) for line in self.lines if isinstance(line.get("validation"), Mapping)
        ]
        points = [(step, values[name]) for step, values in held if isinstance(values.get(name), int | float)]
        return [step for step, _ in points], [value for _, value in points]


def read_run(path: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        WrongUse: there is neither run.yaml nor metrics.jsonl.
    """
    path = Path(path)
    if not (path / "run.yaml").is_file() and not (path / "metrics.jsonl").is_file():
        raise WrongUse(
            f"{str(path)!r} is no run folder (no run.yaml, no metrics.jsonl); give a folder that pretrain wrote"
        )
    return RunFolder(
        path,
        path.resolve().name,
        _mapping(path / "run.yaml", yaml.safe_load),
        read_lines(path / "metrics.jsonl"),
        _mapping(path / "results.json", json.loads),
    )


def folders(paths: Sequence[Path]) -> list[Path]:
    """Run folders: those given, and in place of a study its runs that trained. A study's baselines have no curves.

    Raises:
        WrongUse: a study in which nothing has trained.
    """
    found: list[Path] = []
    for path in paths:
        if (path / "study.yaml").is_file():
            inside = sorted(place for place in (path / "runs").glob("*") if (place / "metrics.jsonl").is_file())
            if not inside:
                raise WrongUse(f"{str(path)!r} is a study in which nothing has trained yet: run its command again")
            found += inside
        elif (path / "metrics.jsonl").is_file() or not (path.parent.parent / "study.yaml").is_file():
            found.append(path)
    return found


def _mapping(path: Path, parse: Any) -> Mapping[str, Any]:
    try:
        found = parse(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _measured(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("top1"), int | float)
