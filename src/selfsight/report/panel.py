"""Losses, contrastive accuracies and linear accuracies of several runs in one picture of three times three panels."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfsight.errors import WrongUse
from selfsight.report.curves import smooth
from selfsight.report.palette import COLOURS
from selfsight.report.read import RunFolder, read_run
from selfsight.tables import whole_bytes

LINEAR = "linear.json"  #: file of a run folder: [{"step", "train", "holdout", "test"}, ...], top-1 or null
PANELS = (
    ("loss", "training", "Loss, training"), ("loss", "held out", "Loss, held-out pictures"),
    ("top1", "training", "Contrastive top-1, training"), ("top1", "held out", "Contrastive top-1, held out"),
    ("top5", "training", "Contrastive top-5, training"), ("top5", "held out", "Contrastive top-5, held out"),
    ("linear", "train", "Linear top-1, training part"), ("linear", "holdout", "Linear top-1, hold-out part"),
    ("linear", "test", "Linear top-1, test part"),
)  # fmt: skip
LEARNT = (
    "ridge",
    "sgd",
    "linear",
)  #: linear classifiers that a run may measure while training; the last one counts most
CROWDED = 200  #: points from which a curve is shown faint under its running mean


def panel(runs: Sequence[Path], out: Path) -> Path:
    """Draw the panel of run folders, finished or not.

    Linear accuracies are those that a run measured while training (`ridge`, `linear` in metrics.jsonl) and those in its
    linear.json.

    Args:
        runs: run folders.
        out: the PNG.

    Returns:
        `out`.

    Raises:
        WrongUse: no folder was given, or one is no run folder.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not runs:
        raise WrongUse("a panel needs at least one run folder; give one that pretrain wrote")
    found = [read_run(Path(path)) for path in runs]
    names = [run.name for run in found]
    labels = [f"{r.path.resolve().parent.name}/{r.name}" if names.count(r.name) > 1 else r.name for r in found]
    figure = Figure(figsize=(13, 9.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    end = max((points(run, "loss", "training")[0].max(initial=0) for run in found), default=0) or 1
    for i, (what, part, title) in enumerate(PANELS):
        axes = figure.add_subplot(3, 3, i + 1)
        for j, run in enumerate(found):
            x, y = points(run, what, part)
            _curve(axes, x, y, COLOURS[j % len(COLOURS)])
        axes.set_title(title, fontsize=10)
        axes.set_xlim(-0.03 * end, 1.03 * end)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if i > 5:
            axes.set_xlabel("epoch")
        if what != "loss":
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        if not axes.lines:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "not measured", ha="center", color="#8a8f98", transform=axes.transAxes)
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=COLOURS[j % len(COLOURS)], lw=2) for j in range(len(found))]
    figure.legend(keys, [label.replace("$", r"\$") for label in labels], loc="outside upper center", frameon=False,
                  ncols=min(4, len(labels)), fontsize=9)  # fmt: skip
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    whole_bytes(out, picture.getvalue())
    return out


def points(run: RunFolder, what: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """(epochs, values) of one panel: `what` is loss, top1, top5 or linear, `part` as in PANELS."""
    if what == "linear":
        pairs = sorted(linear_points(run, part))
        steps, values = [step for step, _ in pairs], [value for _, value in pairs]
    else:
        steps, values = run.curve(what) if part == "training" else run.validation(what)
    known, epochs = run.curve("epoch")
    at = np.interp(steps, [0, *known], [0.0, *epochs]) if known else np.array(steps, dtype=float)
    return at, np.array(values, dtype=float)


def linear_points(run: RunFolder, part: str) -> list[tuple[int, float]]:
    """(step, top-1) of linear classifiers on one part (train, holdout, test) of a run."""
    found: dict[int, float] = {}
    for name in LEARNT:
        for line in run.lines:  # the end on the test part alone: on the others it has more pictures than the curve
            measured = line.get(name, line.get(f"final_{name}") if part == "test" else None)
            if not isinstance(measured, dict):
                continue
            asked = "test" if measured.get("part") == "test" else "holdout"
            value = measured.get("train_top1") if part == "train" else measured.get("top1") if part == asked else None
            if isinstance(value, int | float):
                found[line["step"]] = float(value)
    path = run.path / LINEAR
    for entry in json.loads(path.read_text()) if path.is_file() else ():
        if isinstance(entry.get(part), int | float):
            found[entry["step"]] = float(entry[part])
    return list(found.items())


def _curve(axes: Any, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    if not len(x):
        return
    crowded = len(x) > CROWDED
    axes.plot(x, y, color=colour, lw=1.4, alpha=0.25 if crowded else 1, marker="o" if len(x) < 30 else None, ms=3)
    if crowded:
        axes.plot(x, smooth(list(y)), color=colour, lw=1.6)
