"""Label efficiency: accuracy by the number of labels, with and without pre-training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsight import checkpoint
from selfsight import run as runs
from selfsight.errors import WrongUse, perhaps
from selfsight.evaluate import measuring
from selfsight.run import Run
from selfsight.studies import figures
from selfsight.studies.gather import Outcome, Table, about, provenance, publish, shown, wide
from selfsight.studies.gather import rows_of as gathered
from selfsight.studies.study import Cell, Measure, Study, name_of
from selfsight.studies.work import LABELLED, amount_of

PLENTY = 10**12  #: pictures, when amounts are only read


def measure_of(
    amounts: Sequence[str], protocols: Sequence[str], train: str | None, test: str | None, settings: Mapping[str, Any]
) -> Measure:
    """What is asked. Raises WrongUse for amounts that make no sense, and protocols that take none."""
    if not amounts:
        raise WrongUse("--amounts names none: give numbers of labels, such as --amounts 50,100,250")
    for text in amounts:
        amount_of(text, PLENTY)
    if twice := [text for i, text in enumerate(amounts) if text in amounts[:i]]:
        raise WrongUse(f"--amounts has {twice[0]} twice: give it once")
    for name in protocols:
        if name not in LABELLED:
            raise WrongUse(f"{name!r} is no protocol for amounts of labels.{perhaps(name, set(LABELLED))}")
    if not protocols:
        raise WrongUse(f"--protocols names none: give {', '.join(LABELLED)}")
    measuring.check(protocols, settings)
    return Measure(tuple(protocols), dict(settings), train, test, False, tuple(amounts))


def cells_of(targets: Mapping[str, Path | Run[Any]], seeds: int, first: int = 0) -> list[Cell]:
    """For each seed: every encoder, trained before or in this study, and one like it with its first weights.

    Args:
        targets: row -> a run folder or encoder that is there, or a run to train with each seed.
        seeds: draws of labels, and trainings of what is trained here.
        first: the first seed.
    """
    if seeds < 1:
        raise WrongUse(f"--seeds is {seeds}, must be at least 1")
    like: dict[str, tuple[Any, Cell]] = {}
    for row, target in targets.items():
        if isinstance(target, Path):
            header = checkpoint.load_encoder(target).header
            if header["encoder"] == "custom":
                raise WrongUse(
                    f"the encoder of {target} is your own module, which a study cannot build: train a named one"
                )
            kind, name = (header["encoder"], header["net"], header["image_size"], header["channels"]), header["encoder"]
            cell = Cell("", "", 0, "untrained", target=str(target.resolve()))
        else:
            kind, name = (
                (target.encoder, dataclasses.asdict(target.net), target.image_size, target.channels),
                target.encoder,
            )
            cell = Cell("", "", 0, "untrained", runs.to_dict(target))
        if not any(kind == known for known, _ in like.values()):
            plain = f"untrained {name}"
            like[plain if plain not in like else f"{plain} like {row}"] = kind, cell
    found = []
    for seed in range(first, first + seeds):
        for row, target in targets.items():
            name = name_of(row, seed)
            if isinstance(target, Path):
                found.append(Cell(name, row, seed, "run", target=str(target.resolve())))
            else:
                own = runs.to_dict(dataclasses.replace(target, seed=seed, out=None))
                found.append(Cell(name, row, seed, "pretrain", own))
        for row, (_, cell) in like.items():
            run = None if cell.run is None else {**cell.run, "seed": seed, "out": None}
            found.append(dataclasses.replace(cell, name=name_of(row, seed), row=row, seed=seed, run=run))
    return found


def outcome(study: Study) -> Outcome:
    """Table and figure of accuracy by labels; written to the folder."""
    rows = gathered(study)
    columns = [f"{name}, {text}" for name in study.measure.protocols for text in study.measure.amounts]
    counts = label_counts(study)
    plain = {**about(study), "columns": columns, "labels": counts, "rows": [row.plain() for row in rows]}
    table = Table(
        f"{', '.join(study.measure.protocols)} by labels, {len({cell.seed for cell in study.cells})} seed(s)",
        ["encoder", *columns], [[row.name, *(shown(row.numbers.get(column)) for column in columns)] for row in rows],
    )  # fmt: skip
    note = (
        "Mean ± sample deviation over seeds; each draws its labels anew. Encoders are frozen under fewshot; `untrained` has "
        "first weights of each seed."
    )
    found = Outcome(plain, [table], wide(rows, columns), [note, *([provenance(plain)] if rows else [])])
    publish(study, found)
    if rows:
        figures.by_labels(study, rows, counts)
    return found


def label_counts(study: Study) -> dict[str, int]:
    """Column -> number of labels that its amount came to."""
    found: dict[str, int] = {}
    for cell in study.cells:
        record = study.record(cell)
        if record is not None and record["status"] == "done":
            for name in study.measure.protocols:
                found |= {f"{name}, {some['labels']}": int(some["rows"]) for some in record["found"][name]["amounts"]}
    return found
