"""One cell of a study: get its encoder, measure it, keep the numbers. `python -m selfsight.studies.work FOLDER CELL`."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from selfsight import checkpoint, evaluation, pretraining
from selfsight import run as runs
from selfsight.checkpoint import write_text
from selfsight.embedding import say
from selfsight.errors import WrongUse
from selfsight.evaluate import PICTURES, UNLABELLED, stored
from selfsight.folder import provenance
from selfsight.machine import pick_device
from selfsight.rng import Stream, seed_of
from selfsight.run import Run
from selfsight.session import Session, open_for, prepare
from selfsight.studies.statistics import headlines
from selfsight.studies.study import Cell, Measure, Study, name_of, read
from selfsight.watch import NOT_YET

BUSY = 75  #: exit code: another process holds the cell
MACHINE = ("device", "device_name", "cores", "threads", "torch", "selfsight")  #: of a run's provenance


class Interrupted(Exception):
    """Training was asked to stop, and has written its checkpoint."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def do(study: Study, cell: Cell) -> int:
    """Do a cell and keep what came of it.

    Returns:
        0 it is done (or was before), 1 it failed and the record says why, BUSY another process is at it, 130 or 143
        interrupted: the same call goes on.
    """
    with study.alone(cell) as mine:
        if not mine:
            return BUSY
        if study.done(cell):
            return 0
        began = time.monotonic()
        try:
            found = outcome(study, cell)
        except Interrupted as stop:
            return stop.code
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            expected = isinstance(error, WrongUse)
            if not expected:
                traceback.print_exc()
            why = " ".join(str(error).split())
            study.write(cell, {"status": "failed", "error": why if expected else f"{type(error).__name__}: {why}"})
            return 1
        took = {"minutes": round((time.monotonic() - began) / 60, 3), "day": time.strftime("%Y-%m-%d")}
        study.write(cell, {"status": "done", **found, **took})
        return 0


def outcome(study: Study, cell: Cell) -> dict[str, Any]:
    """Train or make the encoder of a cell, and measure it: `numbers` (column -> number), `found`, `training`, `machine`."""
    folder = study.path(cell)
    settings = None if cell.run is None else runs.from_dict(cell.run)
    training: dict[str, Any] = {}
    target: Path | str = folder
    if cell.source == "run":
        target = str(cell.target)
    elif cell.source == "untrained" and cell.target is not None:
        untrained_like(Path(cell.target), folder, cell.seed)
    else:
        assert settings is not None
        if cell.source == "pretrain":
            begun = (folder / "run.yaml").is_file()
            if not begun and not any(map(study.done, study.cells)):  # before hours of training, not after them
                check_labels(settings, study.measure)
            training = train(settings, folder)
        else:
            untrained(settings, folder, with_encoder=cell.source == "untrained")
    judged = ("health", "why") if training.get("why") != NOT_YET else ()
    kept = {k: training[k] for k in ("steps", "seconds", "final_loss", *judged) if k in training}
    if not study.measure.protocols:
        if not training.get("holdout"):
            raise WrongUse(
                "there is no k-NN to rank by: it needs labels, --holdout above 0, and knn in --probe.protocols"
            )
        assert settings is not None
        asked = {"test": f"{settings.data} (holdout, {training['holdout']['queries']})"}
        found = {"knn": {**training["holdout"], **asked}} | ({"test": training["test"]} if training.get("test") else {})
    else:
        found = measured(study.measure, cell, target, settings, study.folder / "features")
    numbers = {column: value for name, got in found.items() for column, value in headlines(name, got).items()}
    return {"numbers": numbers, "found": found, "training": kept, "machine": machine(Path(target))}


def check_labels(run: Run[Any], measure: Measure) -> None:
    """Raise WrongUse if what is measured after a training needs labels, and its pictures have none."""
    if measure.train is not None or (measure.protocols and set(measure.protocols) <= UNLABELLED):
        return
    data = open_for(run, torch.device("cpu"), say)
    if data.train.labels is None or (data.holdout is None and (data.test is None or not measure.protocols)):
        what = "labels" if data.train.labels is None else "hold-out part"
        raise WrongUse(
            f"{run.data} has no {what} to measure by: {'--train' if what == 'labels' else '--holdout'} gives some"
        )


def train(run: Run[Any], folder: Path) -> dict[str, Any]:
    """Train in a folder, or go on there; the summary. Raises Interrupted, or WrongUse if the training failed."""
    if (folder / "run.yaml").is_file():
        result = pretraining.go_on(folder)
    else:
        if folder.exists():  # of a process that was killed before its run began
            shutil.rmtree(folder)
        result = pretraining.start(dataclasses.replace(run, out=str(folder)))
    if result.code > 1:
        raise Interrupted(result.code)
    if result.code:
        raise WrongUse(f"training failed: {result.summary.get('why') or f'see {folder}/log.txt'}")
    return result.summary


def untrained(run: Run[Any], folder: Path, with_encoder: bool) -> None:
    """A folder as `pretrain` writes it, of the encoder before the first step; or of the pictures alone."""
    device = pick_device(run.device)
    data = open_for(run, device)
    run, choices = prepare(run, data, device)
    if with_encoder:
        session = Session(run, data, device)
        checkpoint.save_encoder(folder / "encoder.safetensors", session.method.encoder, session.header())
    facts = {**provenance(data, device, choices), "untrained": True}
    write_text(folder / "run.yaml", runs.to_yaml(dataclasses.replace(run, out=str(folder)), facts))


def untrained_like(target: Path, folder: Path, seed: int) -> None:
    """An encoder as that of `target`, with first weights of its own."""
    header = {**checkpoint.load_encoder(target).header, "steps": 0, "seed": seed}
    torch.manual_seed(seed_of(seed, Stream.INIT))
    checkpoint.save_encoder(folder / "encoder.safetensors", checkpoint.fresh(header, str(target)), header)


def machine(folder: Path) -> dict[str, Any]:
    """Where a run was made."""
    path = folder / "run.yaml"
    facts = runs.read_yaml(path.read_text(), str(path)).get("provenance", {}) if path.is_file() else {}
    return {name: facts[name] for name in MACHINE if name in facts}


def measured(
    measure: Measure, cell: Cell, target: Path | str, run: Run[Any] | None, features: Path
) -> dict[str, dict[str, Any]]:
    """Protocol -> what it found of the encoder at `target`."""
    pictures = measure.train
    if pictures is None and cell.source in ("untrained", "pixels"):  # those of the runs that they are compared with
        pictures = str(target if cell.target is None else cell.target)
    asked: dict[str, Any] = {
        "train": pictures, "test": measure.test, "held_out": measure.held_out, "seed": cell.seed,
        "data_root": run.data_root if run else None, "device": run.device if run else "auto",
    }  # fmt: skip
    of = "pixels" if cell.source == "pixels" else target
    able = [
        name for name in measure.protocols if of != "pixels" or name not in PICTURES
    ]  # pixels have no network to train
    plain = [name for name in able if not measure.amounts or name not in LABELLED]
    settings = {name: found for name, found in measure.settings.items() if name in plain}
    found = evaluation.evaluate(of, protocols=plain, settings=settings, **asked) if plain else {}
    for name in able:
        if name not in plain:
            more = measure.settings.get(name, {})
            shared = cell.source == "run"  # the same features for every seed
            kept = features / f"{name_of(cell.row, 0) if shared else cell.name}.npz"
            found[name] = LABELLED[name](of, measure.amounts, more, asked, kept)
    if cell.source != "run":
        (features / f"{cell.name}.npz").unlink(missing_ok=True)
    return found


Labelled = Callable[[Path | str, Sequence[str], dict[str, Any], dict[str, Any], Path], dict[str, Any]]
"""(encoder, amounts of labels, settings, arguments of `evaluate`, a file for features) -> `amounts`, a dict each with
`labels` (as asked), `rows` and `top1`, and the protocol."""


def amount_of(text: str, count: int) -> int | float:
    """What `fewshot` takes for an amount: 50 (labels in all), 5/class, 1%, 0.01, of `count` labelled pictures.

    Returns:
        A whole number per class, or a share below 1.

    Raises:
        WrongUse: it is none of these, or there are not so many.
    """
    head, per_class, rest = text.partition("/")
    try:
        number = float(head.removesuffix("%"))
    except ValueError:
        number = -1.0
    share = number / 100 if head.endswith("%") else number
    if number <= 0 or (per_class and (rest != "class" or share != int(share) or head.endswith("%"))):
        raise WrongUse(f"--amounts {text!r}: give labels in all (50), a class (5/class), or a share (1% or 0.01)")
    if per_class:
        return int(share)
    if share >= 1:
        if share != int(share) or head.endswith("%"):
            raise WrongUse(f"--amounts {text!r}: give a whole number of labels, or a share below 100%")
        share = share / count
    if share >= 1:
        raise WrongUse(f"--amounts {text!r}: there are {count} labels; give fewer, `selfsight evaluate` takes all")
    return share


def features_of(target: Path | str, asked: dict[str, Any], path: Path) -> stored.Sets:
    """Features of both parts from a file, which is written if it is not there."""
    if not path.is_file():  # k-NN, which is cheap, since some protocol must be asked
        path.parent.mkdir(parents=True, exist_ok=True)
        evaluation.evaluate(target, protocols=["knn"], out=path, **{**asked, "seed": 0})  # one hold-out part for all
    return stored.read(path)[0]


def few_shot(
    target: Path | str, amounts: Sequence[str], settings: dict[str, Any], asked: dict[str, Any], features: Path
) -> dict[str, Any]:
    """Logistic regression on the frozen features, one draw of labels for each amount."""
    sets = features_of(target, asked, features)
    assert sets.train is not None
    own = {"draws": 1, **settings, "amounts": [amount_of(text, len(sets.train)) for text in amounts]}
    found = evaluation.evaluate(features, protocols=["fewshot"], settings={"fewshot": own}, seed=asked["seed"])[
        "fewshot"
    ]
    rows = [{**got, "labels": text} for got, text in zip(found["amounts"], amounts, strict=True)]
    return {**found, "amounts": rows}


def fine_tuned(
    target: Path | str, amounts: Sequence[str], settings: dict[str, Any], asked: dict[str, Any], features: Path
) -> dict[str, Any]:
    """The whole network learns each amount of labels. Of an encoder with its first weights: supervised from scratch."""
    sets = features_of(target, asked, features)  # which says how many pictures there are
    assert sets.train is not None
    found: dict[str, Any] = {}
    rows = []
    for text in amounts:
        own = {**settings, "labels": amount_of(text, len(sets.train))}
        found = evaluation.evaluate(target, protocols=["finetune"], settings={"finetune": own}, **asked)["finetune"]
        rows.append({"labels": text, "rows": found["rows"], "top1": found["top1"], "each": found["each"]})
    return {**found, "amounts": rows}


LABELLED: dict[str, Labelled] = {"fewshot": few_shot, "finetune": fine_tuned}
"""Protocols that learn from an amount of labels."""


def main(folder: str, name: str) -> int:
    """Do a cell of the study in a folder; the exit code of `do`."""
    study = read(Path(folder))
    return do(study, study.cell(name))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
