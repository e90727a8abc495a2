"""Features on a plane: t-SNE (van der Maaten and Hinton 2008), UMAP (arXiv 1802.03426) or the two largest principal
components, and what may colour it.

Legend: N pictures, D features, K classes.
"""

from __future__ import annotations

import csv
import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # of scikit-learn
from torch import Tensor

from selfsight.analysis.clusters import Clusters, agreement
from selfsight.analysis.gather import Gathered
from selfsight.errors import WrongUse, perhaps
from selfsight.evaluate.knn import unit_rows
from selfsight.measure import sample

Kind = Literal["tsne", "umap", "pca"]
MOST = {"tsne": 2000, "umap": 5000, "pca": 5000}  #: pictures on a map: t-SNE of 10,000 takes a minute
MANY = 30  #: values of a column of numbers, above which they are a scale and not classes


class Map(NamedTuple):
    """Where pictures lie."""

    points: np.ndarray  #: (n, 2) float32, around 0, the largest coordinate 1
    rows: np.ndarray  #: (n,) which of the N pictures, ascending
    kind: Kind  #: what it is; PCA where UMAP was asked for and is not installed
    about: str  #: how it was made, in words


def project(features: Tensor, kind: Kind = "tsne", seed: int = 0, most: int | None = None) -> Map:
    """Features (N, D) on a plane; rows count by their direction, as k-NN reads them.

    Args:
        features: (N, D).
        kind: tsne, umap (PCA if the package is missing) or pca.
        seed: of the choice of pictures and of the method; the same seed gives the same map.
        most: pictures on it, a seeded choice; None: MOST of its kind.

    Raises:
        WrongUse: fewer than four pictures, or an unknown kind.
    """
    if kind not in get_args(Kind):
        raise WrongUse(f"no map {kind!r}.{perhaps(kind, set(get_args(Kind)))}")
    if len(features) < 4:
        raise WrongUse(f"{len(features)} pictures make no map: give at least 4")
    note = ""
    if kind == "umap" and importlib.util.find_spec("umap") is None:
        kind, note = "pca", "; UMAP was asked for and is not installed (pip install umap-learn)"
    rows = sample(len(features), MOST[kind] if most is None else most, seed, 12)
    unit = unit_rows(features[rows]).double()
    with threadpool_limits(1):  # sums of several threads come out in another order each time, and t-SNE magnifies that
        points, how = {"tsne": _tsne, "umap": _umap, "pca": _pca}[kind]((unit - unit.mean(0)).numpy(), seed)
    points = points - points.mean(0)
    scale = np.abs(points).max() or 1.0
    part = f"{len(rows):,} of {len(features):,} pictures" if len(rows) < len(features) else f"{len(rows):,} pictures"
    return Map((points / scale).astype(np.float32), rows.numpy(), kind, f"{how} of {part}{note}")


def _principal(x: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest principal components of centred rows, and the share of the variance of each."""
    from sklearn.decomposition import PCA  # a slow import

    count = min(count, *x.shape)
    if not x.any():  # a collapsed encoder: nothing varies
        return np.zeros((len(x), count)), np.zeros(count)
    found = PCA(count, svd_solver="full" if min(x.shape) < 500 else "randomized", random_state=seed).fit(x)
    return found.transform(x), found.explained_variance_ratio_


def _pca(x: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    points, share = _principal(x, 2, seed)
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    return points, f"PCA (two axes hold {share[:2].sum():.0%} of the variance)"


def _tsne(x: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    from sklearn.manifold import TSNE  # a slow import

    less, _ = _principal(x, 50, seed)
    start = less[:, :2] if less.shape[1] > 1 else np.pad(less, ((0, 0), (0, 1)))
    perplexity = min(30.0, (len(x) - 1) / 3)
    spread = start[:, 0].std()
    start = start / (spread * 1e4) if spread > 0 else np.random.default_rng(seed).normal(0, 1e-4, start.shape)
    made = TSNE(2, perplexity=perplexity, init=start.astype(np.float32), random_state=seed, max_iter=500, n_jobs=1)
    return made.fit_transform(less.astype(np.float32)), f"t-SNE (perplexity {perplexity:.3g}, 50 principal components)"


def _umap(x: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread, that small sets have few neighbours
        from umap import UMAP  # optional, and slow to import

        near = min(15, len(x) - 1)
        start = "spectral" if len(x) > 20 else "random"
        made = UMAP(n_neighbors=near, min_dist=0.1, metric="cosine", init=start, random_state=seed, n_jobs=1)
        return np.asarray(made.fit_transform(x.astype(np.float32))), f"UMAP ({near} neighbours, minimal distance 0.1)"


class Colouring(NamedTuple):
    """What tells pictures apart on a map."""

    name: str
    values: np.ndarray  #: (N,) int64 numbers of `names`, -1: none; or float64 on a scale, NaN: none
    names: list[str] | None  #: None: a scale
    score: str  #: silhouette or NMI, in words


def silhouette(features: Tensor, groups: np.ndarray, seed: int = 0) -> float | None:
    """Mean silhouette of groups by cosine distance, of at most 2000 rows with a group: -1..1; None with fewer than two."""
    from sklearn.metrics import silhouette_score

    rows = np.flatnonzero(groups >= 0)
    rows = rows[sample(len(rows), 2000, seed, 13).numpy()]
    kinds = len(np.unique(groups[rows]))
    if not 1 < kinds < len(rows):
        return None
    x = unit_rows(features[torch.from_numpy(rows)]).numpy()
    return float(silhouette_score(x, groups[rows], metric="cosine"))


def colourings(
    found: Gathered, names: Sequence[str], clusters: Clusters, attributes: Path | None = None
) -> list[Colouring]:
    """What `--colour` names, one for each: label, cluster, or a column of a table.

    Args:
        found: the pictures.
        names: "label", "cluster", or columns of `attributes`.
        clusters: of the asked pictures.
        attributes: a CSV with a column that names the pictures (path, file, image), or a row for each of them in order; or
            CelebA's list_attr_celeba.txt.

    Raises:
        WrongUse: no labels, no such column, or rows that do not fit the pictures.
    """
    made = []
    for name in names:
        if name == "label":
            if found.labels is None:
                raise WrongUse(
                    f"{found.data} has no labels: colour by cluster, or by a column of --attributes FILE.csv"
                )
            made.append(Colouring("label", found.labels, found.class_names(), _silhouette(found, found.labels)))
        elif name == "cluster":
            numbers = [f"cluster {i + 1}" for i in range(clusters.number)]
            made.append(Colouring("cluster", clusters.labels, numbers, _cluster_score(found, clusters, made)))
        elif attributes is None:
            raise WrongUse(
                f"nothing to colour by is called {name!r}: label, cluster, or a column of --attributes FILE.csv"
            )
        else:
            made.append(_attribute(found, name, attributes))
    return made


def _silhouette(found: Gathered, groups: np.ndarray) -> str:
    value = silhouette(found.asked.features, groups, found.seed)
    return "one group: no silhouette" if value is None else f"silhouette {value:.3f}"


def _cluster_score(found: Gathered, clusters: Clusters, others: Sequence[Colouring]) -> str:
    """NMI with the first colouring by names beside it, else with the labels; without either, the silhouette."""
    beside = next(((c.name, c.values) for c in others if c.names is not None and c.name != "cluster"), None)
    if beside is None and found.labels is not None:
        beside = ("label", found.labels)
    nmi = None if beside is None else agreement(clusters.labels, beside[1])
    if beside is None or nmi is None:
        return _silhouette(found, clusters.labels)
    return f"NMI with {beside[0]} {nmi:.3f}"


def _attribute(found: Gathered, name: str, path: Path) -> Colouring:
    """A column of a table: names, or a scale where it has many different numbers."""
    texts = _column(found, name, path)
    numbers = [_number(text) for text in texts]
    known = {text for text in texts if text}
    if known and all(n is not None for n, text in zip(numbers, texts) if text) and len(known) > MANY:
        values = np.array([np.nan if n is None else n for n in numbers])
        return Colouring(name, values, None, f"from {np.nanmin(values):.4g} to {np.nanmax(values):.4g}")
    if len(known) == len(texts) > MANY:
        raise WrongUse(f"{name!r} in {str(path)!r} is another one for every picture: choose a column with fewer values")
    names = sorted(known, key=lambda text: (_number(text) is None, _number(text) or 0.0, text))
    values = np.array([names.index(text) if text else -1 for text in texts], dtype=np.int64)
    shown = {"-1": f"not {name}", "1": name} if {*names} == {"-1", "1"} else {}
    return Colouring(name, values, [shown.get(text, text) for text in names], _silhouette(found, values))


def _column(found: Gathered, name: str, path: Path) -> list[str]:
    """(N,) text of a column for the asked pictures; "" where a picture is not in the table."""
    try:
        lines = path.expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"{str(path)!r} cannot be read as a table ({type(error).__name__}): give a CSV file") from None
    if len(lines) > 2 and lines[0].strip().isdigit():  # CelebA: a count, the names of 40 columns, a name and 40 numbers
        header, rows = ["path", *lines[1].split()], [line.split() for line in lines[2:]]
    else:
        header, *rows = [*csv.reader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")] or [[]]
    rows = [row for row in rows if row]
    if name not in header:
        raise WrongUse(f"{str(path)!r} has no column {name!r}.{perhaps(name, set(header))}")
    if wrong := next((row for row in rows if len(row) != len(header)), None):
        raise WrongUse(
            f"{str(path)!r} has a row of {len(wrong)} cells under {len(header)} columns: {','.join(wrong)[:60]!r}"
        )
    column = header.index(name)
    key = next((i for i, head in enumerate(header) if head.lower() in _KEYS and i != column), None)
    if key is None:
        if len(rows) <= int(found.asked.index.max(initial=-1)):
            raise WrongUse(
                f"{str(path)!r} has {len(rows)} rows and no column of names (path, file, image): give a row for each picture"
            )
        return [rows[int(i)][column].strip() for i in found.asked.index]
    if found.asked.names is None:
        raise WrongUse(f"pictures of {found.data} have no file names: give {str(path)!r} a row for each, without names")
    by_name = {row[key].strip(): row[column].strip() for row in rows}
    by_last = {Path(text).name: value for text, value in by_name.items()}
    texts = [by_name.get(text, by_last.get(Path(text).name, "")) for text in found.asked.names]
    if not any(texts):
        raise WrongUse(
            f"{str(path)!r} names none of the pictures, such as {found.asked.names[0]!r}: use their file names"
        )
    return texts


_KEYS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "image_id", "name")


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
