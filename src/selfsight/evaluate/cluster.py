"""Clusters of test features against their classes. Legend: N rows, D features, C clusters, K classes."""

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

from selfsight.assign import kmeans
from selfsight.errors import WrongUse
from selfsight.evaluate.knn import unit_rows
from selfsight.rng import Stream, generator


def matched_accuracy(clusters: Tensor, labels: Tensor) -> float:
    """Share of rows right when each cluster is named after one class, no class twice, as well as that can be done.

    Hungarian matching of the counts of (cluster, class); clusters beyond the number of classes have no name, and their
    rows are wrong.

    Args:
        clusters: (N,) int64 from 0 on.
        labels: (N,) int64 from 0 on.
    """
    kinds = int(labels.max()) + 1
    counts = torch.bincount(clusters * kinds + labels, minlength=(int(clusters.max()) + 1) * kinds).view(-1, kinds)
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    return int(counts[rows, columns].sum()) / len(labels)


def cluster(
    features: Tensor,
    labels: Tensor,
    clusters: int | None = None,
    restarts: int = 10,
    iterations: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """K-means on the test part, with as many clusters as it has classes: matched accuracy, NMI, ARI.

    Spherical k-means on rows of unit length; of several starts the one of largest mean cosine to the centroids is
    taken, so labels choose nothing.

    Args:
        features: (N, D), on the device that computes; rows that are not finite count as zero.
        labels: (N,) int64.
        clusters: C; None takes the number of classes that occur.
        restarts: starts to choose from.
        iterations: of Lloyd's, each start.
        seed: of the starts.

    Returns:
        `accuracy` (Hungarian matching), `nmi` (arithmetic mean of the entropies), `ari`, `cosine` (what chose the
        start), `clusters`, `classes`, `restarts`, `seed`, `rows`, `protocol`.

    Raises:
        WrongUse: shapes do not fit, or there are more clusters than rows.
    """
    if features.ndim != 2 or not len(features) or labels.shape != (len(features),) or restarts < 1:
        raise WrongUse(
            f"features {tuple(features.shape)} with labels {tuple(labels.shape)}, {restarts} starts; give (N, D) and "
            "(N,), N > 0, and at least one start"
        )
    _, wanted = labels.cpu().long().unique(return_inverse=True)
    kinds, x = int(wanted.max()) + 1, unit_rows(features)
    best, found = -float("inf"), torch.zeros(0)
    for start in range(restarts):
        rng = generator(seed, Stream.PROBE, start)
        own, centroids = kmeans(x, clusters or kinds, iterations, rng, spherical=True)
        cosine = float((x * centroids[own]).sum(1).double().mean())
        if cosine > best:
            best, found = cosine, own.cpu()
    return {
        "accuracy": matched_accuracy(found, wanted),
        "nmi": float(normalized_mutual_info_score(wanted.numpy(), found.numpy())),
        "ari": float(adjusted_rand_score(wanted.numpy(), found.numpy())),
        "cosine": best,
        "clusters": clusters or kinds,
        "classes": kinds,
        "restarts": restarts,
        "seed": seed,
        "rows": len(x),
        "protocol": "spherical k-means on the test part, best of several starts by its own objective",
    }
