"""Losses that tell the positive from negatives. Shapes: B rows, N rows of all processes, M candidates, D features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight.losses.precision import full_precision


@full_precision
def nt_xent(
    z1: Tensor,
    z2: Tensor,
    temperature: float,
    *,
    keys: tuple[Tensor, Tensor] | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """NT-Xent: A Simple Framework for Contrastive Learning of Visual Representations (arXiv 2002.05709), eq. 1.

    l_i = -s_i,pos(i) / t + log sum_{k != i} exp(s_ik / t) with cosines s over both views of the whole batch; the mean
    over the anchors of both views. The anchor itself is no candidate, the positive is one. Gradients flow through both.

    z1, z2: (B, D) the two views of the same pictures. With several processes the anchors are local and the candidates
    global: keys: two (N, D), z1 and z2 gathered with gradient; rows: (B,) int64, where this process's rows lie in them.
    """
    anchors, candidates, own, positive = _pairs(z1, z2, keys, rows)
    logits = (anchors / temperature) @ candidates.T
    logits[torch.arange(len(own), device=own.device), own] = -torch.inf
    return F.cross_entropy(logits, positive)


@full_precision
def info_nce(query: Tensor, keys: Tensor, positive: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """InfoNCE: Representation Learning with Contrastive Predictive Coding (arXiv 1807.03748), eq. 4, on cosines.

    -log softmax_k(cos(query_i, key_k) / t) at k = positive_i, mean over rows. query: (B, D). keys: (M, D); detach them
    yourself where they are constants. positive: (B,) int64. mask: (B, M) bool, True leaves a candidate out.
    """
    logits = (F.normalize(query, dim=1) / temperature) @ F.normalize(keys, dim=1).T
    if mask is not None:
        logits = logits.masked_fill(mask, -torch.inf)
    return F.cross_entropy(logits, positive)


@torch.no_grad()
@full_precision
def contrastive_accuracy(
    z1: Tensor,
    z2: Tensor,
    top: tuple[int, ...] = (1, 5),
    *,
    keys: tuple[Tensor, Tensor] | None = None,
    rows: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """How often the positive is among the `top` most similar candidates of nt_xent: one () each, fractions in 0..1.

    Ties count against the positive, so that a collapsed network scores 0. Arguments as in `nt_xent`.
    """
    anchors, candidates, own, positive = _pairs(z1, z2, keys, rows)
    similar = anchors @ candidates.T
    line = torch.arange(len(own), device=own.device)
    similar[line, own] = -torch.inf
    place = (similar >= similar[line, positive][:, None]).sum(1)  # 1 is best
    return tuple((place <= k).float().mean() for k in top)


def _pairs(
    z1: Tensor, z2: Tensor, keys: tuple[Tensor, Tensor] | None, rows: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit anchors (2B, D) and candidates (2N, D); for each anchor its own column and its positive's, (2B,) int64."""
    anchors = F.normalize(torch.cat([z1, z2]), dim=1)
    if keys is None or rows is None:
        if keys is not rows:
            raise ValueError("give both of keys and rows, or neither")
        candidates, rows = anchors, torch.arange(len(z1), device=z1.device)
    else:
        candidates = F.normalize(torch.cat(keys), dim=1)
    there = rows + len(candidates) // 2
    return anchors, candidates, torch.cat([rows, there]), torch.cat([there, rows])
