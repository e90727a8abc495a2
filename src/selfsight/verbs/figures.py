"""The verb `figures`."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

from selfsight.errors import WrongUse
from selfsight.verbs.common import words_and_flags

ABOUT = """PNG figures of what an encoder has learned. RUN is a run folder, a checkpoint, an encoder.safetensors, or an .npz of
features. Names of --which: map, neighbours, clusters, confusion, classes, spectrum, attention, views, curves.

Example: selfsight figures runs/photos --out figures --which map,confusion --html

Example: selfsight figures features.npz --out figures --which map --kind umap --colour Smiling,cluster --attributes faces.csv"""


@dataclasses.dataclass(frozen=True)
class FiguresFlags:
    """Flags of `figures`."""

    out: str = ""
    """The folder for them."""
    which: str = ""
    """Names with commas; empty: all that can be drawn."""
    data: str | None = None
    """Show these pictures, not the run's own; of an .npz, the pictures that its features are of."""
    train: str | None = None
    """Labelled pictures that name the others, with --test."""
    test: str | None = None
    """Pictures to show; of an .npz, a second file of features."""
    kind: Literal["tsne", "umap", "pca"] = "tsne"
    """The map; umap is PCA where umap-learn is not installed."""
    colour: str = ""
    """Colours of the map, a panel each, with commas: label, cluster, or columns of --attributes; empty: label and cluster."""
    attributes: str | None = None
    """A CSV of the pictures (a column path, file or image names them, or a row each), or CelebA's list_attr_celeba.txt."""
    html: bool = False
    """Also write the map as a page whose points show their pictures, map.html."""
    probe: Literal["knn", "linear"] = "knn"
    """Whose confusions and accuracies of classes."""
    clusters: int = 0
    """How many; 0: as many as classes, else ten."""
    features: str = "encoder"
    """Which layer's, as in `evaluate`."""
    pictures: int = 2000
    """Pictures to look at, at most; 0: all of the part. A map of t-SNE has 2000 at most."""
    bank: int = 5000
    """Training pictures that the probes learn from, at most; 0: all."""
    image_size: int = 0
    """Side of the pictures in pixels; 0: the run's."""
    seed: int = 0
    """Of the choice of pictures, the map and the clusters."""
    data_root: str | None = None
    """Where named sets live."""
    device: str = "auto"
    """Where features are computed."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    words, as_json, flags = words_and_flags(argv, FiguresFlags(), "figures", "RUN", ABOUT)
    if not flags.out:
        raise WrongUse("figures needs --out DIR (see `selfsight figures --help`)")
    from selfsight.analysis.figures import figures

    lists = {
        name: [part.strip() for part in getattr(flags, name).split(",") if part.strip()] for name in ("which", "colour")
    }
    found = figures(words[0], **{**dataclasses.asdict(flags), **lists})
    if as_json:
        print(json.dumps(found))
        return 0
    for path in found["files"].values():
        print(path)
    for name, why in found["left_out"].items():
        print(f"no {name}: {why}")
    return 0
