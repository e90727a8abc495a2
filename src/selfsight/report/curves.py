"""The curves of a run as one picture, from its CSV files alone."""

import math
from pathlib import Path

from selfsight.errors import WrongUse
from selfsight.tables import ACCURACIES, read_table, whole_bytes

PANELS = (
    ("loss", "Loss"), ("lr", "Learning rate"), ("knn", "k-NN top-1"), ("ridge", "Ridge regression top-1"),
    ("linear", "Logistic regression top-1"), ("views_per_second", "Views per second"),
)  # fmt: skip


def curves(run: Path, out: Path | None = None) -> Path:
    """Draw loss, learning rate, accuracies and speed over epochs from steps.csv and epochs.csv.

    Args:
        run: the run folder.
        out: the PNG; default RUN/figures/curves.png.

    Returns:
        Where it lies.

    Raises:
        WrongUse: there is no steps.csv with a row in it.
    """
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    run = Path(run)
    steps, epochs = read_table(run / "steps.csv"), read_table(run / "epochs.csv")
    if not steps:
        raise WrongUse(f"{str(run / 'steps.csv')!r} has no rows; give the folder of a run that made at least one step")
    found = {name: _points(epochs if name in ACCURACIES else steps, name) for name, _ in PANELS}
    shown = [(name, title) for name, title in PANELS if found[name][0]] or [PANELS[0]]
    columns = len(shown) if len(shown) <= 4 else 3
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for i, (name, title) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, i + 1)
        x, y = found[name]
        crowded = len(x) > 200
        axes.plot(x, y, color="#0b6bcb", alpha=0.3 if crowded else 1, lw=1.4, marker="o" if len(x) < 30 else None, ms=3)
        if crowded:
            axes.plot(x, smooth(y), color="#0b6bcb", lw=1.6)
        axes.set(title=title, xlabel="epoch")
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if name in ACCURACIES:
            axes.yaxis.set_major_formatter(lambda value, _: f"{round(100 * value, 2):g}%")
    figure.suptitle(run.resolve().name.replace("$", r"\$"), fontsize=11)
    target = Path(out) if out else run / "figures" / "curves.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    whole_bytes(target, picture.getvalue())
    return target


def smooth(values: list[float], part: float = 0.02) -> list[float]:
    """Mean over a centred window of that part of the curve, smaller at the ends."""
    half = max(1, round(part * len(values) / 2))
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    spans = [(i - w, i + w + 1) for i in range(len(values)) for w in (min(half, i, len(values) - 1 - i),)]
    return [(sums[stop] - sums[start]) / (stop - start) for start, stop in spans]


def _points(rows: list[dict[str, str]], name: str) -> tuple[list[float], list[float]]:
    points = [(_number(row.get("epoch")), _number(row.get(name))) for row in rows]
    kept = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    return [x for x, _ in kept], [y for _, y in kept]


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
