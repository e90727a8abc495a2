"""The verb `labels`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from selfsight.arguments import take
from selfsight.errors import WrongUse
from selfsight.verbs.study import StudyFlags, finish, names_in, read_flags

ABOUT = """Accuracy by the number of labels, with and without pre-training: mean and deviation over seeds.

Example: selfsight labels runs/photos --amounts 50,100,250,500,1000 --train labelled/train --test labelled/test --seeds 3

Example: selfsight labels simclr byol --data cifar10 --epochs 20 --amounts 1/class,5/class,1%

RUN is a run folder or a file of an encoder; a METHOD is trained here, once for each seed."""


@dataclasses.dataclass(frozen=True)
class LabelsFlags(StudyFlags):
    """Flags of `labels`."""

    amounts: str = "50,100,250,500,1000"
    """Labels in all (50), a class (5/class), or a share of the training part (1% or 0.01)."""
    protocols: str = "fewshot"
    """Protocols that learn from an amount of labels."""
    settings: str = "{}"
    """Settings of protocols as YAML, such as 'fewshot: {c: 0.1}'."""
    train: str | None = None
    """Labelled pictures to draw from; default: those of the run."""
    test: str | None = None
    """Labelled pictures to ask; default: the test part of those, else a hold-out part."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    command = ["labels", *argv]
    as_json, argv = take(argv, "--json", valued=False)
    words = []
    while argv and not argv[0].startswith("-"):
        words.append(argv.pop(0))
    flags, rest = read_flags(argv, LabelsFlags(), "labels", "RUN|METHOD [RUN|METHOD ...]", ABOUT)
    if not words:
        raise WrongUse("labels takes a RUN or a METHOD before its flags (see `selfsight labels --help`)")
    from selfsight.methods import METHODS
    from selfsight.run import Run, read_yaml
    from selfsight.studies import labels
    from selfsight.studies.study import begin
    from selfsight.verbs import pretrain

    given = read_yaml(flags.settings or "{}", "--settings")
    measure = labels.measure_of(names_in(flags.amounts), names_in(flags.protocols), flags.train, flags.test, given)
    targets: dict[str, Path | Run] = {}
    first = 0
    for word in words:
        path = Path(word).expanduser()
        if word in METHODS or not path.exists():
            run = pretrain.settings([word, *rest])
            targets[run.method_name], first = run, run.seed
        else:
            if flags.train is None and not (path / "run.yaml").is_file():
                raise WrongUse(f"{word} does not say which pictures it saw: give --train DATA --test DATA")
            name = path.resolve().name
            targets[name if name not in targets else str(path)] = path
    trained = any(isinstance(target, Run) for target in targets.values())
    if len(targets) < len(words):
        raise WrongUse("the same RUN or METHOD is given twice: give each once")
    if rest and not trained:
        raise WrongUse(f"{rest[0]} is for a METHOD that is trained here; leave it out, the encoders are there already")
    study = begin("labels", measure, labels.cells_of(targets, flags.seeds, first), flags.out, flags.extend)
    return finish(study, flags, bool(as_json), command, lambda: labels.outcome(study))
