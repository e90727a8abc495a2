"""Losses that tell the positive from negatives. Shapes: B rows, N rows of all processes, K of a queue, D features.

With several processes the anchors are local and the candidates global. Losses over the batch take them as
`keys`, gathered from all processes (N, D), and `rows`, (B,) int64: where this process's rows lie in them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight.losses.precision import full_precision

Pair = tuple[Tensor, Tensor]


@full_precision
def nt_xent(
    z1: Tensor, z2: Tensor, temperature: float, *, keys: Pair | None = None, rows: Tensor | None = None
) -> Tensor:
    """NT-Xent: A Simple Framework for Contrastive Learning of Visual Representations (arXiv 2002.05709), eq. 1.

    l_i = -s_i,pos(i) / t + log sum_{k != i} exp(s_ik / t) with cosines s over both views of the whole batch; the mean
    over the anchors of both views. The anchor itself is no candidate, the positive is one. Gradients flow through both.

    z1, z2: (B, D) the two views of the same pictures. keys: z1 and z2 gathered with gradient.
    """
    logits, positive = _all_pairs(z1, z2, temperature, keys, rows)
    return F.cross_entropy(logits, positive)


@full_precision
def dcl(z1: Tensor, z2: Tensor, temperature: float, *, keys: Pair | None = None, rows: Tensor | None = None) -> Tensor:
    """DCL: Decoupled Contrastive Learning (arXiv 2110.06848), eq. 6: NT-Xent without the positive in the denominator.

    l_i = -s_i,pos(i) / t + log sum over the 2N - 2 others of exp(s_ik / t), mean over both views; it may be negative.
    Arguments as in `nt_xent`.
    """
    attract, repel = _decoupled(z1, z2, temperature, keys, rows)
    return (repel - attract).mean()


@full_precision
def dclw(
    z1: Tensor,
    z2: Tensor,
    temperature: float,
    sigma: float,
    *,
    keys: Pair | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """DCLW: Decoupled Contrastive Learning (arXiv 2110.06848), eq. 7: positives weighted against easy ones.

    The positive term is multiplied by w_i = 2 - N softmax_i(cos(z1_i, z2_i) / sigma) over the whole batch, a constant
    with mean 1. Other arguments as in `nt_xent`.
    """
    attract, repel = _decoupled(z1, z2, temperature, keys, rows)
    a, b = (z1, z2) if keys is None else keys
    similar = (F.normalize(a.detach(), dim=1) * F.normalize(b.detach(), dim=1)).sum(1)
    weight = 2 - len(similar) * (similar / sigma).softmax(0)
    own = weight if rows is None else weight[rows]
    return (repel - own.repeat(2) * attract).mean()


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


@full_precision
def moco(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo: Momentum Contrast for Unsupervised Visual Representation Learning (arXiv 1911.05722), eq. 1.

    Cross-entropy of the own key against the queue: -log softmax over [query_i . key_i, query_i . queue_k] / t at the
    first. query, key: (B, D), normalised here; queue: (K, D) unit rows. key and queue are detached here.
    """
    q, k = F.normalize(query, dim=1), F.normalize(key.detach(), dim=1)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.detach().to(q.dtype).T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


@full_precision
def moco_v3(
    q1: Tensor,
    k2: Tensor,
    q2: Tensor,
    k1: Tensor,
    temperature: float,
    *,
    keys: Pair | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """MoCo v3: An Empirical Study of Training Self-Supervised Vision Transformers (arXiv 2104.02057), algorithm 1.

    ctr(q1, k2) + ctr(q2, k1) with ctr = 2 t times InfoNCE of cosines over the keys of the other view in the whole
    batch; the factor keeps gradients independent of t. All (B, D); the teacher's keys are detached here.
    keys: k1 and k2 of all processes.
    """
    all1, all2 = keys or (k1, k2)
    rows = _rows(q1, keys, rows)
    both = info_nce(q1, all2.detach(), rows, temperature) + info_nce(q2, all1.detach(), rows, temperature)
    return 2 * temperature * both


@full_precision
def nnclr(
    z1: Tensor,
    z2: Tensor,
    p1: Tensor,
    p2: Tensor,
    queue: Tensor,
    temperature: float,
    *,
    keys: Pair | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """NNCLR: With a Little Help from My Friends (arXiv 2104.14548), eq. 2 and 3, symmetrised.

    Each embedding is replaced by its nearest row of the queue, a constant, which must find the prediction of the other
    view among those of the whole batch: the mean of InfoNCE(nn(z1) -> p2) and InfoNCE(nn(z2) -> p1) on cosines.

    z1, z2: (B, D) projections, detached here; p1, p2: (B, D) predictions; queue: (K, D) unit rows.
    keys: p1 and p2 gathered with gradient.
    """
    all1, all2 = keys or (p1, p2)
    rows = _rows(p1, keys, rows)
    near = [nearest(z, queue) for z in (z1, z2)]
    return (info_nce(near[0], all2, rows, temperature) + info_nce(near[1], all1, rows, temperature)) / 2


@torch.no_grad()
@full_precision
def nearest(z: Tensor, queue: Tensor) -> Tensor:
    """The row of the queue with the largest cosine, the first of equal ones. (B, D), (K, D) unit rows -> (B, D)."""
    return queue[(F.normalize(z, dim=1) @ queue.to(z.dtype).T).argmax(1)].to(z.dtype)


@full_precision
def relic(
    o1: Tensor,
    t2: Tensor,
    o2: Tensor,
    t1: Tensor,
    temperature: float,
    alpha: float,
    *,
    keys: Pair | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """ReLIC: Representation Learning via Invariant Causal Mechanisms (arXiv 2010.07922), eq. 3 and 4, symmetrised.

    P12 and P21 are the distributions over the same candidate pictures j that o1_i . t2_j / t and o2_i . t1_j / t give:
    [CE(P12, i) + CE(P21, i)] / 2 + alpha [KL(P12 || P21) + KL(P21 || P12)] / 2, mean over rows. Gradients flow through
    both distributions. All (B, D), normalised here; the teacher's t are detached here. keys: t1 and t2 of all processes.
    """
    all1, all2 = keys or (t1, t2)
    rows = _rows(o1, keys, rows)
    log12, log21 = (
        ((F.normalize(o, dim=1) / temperature) @ F.normalize(t.detach(), dim=1).T).log_softmax(1)
        for o, t in ((o1, all2), (o2, all1))
    )
    contrast = (F.nll_loss(log12, rows) + F.nll_loss(log21, rows)) / 2
    # KL(a || b) + KL(b || a) = sum (a - b) (log a - log b)
    invariance = ((log12.exp() - log21.exp()) * (log12 - log21)).sum(1).mean() / 2
    return contrast + alpha * invariance


@full_precision
def supcon(
    views: Sequence[Tensor] | Tensor,
    labels: Tensor,
    temperature: float,
    *,
    keys: Tensor | None = None,
    key_labels: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """SupCon: Supervised Contrastive Learning (arXiv 2004.11362), eq. 2 (L_out): NT-Xent with all of a class positive.

    mean over anchors i of all views, over positives p of i's class, of -s_ip / t + log sum_{k != i} exp(s_ik / t).
    views: V of (B, D); labels: (B,) int64. keys: (V, N, D) gathered with gradient, key_labels: (N,).
    """
    z = views if isinstance(views, Tensor) else torch.stack(list(views))
    everyone = z if keys is None else keys
    theirs = labels if key_labels is None else key_labels
    rows = _rows(z[0], keys, rows)
    count = len(z)
    anchors, candidates = F.normalize(z.flatten(0, 1), dim=1), F.normalize(everyone.flatten(0, 1), dim=1)
    logits = (anchors / temperature) @ candidates.T  # (V B, V N)
    own = torch.cat([rows + v * everyone.shape[1] for v in range(count)])
    line = torch.arange(len(own), device=own.device)
    same = (labels.repeat(count)[:, None] == theirs.repeat(count)[None]).index_put((line, own), torch.tensor(False))
    logits = logits.index_put((line, own), logits.new_tensor(-torch.inf))
    log_p = logits - logits.logsumexp(1, keepdim=True)
    return -(log_p.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1)).mean()


@torch.no_grad()
@full_precision
def contrastive_accuracy(
    z1: Tensor,
    z2: Tensor,
    top: tuple[int, ...] = (1, 5),
    *,
    keys: Pair | None = None,
    rows: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """How often the positive is among the `top` most similar candidates of nt_xent: one () each, fractions in 0..1.

    Ties count against the positive, so that a collapsed network scores 0. Arguments as in `nt_xent`.
    """
    return _places(*_all_pairs(z1, z2, 1.0, keys, rows), top)


@torch.no_grad()
@full_precision
def retrieval_accuracy(
    query: Tensor, keys: Tensor, positive: Tensor, top: tuple[int, ...] = (1, 5), others: Tensor | None = None
) -> tuple[Tensor, ...]:
    """How often key `positive_i` is among the `top` nearest of query i by cosine: one () each, as above.

    query: (B, D); keys: (M, D); positive: (B,) int64. others: (K, D) unit rows of a queue; given, they are the
    candidates beside the positive instead of the other keys.
    """
    q, k = F.normalize(query, dim=1), F.normalize(keys, dim=1)
    if others is None:
        return _places(q @ k.T, positive, top)
    scores = torch.cat([(q * k[positive]).sum(1, keepdim=True), q @ others.to(q.dtype).T], dim=1)
    return _places(scores, torch.zeros_like(positive), top)


def _places(scores: Tensor, positive: Tensor, top: tuple[int, ...]) -> tuple[Tensor, ...]:
    best = scores.gather(1, positive[:, None])
    place = (scores >= best).sum(1)  # 1 is best
    return tuple((place <= k).float().mean() for k in top)


def _rows(z: Tensor, keys: object, rows: Tensor | None) -> Tensor:
    """Where the rows lie in the keys: in order if both are this process's."""
    if (keys is None) != (rows is None):
        raise ValueError("give both of keys and rows, or neither")
    return torch.arange(len(z), device=z.device) if rows is None else rows


def _all_pairs(
    z1: Tensor, z2: Tensor, temperature: float, keys: Pair | None, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Cosines / t of the anchors of both views with all candidates, -inf at the anchor itself; the positives' columns.

    (2B, 2N) and (2B,) int64.
    """
    rows = _rows(z1, keys, rows)
    anchors = F.normalize(torch.cat([z1, z2]), dim=1)
    candidates = anchors if keys is None else F.normalize(torch.cat(keys), dim=1)
    there = rows + len(candidates) // 2
    own, positive = torch.cat([rows, there]), torch.cat([there, rows])
    logits = (anchors / temperature) @ candidates.T
    logits[torch.arange(len(own), device=own.device), own] = -torch.inf
    return logits, positive


def _decoupled(
    z1: Tensor, z2: Tensor, temperature: float, keys: Pair | None, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The positive's logit, and log sum exp of the negatives', of each anchor: (2B,) twice."""
    logits, positive = _all_pairs(z1, z2, temperature, keys, rows)
    attract = logits.gather(1, positive[:, None])[:, 0]
    return attract, logits.scatter(1, positive[:, None], -torch.inf).logsumexp(1)
