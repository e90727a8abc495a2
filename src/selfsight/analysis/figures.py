"""Stand-alone figures of a representation, as PNG files: `selfsight figures`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfsight import augment, checkpoint
from selfsight import run as runs
from selfsight.analysis import plots
from selfsight.analysis.attention import save_attention
from selfsight.analysis.clusters import Clusters, cluster_gallery, clusters_of, default_count, neighbour_gallery
from selfsight.analysis.confusion import PROBES, Confusion, confusion
from selfsight.analysis.gather import Gathered, gather, parts_of
from selfsight.analysis.maps import Colouring, Kind, Map, colourings, project
from selfsight.analysis.spectrum import spectrum
from selfsight.analysis.summary import sheet_of
from selfsight.embedding import say
from selfsight.encoders import TokenEncoder
from selfsight.errors import WrongUse, perhaps
from selfsight.evaluate import layers
from selfsight.measure import save_preview
from selfsight.report import curves
from selfsight.report.map import Colour, Maps, Sheet, page
from selfsight.tables import whole
from selfsight.train import Pictures

FIGURES = {
    "map": "features on a plane, coloured by class, cluster or attribute",
    "neighbours": "pictures and the training pictures nearest to them",
    "clusters": "the pictures nearest to the centre of each cluster",
    "confusion": "what a probe takes for what",
    "classes": "accuracy of each class",
    "spectrum": "singular values of the features",
    "attention": "where the class token of a transformer looks, each head",
    "views": "pictures and the augmented views that training saw",
    "curves": "loss, learning rate, k-NN and speed over the run",
}
"""Name -> what it shows."""


def figures(
    target: str | Path, out: str | Path, which: Sequence[str] = (), *, kind: Kind = "tsne",
    colour: Sequence[str] = (), attributes: str | Path | None = None, html: bool = False, probe: str = "knn",
    clusters: int = 0, **gathering: Any,
) -> dict[str, Any]:  # fmt: skip
    """Draw figures of a run, or of a file of features.

    Args:
        target: run folder, checkpoint, encoder.safetensors, or an .npz of features.
        out: the folder; files of these names must not be there yet.
        which: names of FIGURES; none: all that can be drawn.
        kind: of the map: tsne, umap (PCA where it is not installed) or pca.
        colour: of the map, a panel each: label, cluster, or columns of `attributes`; none: the label if there is one, and
            the cluster.
        attributes: a table of the pictures, see `maps.colourings`.
        html: also write the map as a page whose points show their pictures.
        probe: knn or linear: whose confusions.
        clusters: how many; 0: as many as classes, else ten.
        **gathering: data, train, test, features, pictures, bank, image_size, seed, data_root, device: see `gather`.

    Returns:
        `out`, `files` (name -> path), `left_out` (name -> why), and the numbers that the figures tell.

    Raises:
        WrongUse: a figure that was asked for by name cannot be drawn.
    """
    for name in which:
        if name not in FIGURES:
            raise WrongUse(f"no figure {name!r}.{perhaps(name, set(FIGURES))}")
    if probe not in PROBES:
        raise WrongUse(f"no probe {probe!r}.{perhaps(probe, set(PROBES))}")
    if clusters < 0:
        raise WrongUse(f"--clusters is {clusters}: give at least 1, or 0 for as many as classes")
    folder = Path(out).expanduser()
    if folder.is_file():
        raise WrongUse(f"--out {str(folder)!r} is a file: name a folder for the figures")
    wanted = list(which or FIGURES)
    files = {name: folder / f"{name}.png" for name in wanted}
    pages = [folder / "map.html"] if html and "map" in wanted else []
    for path in [*files.values(), *pages]:
        if path.exists():
            raise WrongUse(f"{str(path)!r} is there already: choose another --out")
    drawing = _Drawing(Path(target), kind, tuple(colour), attributes, probe, clusters, gathering)
    done: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, path in files.items():
        try:
            getattr(drawing, name)(path)
            done[name] = str(path)
        except WrongUse as error:
            if which:
                for made in done.values():  # or the same command, mended, would find them in its way
                    Path(made).unlink()
                raise
            left_out[name] = str(error)
    if not done:
        raise WrongUse(f"nothing can be drawn of {str(target)!r}: {next(iter(left_out.values()))}")
    if pages and "map" in done:
        drawing.page(pages[0])
        done["page"] = str(pages[0])
    return {"out": str(folder), "files": done, "left_out": left_out, **drawing.told}


class _Drawing:
    """Figures that share their features: each is computed when it is first asked for."""

    def __init__(
        self, target: Path, kind: Kind, colour: tuple[str, ...], attributes: str | Path | None, probe: str, clusters: int,
        gathering: dict[str, Any],
    ) -> None:  # fmt: skip
        self.target, self.kind, self.asked_colour, self.probe, self.count = target, kind, colour, probe, clusters
        self.attributes = None if attributes is None else Path(attributes)
        self.gathering = gathering
        self.told: dict[str, Any] = {}

    @cached_property
    def found(self) -> Gathered:
        found = gather(self.target, **self.gathering)
        asked = found.asked
        say(f"{len(asked.features)} of {asked.total} pictures of {found.data} ({asked.part} part)")
        return found

    @cached_property
    def groups(self) -> Clusters:
        return clusters_of(self.found.asked.features, self.count or default_count(self.found), self.found.seed)

    @cached_property
    def on_plane(self) -> Map:
        return project(self.found.asked.features, self.kind, self.found.seed)

    @cached_property
    def colours(self) -> list[Colouring]:
        names = self.asked_colour or (("label", "cluster") if self.found.labels is not None else ("cluster",))
        return colourings(self.found, names, self.groups, self.attributes)

    @cached_property
    def table(self) -> Confusion:
        return confusion(self.found, self.probe)

    @cached_property
    def title(self) -> str:
        return self.found.name if self.found.name == self.found.data else f"{self.found.name} on {self.found.data}"

    def map(self, path: Path) -> None:
        colours = self.colours  # before the map is computed: a wrong name is told at once
        plots.save(plots.draw_map(self.on_plane, colours, self.title), path)
        self.told["map"] = {
            "kind": self.on_plane.kind,
            "about": self.on_plane.about,
            "scores": {c.name: c.score for c in colours},
        }

    def page(self, path: Path) -> None:
        """The map as a page of its own."""
        asked, rows, maps = self.found.asked, self.on_plane.rows, Maps()
        sheet = None if asked.pictures is None else Sheet(*sheet_of(asked.pictures[rows]))
        names = None if asked.names is None else [asked.names[i] for i in rows]
        colours = [Colour(c.name, c.values[rows], c.names, c.score) for c in self.colours]
        content = maps.add(self.on_plane.points, colours, self.on_plane.about, sheet, names, height=760)
        whole(path, page(self.title, f'<div class="card">{content}</div>', maps))

    def neighbours(self, path: Path) -> None:
        found = neighbour_gallery(self.found)
        if not found:
            raise WrongUse(
                f"neighbours of {self.found.data} need pictures, and others beside those asked: give a run, or --data"
            )
        strips = []
        for i, own in enumerate(found["query"]):
            cosines = [f"{c:.2f}" for c in found["cosines"][i]]
            name, near = "", cosines
            if "query_labels" in found:
                name = _class(self.found, found["query_labels"][i])
                near = [f"{_class(self.found, v)} {c}" for v, c in zip(found["neighbour_labels"][i], cosines)]
            strips.append(plots.Strip("", [own, *found["neighbours"][i]], [name or "asked", *near]))
        plots.save(plots.draw_strips(strips), path)

    def clusters(self, path: Path) -> None:
        pictures = self.found.asked.pictures
        if pictures is None:
            raise WrongUse(f"{str(self.target)!r} holds features alone: --data shows the pictures of its clusters")
        gallery = cluster_gallery(self.found, self.groups)
        strips = []
        for i, rows in enumerate(gallery["cluster_rows"]):
            heading = f"cluster {i + 1}: {gallery['cluster_sizes'][i]} pictures"
            if "cluster_class" in gallery:
                heading += f", {gallery['cluster_purity'][i]:.0%} {_class(self.found, gallery['cluster_class'][i])}"
            strips.append(plots.Strip(heading, list(pictures[rows[rows >= 0]]), []))
        plots.save(plots.draw_strips(strips), path)

    def confusion(self, path: Path) -> None:
        plots.save(plots.draw_confusion(self.table, self.found.class_names(), self.title), path)
        self.told["confusion"] = {
            "probe": self.probe,
            "top1": self.table.accuracy,
            "queries": int(self.table.counts.sum()),
        }

    def classes(self, path: Path) -> None:
        plots.save(plots.draw_classes(self.table, self.found.class_names(), self.title), path)
        names = self.found.class_names()
        self.told["classes"] = {n: float(v) for n, v in zip(names, self.table.per_class) if np.isfinite(v)}

    def spectrum(self, path: Path) -> None:
        values = spectrum(self.found.asked.features)
        plots.save(plots.draw_spectrum(values, self.title), path)
        self.told["spectrum"] = {name: value for name, value in values._asdict().items() if name != "values"}

    def attention(self, path: Path) -> None:
        net = layers.load(self._run("attention maps"), "encoder")
        if not isinstance(net.net, TokenEncoder):
            raise WrongUse(
                f"{net.header['encoder']} has no attention maps: they need a vision transformer, such as vit-small"
            )
        self._drawn(save_attention, net, path, (net.net,))

    def views(self, path: Path) -> None:
        folder = self._run("views")
        if not (folder / "run.yaml").is_file():
            raise WrongUse(
                f"{str(folder)!r} has no run.yaml, which says how views are made: `selfsight preview` shows others"
            )
        self._drawn(save_preview, layers.load(folder, "encoder"), path, ())

    def curves(self, path: Path) -> None:
        curves(self._run("curves"), path)

    def _run(self, what: str) -> Path:
        if self.target.suffix == ".npz":
            raise WrongUse(f"{str(self.target)!r} holds features alone: {what} need a run folder")
        return self.target

    def _drawn(self, save: Callable[..., None], net: checkpoint.Encoder, path: Path, more: tuple[Any, ...]) -> None:
        """Draw sample pictures of the part that is asked, as the run's views make them."""
        given, size = self.gathering, int(given_size) if (given_size := self.gathering.get("image_size")) else 0
        size, channels, seed = size or int(net.header["image_size"]), net.mean.shape[1], int(given.get("seed") or 0)
        _, part, _, _ = parts_of(
            self.target,
            given.get("data"),
            given.get("train"),
            given.get("test"),
            size,
            channels,
            seed,
            given.get("data_root"),
        )
        path_of_run = self.target / "run.yaml"
        config = runs.load(path_of_run).views if path_of_run.is_file() else augment.ViewsConfig(policy="none")
        pictures = Pictures(part, size, channels, torch.device("cpu"))
        patch = int(getattr(net.net, "patch", 0))
        pictures.views = augment.build(config, size, channels, net.mean.flatten(), net.std.flatten(), patch)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(pictures, *more, seed, path)


def _class(found: Gathered, label: int) -> str:
    return found.class_names()[int(label)] if label >= 0 else "no label"
