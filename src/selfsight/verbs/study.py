"""What the verbs `compare`, `sweep` and `labels` share: flags, the work, the table."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from selfsight.arguments import check_flags, flags_of, parse
from selfsight.errors import WrongUse

if TYPE_CHECKING:
    from selfsight.studies.gather import Outcome, Table
    from selfsight.studies.study import Study


@dataclasses.dataclass(frozen=True)
class StudyFlags:
    """Flags of every study."""

    seeds: int = 3
    """Repetitions: seeds S, S + 1, ... from --seed S (0) on."""
    out: str | None = None
    """Folder of the study; default: studies/KIND-HASH, the same for the same question."""
    extend: bool = False
    """The study in --out gets more cells, or other measurements; what is done stays."""
    cell: int | None = None
    """Do this cell alone, in this process: a task of a job array."""
    collect: bool = False
    """Do nothing but gather the tables of what is done."""
    print_slurm: bool = False
    """Print an sbatch script that does a cell in each task, and stop."""


MORE = """The same command again goes on: done cells are passed over, an interrupted run resumes exactly, failed ones are
tried again. Several processes may work in one folder. Flags of `pretrain` hold for every run.
Also: --json (one JSON object on stdout)."""


def divide(argv: Sequence[str], own: Any) -> tuple[list[str], list[str]]:
    """Arguments for the flags of `own`, and the rest, each with the values that follow it."""
    known = {name for flag in flags_of(own) for name in (flag, f"no-{flag}")} | {"help"}
    ours: list[str] = []
    rest: list[str] = []
    into = rest
    for token in argv:
        if token.startswith("--"):
            into = ours if token[2:].split("=", 1)[0].replace("_", "-") in known else rest
        into.append(token)
    return ours, rest


def take_all(argv: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """The values of a flag that may be given several times, and the other arguments."""
    found: list[str] = []
    rest: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        if token == flag:
            value = next(tokens, "")
            if not value or value.startswith("--"):
                raise WrongUse(f"{flag} needs a value: write {flag} VALUE")
            found.append(value)
        elif token.startswith(flag + "="):
            found.append(token.split("=", 1)[1])
        else:
            rest.append(token)
    return found, rest


def read_flags(argv: list[str], default: Any, verb: str, words: str, about: str) -> tuple[Any, list[str]]:
    """The study's own flags, and the arguments that are for `pretrain`."""
    about = f"{about}\n\n{MORE}"
    if any(token in ("-h", "--help") for token in argv):
        parse(type(default), ["--help"], default, verb, words, about)
    ours, rest = divide(argv, default)
    check_flags(ours, default, verb)
    return parse(type(default), ours, default, verb, words, about), rest


def names_in(text: str) -> list[str]:
    """Names between commas that are not inside brackets."""
    from selfsight.studies.settings import parts_of

    return [name for name in parts_of(text) if name]


def finish(
    study: Study, flags: StudyFlags, as_json: bool, command: Sequence[str], outcome: Callable[[], Outcome]
) -> int:
    """Do what the flags ask of a study; the exit code.

    Args:
        study: begun.
        flags: its flags.
        as_json: one JSON object on stdout.
        command: the words after `selfsight`, for tasks of an array.
        outcome: gathers the tables.
    """
    from selfsight.studies import gather, loop, slurm

    if flags.print_slurm:
        kept = [word for word in command if word not in ("--print-slurm", "--collect", "--extend", "--json")]
        print(slurm.script(study, kept), end="")
        return 0
    say = lambda line: print(line, file=sys.stderr, flush=True)
    if flags.cell is not None:
        code = loop.work_alone(study, flags.cell)
        record = study.record(study.cells[flags.cell])
        if as_json:
            print(json.dumps(record))
        else:
            state = "another process is at it" if code == loop.BUSY else f"ended with code {code}"
            say(f"{study.cells[flags.cell].name}: {record['status'] if record else state}")
        return 1 if code == loop.BUSY else code
    if not flags.collect and (code := loop.work(study, say)):
        return code
    found = outcome()
    if as_json:
        print(json.dumps(found.plain))
    else:
        for table in found.tables:
            show(table)
        for line in [*found.notes, f"study    {study.folder} (table.md, table.csv, results.json, figure.png)"]:
            print(line)
    for line in gather.trouble(found.plain):
        say(line)
    return 0 if found.complete else 1


def show(table: Table) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table as Rich

    made = Rich(*table.columns, box=None, pad_edge=False, title=table.title, title_justify="left")
    for row in table.rows:
        made.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(made, markup=False)
