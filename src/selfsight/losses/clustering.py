"""Losses against codes. Shapes: V views, B rows, K prototypes."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from selfsight.losses.precision import full_precision


@full_precision
def swapped_prediction(
    scores: Sequence[Tensor] | Tensor, codes: Sequence[Tensor] | Tensor, temperature: float
) -> Tensor:
    """SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments (arXiv 2006.09882), eq. 1, 6.

    mean over coded views i, over the other V - 1 views v, over rows, of -sum_k codes_i,k log softmax(scores_v / t)_k.
    scores: V of (B, K), the coded views first. codes: (B, K) for each coded view, rows sum to 1; detached here.
    """
    loss = scores[0].new_zeros(())
    for v, score in enumerate(scores):
        log_p = (score / temperature).log_softmax(1)
        target = sum(code.detach() for i, code in enumerate(codes) if i != v)  # one product for all codes of a view
        loss = loss - (target * log_p).sum(1).mean()
    return loss / (len(codes) * (len(scores) - 1))


@full_precision
def pseudo_labels(
    logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with labels that clustering made: mean of -w log softmax(logits / t)_label over rows with a label.

    logits: (..., K). labels: (...) int64, -100 for rows without one, which are left out. weights: (...), default 1.
    count: () what the sum is divided by; default: the rows with a label, at least 1, so that none give 0.
    DeepCluster (arXiv 1807.05520, eq. 1), SeLa (arXiv 1911.05371, eq. 1), DeepCluster-v2 (arXiv 2006.09882, appendix).
    """
    rows = F.cross_entropy(logits.flatten(0, -2) / temperature, labels.flatten(), reduction="none")  # 0 at -100
    if weights is not None:
        rows = rows * weights.flatten()
    return rows.sum() / ((labels != -100).sum().clamp(min=1) if count is None else count)


@full_precision
def centroid_prediction(
    z: Tensor, centroids: Tensor, labels: Tensor, temperature: float, count: Tensor | None = None
) -> Tensor:
    """DeepCluster-v2 (arXiv 2006.09882, appendix): `pseudo_labels` of z centroids' / t, the mean over heads.

    z: (V, B, D) unit rows, all crops of a picture have its label. centroids: (P, K, D), detached here. labels: (P, B).
    """
    heads = zip(centroids.detach(), labels, strict=True)
    return sum(
        (pseudo_labels(z @ c.T, y.expand(len(z), -1), temperature, count=count) for c, y in heads), z.new_zeros(())
    ) / len(centroids)
