"""The verb `eigenspace`."""

from __future__ import annotations

import dataclasses
import json

from selfsight.verbs.common import table, words_and_flags


@dataclasses.dataclass(frozen=True)
class EigenspaceFlags:
    """Flags of `eigenspace`."""

    out: str | None = None
    """Folder of the figures; default: RUN/figures/eigenspace of the first run."""
    names: str = ""
    """What the figures call the runs, with commas, in their order; default: the names of their folders."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = (
        "The eigenspace of the predictor over the training of byol, simsiam, directpred or directcopy: spectra of F and W_p, "
        "alignment, asymmetry; a comparison of several runs, and bars of their accuracies.\n\n"
        "Example: selfsight eigenspace runs/byol runs/byol-symmetric --names BYOL,symmetric --out figures"
    )
    words, as_json, flags = words_and_flags(argv, EigenspaceFlags(), "eigenspace", "RUN [RUN ...]", about, many=True)
    from pathlib import Path

    from selfsight.analysis.eigenfigures import save_figures
    from selfsight.analysis.eigenspace import read_run
    from selfsight.errors import WrongUse

    names = [name.strip() for name in flags.names.split(",")] if flags.names else [""] * len(words)
    if len(names) != len(words):
        raise WrongUse(f"--names has {len(names)} names for {len(words)} runs: give as many, with commas between them")
    runs = [read_run(word, name) for word, name in zip(words, names)]
    out = Path(flags.out) if flags.out else Path(words[0]) / "figures" / "eigenspace"
    made = save_figures(runs, out)
    found = [{"run": word, "name": run.name, "records": run.numbers} for word, run in zip(words, runs)]
    if as_json:
        print(json.dumps({"figures": [str(path) for path in made], "runs": found}))
        return 0
    rows = []
    for run in runs:
        lines = run.numbers
        for line in (lines[0], lines[-1]) if len(lines) > 1 else lines:
            rows.append([run.name, *(f"{value:.4g}" for value in line.values())])
    table("run step epoch asymmetry top used passed aligned", rows)
    print(*made, sep="\n")
    return 0
