"""The verb `sweep`."""

from __future__ import annotations

import dataclasses

from selfsight.arguments import take
from selfsight.errors import WrongUse
from selfsight.verbs.study import StudyFlags, finish, names_in, read_flags, take_all

ABOUT = """A grid of settings, every combination for every seed, ranked by accuracy on held-out pictures.

Example: selfsight sweep simclr --grid temperature=0.1,0.5 --grid optimizer.lr=0.025,0.075 --data cifar10 --out studies/grid

--grid NAME=a,b is given once for each setting: temperature is the method's, batch_size the run's, optimizer.lr has its
whole name. Settings that vary together: --grid batch_size/accumulate=512/1,2048/4."""


@dataclasses.dataclass(frozen=True)
class SweepFlags(StudyFlags):
    """Flags of `sweep`."""

    seeds: int = 1
    """Repetitions of each combination: seeds S, S + 1, ... from --seed S (0) on."""
    protocols: str = ""
    """Protocols on the hold-out part, the first one ranks; default: the k-NN that every run ends with."""
    settings: str = "{}"
    """Settings of protocols as YAML, such as 'knn: {k: 10}'."""
    top: int = 0
    """Rows of the table on the console; 0: all."""
    show_test: bool = False
    """Show the k-NN on test pictures too, where there are some. It ranks nothing."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    command = ["sweep", *argv]
    as_json, argv = take(argv, "--json", valued=False)
    grid, argv = take_all(argv, "--grid")
    word = argv.pop(0) if argv and not argv[0].startswith("-") else None
    flags, rest = read_flags(argv, SweepFlags(), "sweep", "METHOD|RECIPE --grid NAME=a,b", ABOUT)
    if word is None:
        raise WrongUse("sweep takes a METHOD or a RECIPE before its flags (see `selfsight sweep --help`)")
    from selfsight.evaluate import measuring
    from selfsight.methods import METHODS
    from selfsight.recipes import RECIPES
    from selfsight.run import read_yaml
    from selfsight.studies import settings, sweep
    from selfsight.studies.study import Measure, begin
    from selfsight.verbs import pretrain

    of_recipe = word not in METHODS and word in RECIPES
    run = pretrain.settings([*(["--recipe"] if of_recipe else []), word, *rest])
    protocols, given = names_in(flags.protocols), read_yaml(flags.settings or "{}", "--settings")
    if protocols or given:
        measuring.check(protocols, given)
    measure = Measure(tuple(protocols), given, held_out=bool(protocols))
    cells = sweep.cells_of(run, settings.grid(grid, run), flags.seeds)
    study = begin("sweep", measure, cells, flags.out, flags.extend)
    return finish(study, flags, bool(as_json), command, lambda: sweep.outcome(study, flags.top, flags.show_test))
