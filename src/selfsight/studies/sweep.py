"""A grid of settings, ranked by accuracy on held-out pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from selfsight import run as runs
from selfsight.errors import WrongUse
from selfsight.run import Run
from selfsight.studies import figures
from selfsight.studies.gather import Outcome, Row, Table, about, columns_of, provenance, publish, rows_of, shown, wide
from selfsight.studies.settings import Axis, changed, described, points, short
from selfsight.studies.settings import shown as value_shown
from selfsight.studies.study import Cell, Study, name_of

BATCH = ("batch_size", "accumulate")  #: settings that make a batch of another size
TEST = "test"  #: column that is shown if asked for, and ranks nothing


def cells_of(run: Run[Any], axes: Sequence[Axis], seeds: int) -> list[Cell]:
    """Every combination for every seed. Raises WrongUse if one of them is refused as a run."""
    if not axes:
        raise WrongUse("give a grid: --grid method.temperature=0.1,0.5 (and more, each with its own --grid)")
    if seeds < 1:
        raise WrongUse(f"--seeds is {seeds}, must be at least 1")
    found = []
    for seed in range(run.seed, run.seed + seeds):
        for point in points(axes):
            row = described(point)
            one = runs.to_dict(dataclasses.replace(changed(run, point), seed=seed, out=None))
            found.append(Cell(name_of(row, seed), row, seed, "pretrain", one, point=point))
    return found


def outcome(study: Study, top: int = 0, show_test: bool = False) -> Outcome:
    """Ranking, difference between batch sizes where the grid has some, figure; written to the folder.

    Args:
        study: of the kind sweep.
        top: rows of the table that is shown; 0: all. Files have all.
        show_test: also show the accuracy on test pictures, where runs measured it. It ranks nothing.
    """
    rows = rows_of(study)
    columns = [column for column in columns_of(rows) if column != TEST]
    ranked = sorted(rows, key=lambda row: -row.mean(columns[0]))
    asked = [*columns, *([TEST] if show_test and TEST in columns_of(rows) else [])]
    names = list(study.cells[0].point)
    told = short(names)
    batches = batch_difference(study, rows, columns[0]) if rows else []
    plain = {
        **about(study), "ranked_by": f"{columns[0]}, hold-out" if columns else None, "columns": asked,
        "rows": [{"rank": i, **_plain(row, asked)} for i, row in enumerate(ranked, 1)], "batch_difference": batches,
    }  # fmt: skip
    head = ["rank", *(told[name] for name in names), *(_heading(column) for column in asked), "steps", "verdict"]
    table = Table(_title(study, len(ranked)), head, [_cells(i, row, names, asked) for i, row in enumerate(ranked, 1)])
    lines = [{"rank": i, **line} for i, line in enumerate(wide(ranked, asked), 1)]
    tables = [table]
    if batches:
        tables.append(_batch_table(batches, told, columns[0]))
    notes = ["Ranked by the mean on held-out training pictures; test pictures rank nothing."]
    notes += [provenance(plain)] if rows else []
    publish(study, Outcome(plain, tables, lines, notes))
    if rows:
        figures.effects(study, ranked, columns[0])
    if top:
        tables = [dataclasses.replace(table, rows=table.rows[:top]), *tables[1:]]
    return Outcome(plain, tables, lines, notes)


def batch_difference(study: Study, rows: Sequence[Row], column: str) -> list[dict[str, Any]]:
    """For each combination of the other settings: the mean at each size of the batch, and the last minus the first.

    Empty unless the grid varies `batch_size` or `accumulate`.
    """
    names = [name for name in study.cells[0].point if name in BATCH]
    if not names:
        return []
    sizes = list(dict.fromkeys(_size(cell.point, names) for cell in study.cells))
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        others = {name: value for name, value in row.point.items() if name not in names}
        group = groups.setdefault(described(others), {"point": others, "means": {}})
        group["means"][_size(row.point, names)] = row.mean(column)
    found = []
    for group in groups.values():
        means = [group["means"].get(size) for size in sizes]
        both = means[0] is not None and means[-1] is not None
        found.append({**group, "difference": means[-1] - means[0] if both else None})
    return sorted(found, key=lambda group: -max(group["means"].values()))


def _size(point: dict[str, Any] | Any, names: Sequence[str]) -> str:
    return described({name: point[name] for name in names})


def _batch_table(batches: Sequence[dict[str, Any]], told: dict[str, str], column: str) -> Table:
    sizes = list(dict.fromkeys(size for group in batches for size in group["means"]))
    names = list(batches[0]["point"])
    rows = []
    for group in batches:
        means = [f"{100 * group['means'][size]:.2f} %" if size in group["means"] else "-" for size in sizes]
        gap = "-" if group["difference"] is None else f"{100 * group['difference']:+.2f}"
        rows.append([*(value_shown(group["point"][name]) for name in names), *means, gap])
    return Table(f"{column} by batch", [*(told[name] for name in names), *sizes, "last - first"], rows)


def _plain(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    plain = row.plain()
    return {**plain, "numbers": {name: plain["numbers"][name] for name in columns if name in plain["numbers"]}}


def _heading(column: str) -> str:
    return "test k-NN" if column == TEST else f"{column}, hold-out"


def _title(study: Study, done: int) -> str:
    run = study.cells[0].run or {}
    method, seeds = run["method"]["name"], {cell.seed for cell in study.cells}
    return (
        f"{method} on {run['data']}: {done} of {len({cell.row for cell in study.cells})} settings, {len(seeds)} seed(s)"
    )


def _cells(rank: int, row: Row, names: Sequence[str], columns: Sequence[str]) -> list[str]:
    plain = row.plain()
    return [
        str(rank), *(value_shown(row.point[name]) for name in names),
        *(shown(row.numbers.get(column), column) for column in columns),
        f"{plain['steps']:.0f}" if "steps" in plain else "", ", ".join(plain["health"]),
    ]  # fmt: skip
