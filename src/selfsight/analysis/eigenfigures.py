"""Figures of the eigenspace of predictors, from what runs keep in their folders (see `eigenspace`)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from selfsight.analysis.eigenspace import ALIGNED, Eigenspace, Studied
from selfsight.tables import whole_bytes

ACROSS = 4  #: panels beside each other
NAMED = 6  #: epochs that a legend names
SIDE = (3.6, 3.0)  #: a panel's width and height in inches
LEAST = 1e-9  #: eigenvalues of F below this part of the largest are rounding, and not drawn on a log axis


def save_figures(runs: Sequence[Studied], out: Path) -> list[Path]:
    """Draw what there is to draw, as PNG files in the folder `out`; where they lie.

    - spectrum-log, spectrum-linear: eigenvalues of F, a panel for each run, a curve for each time that it kept;
    - predictor: real parts of the eigenvalues of W_p; alignment: cosine of each eigenvector of F with its image;
    - asymmetry: of W_p over epochs, a curve for each run;
    - comparison: a row for each run with all of it, such as a predictor without and with symmetry;
    - accuracy: see `cells_of`, if there are at least two of them.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name, (title, draw) in PANELS.items():
        figure, panels = _sheet(len(runs), ACROSS)
        for i, (axes, run) in enumerate(zip(panels, runs)):
            draw(axes, run)
            axes.set_title(_plain(run.name), fontsize=10)
            if i == 0:
                axes.legend(fontsize=7, title="epoch", title_fontsize=7)
        figure.suptitle(title, fontsize=11)
        made.append(save(figure, out / f"{name}.png"))
    figure, (axes,) = _sheet(1, 1)
    for run in runs:
        draw_asymmetry(axes, run, _plain(run.name))
    axes.set_title("asymmetry of W_p", fontsize=10)
    axes.legend(fontsize=7)
    made.append(save(figure, out / "asymmetry.png"))
    made.append(save(comparison(runs), out / "comparison.png"))
    if cells := cells_of(runs):
        made.append(save(bars(cells, "k-NN top-1"), out / "accuracy.png"))
    return made


def comparison(runs: Sequence[Studied]) -> Any:
    """A row for each run: spectrum of F, spectrum of W_p, alignment, asymmetry; the last two on one scale."""
    figure, panels = _sheet(4 * len(runs), 4)
    columns = [PANELS["spectrum-log"], PANELS["predictor"], PANELS["alignment"]]
    for row, run in enumerate(runs):
        own = panels[4 * row : 4 * row + 4]
        for axes, (title, draw) in zip(own, columns):
            draw(axes, run)
            axes.set_title(title, fontsize=10)
        draw_asymmetry(own[3], run, "")
        own[3].set_title("asymmetry of W_p", fontsize=10)
        own[0].legend(fontsize=7, title="epoch", title_fontsize=7)
        own[0].set_ylabel(_plain(run.name), fontsize=11, fontweight="bold")
    return figure


def draw_asymmetry(axes: Any, run: Studied, label: str) -> None:
    """Over epochs, from the untrained predictor on."""
    axes.plot([r.epoch for r in run.records], [r.space.asymmetry for r in run.records], marker="o", ms=3, label=label)
    axes.set(xlabel="epoch", ylim=(-0.05, max(1.5, *axes.get_ylim())))


def _spectrum(axes: Any, run: Studied, log: bool) -> None:
    def shown(space: Eigenspace) -> Any:
        drawn = space.spectrum > LEAST * space.spectrum[0]
        return np.where(drawn, space.spectrum, math.nan) if log else space.spectrum

    _curves(axes, run, shown, "eigenvalue of F")
    axes.set_yscale("log" if log else "linear")


def _predictor(axes: Any, run: Studied) -> None:
    _curves(axes, run, lambda space: space.predictor, "eigenvalue of W_p (real part)")
    axes.axhline(0, color="0.6", lw=0.8, zorder=0)


def _alignment(axes: Any, run: Studied) -> None:
    _curves(axes, run, lambda space: space.alignment, "cosine of v and W_p v")
    axes.axhline(ALIGNED, color="0.6", lw=0.8, ls=":", zorder=0)
    axes.set_ylim(-1.05, 1.05)


PANELS: dict[str, tuple[str, Callable[[Any, Studied], None]]] = {
    "spectrum-log": ("eigenvalues of F", lambda axes, run: _spectrum(axes, run, True)),
    "spectrum-linear": ("eigenvalues of F", lambda axes, run: _spectrum(axes, run, False)),
    "predictor": ("eigenvalues of W_p", _predictor),
    "alignment": ("alignment of F's eigenvectors", _alignment),
}
"""File name -> title, and how a run is drawn."""


def _curves(axes: Any, run: Studied, values: Callable[[Eigenspace], Any], what: str) -> None:
    """A curve for each record over the directions, coloured by epoch; a line at the last knee of F's spectrum."""
    from matplotlib import colormaps

    last = max(run.records[-1].epoch, 1e-9)
    named = {round(i) for i in np.linspace(0, len(run.records) - 1, min(NAMED, len(run.records)))}
    for i, (_, epoch, space) in enumerate(run.records):
        found = values(space)
        label = f"{epoch:g}" if epoch == round(epoch) else f"{epoch:.1f}"
        axes.plot(
            np.arange(1, len(found) + 1), found, color=colormaps["viridis_r"](0.1 + 0.9 * epoch / last), lw=1.2,
            label=label if i in named else None,
        )  # fmt: skip
    axes.axvline(run.records[-1].space.used + 0.5, color="#c5221f", lw=0.8, ls="--", zorder=0)
    axes.set(xlabel="direction, largest eigenvalue first", ylabel=what)


# ---------------------------------------------------------------------------------------------- accuracies


def cells_of(runs: Sequence[Studied]) -> dict[tuple[str, str], list[float]]:
    """(target, predictor) -> accuracies, of runs that differ in these two and their seeds; empty if they differ in more.

    What names the run, and what goes with target and predictor, does not count as a difference.
    """
    own = {"name", "target", "predictor", "power", "normalise", "epsilon", "rho", "symmetric", "every", "last_bias"}
    cells: dict[tuple[str, str], list[float]] = {}
    kept: list[Any] = []
    for run in runs:
        if run.accuracy is None:
            continue
        method = {key: value for key, value in run.settings["method"].items() if key not in own}
        rest = {k: v for k, v in run.settings.items() if k not in ("method", "provenance", "out", "seed", "recipe")}
        kept.append((method, rest))
        cells.setdefault((run.target, run.predictor), []).append(run.accuracy)
    return cells if len(cells) > 1 and all(one == kept[0] for one in kept) else {}


def bars(cells: Mapping[tuple[str, str], Sequence[float]], what: str) -> Any:
    """Groups by target and a bar for each predictor with its number: the mean of the accuracies, 0..1, and their deviation."""
    targets, predictors = (sorted({key[i] for key in cells}) for i in (0, 1))
    figure, (axes,) = _sheet(1, 1, (6.4, 3.6))
    width = 0.8 / len(predictors)
    for j, predictor in enumerate(predictors):
        for i, target in enumerate(targets):
            if (values := cells.get((target, predictor))) is None:
                continue
            at, mean = i + (j - (len(predictors) - 1) / 2) * width, 100 * fmean(values)
            spread = 100 * stdev(values) if len(values) > 1 else 0.0
            first = next(t for t in targets if (t, predictor) in cells) == target
            axes.bar(
                at, mean, 0.92 * width, yerr=spread or None, color=f"C{j}", label=predictor if first else None,
                error_kw={"lw": 1},
            )  # fmt: skip
            text = f"{mean:.1f}" + (f"\n±{spread:.1f}" if spread else "")
            axes.annotate(text, (at, mean + spread), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(range(len(targets)), targets)
    axes.set(ylabel=f"{what} in %", ylim=(0, 1.3 * max(100 * max(values) for values in cells.values())))
    axes.legend(fontsize=8, ncols=3, loc="upper center")
    return figure


# ---------------------------------------------------------------------------------------------- matplotlib


def _sheet(count: int, across: int, side: tuple[float, float] = SIDE) -> tuple[Any, list[Any]]:
    """A figure with so many panels, at most `across` beside each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, across)
    rows = -(-count // columns)
    figure = Figure(figsize=(side[0] * columns, side[1] * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
    return figure, panels


def save(figure: Any, path: Path) -> Path:
    """Write a figure as a PNG file; where it lies."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_bytes(path, picture.getvalue())
    return path


def _plain(name: str) -> str:
    return name.replace("$", r"\$")
