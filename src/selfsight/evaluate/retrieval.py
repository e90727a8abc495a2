"""Retrieval within one set: each row asks all others. Exact, in chunks; of equal similarities the lower row is first.

Legend: N rows, D features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from selfsight.errors import WrongUse
from selfsight.evaluate.knn import unit_rows

RECALLS = (1, 2, 4, 8, 10, 100, 1000)


@torch.no_grad()
def retrieval(features: Tensor, labels: Tensor, ks: Sequence[int] = RECALLS, chunk: int = 0) -> dict[str, Any]:
    """Mean average precision and recall@k by cosine, within the test part; its classes may be new ones.

    Average precision of a query: the mean, over the R other rows of its class, of the precision where each is found.
    MAP@R (arXiv 2003.08505) counts the first R places alone. Recall@k: the share of queries with one of
    their class among the k nearest (arXiv 1511.06452). Queries that are alone in their class are left out.

    Args:
        features: (N, D), on the device that computes; rows that are not finite count as zero.
        labels: (N,) int64.
        ks: places of recall@k; those above N - 1 are left out.
        chunk: queries at a time; 0 bounds the memory.

    Returns:
        `map`, `map_at_r`, `r_precision`, `recall` ({"1": ...}), `queries`, `alone`, `rows`, `protocol`.

    Raises:
        WrongUse: shapes do not fit, or no class has two rows.
    """
    labels = _checked(features, labels)
    count, device = len(features), features.device
    x, wanted = unit_rows(features), labels.to(device)
    ks = [k for k in ks if 1 <= k < count]
    sums = torch.zeros(3 + len(ks), dtype=torch.float64)
    queries, places = 0, torch.arange(1, count, device=device, dtype=torch.float64)
    for rows in torch.arange(count, device=device).split(chunk or max(1, 2**24 // count)):
        cosines = x[rows] @ x.T
        cosines[torch.arange(len(rows), device=device), rows] = -torch.inf  # last: no cosine is that low
        order = cosines.argsort(dim=1, descending=True, stable=True)[:, :-1]
        same = wanted[order] == wanted[rows][:, None]  # (m, N - 1)
        same = same[same.any(1)]
        if not len(same):
            continue
        relevant = same.sum(1, keepdim=True)
        precision = same.cumsum(1) / places * same
        first = places <= relevant
        found = [
            (precision.sum(1), relevant),
            ((precision * first).sum(1), relevant),
            ((same & first).sum(1), relevant),
        ]
        sums[:3] += torch.stack([(value.double() / r[:, 0]).sum() for value, r in found]).cpu()
        for i, k in enumerate(ks, 3):
            sums[i] += int(same[:, :k].any(1).sum())
        queries += len(same)
    if not queries:
        raise WrongUse(
            "no class has two pictures, so there is nothing to retrieve; give a test part with larger classes"
        )
    mean = (sums / queries).tolist()
    return {
        "map": mean[0],
        "map_at_r": mean[1],
        "r_precision": mean[2],
        "recall": {str(k): value for k, value in zip(ks, mean[3:])},
        "queries": queries,
        "alone": count - queries,
        "rows": count,
        "protocol": "each test row retrieves the other test rows by cosine",
    }


@torch.no_grad()
def purity(features: Tensor, labels: Tensor, k: int = 20, chunk: int = 0) -> dict[str, Any]:
    """Legacy score, not an accuracy: the mean share of a row's k nearest other test rows that have its label.

    Nobody votes and no training row is asked, so it lies below the accuracy of k-NN on the same features. The project
    that published it as "KNN accuracy" took inner products of raw projector or predictor outputs; that is `purity`,
    to be measured with `--features projector`. `purity_cosine` has the rows at unit length.

    Args:
        features: (N, D), on the device that computes; rows that are not finite count as zero.
        labels: (N,) int64.
        k: neighbours beside the row itself; more than N - 1 gives N - 1.
        chunk: queries at a time; 0 bounds the memory.

    Returns:
        `purity`, `purity_cosine`, `k`, `rows`, `protocol`, `note`.

    Raises:
        WrongUse: shapes do not fit, k is below 1, or there is one row only.
    """
    labels = _checked(features, labels)
    if k < 1:
        raise WrongUse(f"k = {k} neighbours make no sense; give at least 1")
    count, device, k = len(features), features.device, min(k, len(features) - 1)
    raw = features.float()
    raw = torch.where(torch.isfinite(raw).all(1, keepdim=True), raw, torch.zeros_like(raw))
    wanted, shares = labels.to(device), []
    for x in (raw, unit_rows(features)):
        hits = 0
        for rows in torch.arange(count, device=device).split(chunk or max(1, 2**24 // count)):
            products = x[rows] @ x.T
            products[torch.arange(len(rows), device=device), rows] = -torch.inf
            near = products.argsort(dim=1, descending=True, stable=True)[:, :k]
            hits += int((wanted[near] == wanted[rows][:, None]).sum())
        shares.append(hits / (count * k))
    return {
        "purity": shares[0],
        "purity_cosine": shares[1],
        "k": k,
        "rows": count,
        "protocol": "share of the k nearest other test rows (inner product, raw features) with the row's label",
        "note": "not an accuracy: no vote, no training rows; for comparison with numbers published that way",
    }


def _checked(features: Tensor, labels: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2 or labels.shape != (len(features),):
        raise WrongUse(
            f"features {tuple(features.shape)} with labels {tuple(labels.shape)}; give (N, D) and (N,), N of at least 2"
        )
    return labels.long()
