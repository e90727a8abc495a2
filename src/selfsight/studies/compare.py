"""Methods side by side at one length: mean and deviation over seeds, paired tests, baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from selfsight import run as runs
from selfsight.errors import WrongUse, perhaps
from selfsight.run import Run
from selfsight.studies import figures
from selfsight.studies.gather import Outcome, Row, Table, about, columns_of, provenance, publish, rows_of, shown, wide
from selfsight.studies.statistics import paired
from selfsight.studies.study import Cell, Source, Study, name_of

PICTURES = (
    "data", "data_root", "download", "image_size", "channels", "holdout", "fraction", "per_class", "bad_files", "exclude",
    "cache", "workers", "device", "threads",
)  # fmt: skip  #: settings that say which pictures
ENDLESS = 1e6  #: epochs, where minutes are what ends a run


def equal_length(methods: Mapping[str, Run[Any]], minutes: float, asked: Collection[str]) -> dict[str, Run[Any]]:
    """The runs at one length.

    Args:
        methods: row -> run.
        minutes: for each; 0: as their settings say.
        asked: which of `epochs` and `steps` the user gave; the recipes' own do not count then.

    Raises:
        WrongUse: nothing was given, and the recipes' own lengths differ.
    """
    if minutes < 0:
        raise WrongUse(f"--budget-minutes is {minutes:g}, must not be negative")
    if not minutes and not asked:
        lengths = {(run.epochs, run.steps, run.max_minutes) for run in methods.values()}
        if len(lengths) > 1 or any(run.max_minutes for run in methods.values()):
            told = ", ".join(f"{row} {run.epochs}" for row, run in methods.items())
            raise WrongUse(f"the recipes have lengths of their own (epochs: {told}): give --epochs or --budget-minutes")
        return dict(methods)
    found = {}
    for row, run in methods.items():
        epochs: Any = run.epochs if "epochs" in asked else 0.0 if "steps" in asked else ENDLESS
        steps = run.steps if "steps" in asked else 0
        found[row] = dataclasses.replace(run, max_minutes=minutes, epochs=epochs, steps=steps)
    return found


def cells_of(methods: Mapping[str, Run[Any]], seeds: int) -> list[Cell]:
    """Cells for each seed: the untrained encoders, raw pixels, the methods."""
    if not methods:
        raise WrongUse("--methods names none: give some, such as --methods simclr,byol")
    if seeds < 1:
        raise WrongUse(f"--seeds is {seeds}, must be at least 1")
    seen = {(run.data, run.image_size, run.holdout, run.fraction, run.per_class) for run in methods.values()}
    if len(seen) > 1:
        raise WrongUse("the methods have different pictures (data, image size or hold-out): make them equal by flags")
    baselines: dict[str, Run[Any]] = {}
    for row, run in methods.items():
        if any(_encoder(run) == _encoder(known) for known in baselines.values()):
            continue
        name = f"untrained {run.encoder}"
        baselines[name if name not in baselines else f"{name} of {row}"] = run
    first = next(iter(methods.values()))
    pictures: dict[str, Any] = {name: getattr(first, name) for name in PICTURES}
    plain = dataclasses.replace(runs.DEFAULT, epochs=1.0, **pictures)
    rows: list[tuple[str, Source, Run[Any]]] = [(row, "untrained", run) for row, run in baselines.items()]
    rows += [("pixels", "pixels", plain), *((row, "pretrain", run) for row, run in methods.items())]
    found = []
    for seed in range(first.seed, first.seed + seeds):
        for row, source, run in rows:
            one = runs.to_dict(dataclasses.replace(run, seed=seed, out=None))
            found.append(Cell(name_of(row, seed), row, seed, source, one))
    return found


def _encoder(run: Run[Any]) -> tuple[Any, ...]:
    return run.encoder, run.net, run.image_size, run.channels


def outcome(study: Study, baseline: str | None = None) -> Outcome:
    """Table, tests against `baseline` (a row; None: the best method), figure; written to the folder."""
    rows = rows_of(study)
    columns = columns_of(rows)
    if baseline is not None and baseline not in (known := {cell.row for cell in study.cells}):
        raise WrongUse(f"--baseline {baseline!r} is no row of this study.{perhaps(baseline, known)}")
    trained = [row for row in rows if row.source == "pretrain"]
    ranked = sorted(rows, key=lambda row: (row.source != "pretrain", -row.mean(columns[0])))
    best = max(trained, key=lambda row: row.mean(columns[0]), default=None)
    reference = next((row for row in rows if row.name == baseline), None) if baseline else best
    tests = {row.name: versus(row, reference, columns) for row in ranked}
    plain = {
        **about(study), "reference": reference.name if reference else None, "columns": columns,
        "rows": [{**row.plain(), "versus": tests[row.name]} for row in ranked],
    }  # fmt: skip
    head = ["row", *columns]
    if reference is not None:
        head.append(f"{columns[0]} against {reference.name}")
    table = Table(
        _title(study),
        [*head, "steps", "minutes", "verdict"],
        [_cells(row, columns, tests[row.name], reference) for row in ranked],
    )
    lines = wide(ranked, columns)
    for line, row in zip(lines, ranked, strict=True):
        for column, test in tests[row.name].items():
            line |= {f"{column} {name}": test[name] for name in ("difference", "t_p", "wilcoxon_p")}
    found = Outcome(plain, [table], lines, [_note(study, ranked), *([provenance(plain)] if rows else [])])
    publish(study, found)
    if rows:
        figures.comparison(study, ranked, columns)
    return found


def versus(row: Row, reference: Row | None, columns: Sequence[str]) -> dict[str, Any]:
    """Column -> paired test of a row against the reference."""
    if reference is None or row is reference:
        return {}
    both = [column for column in columns if row.numbers.get(column) and reference.numbers.get(column)]
    return {column: paired(row.numbers[column], reference.numbers[column]) for column in both}


def _title(study: Study) -> str:
    run = next(cell.run for cell in study.cells if cell.run and cell.source == "pretrain")
    length = f"{run['steps']} steps" if run["steps"] else f"{run['epochs']:g} epochs" if run["epochs"] != "auto" else ""
    if run["max_minutes"]:
        length = f"{run['max_minutes']:g} minutes"
    return f"{run['data']}, {length} each, {len({cell.seed for cell in study.cells})} seed(s)"


def _cells(row: Row, columns: Sequence[str], test: Mapping[str, Any], reference: Row | None) -> list[str]:
    found = [row.name, *(shown(row.numbers.get(column), column) for column in columns)]
    if reference is not None:
        first = test.get(columns[0])
        if first is None or first["difference"] is None:
            found.append("")
        else:
            p = "" if first["t_p"] is None else f" (p {first['t_p']:.2g})"
            found.append(f"{100 * first['difference']:+.2f}{p}")
    plain = row.plain()
    steps, seconds = plain.get("steps"), plain.get("seconds")
    return [*found, "" if steps is None else f"{steps:.0f}", "" if seconds is None else f"{seconds / 60:.1f}",
            ", ".join(plain["health"])]  # fmt: skip


def _note(study: Study, rows: Sequence[Row]) -> str:
    seeds = len({cell.seed for cell in study.cells})
    if seeds == 1:
        return "One seed: no deviation and no test; --seeds 3 --extend gives both."
    least = 2.0 / 2**seeds
    return (
        f"± is the sample deviation over {seeds} seeds, which change first weights, augmentation, order and hold-out part. p: "
        f"paired t test over seeds, two-sided, not corrected for several comparisons; Wilcoxon's (results.json) cannot fall "
        f"below {least:g} here."
    )
