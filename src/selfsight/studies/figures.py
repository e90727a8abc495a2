"""Figures of studies, by matplotlib, without a window. Each is written whole, next to the tables."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfsight.report.palette import COLOURS
from selfsight.report.read import read_run
from selfsight.studies.statistics import spread
from selfsight.tables import whole_bytes

if TYPE_CHECKING:
    from selfsight.studies.gather import Row
    from selfsight.studies.study import Study

LEGEND = 12  #: rows that a legend can hold
GRAY = "#8a8f98"


def canvas(width: float, height: float) -> Any:
    """A figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> Path:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    whole_bytes(path, picture.getvalue())
    return path


def literal(text: str) -> str:
    """Text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def plain(axes: Any, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """The look of all panels."""
    axes.set_title(literal(title), fontsize=10)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def percent(axis: Any) -> None:
    """Accuracies in percent."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")


def comparison(study: Study, rows: Sequence[Row], columns: Sequence[str]) -> Path:
    """Bars with deviations for each column, and k-NN on the hold-out part while training."""
    shown = columns[:3]
    timed = any(cell.run and cell.run["max_minutes"] for cell in study.cells)
    curves = {row.name: curves_of(study, row, "minutes" if timed else "epochs") for row in rows}
    count = len(shown) + any(curves.values())
    figure = canvas(3.6 * count + 1, max(2.8, 0.32 * len(rows) + 1.2))
    colours = {row.name: COLOURS[i % len(COLOURS)] if row.source == "pretrain" else GRAY for i, row in enumerate(rows)}
    for i, column in enumerate(shown):
        axes = figure.add_subplot(1, count, i + 1)
        for y, row in enumerate(rows):
            if not row.numbers.get(column):
                continue
            found, values = spread(row.numbers[column]), list(row.numbers[column].values())
            axes.barh(y, found["mean"], 0.7, xerr=found["std"], color=colours[row.name], alpha=0.75, ecolor="#333")
            if len(values) > 1:
                axes.plot(values, [y] * len(values), "o", ms=2.5, color="#333")
        axes.set_yticks(range(len(rows)), [literal(row.name) if i == 0 else "" for row in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        plain(axes, column)
        if not column.startswith("geometry"):
            percent(axes.xaxis)
    if any(curves.values()):
        axes = figure.add_subplot(1, count, count)
        for row in rows:
            if curves[row.name]:
                band(axes, curves[row.name], literal(row.name), colours[row.name])
        plain(axes, "k-NN while training, hold-out part", "minutes" if timed else "epochs")
        percent(axes.yaxis)
        if len(axes.lines) <= LEGEND:
            axes.legend(fontsize=7, frameon=False)
    return save(figure, study.folder / "figure.png")


def curves_of(study: Study, row: Row, against: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k-NN curve of each run of a row, as far as its probe was on."""
    folders = [study.path(cell) for cell in study.cells if cell.row == row.name and row.source == "pretrain"]
    return [curve for folder in folders if (curve := knn_curve(folder, against)) is not None]


def knn_curve(folder: Path, against: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(minutes or epochs, k-NN top-1) of a run folder; None if nothing was measured there."""
    if not (folder / "metrics.jsonl").is_file():
        return None
    run = read_run(folder)
    steps, values = run.curve("seconds" if against == "minutes" else "epoch")
    if not run.accuracy() or not steps:
        return None
    at = np.interp([step for step, _ in run.accuracy()], [0, *steps], [0.0, *values])
    return at / (60 if against == "minutes" else 1), np.array([found["top1"] for _, found in run.accuracy()])


def band(axes: Any, curves: Sequence[tuple[np.ndarray, np.ndarray]], name: str, colour: str) -> None:
    """The mean of curves, at the places of the first, and the range between the lowest and the highest."""
    x = curves[0][0]
    y = np.stack([np.interp(x, *curve) for curve in curves])
    axes.plot(x, y.mean(0), color=colour, lw=1.6, marker="o", ms=2.5, label=name)
    if len(curves) > 1:
        axes.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.15, lw=0)


def effects(study: Study, rows: Sequence[Row], column: str) -> Path:
    """A panel for each setting of a grid: every row's mean at its value, and the mean of all rows there."""
    from selfsight.studies.settings import short, shown

    names = list(study.cells[0].point)
    told = short(names)
    figure = canvas(3.4 * len(names) + 0.6, 3.2)
    for i, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), i + 1)
        values = list(dict.fromkeys(shown(cell.point[name]) for cell in study.cells))
        each: dict[str, list[float]] = {value: [] for value in values}
        for row in rows:
            each[shown(row.point[name])].append(row.mean(column))
        for x, value in enumerate(values):
            axes.plot([x] * len(each[value]), each[value], "o", ms=4, color=COLOURS[0], alpha=0.5)
        there = [(x, float(np.mean(each[value]))) for x, value in enumerate(values) if each[value]]
        axes.plot([x for x, _ in there], [y for _, y in there], color=COLOURS[1], lw=1.6, label="mean of all rows")
        axes.set_xticks(range(len(values)), [literal(value) for value in values])
        axes.margins(x=0.2)
        plain(axes, told[name], ylabel=f"{column}, hold-out" if i == 0 else "")
        percent(axes.yaxis)
    axes.legend(fontsize=8, frameon=False)
    return save(figure, study.folder / "figure.png")


def by_labels(study: Study, rows: Sequence[Row], counts: Mapping[str, int]) -> Path:
    """Accuracy against the number of labels: mean and deviation, dashed without pre-training."""
    protocols = study.measure.protocols
    figure = canvas(5.2 * len(protocols), 3.8)
    for i, protocol in enumerate(protocols):
        axes = figure.add_subplot(1, len(protocols), i + 1)
        wanted = [f"{protocol}, {text}" for text in study.measure.amounts]
        for j, row in enumerate(rows):
            points = sorted((counts[c], spread(row.numbers[c])) for c in wanted if row.numbers.get(c) and c in counts)
            axes.errorbar(
                [x for x, _ in points], [found["mean"] for _, found in points],
                yerr=[found["std"] or 0.0 for _, found in points], color=COLOURS[j % len(COLOURS)], marker="o", ms=4,
                capsize=3, lw=1.6, ls="--" if row.source == "untrained" else "-", label=literal(row.name),
            )  # fmt: skip
        axes.set_xscale("log")
        ticks = sorted({counts[c] for c in wanted if c in counts})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        plain(axes, protocol, "labels", "top-1")
        percent(axes.yaxis)
        if len(rows) <= LEGEND:
            axes.legend(fontsize=8, frameon=False)
    return save(figure, study.folder / "figure.png")
