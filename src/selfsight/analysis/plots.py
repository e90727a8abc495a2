"""Figures as PNG: maps, confusions, accuracy of classes, spectra, strips of pictures. Drawing only, nothing is computed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from selfsight.analysis.confusion import PROBES, Confusion
from selfsight.analysis.maps import Colouring, Map
from selfsight.analysis.spectrum import Spectrum
from selfsight.report.palette import INK, SOFT, colour
from selfsight.tables import whole_bytes

NAMED = 20  #: classes with names in a legend or along a matrix; more are told by their number
CELL, GAP, TEXT = 72, 6, 14  #: pixels of a picture of a strip, between them, and of a line of text


def draw_map(found: Map, colourings: Sequence[Colouring], title: str) -> Any:
    """A panel for each colouring, side by side, with its score above it."""
    kinds = [len(np.unique(by.values[by.values >= 0])) for by in colourings if by.names is not None]
    lines = max((-(-n // 4) for n in kinds if n <= NAMED), default=1)  # of the legends below
    figure = _figure(5.2 * len(colourings), 6.1 + 0.22 * lines)
    for i, by in enumerate(colourings):
        axes = figure.add_subplot(1, len(colourings), i + 1)
        _scatter(figure, axes, found.points, by._replace(values=by.values[found.rows]))
        axes.set_title(f"{_plain(by.name)}: {_plain(by.score)}", fontsize=11, color=INK)
        axes.set(xticks=[], yticks=[], xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
        axes.spines[:].set_color("#c9ced6")
    figure.suptitle(f"{_plain(title)}\n{found.about}", fontsize=10, color=SOFT)
    return figure


def _scatter(figure: Any, axes: Any, points: np.ndarray, by: Colouring) -> None:
    size = float(np.clip(6000 / max(1, len(points)), 4, 30))
    style = {"s": size, "linewidths": 0, "alpha": 0.85}
    if by.names is None:
        known = ~np.isnan(by.values)
        axes.scatter(*points[~known].T, color="#d5d9df", **style)
        made = axes.scatter(*points[known].T, c=by.values[known], cmap="viridis", **style)
        figure.colorbar(made, ax=axes, shrink=0.7, aspect=30)
        return
    order = np.random.default_rng(0).permutation(len(points))  # so that no class lies on top of the others
    tints = np.array([colour(int(v)) if v >= 0 else "#d5d9df" for v in by.values])
    axes.scatter(*points[order].T, c=tints[order], **style)
    present = [int(v) for v in np.unique(by.values) if v >= 0]
    if len(present) > NAMED:
        axes.set_xlabel(f"{len(present)} values, colours repeat", color=SOFT, fontsize=9)
        return
    marks = [axes.scatter([], [], color=colour(v), s=30, label=_plain(by.names[v])) for v in present]
    axes.legend(
        handles=marks, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4, fontsize=8, frameon=False,
        handletextpad=0.2, columnspacing=1.0,
    )  # fmt: skip


def draw_confusion(found: Confusion, names: Sequence[str], title: str) -> Any:
    """Rows: true classes; a cell: the share of them taken for the class of the column."""
    kinds = len(found.counts)
    side = float(np.clip(2.4 + 0.42 * kinds, 4.6, 13))
    figure = _figure(side + 0.8, side)
    axes = figure.add_subplot()
    share = found.counts / np.maximum(1, found.counts.sum(1, keepdims=True))
    made = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="taken for", ylabel="true class")
    if kinds <= NAMED:
        axes.set_xticks(range(kinds), [_plain(n) for n in names], rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(kinds), [_plain(n) for n in names], fontsize=8)
        for (i, j), value in np.ndenumerate(share):
            if value >= 0.005:
                axes.text(
                    j,
                    i,
                    f"{100 * value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if value > 0.5 else INK,
                )
    figure.colorbar(made, ax=axes, shrink=0.7, aspect=30, format=lambda value, _: f"{value:.0%}")
    asked = int(found.counts.sum())
    axes.set_title(
        f"{_plain(title)}: {found.accuracy:.1%} of {asked:,} right\n{PROBES[found.probe]}", fontsize=9, color=SOFT
    )
    return figure


def draw_classes(found: Confusion, names: Sequence[str], title: str) -> Any:
    """Share of each class's pictures that are right, the hardest class on top, with its binomial standard error."""
    share, total = found.per_class, found.counts.sum(1)
    order = [int(i) for i in np.argsort(-share) if total[i]]
    if len(order) > 2 * NAMED:
        order = order[:NAMED] + order[-NAMED:]
    figure = _figure(6.4, 1.4 + 0.26 * len(order))
    axes = figure.add_subplot()
    error = np.sqrt(share[order] * (1 - share[order]) / total[order])
    axes.barh(range(len(order)), share[order], xerr=error, color=colour(0), ecolor=SOFT, height=0.7)
    axes.set_yticks(range(len(order)), [f"{_plain(names[i])} ({total[i]})" for i in order], fontsize=8)
    axes.axvline(found.accuracy, color=INK, lw=1, ls="--")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{_plain(title)}: accuracy of each class (pictures asked), dashed: of all\n{PROBES[found.probe]}",
                   fontsize=9, color=SOFT)  # fmt: skip
    return figure


def draw_spectrum(found: Spectrum, title: str) -> Any:
    """Singular values of the centred features, relative to the largest, on a logarithmic scale."""
    figure = _figure(6.4, 4)
    axes = figure.add_subplot()
    values = found.values.numpy()
    kept = values > 0
    axes.plot(np.arange(1, len(values) + 1)[kept], values[kept], color=colour(0), lw=1.8)
    axes.axvline(found.effective_rank, color=SOFT, lw=1, ls="--")
    axes.set(yscale="log", xlabel="direction", ylabel="singular value, largest = 1")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"{_plain(title)}: effective rank {found.effective_rank:.1f} of {found.possible} (dashed), RankMe {found.rankme:.1f},\n"
        f"half of the variance in {found.half} direction{'s' * (found.half > 1)}", fontsize=9, color=SOFT,
    )  # fmt: skip
    return figure


class Strip(NamedTuple):
    """A row of pictures."""

    heading: str
    pictures: Sequence[np.ndarray]  #: (s, s, C) uint8 each
    captions: Sequence[str]  #: one each, or none at all


def draw_strips(strips: Sequence[Strip]) -> Image.Image:
    """Rows of pictures below one another, each with a heading."""
    font = ImageFont.load_default(11)
    above = TEXT + 2 if any(s.heading for s in strips) else 0
    high = above + CELL + GAP + (TEXT if any(s.captions for s in strips) else 0)
    across = max(max((len(s.pictures) for s in strips), default=1), 5)
    image = Image.new("RGB", (across * (CELL + GAP) + GAP, len(strips) * (high + GAP) + GAP), "white")
    draw = ImageDraw.Draw(image)
    for i, strip in enumerate(strips):
        top = GAP + i * (high + GAP)
        draw.text((GAP, top), _fitting(draw, strip.heading, font, image.width - 2 * GAP), fill=INK, font=font)
        for j, picture in enumerate(strip.pictures):
            left = GAP + j * (CELL + GAP)
            shown = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
            image.paste(shown.convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST), (left, top + above))
            if j < len(strip.captions):
                text = _fitting(draw, strip.captions[j], font, CELL)
                draw.text((left, top + above + CELL + 1), text, fill=SOFT, font=font)
    return image


def save(figure: Any, path: Path) -> Path:
    """Write a figure of matplotlib or PIL as PNG, at once."""
    content = io.BytesIO()
    if isinstance(figure, Image.Image):
        figure.save(content, "PNG", optimize=True)
    else:
        figure.savefig(content, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_bytes(path, content.getvalue())
    return path


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(text: str) -> str:
    """Text that is no formula to matplotlib."""
    return str(text).replace("$", r"\$")


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    text = text.encode("latin-1", "replace").decode("latin-1")  # what the built-in font has
    while text and draw.textlength(text, font) > width:
        text = text[:-1]
    return text
