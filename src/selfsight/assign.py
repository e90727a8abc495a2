"""Balanced and plain clustering, whitening: pure functions that also run on rows spread over processes.

A reducer is passed in for that (`distributed.all_sum`, `distributed.all_max`); alone it is the identity. Nothing here
carries a gradient. Legend: B batch, N rows of all processes, n rows of this one, D features, K prototypes or clusters.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight.errors import WrongUse

Reducer = Callable[[Tensor], Tensor]


def _alone(x: Tensor) -> Tensor:
    return x


@torch.no_grad()
def sinkhorn(
    scores: Tensor,
    epsilon: float,
    iterations: int,
    all_sum: Reducer = _alone,
    all_max: Reducer = _alone,
    weights: Tensor | None = None,
) -> Tensor:
    """Codes that spread the batch evenly over the prototypes. (B, K) -> (B, K): rows sum to 1, columns to about B / K.

    Sinkhorn-Knopp (Cuturi, arXiv 1306.0895; SwAV, arXiv 2006.09882, section 3.1) on exp(scores / epsilon), in the log
    domain, where no score overflows. Each iteration scales the prototypes, then the samples: with M = S / epsilon,
    v_k = -LSE_b(M_bk + u_b), u_b = -LSE_k(M_bk + v_k), and the result is softmax_k(M_bk + v_k). The constants 1/B and
    1/K of the original cancel. Only the K sums cross processes, so the count of rows may differ between them, down to 0.
    Rows of a queue are concatenated by the caller, and cut off the result.

    weights: (B,), what each row counts, >= 0: columns then get sum(weights) / K. A row of weight 0 has no influence; its
    own code is what the prototypes' scales make of it.
    """
    m = (scores if scores.dtype == torch.float64 else scores.float()) / epsilon
    share = m.new_zeros(len(m), 1) if weights is None else weights.to(m.dtype).log()[:, None]
    u, v, z = share, m.new_zeros(1, m.shape[1]), torch.empty_like(m)
    nothing = m.new_full((1, m.shape[1]), -torch.inf)
    for _ in range(iterations):
        torch.add(m, u, out=z)
        top = all_max(z.amax(0, keepdim=True) if len(m) else nothing)
        top = top.masked_fill(top == -torch.inf, 0.0)  # where no row counts at all
        v = -(top + all_sum(_exp(z, top).sum(0, keepdim=True)).log())
        torch.add(m, v, out=z)
        top = z.amax(1, keepdim=True)
        u = share - top - _exp(z, top).sum(1, keepdim=True).log()
    return torch.add(m, v, out=z).softmax(1)


def _exp(z: Tensor, top: Tensor) -> Tensor:
    """exp(z - top) in place, for z <= top. No smaller than e^-80: numbers below 1e-38 cost a CPU fifty times as much."""
    return z.sub_(top).clamp_(min=-80).exp_()


@torch.no_grad()
def kmeans(
    x: Tensor,
    k: int,
    iterations: int,
    rng: torch.Generator,
    spherical: bool = False,
    *,
    all_sum: Reducer = _alone,
    all_max: Reducer = _alone,
    place: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means. x: (n, D) -> labels (n,) int64, centroids (k, D); the labels are the nearest of these centroids.

    Starts from k rows drawn without replacement. Euclidean: nearest centroid, then the mean (DeepCluster, arXiv
    1807.05520). spherical: largest dot product, then the mean at unit length (DeepCluster-v2, arXiv 2006.09882), for
    rows of unit length. An empty cluster takes over a part of another one, drawn with probability in proportion to
    (size - 1) as in faiss; it starts a little off that centroid towards its farthest row, so that it cannot come out
    empty again and the sum of squared distances never rises. Deterministic; memory beyond x is a chunk of n x k.

    rng: CPU generator, the same on every process. place: (first, N), where this process's rows lie among all N.
    Raises WrongUse if k is more than N.
    """
    x = x.detach() if x.dtype == torch.float64 else x.detach().float()
    first, total = place or (0, len(x))
    if not 1 <= k <= total:
        raise WrongUse(f"k-means is asked for {k} clusters of {total} rows; use from 1 to {total} clusters.")
    with torch.autocast(x.device.type, enabled=False):
        start = torch.randperm(total, generator=rng)[:k].to(x.device)
        centroids = _rows(x, start, first, all_sum)
        if spherical:
            centroids = F.normalize(centroids, dim=1)
        centre = all_sum(x.sum(0, dtype=torch.float64)).div(total).to(x.dtype)
        for _ in range(iterations):
            labels, counts = _nearest(x, centroids, centre, spherical, all_sum)
            total_rows = all_sum(_sums(x, labels, k))
            moved = F.normalize(total_rows, dim=1) if spherical else total_rows / counts[:, None].clamp(min=1)
            centroids = torch.where(counts[:, None] > 0, moved, centroids)
            centroids = _split(x, labels, counts, centroids, rng, spherical, first, all_sum, all_max)
        labels, counts = _nearest(x, centroids, centre, spherical, all_sum)
        for _ in range(10):  # clusters that the last step emptied
            split = _split(x, labels, counts, centroids, rng, spherical, first, all_sum, all_max)
            if split is centroids:
                break
            centroids = split
            labels, counts = _nearest(x, centroids, centre, spherical, all_sum)
    return labels, centroids


@torch.no_grad()
def balanced_labels(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    sharpness: float,
    *,
    tolerance: float = 1e-3,
    iterations: int = 1000,
    cache: int = 0,
    all_sum: Reducer = _alone,
) -> Tensor:
    """Labels of a whole data set by a classifier, all of them about equally often. (n, D), (K, D), (K,) -> (n,) int64.

    Self-labelling (SeLa, arXiv 1911.05371, section 3.1): the assignment Q with rows of 1 and columns of N / K that is
    likeliest under P = softmax(features weight' + bias), but for an entropy of 1 / sharpness; q_n = softmax_k(m_nk + v_k)
    with m = sharpness * logits, and the label is the largest. Sinkhorn-Knopp in the log domain: with q from v, the columns
    hold c_k = sum_n q_nk, and v_k falls by log(c_k K / N), until no column is off by more than `tolerance` of N / K, or
    for `iterations`. Memory beyond the features is a chunk of n x K; logits of up to `cache` bytes are kept, all others
    computed anew at each iteration.
    """
    x = features.detach() if features.dtype == torch.float64 else features.detach().float()
    w, b = (sharpness * p.detach().to(x) for p in (weight, bias))
    k, kept = len(w), dict[int, Tensor]()
    total = all_sum(torch.full((), len(x), dtype=torch.float64, device=x.device))
    v = torch.zeros(k, dtype=torch.float64, device=x.device)

    def blocks() -> Iterator[tuple[slice, Tensor]]:
        """Rows and their m + v, in a buffer that the next block overwrites."""
        scratch, shift = x.new_empty(0), v.to(x.dtype)
        for rows in _chunks(x, k):
            scratch = scratch if len(scratch) else x.new_empty(rows.stop, k)
            z = scratch[: rows.stop - rows.start]
            if rows.start in kept:
                yield rows, torch.add(kept[rows.start], shift, out=z)
            elif (len(kept) + 1) * scratch.numel() * x.element_size() <= cache:
                kept[rows.start] = torch.addmm(b, x[rows], w.T)
                yield rows, torch.add(kept[rows.start], shift, out=z)
            else:
                yield rows, torch.addmm(b + shift, x[rows], w.T, out=z)

    with torch.autocast(x.device.type, enabled=False):
        for _ in range(iterations):
            mass = v.new_zeros(k)
            for _, z in blocks():
                z = _exp(z, z.amax(1, keepdim=True))  # its floor keeps every column from being empty
                mass += torch.mv(z.T, z.sum(1).reciprocal())
            excess = (all_sum(mass) * (k / total)).log()  # log(c_k K / N)
            if bool(excess.abs().max() < tolerance):
                break
            v -= excess
        labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
        for rows, z in blocks():
            labels[rows] = z.argmax(1)
    return labels


def uniform_rows(labels: Tensor, rng: torch.Generator) -> Tensor:
    """Rows that sample pictures uniformly over clusters, shuffled. labels: (N,) int64 on the CPU -> (M,), M >= N.

    Every cluster that is not empty comes in N // clusters + 1 times: a choice of its pictures where it has more than
    that, else draws with replacement (DeepCluster, arXiv 1807.05520, section 3.3, and its code).
    """
    sizes = labels.bincount()
    sizes = sizes[sizes > 0]
    each = len(labels) // len(sizes) + 1
    shuffled = torch.randperm(len(labels), generator=rng)
    by_cluster = shuffled[labels[shuffled].argsort(stable=True)]  # clusters in turn, each in random order
    within = (torch.rand(len(sizes), each, generator=rng) * sizes[:, None]).long().clamp(max=sizes[:, None] - 1)
    within = torch.where(sizes[:, None] > each, torch.arange(each), within)
    rows = by_cluster[(sizes.cumsum(0) - sizes)[:, None] + within].flatten()
    return rows[torch.randperm(len(rows), generator=rng)]


@torch.no_grad()
def pca_whiten(x: Tensor, dim: int, all_sum: Reducer = _alone) -> Tensor:
    """The first `dim` principal components at unit variance. (n, D) -> (n, min(dim, D)), mean 0 and covariance I.

    y = L^(-1/2) E' (x - mean) with the covariance (over N, in float64) E L E'. Eigenvalues are floored at 1e-5 of the
    largest; the largest entry of each eigenvector is positive. DeepCluster (arXiv 1807.05520) l2-normalises the rows
    afterwards, which is left to the caller. Raises WrongUse if dim is below 1.
    """
    if dim < 1:
        raise WrongUse(f"whitening to {dim} dimensions is not possible; use at least 1.")
    count = all_sum(torch.full((), len(x), dtype=torch.float64, device=x.device))
    mean = all_sum(x.sum(0, dtype=torch.float64)) / count
    covariance = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for chunk in x.split(8192):
        centred = chunk.double() - mean
        covariance.addmm_(centred.T, centred)
    values, vectors = torch.linalg.eigh(all_sum(covariance) / count)  # ascending
    values, vectors = values.flip(0)[:dim], vectors.flip(1)[:, :dim]
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    transform = vectors / torch.maximum(values, values[0].clamp(min=1e-24) * 1e-5).sqrt()
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.cat([((chunk.double() - mean) @ transform).to(dtype) for chunk in x.split(8192)])


def _chunks(x: Tensor, k: int) -> Iterator[slice]:
    """Slices of the rows of x such that a (chunk, k) float32 block takes 16 MB, or 128 MB on a GPU.

    It fits a CPU's last cache, and is large enough for its threads to meet seldom: where others keep the cores busy, each
    meeting waits for them.
    """
    size = max(1, (2**22 if x.device.type == "cpu" else 2**25) // k)
    return (slice(i, min(i + size, len(x))) for i in range(0, len(x), size))


def _nearest(x: Tensor, centroids: Tensor, centre: Tensor, spherical: bool, all_sum: Reducer) -> tuple[Tensor, Tensor]:
    """Nearest centroid of each row and the sizes over all processes. (n, D), (k, D) -> (n,), (k,) int64."""
    k = len(centroids)
    if spherical:
        directions, bias = centroids, centroids.new_zeros(k)
    else:
        # argmin |x - c|^2 = argmax (x - m).(c - m) - |c - m|^2 / 2 for any m: the mean keeps the numbers small
        directions = centroids - centre
        bias = -(directions @ centre) - directions.square().sum(1) / 2
    # argmax in two steps, as the maximum alone is vectorised on CPUs: which 32 columns, then which of these
    directions, bias = F.pad(directions, (0, 0, 0, -k % 32)), F.pad(bias, (0, -k % 32), value=-torch.inf)
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    block = x.new_empty(0)  # one buffer for all chunks: fresh pages cost a CPU half as much again as the product
    for rows in _chunks(x, k):
        block = block if len(block) else x.new_empty(rows.stop, len(bias))
        scores = torch.addmm(bias, x[rows], directions.T, out=block[: rows.stop - rows.start])
        scores = scores.unflatten(1, (-1, 32))
        part = scores.amax(2).argmax(1)
        within = scores[torch.arange(len(part), device=x.device), part].argmax(1)
        torch.add(within, part, alpha=32, out=labels[rows])
    return labels, all_sum(torch.bincount(labels, minlength=k))


def _sums(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """Sum of the rows of each cluster, in an order that never changes (atomics do). (n, D), (n,) -> (k, D)."""
    order = labels.argsort(stable=True)
    sizes = torch.bincount(labels, minlength=k)
    return F.embedding_bag(order, x, sizes.cumsum(0) - sizes, mode="sum")


def _rows(x: Tensor, index: Tensor, first: int, all_sum: Reducer) -> Tensor:
    """Rows of all processes by their number. (n, D), (m,) int64 -> (m, D)."""
    local = index - first
    mine = (local >= 0) & (local < len(x))
    if len(x) == 0:
        return all_sum(x.new_zeros(len(index), x.shape[1]))
    return all_sum(torch.where(mine[:, None], x[local.clamp(0, len(x) - 1)], 0))


def _split(
    x: Tensor,
    labels: Tensor,
    counts: Tensor,
    centroids: Tensor,
    rng: torch.Generator,
    spherical: bool,
    first: int,
    all_sum: Reducer,
    all_max: Reducer,
) -> Tensor:
    """Give each empty cluster a part of another one. Returns `centroids` itself if there is none, or none to split."""
    empty = (counts == 0).nonzero().squeeze(1)
    if not len(empty):
        return centroids
    gap = torch.cat(
        [(x[rows] - centroids[labels[rows]]).square().sum(1) for rows in _chunks(x, x.shape[1])] or [x.new_zeros(0)]
    )
    far = all_max(gap.new_zeros(len(counts)).scatter_reduce_(0, labels, gap, "amax"))  # (k,) squared radius
    # copies of one picture cannot be split, nor what the distances above cannot tell apart: boxes around the clusters
    line, k = labels[:, None].expand_as(x), len(counts)
    top = all_max(x.new_full((k, x.shape[1]), -torch.inf).scatter_reduce_(0, line, x, "amax"))
    bottom = -all_max(x.new_full((k, x.shape[1]), -torch.inf).scatter_reduce_(0, line, -x, "amax"))
    whole = (top.amax(0) - bottom.amin(0)).square().sum()
    apart = (top - bottom).clamp(min=0).square().sum(1) > torch.finfo(x.dtype).eps * whole
    weights = torch.where(apart & (far > 0), counts - 1, 0).double().cpu()
    room = min(len(empty), int((weights > 0).sum()))
    if room == 0:
        return centroids
    donors = torch.multinomial(weights, room, generator=rng).to(x.device)
    number = torch.where(gap == far[labels], torch.arange(len(x), device=x.device) + first, -1)
    number = all_max(number.new_full((len(counts),), -1).scatter_reduce_(0, labels, number, "amax"))
    # 1/16 of the way: far enough for the farthest row to follow even after rounding, near enough for half the others to
    copies = centroids[donors].lerp(_rows(x, number[donors], first, all_sum), 1 / 16)
    return centroids.index_copy(0, empty[:room], F.normalize(copies, dim=1) if spherical else copies)
