"""Draws the diagrams of the documentation, and the neighbours in README.md: python docs/figures/draw.py [RUN].

RUN: `selfsight pretrain simclr --data shapes --recipe shapes --encoder fastnet-tiny --epochs 5 --out RUN`; without one, the
diagrams alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

HERE = Path(__file__).parent
INK, SOFT = "#1b1f24", "#5b6470"
BLUE, GREEN, SAND, ROSE, GRAY = "#dbe7f6", "#dcefe1", "#f6ecd6", "#f6dfe1", "#eceff2"

# Layer -> (colour, box -> what it holds); each box is a module or package of src/selfsight.
LAYOUT: dict[str, tuple[str, dict[str, str]]] = {
    "front": (GRAY, {
        "cli.py": "finds the verb", "verbs": "a file for each verb", "api.py": "the same from Python",
        "studies": "compare, sweep", "plugins.py": "what packages add"}),
    "runs": (SAND, {
        "recipes": "named runs", "run.py": "settings, YAML", "pretraining.py": "folder, signals",
        "session.py": "data, method, state", "watch.py": "logs, probes"}),
    "core": (BLUE, {
        "train.py": "the loop", "passes.py": "one batch", "core.py": "what a method is", "distributed.py": "processes",
        "rng.py": "all randomness"}),
    "methods": (GREEN, {
        "methods": "one file each", "losses": "pure functions", "assign.py": "clusters, codes", "nn.py": "heads, EMA, queues",
        "optim": "LARS, Muon, rates"}),
    "pictures": (ROSE, {
        "data": "sets, folders, shards", "augment": "draw, then apply", "encoders": "networks",
        "external": "networks of others", "doctor": "selfsight check"}),
    "after": (GRAY, {
        "evaluation.py": "which data, layer", "evaluate": "protocols", "formats": "export", "health.py": "the verdict",
        "report": "one HTML page"}),
}  # fmt: skip


def box(
    ax: Axes, x: float, y: float, width: float, height: float, title: str, about: str = "", colour: str = GRAY
) -> None:
    """A rounded box around its centre."""
    style = "round,pad=0,rounding_size=0.08"
    ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, style, fc=colour, ec=SOFT, lw=0.9))
    ax.text(x, y + (0.11 if about else 0), title, ha="center", va="center", fontsize=10, color=INK, weight="bold")
    if about:
        ax.text(x, y - 0.14, about, ha="center", va="center", fontsize=8, color=SOFT)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], label: str = "", **style: object) -> None:
    """An arrow, with a word above its middle."""
    look = {"arrowstyle": "-|>", "mutation_scale": 11, "lw": 1.1, "color": SOFT, "shrinkA": 0, "shrinkB": 0, **style}
    ax.add_patch(FancyArrowPatch(start, end, **look))  # type: ignore[arg-type]
    if label:
        ax.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.12, label, ha="center", fontsize=8, color=SOFT)


def canvas(width: float, height: float) -> Axes:
    """Empty axes, a unit an inch."""
    figure = plt.figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return ax


def save(ax: Axes, path: Path) -> None:
    """As SVG without a date, so that equal drawings are equal files."""
    ax.figure.savefig(path, metadata={"Date": None}, facecolor="white")  # type: ignore[union-attr]
    plt.close(ax.figure)  # type: ignore[arg-type]


def layout(path: Path) -> None:
    """The modules, in the layers that may import those below them."""
    ax = canvas(10.6, 6.2)
    names = {
        "front": "what you call", "runs": "a run", "core": "the core", "methods": "methods", "pictures": "pictures, networks",
        "after": "afterwards",
    }  # fmt: skip
    for row, (layer, (colour, boxes)) in enumerate(LAYOUT.items()):
        y = 5.55 - row * 0.98
        ax.text(0.15, y, names[layer], va="center", fontsize=10, color=INK)
        for column, (name, about) in enumerate(boxes.items()):
            box(ax, 2.55 + column * 1.75, y, 1.6, 0.66, name, about, colour)
    x = 1.62
    arrow(ax, (x, 5.8), (x, 1.4))
    ax.text(x - 0.09, 3.6, "knows", rotation=90, ha="right", va="center", fontsize=8, color=SOFT)
    ax.text(
        2.55 - 0.8,
        0.16,
        "methods never import the trainer; losses, assign and augment import torch only",
        fontsize=8,
        color=SOFT,
    )
    save(ax, path)


def siamese(path: Path) -> None:
    """The siamese family: one network, four named methods."""
    ax = canvas(10.6, 5.0)
    box(ax, 0.8, 3.5, 1.1, 0.6, "picture", "", GRAY)
    for y, view in ((4.3, "view 1"), (2.7, "view 2")):
        box(ax, 2.3, y, 1.0, 0.55, view, "", ROSE)
        arrow(ax, (1.35, 3.5 + (0.12 if y > 3.5 else -0.12)), (1.8, y))
    for y, name in ((4.3, "online"), (2.7, "target")):
        arrow(ax, (2.8, y), (3.3, y))
        box(ax, 3.95, y, 1.3, 0.6, "encoder", name, BLUE)
        arrow(ax, (4.6, y), (5.1, y))
        box(ax, 5.75, y, 1.3, 0.6, "projector", name, BLUE)
    arrow(ax, (6.4, 4.3), (6.9, 4.3), "z1")
    box(ax, 7.6, 4.3, 1.4, 0.6, "predictor", "online", GREEN)
    arrow(ax, (8.3, 4.3), (9.3, 3.85), "p1", connectionstyle="arc3,rad=-0.15")
    arrow(ax, (6.4, 2.7), (9.3, 3.15), "t2: no gradient", connectionstyle="arc3,rad=0.12", linestyle=(0, (4, 2)))
    box(ax, 9.75, 3.5, 1.25, 0.7, "distance", "also swapped", SAND)
    for x, label in ((3.95, ""), (5.75, "EMA, or the same weights")):
        arrow(ax, (x, 4.0), (x, 3.0), linestyle=(0, (1, 1.5)))
        ax.text(x + 0.1, 3.5, label, va="center", fontsize=8, color=SOFT)
    rows = [
        ("method", "target", "predictor", "settings that switch it"),
        ("byol", "EMA", "two layers, learnt", "target ema, predictor mlp"),
        ("simsiam", "the same weights", "two layers, learnt", "target shared, predictor mlp, objective simsiam"),
        ("directpred", "EMA, or the same", "computed: F to the power 1/2, plus epsilon", "predictor closed-form, power 0.5"),
        ("directcopy", "EMA, or the same", "computed: F itself, plus epsilon", "predictor closed-form, power 1"),
        ("symmetric, one-layer studies", "either", "learnt, W = W' after each step; or one matrix", "symmetric, predictor linear"),
    ]  # fmt: skip
    for i, cells in enumerate(rows):
        y = 1.85 - i * 0.32
        for x, cell in zip((0.25, 2.6, 4.1, 7.3), cells):
            ax.text(x, y, cell, fontsize=8.5, color=INK if i else SOFT, weight="normal" if i else "bold", va="center")
        if i == 0:
            ax.plot([0.25, 10.35], [y - 0.17] * 2, color=SOFT, lw=0.7)
    save(ax, path)


def neighbours(run: Path, path: Path, shown: int = 6) -> None:
    """Pictures that were never trained on, and their nearest training pictures before and after training."""
    import torch

    import selfsight
    from selfsight import encoders
    from selfsight.checkpoint import Encoder
    from selfsight.data import open_data
    from selfsight.embedding import chunks
    from selfsight.evaluate.features import extract
    from selfsight.evaluate.knn import neighbours as nearest

    cpu = torch.device("cpu")
    data = open_data("shapes", image_size=32, holdout=0)
    assert data.test is not None
    assert data.test.labels is not None
    trained = selfsight.load(run)
    torch.manual_seed(0)
    fresh = encoders.build(trained.header["encoder"], 3, 32)
    untrained = Encoder(fresh, trained.mean, trained.std, trained.header).eval()
    rows = torch.tensor([int((data.test.labels == c).nonzero()[1]) for c in range(shown)])
    pictures = [torch.cat(list(chunks(part, 32, 3, cpu))) for part in (data.train, data.test)]
    figure, axes = plt.subplots(shown, 11, figsize=(7.4, 0.66 * shown + 0.35))
    for ax in axes.flat:
        ax.axis("off")
    for half, encoder in enumerate((untrained, trained)):
        bank, asked = (extract(encoder, [x], cpu) for x in pictures)
        _, found = nearest(bank, asked[rows], 5)
        for i, row in enumerate(rows.tolist()):
            axes[i, 0].imshow(pictures[1][row].permute(1, 2, 0))
            for j, other in enumerate(found[i].tolist()):
                ax = axes[i, 1 + 5 * half + j]
                ax.imshow(pictures[0][other].permute(1, 2, 0))
                same = data.train.labels[other] == data.test.labels[row]  # type: ignore[index]
                ax.add_patch(plt.Rectangle((-0.5, -0.5), 32, 32, fill=False, lw=3, ec="#12803c" if same else "#c5221f"))
    axes[0, 0].set_title("asked", fontsize=8)
    axes[0, 3].set_title("nearest before training", fontsize=8)
    axes[0, 8].set_title("nearest after training", fontsize=8)
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.94, 0.08, 0.06)
    figure.savefig(path, dpi=80, facecolor="white", metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """All of them."""
    plt.rcParams.update({"svg.hashsalt": "selfsight", "font.family": "DejaVu Sans"})
    layout(HERE / "layout.svg")
    siamese(HERE / "siamese-family.svg")
    if len(sys.argv) > 1:
        neighbours(Path(sys.argv[1]), HERE / "neighbours.png")


if __name__ == "__main__":
    main()
