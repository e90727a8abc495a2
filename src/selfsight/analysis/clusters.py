"""Groups of pictures that an encoder finds alike, and the pictures nearest to one another.

Legend: N pictures, D features, C clusters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from selfsight.analysis.gather import Gathered
from selfsight.assign import kmeans
from selfsight.errors import WrongUse
from selfsight.evaluate.knn import neighbours, unit_rows
from selfsight.measure import sample
from selfsight.rng import Stream, generator


class Clusters(NamedTuple):
    """Spherical k-means of features."""

    labels: np.ndarray  #: (N,) int64
    centroids: Tensor  #: (C, D) of unit length
    number: int  #: C


def clusters_of(features: Tensor, count: int, seed: int = 0) -> Clusters:
    """Spherical k-means, the best of three starts by its own objective; the largest cluster is number 0.

    Raises:
        WrongUse: more clusters than pictures.
    """
    if not 1 <= count <= len(features):
        raise WrongUse(f"{count} clusters of {len(features)} pictures: give from 1 to {len(features)}")
    x = unit_rows(features)
    best, made = -float("inf"), (torch.zeros(0), torch.zeros(0))
    for start in range(3):
        own, centroids = kmeans(x, count, 50, generator(seed, Stream.PROBE, 14, start), spherical=True)
        score = float((x * centroids[own]).sum(1).double().mean())
        if score > best:
            best, made = score, (own, centroids)
    order = torch.bincount(made[0], minlength=count).argsort(descending=True, stable=True)
    return Clusters(order.argsort()[made[0]].numpy(), made[1][order], count)


def default_count(found: Gathered) -> int:
    """As many clusters as classes among the asked pictures, else ten; never more than a tenth of the pictures."""
    labels = found.labels
    kinds = len(np.unique(labels[labels >= 0])) if labels is not None else 0
    return max(1, min(kinds if kinds > 1 else 10, len(found.asked.features) // 10))


def agreement(clusters: np.ndarray, labels: np.ndarray) -> float | None:
    """Normalised mutual information over the pictures that have both (0 and above); None if there are none."""
    both = (clusters >= 0) & (labels >= 0)
    return float(normalized_mutual_info_score(labels[both], clusters[both])) if both.any() else None


def cluster_gallery(found: Gathered, clusters: Clusters, count: int = 12) -> dict[str, Any]:
    """The pictures nearest to each centroid.

    Returns:
        `cluster_rows` (C, count) int64 rows of the asked pictures, nearest first, -1 where the cluster has fewer;
        `cluster_sizes` (C,); with labels `cluster_class` (C,) the class of most of its pictures, and `cluster_purity`
        (C,) its share of them, -1 and 0 where none has a label.
    """
    cosine = (unit_rows(found.asked.features) @ clusters.centroids.T).numpy()
    rows = np.full((clusters.number, count), -1, dtype=np.int64)
    sizes = np.bincount(clusters.labels, minlength=clusters.number)
    classes, purity = np.full(clusters.number, -1, dtype=np.int64), np.zeros(clusters.number)
    for i in range(clusters.number):
        own = np.flatnonzero(clusters.labels == i)
        near = own[np.argsort(-cosine[own, i], kind="stable")][:count]
        rows[i, : len(near)] = near
        if found.labels is not None and len(named := found.labels[own][found.labels[own] >= 0]):
            counts = np.bincount(named)
            classes[i], purity[i] = counts.argmax(), counts.max() / len(named)
    arrays: dict[str, Any] = {"cluster_rows": rows, "cluster_sizes": sizes}
    return arrays if found.labels is None else {**arrays, "cluster_class": classes, "cluster_purity": purity}


def neighbour_gallery(found: Gathered, count: int = 8, k: int = 8) -> dict[str, Any]:
    """The nearest pictures of the bank to some asked ones, and their cosines; empty without a bank or pictures.

    Returns:
        `query` (q, s, s, C), `neighbours` (q, k, s, s, C) uint8, `cosines` (q, k) float32; with labels `query_labels`
        (q,) and `neighbour_labels` (q, k).
    """
    asked, bank = found.asked, found.bank
    if bank is None or bank.pictures is None or asked.pictures is None:
        return {}
    rows = sample(len(asked.features), count, found.seed, 15)
    cosines, near = neighbours(bank.features, asked.features[rows], k)
    arrays = {
        "query": asked.pictures[rows.numpy()],
        "neighbours": bank.pictures[near.numpy()],
        "cosines": cosines.numpy(),
    }
    if asked.labels is not None and bank.labels is not None:
        arrays |= {"query_labels": asked.labels[rows].numpy(), "neighbour_labels": bank.labels[near].numpy()}
    return arrays
