"""What came of a study's cells, as rows of a table, and the files of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from selfsight.studies.loop import states
from selfsight.studies.statistics import spread
from selfsight.studies.study import Study
from selfsight.tables import whole


@dataclass(frozen=True)
class Row:
    """The repetitions of one thing."""

    name: str
    source: str
    point: Mapping[str, Any]
    numbers: dict[str, dict[int, float]]  #: column -> seed -> value
    training: list[dict[str, Any]]  #: summaries of the runs

    def mean(self, column: str) -> float:
        """Mean over the seeds; minus infinity if it was not measured."""
        return fmean(self.numbers[column].values()) if self.numbers.get(column) else float("-inf")

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        trained = {k: fmean(run[k] for run in self.training) for k in ("steps", "seconds") if self.training}
        verdicts = sorted({str(run["health"]) for run in self.training if "health" in run})
        return {
            "row": self.name, "source": self.source, "point": dict(self.point),
            "numbers": {column: spread(each) for column, each in self.numbers.items()}, **trained, "health": verdicts,
        }  # fmt: skip


def rows_of(study: Study) -> list[Row]:
    """Rows in the order of the cells, of what is done."""
    found: dict[str, Row] = {}
    for cell in study.cells:
        record = study.record(cell)
        if record is None or record["status"] != "done":
            continue
        row = found.setdefault(cell.row, Row(cell.row, cell.source, cell.point, {}, []))
        for column, value in record["numbers"].items():
            row.numbers.setdefault(column, {})[cell.seed] = value
        if record["training"]:
            row.training.append(record["training"])
    return list(found.values())


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Every column that some row has."""
    return list(dict.fromkeys(column for row in rows for column in row.numbers))


def shown(each: Mapping[int, float] | None, column: str = "") -> str:
    """Mean and deviation as a person reads them: accuracies in percent."""
    if not each:
        return "-"
    found = spread(each)
    scale, sign = (1, "") if column.startswith("geometry") else (100, " %")
    deviation = "" if found["std"] is None else f" ± {scale * found['std']:.2f}"
    return f"{scale * found['mean']:.2f}{deviation}{sign}"


def wide(rows: Sequence[Row], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Lines of a CSV file: a mean, a deviation and a count for each column."""
    lines = []
    for row in rows:
        line: dict[str, Any] = {"row": row.name, **row.point}
        for column in columns:
            found = spread(row.numbers[column]) if row.numbers.get(column) else {}
            line |= {
                f"{column} mean": found.get("mean"),
                f"{column} std": found.get("std"),
                f"{column} n": found.get("n"),
            }
        lines.append(line)
    return lines


@dataclass(frozen=True)
class Table:
    """A table as people read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As Markdown."""
        line = lambda cells: "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"
        return "\n".join([f"**{self.title}**", "", line(self.columns), "|" + "---|" * len(self.columns),
                          *map(line, self.rows)])  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a study found so far."""

    plain: dict[str, Any]  #: as JSON
    tables: list[Table]
    lines: list[dict[str, Any]]  #: of table.csv
    notes: list[str] = field(default_factory=list)  #: how to read it

    @property
    def complete(self) -> bool:
        """Every cell is done."""
        return bool(self.plain["complete"])


def about(study: Study) -> dict[str, Any]:
    """What every outcome says: folder, kind, what is measured, which cells are done, failed and missing, where."""
    found = states(study)
    machines = [json.dumps(record["machine"], sort_keys=True) for record in found["done"] if record.get("machine")]
    asked = [
        {k: some[k] for k in ("train", "test") if k in some} for r in found["done"] for some in r["found"].values()
    ]
    return {
        "study": str(study.folder), "kind": study.kind, "measure": study.measure.plain(),
        "complete": len(found["done"]) == len(study.cells), "cells": len(study.cells), "done": len(found["done"]),
        "failed": [{k: record[k] for k in ("cell", "name", "error")} for record in found["failed"]],
        "missing": [{k: record[k] for k in ("cell", "name")} for record in found["missing"]],
        "parts": asked[0] if asked else {}, "days": sorted({record["day"] for record in found["done"]}),
        "machines": [json.loads(text) for text in dict.fromkeys(machines)],
    }  # fmt: skip


def provenance(plain: Mapping[str, Any]) -> str:
    """Pictures, machines and days of the numbers, in a line."""
    parts, said = plain["parts"], []
    if "test" in parts:
        said.append(f"Asked: {parts['test']}" + (f"; learnt from: {parts['train']}" if "train" in parts else ""))
    for machine in plain["machines"]:
        facts = [f"{machine[k]} {k if machine[k] != 1 else k[:-1]}" for k in ("cores", "threads") if k in machine]
        said.append(", ".join([machine.get("device_name", "?"), *facts, f"torch {machine.get('torch', '?')}"]))
    return ". ".join([*said, " to ".join(dict.fromkeys([plain["days"][0], plain["days"][-1]]))]) + "."


def trouble(plain: Mapping[str, Any]) -> list[str]:
    """Lines on cells that are not done."""
    failed = [f"failed: {some['name']} (cell {some['cell']}): {some['error']}" for some in plain["failed"]]
    missing = [str(some["cell"]) for some in plain["missing"]]
    more = [f"{len(missing)} of {plain['cells']} cells are not done: {', '.join(missing[:20])}"] if missing else []
    return failed + more


def publish(study: Study, found: Outcome) -> None:
    """Write results.json, results.jsonl, table.csv and table.md."""
    records = [record for cell in study.cells if (record := study.record(cell)) is not None]
    whole(study.folder / "results.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    whole(study.folder / "results.json", json.dumps(found.plain, indent=1) + "\n")
    names = list(dict.fromkeys(name for line in found.lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.lines)
    whole(study.folder / "table.csv", text.getvalue())
    parts = [*(table.markdown() for table in found.tables), *found.notes, *trouble(found.plain)]
    whole(study.folder / "table.md", "\n\n".join(parts) + "\n")
