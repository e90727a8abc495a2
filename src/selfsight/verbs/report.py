"""The verb `report`."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

from selfsight.errors import WrongUse
from selfsight.verbs.common import words_and_flags


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """Flags of `report`."""

    out: str | None = None
    """The page; default: RUN/report.html of the first run."""
    quick: bool = False
    """Only what the run folders hold: no features are computed."""
    data: str | None = None
    """Show these pictures, not the run's own: their hold-out part, or some of them."""
    train: str | None = None
    """Labelled pictures that name the others, with --test."""
    test: str | None = None
    """Pictures to show."""
    kind: Literal["tsne", "umap", "pca"] = "tsne"
    """The map; umap is PCA where umap-learn is not installed."""
    pictures: int = 2000
    """Pictures to look at, at most; 0: all of the part. A map of t-SNE has 2000 at most."""
    bank: int = 5000
    """Training pictures that the probes learn from, at most; 0: all."""
    seed: int = 0
    """Of the choice of pictures and the map."""
    data_root: str | None = None
    """Where named sets live."""
    device: str = "auto"
    """Where features are computed."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = (
        "One HTML page on one or several runs; it opens offline. With several, they are compared: ranking with its noise, "
        "settings that differ, curves over one another. Of a study's folder, its runs are "
        "compared.\n\nExample: selfsight report runs/a runs/b --out compare.html"
    )
    words, as_json, flags = words_and_flags(argv, ReportFlags(), "report", "RUN [RUN ...]", about, many=True)
    from pathlib import Path

    from selfsight.report.read import folders

    runs = folders([Path(word).expanduser() for word in words])
    out = Path(flags.out).expanduser() if flags.out else Path(words[0]) / "report.html"
    if out.is_dir():
        raise WrongUse(f"--out {str(out)!r} is a folder: name the .html file")
    if flags.quick:
        from selfsight.report import report

        if flags.data or flags.train or flags.test:
            raise WrongUse("--quick computes nothing: leave it out, or leave out --data, --train and --test")
        path = report(runs, out)
    else:
        from selfsight.analysis.summary import full_report

        given = {name: value for name, value in dataclasses.asdict(flags).items() if name not in ("out", "quick")}
        path = full_report([str(run) for run in runs], out, **given)
    print(json.dumps({"out": str(path)}) if as_json else str(path))
    return 0
