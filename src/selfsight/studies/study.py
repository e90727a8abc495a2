"""A study: a question, the cells that answer it, and the folder where both lie.

    study.yaml        what was asked: kind, what is measured, every cell with all its settings
    runs/NAME/        run folders of cells that train (and encoders of baselines)
    cells/NAME.json   what came of a cell, written whole when it ended
    results.jsonl     the same, an object a line;  results.json: with the tables;  table.csv, table.md, figures

A cell is done once. Several processes may work in one folder: each takes the next cell that nobody else holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from selfsight import run as runs
from selfsight._version import __version__
from selfsight.errors import WrongUse
from selfsight.tables import whole

UNASKED = ("quiet", "log_to", "download", "workers", "cache", "checkpoint_every")  #: settings that no number depends on

Source = Literal["pretrain", "untrained", "pixels", "run"]


@dataclass(frozen=True)
class Cell:
    """One number of a study: an encoder from somewhere, measured."""

    name: str  #: of its files
    row: str  #: what it is a repetition of
    seed: int
    source: Source  #: train one, make one, or none at all, or take the one of `target`
    run: dict[str, Any] | None = None  #: all settings: to train; of the encoder and the pictures
    target: str | None = None  #: run folder or encoder
    point: dict[str, Any] = field(default_factory=dict)  #: place on a grid


@dataclass(frozen=True)
class Measure:
    """What is asked of the encoder of each cell."""

    protocols: tuple[str, ...] = ()  #: none: the run's own k-NN on its hold-out part
    settings: dict[str, Any] = field(default_factory=dict)  #: of protocols
    train: str | None = None
    test: str | None = None
    held_out: bool = False  #: ask the hold-out part though there is a test part
    amounts: tuple[str, ...] = ()  #: of labels

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self))))


def name_of(row: str, seed: int) -> str:
    """A file name for a cell: its row, as far as file systems allow, a hash of the rest, the seed."""
    plain = re.sub(r"[^\w.=+-]+", "_", row).strip("._-")[:80]
    mark = "" if plain == row.replace(" ", "_") else "-" + hashlib.blake2b(row.encode(), digest_size=3).hexdigest()
    return f"{plain}{mark}-s{seed}"


@dataclass(frozen=True)
class Study:
    """The folder and what was asked there."""

    folder: Path
    kind: str
    measure: Measure
    cells: tuple[Cell, ...]

    # ------------------------------------------------------------------ what was asked

    def plain(self) -> dict[str, Any]:
        """The question as plain values."""
        return {
            "kind": self.kind,
            "measure": self.measure.plain(),
            "cells": [json.loads(json.dumps(dataclasses.asdict(cell))) for cell in self.cells],
        }

    def cell(self, name: str) -> Cell:
        """The cell of that name."""
        return next(cell for cell in self.cells if cell.name == name)

    # ------------------------------------------------------------------ what came of it

    def path(self, cell: Cell) -> Path:
        """Folder of a cell's run."""
        return self.folder / "runs" / cell.name

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """What came of a cell; None before its end, or if something else was measured then."""
        try:
            found = json.loads((self.folder / "cells" / f"{cell.name}.json").read_text())
        except (OSError, ValueError):
            return None
        return found if found.get("measure") == self.measure.plain() else None

    def done(self, cell: Cell) -> bool:
        """It ended well."""
        return (self.record(cell) or {}).get("status") == "done"

    def write(self, cell: Cell, outcome: Mapping[str, Any]) -> None:
        """Keep what came of a cell."""
        head = {"name": cell.name, "row": cell.row, "seed": cell.seed, "source": cell.source, "point": cell.point}
        line = {**head, "measure": self.measure.plain(), **outcome}
        path = self.folder / "cells" / f"{cell.name}.json"
        path.parent.mkdir(exist_ok=True)
        whole(path, json.dumps(line) + "\n")

    @contextmanager
    def alone(self, cell: Cell) -> Iterator[bool]:
        """Hold a cell; False if another process does. The system lets go of what is killed."""
        path = self.folder / "cells" / f".{cell.name}.lock"
        path.parent.mkdir(exist_ok=True)
        with path.open("w") as handle:
            try:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except (ImportError, OSError):  # Windows; some network disks have no locks
                pass
            yield True


def begin(kind: str, measure: Measure, cells: Sequence[Cell], out: str | None, extend: bool = False) -> Study:
    """The study in its folder, new or as it is there already.

    Args:
        kind: compare, sweep, labels.
        measure: what is asked of each cell.
        cells: in their order, which numbers them.
        out: folder; None: studies/KIND-HASH, the same for the same question.
        extend: a study that is there may get more cells, and other measurements; its runs stay.

    Raises:
        WrongUse: the folder holds something else, or another question.
    """
    names = [cell.name for cell in cells]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise WrongUse(f"two cells of the study would be the same ({twice[0]}): leave out one of them")
    study = Study(Path(), kind, measure, tuple(cells))
    if out is None:
        text = json.dumps(_asked(study.plain()), sort_keys=True)
        out = f"studies/{kind}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
    folder = Path(out).expanduser()
    study = dataclasses.replace(study, folder=folder)
    path = folder / "study.yaml"
    if path.is_file():
        known = read(folder)
        if (unlike := difference(_asked(known.plain()), _asked(study.plain()))) is None:
            return known
        if not extend:
            raise WrongUse(
                f"{folder} holds another study ({unlike}): choose another --out, ask the same again, or add --extend if this "
                "is the same study with more cells or other measurements"
            )
        _check_extension(known, study)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WrongUse(f"--out {str(folder)!r} exists and holds no study: choose another name, or empty it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUse(f"--out {str(folder)!r} cannot be made ({error.strerror}): choose another place") from None
    whole(path, yaml.safe_dump({"selfsight": __version__, **study.plain()}, sort_keys=False, allow_unicode=True))
    return study


def read(folder: Path) -> Study:
    """The study in a folder. Raises WrongUse if there is none."""
    path = Path(folder) / "study.yaml"
    try:
        plain = yaml.safe_load(path.read_text())
        asked = {**plain["measure"], "protocols": tuple(plain["measure"]["protocols"])}
        measure = Measure(**{**asked, "amounts": tuple(asked["amounts"])})
        return Study(Path(folder), plain["kind"], measure, tuple(Cell(**cell) for cell in plain["cells"]))
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise WrongUse(
            f"{str(path)!r} is not a readable study ({type(error).__name__}): give a folder that a study made"
        ) from None


def _asked(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A question without what no number depends on; cells by name. Settings that are younger than a study have defaults."""

    def bare(cell: Mapping[str, Any]) -> dict[str, Any]:
        if cell["run"] is None:
            return dict(cell)
        run = json.loads(json.dumps(runs.to_dict(runs.from_dict(cell["run"]))))
        return {**cell, "run": {k: v for k, v in run.items() if k not in UNASKED}}

    return {**plain, "cells": {cell["name"]: bare(cell) for cell in plain["cells"]}}


def difference(old: Any, new: Any, where: str = "") -> str | None:
    """The first place where two plain values differ, in words; None if they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(k for k in new if k not in old)]:
            inner = f"{where}.{key}" if where else str(key)
            if key not in new or key not in old:
                return f"{inner} is {'new' if key not in old else 'not asked for any more'}"
            if found := difference(old[key], new[key], inner):
                return found
        return None
    return None if old == new else f"{where} was {old!r}, is {new!r}"


def _check_extension(known: Study, study: Study) -> None:
    """Raise WrongUse unless every cell that is there stays as it is."""
    if known.kind != study.kind:
        raise WrongUse(f"{study.folder} holds a study of the kind {known.kind}: choose another --out")
    old, new = (_asked(s.plain())["cells"] for s in (known, study))
    unlike = difference(old, {name: cell for name, cell in new.items() if name in old})
    if unlike:
        raise WrongUse(f"--extend keeps every cell that is there, but {unlike}: choose another --out")
