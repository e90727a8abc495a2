"""The verb `panel`."""

from __future__ import annotations

import dataclasses
import json

from selfsight.verbs.common import words_and_flags


@dataclasses.dataclass(frozen=True)
class PanelFlags:
    """Flags of `panel`."""

    out: str | None = None
    """The PNG; default: RUN/figures/panel.png of the first run."""
    measure: bool = False
    """Measure linear accuracies of the encoders that each run kept (--export-every) and of its last; RUN/linear.json keeps them."""
    protocol: str = "linear"
    """linear, ridge, sgd: how they are measured."""
    device: str = "auto"
    """Where features are computed."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = (
        "Losses, contrastive accuracies and linear accuracies of several runs in one picture of three times three panels.\n\n"
        "Example: selfsight panel runs/a runs/b --measure --out panel.png"
    )
    words, as_json, flags = words_and_flags(argv, PanelFlags(), "panel", "RUN [RUN ...]", about, many=True)
    from pathlib import Path

    from selfsight.report.panel import panel

    runs = [Path(word) for word in words]
    found = {}
    if flags.measure:
        from selfsight.studies.linear import measure

        found = {str(run): measure(run, flags.protocol, flags.device) for run in runs}
    out = panel(runs, Path(flags.out) if flags.out else runs[0] / "figures" / "panel.png")
    print(json.dumps({"out": str(out), "linear": found}) if as_json else str(out))
    return 0
