"""The verb `compare`."""

from __future__ import annotations

import dataclasses

from selfsight.arguments import take, value_of
from selfsight.errors import WrongUse
from selfsight.verbs.study import StudyFlags, finish, names_in, read_flags

ABOUT = """Methods side by side at one length, on the same pictures: mean and deviation over seeds, paired tests, untrained
encoders and raw pixels.

Example: selfsight compare --methods simclr,byol,byol:momentum=0.99 --data cifar10 --epochs 20 --seeds 3 --out studies/three"""


@dataclasses.dataclass(frozen=True)
class CompareFlags(StudyFlags):
    """Flags of `compare`."""

    methods: str = ""
    """Methods with commas, also with settings (byol:momentum=0.99:optimizer.lr=0.1), and files of settings (mine.yaml)."""
    budget_minutes: float = 0
    """Minutes of training for each run, in place of --epochs."""
    protocols: str = "knn,linear"
    """What is measured, see `selfsight list protocols`; the first one ranks."""
    settings: str = "{}"
    """Settings of protocols as YAML, such as 'knn: {k: 10}'."""
    train: str | None = None
    """Labelled pictures to learn classifiers from; default: those of --data."""
    test: str | None = None
    """Labelled pictures to ask; default: the test part of --data, else a hold-out part."""
    held_out: bool = False
    """Ask the hold-out part although there is a test part."""
    baseline: str | None = None
    """The row that others are tested against; default: the best method."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    command = ["compare", *argv]
    as_json, argv = take(argv, "--json", valued=False)
    flags, rest = read_flags(argv, CompareFlags(), "compare", "", ABOUT)
    from selfsight.evaluate import measuring
    from selfsight.run import read_yaml
    from selfsight.studies import compare, settings
    from selfsight.studies.study import Measure, begin
    from selfsight.verbs import pretrain

    if value_of(rest, "--max-minutes"):
        raise WrongUse("--max-minutes would let each run stop where it likes: give --budget-minutes")
    methods = {}
    for text in names_in(flags.methods):
        head, more = settings.specification(text)
        file = head.endswith((".yaml", ".yml"))
        run = settings.changed(pretrain.settings([*(["--config"] if file else []), head, *rest]), more)
        row = " ".join(
            [run.method_name if not file else head.rsplit("/", 1)[-1].rsplit(".", 1)[0], settings.described(more)]
        )
        if row.strip() in methods:
            raise WrongUse(f"--methods has {text} twice: give each once")
        methods[row.strip()] = run
    asked = [name for name in ("epochs", "steps") if value_of(rest, f"--{name}")]
    protocols, given = names_in(flags.protocols), read_yaml(flags.settings or "{}", "--settings")
    measuring.check(protocols, given)
    if flags.held_out and flags.test:
        raise WrongUse("--held-out and --test contradict each other: leave out one of them")
    measure = Measure(tuple(protocols), given, flags.train, flags.test, flags.held_out)
    cells = compare.cells_of(compare.equal_length(methods, flags.budget_minutes, asked), flags.seeds)
    if flags.baseline and flags.baseline not in (rows := {cell.row for cell in cells}):
        raise WrongUse(f"--baseline {flags.baseline!r} is no row of this study; they are {', '.join(sorted(rows))}")
    study = begin("compare", measure, cells, flags.out, flags.extend)
    return finish(study, flags, bool(as_json), command, lambda: compare.outcome(study, flags.baseline))
