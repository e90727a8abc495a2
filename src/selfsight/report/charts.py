"""The charts of the report as plain plotly.js figures: dicts of traces and a layout."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from selfsight.report.curves import smooth
from selfsight.report.palette import colour, dash
from selfsight.report.read import RunFolder

POINTS = 1500  #: of a curve, more are averaged
MONITORS = (
    ("std", "Spread of the head's outputs (1 isotropic, 0 collapsed)"),
    ("features_std", "Spread of the features (1 isotropic, 0 collapsed)"),
    ("rank", "Effective rank of the head's outputs"),
    ("features_rank", "Effective rank of the features"),
    ("cosine", "Mean cosine of two pictures, head (1 collapsed)"),
    ("features_cosine", "Mean cosine of two pictures, features"),
)
ACCURACIES = {
    "knn": "k-NN top-1",
    "ridge": "Linear top-1 (ridge regression)",
    "linear": "Linear top-1 (logistic regression)",
}
_SHOWN = {"step", "epoch", "loss", "lr", "views_per_second", "seconds", "cpu_seconds"}

Chart = dict[str, Any]


def training(runs: Sequence[RunFolder]) -> list[Chart]:
    """Loss, accuracies, learning rate, speed: those that have points."""
    found = [
        chart("Loss", [t for i, r in enumerate(runs) for t in _both(r, i, "loss", len(runs) > 1)]),
        *(_accuracy(runs, name, title) for name, title in ACCURACIES.items()),
        chart("Learning rate", [t for i, r in enumerate(runs) for t in _line(r, i, *r.curve("lr"), False, raw=True)]),
        chart(
            "Views per second",
            [t for i, r in enumerate(runs) for t in _line(r, i, *r.curve("views_per_second"), False)],
        ),
    ]
    return [one for one in found if one["data"]]


def monitors(runs: Sequence[RunFolder]) -> list[Chart]:
    """Collapse monitors over time."""
    found = []
    for name, title in MONITORS:
        traces = []
        for i, run in enumerate(runs):
            points = [(line["step"], line[name]) for line in run.health if isinstance(line.get(name), int | float)]
            traces += (
                [_trace(run, i, [x for x, _ in points], [y for _, y in points], "lines+markers")] if points else []
            )
        made = chart(title, traces)
        if not name.endswith("rank"):
            made["layout"]["yaxis"]["rangemode"] = "tozero"
        found.append(made)
    return [one for one in found if one["data"]]


def own_logs(runs: Sequence[RunFolder]) -> list[Chart]:
    """Every other number of the step lines."""
    names = dict.fromkeys(
        name
        for run in runs
        for line in run.steps
        for name, value in line.items()
        if name not in _SHOWN and isinstance(value, int | float)
    )
    return [chart(name, [t for i, r in enumerate(runs) for t in _both(r, i, name, False)]) for name in names]


def _accuracy(runs: Sequence[RunFolder], protocol: str, title: str) -> Chart:
    traces, last = [], max((run.done for run in runs), default=0)
    for i, run in enumerate(runs):
        if found := run.accuracy(protocol):
            trace = _trace(run, i, [s for s, _ in found], [k["top1"] for _, k in found], "lines+markers")
            traces.append({**trace, "hovertemplate": "%{y:.2%} at step %{x}<extra>" + escape(run.name) + "</extra>"})
    baselines: tuple[tuple[str, str, Callable[[RunFolder], float | None]], ...] = (
        ("untrained", "dash", lambda run: run.untrained(protocol)),
        ("raw pixels", "dot", lambda run: run.pixels if protocol == "knn" else None),
    )
    for label, kind, value_of in baselines:
        values = [(i, run, value) for i, run in enumerate(runs) if (value := value_of(run)) is not None]
        shared = len({round(value, 9) for _, _, value in values}) == 1
        for place, (_, run, value) in enumerate(values[:1] if shared else values):
            told = label if shared else f"{label}, {escape(run.name)}"
            traces.append(
                {
                    "type": "scatter", "mode": "lines", "x": [0, max(last, run.total or 0) or 1], "y": [value, value],
                    "name": label, "legendgroup": label, "showlegend": not place,
                    "line": {"color": "#8a8f98", "dash": kind, "width": 1.5},
                    "hovertemplate": f"{told} %{{y:.2%}}<extra></extra>",
                }
            )  # fmt: skip
    made = chart(title, traces, legend=True)
    made["layout"]["yaxis"]["tickformat"] = ".0%"
    return made


def _both(run: RunFolder, index: int, name: str, legend: bool) -> list[Chart]:
    """A curve of training, and its points on held-out pictures where they were measured, dotted."""
    x, y = run.validation(name)
    held = _trace(run, index, x, y, "lines+markers") | {"showlegend": False}
    held["line"] = held["line"] | {"dash": "dot"}
    held["hovertemplate"] = f"held-out pictures: {held['hovertemplate']}"
    return _line(run, index, *run.curve(name), legend) + ([held] if x else [])


def _line(run: RunFolder, index: int, x: list[int], y: list[float], legend: bool, raw: bool = False) -> list[Chart]:
    """A curve; a long one faint, with its running mean on top."""
    if not x:
        return []
    x_less, y_less = _thin(x), _thin(y)
    if raw or len(x) < 60:
        return [_trace(run, index, x_less, y_less, "lines" if len(x) > 1 else "markers")]
    faint = _trace(run, index, x_less, y_less, "lines")
    faint |= {"opacity": 0.28, "showlegend": False, "hoverinfo": "skip", "hovertemplate": None}
    return [faint, _trace(run, index, x_less, _thin(smooth(y)), "lines")]


def _thin(values: Sequence[float]) -> list[float]:
    """At most POINTS means over equal stretches."""
    size = -(-len(values) // POINTS)
    parts = [values[i : i + size] for i in range(0, len(values), size)]
    return [float(f"{sum(part) / len(part):.6g}") for part in parts]


def _trace(run: RunFolder, index: int, x: Iterable[float], y: Iterable[float], mode: str) -> Chart:
    name = escape(run.name)
    return {
        "type": "scatter", "mode": mode, "x": list(x), "y": list(y), "name": name, "legendgroup": name,
        "line": {"color": colour(index), "width": 2, "dash": dash(index)}, "marker": {"size": 6},
        "hovertemplate": f"%{{y:.5g}} at step %{{x}}<extra>{name}</extra>",
    }  # fmt: skip


def chart(title: str, traces: list[Chart], legend: bool = False) -> Chart:
    """A chart over the steps of runs, or over what the caller sets its axes to."""
    return {
        "title": title,
        "data": traces,
        "layout": {
            "margin": {"l": 58, "r": 14, "t": 30 if legend else 10, "b": 42},
            "height": 290,
            "showlegend": legend and len(traces) > 1,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11}},
            "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
            "yaxis": {"automargin": True},
            "hovermode": "closest",
        },
    }
