"""The text files of a run folder: JSON lines and CSV tables. No torch in here: the report reads them too."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

ACCURACIES = ("knn", "ridge", "linear")  #: what a run may measure on the way: objects with `top1`
FIRST = ("step", "epoch", "loss", "lr", "views_per_second", "seconds")  #: columns that are always there


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; lines that are cut short or damaged are left out, a missing file is empty."""
    found = []
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append(line)
    return found


def whole(path: Path, text: str) -> None:
    """Write a text file at once: a reader, or a crash, sees the old one or the new one."""
    whole_bytes(path, text.encode())


def whole_bytes(path: Path, content: bytes) -> None:
    """The same for bytes."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by column; a last line that is cut short is left out, a missing file is empty."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        names, *rows = [*csv.reader(file)] or [[]]
    return [dict(zip(names, row)) for row in rows if len(row) == len(names)]


def number_or_nan(value: Any) -> float:
    """A float, or NaN for what is no number."""
    return float(value) if isinstance(value, int | float) else math.nan


class Table:
    """A CSV file that grows by rows and, seldom, by columns. It starts anew."""

    def __init__(self, path: Path) -> None:
        self.path, self.names = path, list(FIRST)
        self.pending: list[Mapping[str, Any]] = []
        self.file: IO[str] | None = None
        whole(path, self._text([dict(zip(FIRST, FIRST))]))

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; `flush` brings it to the file."""
        self.pending.append(row)

    def flush(self) -> None:
        """Append what is new, or write the file anew if the header grew."""
        more = list(dict.fromkeys(name for row in self.pending for name in row if name not in self.names))
        if more:
            self.close()
            self.names += more
            rows = [dict(zip(self.names, self.names)), *read_table(self.path), *self.pending]
            whole(self.path, self._text(rows))
        else:
            self.file = self.file or self.path.open("a", newline="")
            self.file.write(self._text(self.pending))
            self.file.flush()
        self.pending = []

    def close(self) -> None:
        """Close the file if it is open."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _text(self, rows: Iterable[Mapping[str, Any]]) -> str:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([[row.get(name) for name in self.names] for row in rows])
        return out.getvalue()


class EpochRows:
    """The epoch under way, from its lines."""

    def __init__(self) -> None:
        self.number = 0
        self.measured: dict[str, Any] = {}
        self.lines: list[dict[str, Any]] = []

    def take(self, line: dict[str, Any]) -> dict[str, Any] | None:
        """Add a line; the row of the epoch before when a new one begins."""
        done = None
        if "loss" in line and line.get("epoch") is not None:
            number = max(1, math.ceil(line["epoch"] - 1e-5))  # epoch 1.0 is the end of the first, not of the second
            if number != self.number:
                done = self.row()
                self.number, self.lines, self.measured = number, [], {}
            self.lines.append(line)
        self.measured |= {name: line[name].get("top1") for name in ACCURACIES if isinstance(line.get(name), dict)}
        return done

    def row(self) -> dict[str, Any] | None:
        """The means; None before the first step line."""
        if not self.lines:
            return None
        last = self.lines[-1]
        names = dict.fromkeys(name for line in self.lines for name in line)
        row: dict[str, Any] = {}
        for name in names:
            values = [line[name] for line in self.lines if name in line]
            if all(value is None or isinstance(value, int | float) for value in values):
                row[name] = sum(map(number_or_nan, values)) / len(values)
        row |= {"step": last["step"], "epoch": self.number, "lr": last.get("lr"), "seconds": last.get("seconds")}
        return row | self.measured
