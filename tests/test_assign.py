"""Sinkhorn, k-means and whitening against golden values, brute force and scikit-learn."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from selfsight import assign
from selfsight.assign import balanced_labels, kmeans, pca_whiten, sinkhorn
from selfsight.errors import WrongUse

G4 = torch.tensor([[0.9, 0.8], [0.7, 0.1], [0.6, 0.5], [0.2, 0.3]], dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=dtype)


def close(value: Tensor, wanted: list, atol: float = 1e-6) -> None:
    torch.testing.assert_close(value, torch.tensor(wanted, dtype=value.dtype), atol=atol, rtol=0)


def linear_sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The original's form, prototypes first."""
    m = (scores / epsilon).exp().T
    m = m / m.sum()
    for _ in range(iterations):
        m = m / m.sum(1, keepdim=True) / len(m)
        m = m / m.sum(0, keepdim=True) / m.shape[1]
    return (m * m.shape[1]).T


@pytest.mark.parametrize("iterations", [1, 3, 50])
def test_sinkhorn_golden(iterations: int) -> None:
    g1 = torch.tensor([[0.1, 0.0], [0.0, 0.1]], dtype=torch.float64)
    close(sinkhorn(g1, 0.05, iterations), [[0.880797, 0.119203], [0.119203, 0.880797]])
    g2 = randn(5, 1) + randn(1, 4, seed=1)
    close(sinkhorn(g2, 0.05, iterations), [[0.25] * 4] * 5, 1e-12)
    g3 = torch.tensor([[0.2, 0.1, 0.0], [0.15, 0.1, 0.05]], dtype=torch.float64)
    row = [0.487372, 0.333333, 0.179294]
    close(sinkhorn(g3, 0.05, iterations), [row, row[::-1]])


def test_sinkhorn_golden_g4() -> None:
    one, three, fifty = (sinkhorn(G4, 0.05, t) for t in (1, 3, 50))
    close(one, [[0.495485, 0.504515], [0.999954, 0.000046], [0.495485, 0.504515], [0.01767, 0.98233]])
    close(one.sum(0), [2.008594, 1.991406])
    close(three[[0, 3]], [[0.4923, 0.5077], [0.01745, 0.98255]], 1e-4)
    close(three.sum(0), [2.002003, 1.997997])
    close(fifty.sum(0), [2.0, 2.0])


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_sinkhorn_equals_the_linear_form(iterations: int) -> None:
    scores = randn(8, 5) / 3
    torch.testing.assert_close(
        sinkhorn(scores, 0.05, iterations), linear_sinkhorn(scores, 0.05, iterations), atol=1e-13, rtol=0
    )
    torch.testing.assert_close(
        sinkhorn(scores.float(), 0.05, iterations).double(), sinkhorn(scores, 0.05, iterations), atol=1e-5, rtol=0
    )


def test_sinkhorn_shifts() -> None:
    """G5: a constant per prototype never matters, one per sample only before convergence."""
    scores = randn(8, 4) / 4
    for iterations in (1, 3):
        shifted = sinkhorn(scores + randn(1, 4, seed=2), 0.05, iterations)
        torch.testing.assert_close(shifted, sinkhorn(scores, 0.05, iterations), atol=1e-13, rtol=0)
    by_row = scores + randn(8, 1, seed=3)
    assert (sinkhorn(by_row, 0.05, 1) - sinkhorn(scores, 0.05, 1)).abs().max() > 1e-2
    torch.testing.assert_close(sinkhorn(by_row, 0.5, 500), sinkhorn(scores, 0.5, 500), atol=1e-12, rtol=0)


@pytest.mark.parametrize("k", [3, 5, 7])
def test_sinkhorn_sharp_is_the_best_matching(k: int) -> None:
    """G6, over all permutations."""
    scores = randn(k, k, seed=k) / 5  # the spread of cosines
    best = max(itertools.permutations(range(k)), key=lambda p: sum(float(scores[i, j]) for i, j in enumerate(p)))
    assert tuple(sinkhorn(scores, 1e-3, 500).argmax(1).tolist()) == best


def test_sinkhorn_permutations() -> None:
    scores, rows, columns = randn(6, 4), torch.tensor([2, 0, 5, 1, 4, 3]), torch.tensor([3, 1, 0, 2])
    whole = sinkhorn(scores, 0.1, 3)
    torch.testing.assert_close(sinkhorn(scores[rows][:, columns], 0.1, 3), whole[rows][:, columns])


def test_sinkhorn_marginals_and_likely_cluster() -> None:
    q = sinkhorn(randn(64, 8), 0.5, 200)
    assert (q.sum(1) - 1).abs().max() < 1e-12
    assert (q.sum(0) - 8).abs().max() < 8e-3
    peaked = torch.eye(4, dtype=torch.float64).repeat(3, 1)
    assert torch.equal(sinkhorn(peaked, 0.05, 3).argmax(1), peaked.argmax(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sinkhorn_stays_finite(dtype: torch.dtype) -> None:
    scores = (100 * randn(16, 40).sign()).to(dtype)
    for case in (scores, scores[:1], scores[:, :1], torch.zeros(4, 3, dtype=dtype)):
        q = sinkhorn(case, 0.03, 3)
        assert q.dtype == torch.float32
        assert q.isfinite().all()
        torch.testing.assert_close(q.sum(1), torch.ones(len(q)), atol=1e-5, rtol=0)


def test_sinkhorn_of_half_precision_is_that_of_the_same_numbers_in_float32() -> None:
    scores = (randn(16, 5) / 4).half()
    assert torch.equal(sinkhorn(scores, 0.05, 3), sinkhorn(scores.float(), 0.05, 3))
    assert (sinkhorn(scores, 0.05, 3) - sinkhorn(scores.double(), 0.05, 3)).abs().max() < 1e-5  # 20 in a half is not


def test_sinkhorn_weights_count_rows() -> None:
    """A weight of 2 is the row twice, of 0 is no row; columns get their part of the sum of the weights."""
    scores = randn(9, 4) / 4
    weights = torch.tensor([1.0, 0, 2, 1, 0, 1, 3, 1, 1], dtype=torch.float64)
    repeated = scores.repeat_interleave(weights.long(), 0)
    for iterations in (1, 3, 30):
        q = sinkhorn(scores, 0.1, iterations, weights=weights)
        wanted = sinkhorn(repeated, 0.1, iterations)
        torch.testing.assert_close(q.repeat_interleave(weights.long(), 0), wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        (weights[:, None] * sinkhorn(scores, 0.5, 300, weights=weights)).sum(0), randn(4) * 0 + 2.5
    )
    junk = torch.where(weights[:, None] > 0, scores, 1e4)  # padding may hold anything finite
    kept = weights > 0
    torch.testing.assert_close(
        sinkhorn(junk, 0.1, 3, weights=weights)[kept], sinkhorn(scores[kept], 0.1, 3, weights=weights[kept])
    )
    assert torch.equal(sinkhorn(scores, 0.1, 3, weights=torch.ones(9)), sinkhorn(scores, 0.1, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sinkhorn_without_rows_that_count(dtype: torch.dtype) -> None:
    scores = randn(5, 3).to(dtype)
    for iterations in (0, 3):
        q = sinkhorn(scores, 0.05, iterations, weights=torch.zeros(5))
        torch.testing.assert_close(q, (scores / 0.05).softmax(1))
    assert sinkhorn(scores[:0], 0.05, 3).shape == (0, 3)


def test_sinkhorn_carries_no_gradient() -> None:
    assert not sinkhorn(randn(4, 3).requires_grad_(), 0.05, 3).requires_grad


def softmax_codes(logits: Tensor, sharpness: float) -> Tensor:
    """The converged assignment, by plain Sinkhorn."""
    return sinkhorn(logits, 1 / sharpness, 1000)


def classified(n: int, d: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return randn(n, d, seed=seed), randn(k, d, seed=seed + 1) / d**0.5, randn(k, seed=seed + 2) / 5


@pytest.mark.parametrize("sharpness", [1.0, 10.0, 25.0])
@pytest.mark.parametrize("cache", [0, 30 * 7 * 8, 2**30])
def test_balanced_labels_are_those_of_converged_sinkhorn(
    sharpness: float, cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether logits are kept, computed anew, or some of each."""
    monkeypatch.setattr(assign, "_chunks", lambda x, k: (slice(i, min(i + 30, len(x))) for i in range(0, len(x), 30)))
    x, w, b = classified(200, 16, 7)
    labels = balanced_labels(x, w, b, sharpness, tolerance=1e-6, cache=cache)
    q = softmax_codes(x @ w.T + b, sharpness)
    assert (q.sum(0) - 200 / 7).abs().max() < 1e-4
    assert torch.equal(labels, q.argmax(1))
    alike = balanced_labels(x.float(), w.float(), b.float(), sharpness, cache=cache)
    assert (alike == labels).double().mean() > 0.98


def test_balanced_labels_are_balanced_where_the_classifier_is_not() -> None:
    x, w, b = classified(2000, 16, 10)
    b = b + torch.tensor([20.0] + [0.0] * 9)
    assert ((x @ w.T + b).argmax(1) == 0).double().mean() > 0.9
    counts = balanced_labels(x, w, b, 25.0).bincount(minlength=10)
    assert counts.min() > 180
    assert counts.max() < 220


def test_balanced_labels_do_not_feel_a_bias() -> None:
    x, w, b = classified(300, 16, 7)
    labels = balanced_labels(x, w, b, 25.0, tolerance=1e-6)
    assert torch.equal(labels, balanced_labels(x, w, b + randn(7, seed=9), 25.0, tolerance=1e-6))
    assert torch.equal(labels, balanced_labels(x, w, b, 25.0, tolerance=1e-6))


@pytest.mark.parametrize("k", [4, 6])
def test_balanced_labels_sharp_are_the_best_matching(k: int) -> None:
    x, w, b = classified(k, 3, k, seed=k)
    logits = x @ w.T + b
    best = max(itertools.permutations(range(k)), key=lambda p: sum(float(logits[i, j]) for i, j in enumerate(p)))
    assert tuple(balanced_labels(x, w, b, 1e3, tolerance=1e-6, iterations=2000).tolist()) == best


def test_balanced_labels_of_far_logits_stay_finite() -> None:
    """Half of the classes are nobody's choice by far: their columns would be empty in float32."""
    x, w, b = (t.float() for t in classified(400, 16, 10))
    b = b - 40 * (torch.arange(10) >= 5)
    labels = balanced_labels(x, w, b, 25.0)
    assert labels.bincount(minlength=10).min() > 30
    assert balanced_labels(x[:1], w, b, 25.0, iterations=5).shape == (1,)
    assert balanced_labels(x.bfloat16(), w, b, 25.0).shape == (400,)
    assert balanced_labels(torch.zeros(6, 3), torch.zeros(2, 3), torch.zeros(2), 25.0).shape == (6,)


def test_balanced_labels_keep_to_their_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = (t.float() for t in classified(3000, 8, 500))
    monkeypatch.setattr(assign, "_chunks", lambda x, k: (slice(i, min(i + 100, len(x))) for i in range(0, len(x), 100)))
    made: list[int] = []
    addmm = torch.addmm

    def counted(*args: Tensor, out: Tensor | None = None) -> Tensor:
        made.append(out is None)
        return addmm(*args) if out is None else addmm(*args, out=out)

    monkeypatch.setattr(torch, "addmm", counted)
    balanced_labels(x, w, b, 25.0, iterations=2, cache=11 * 100 * 500 * 4)
    assert sum(made) == 11  # kept chunks
    assert len(made) == 11 + 3 * 19  # two iterations and the labels compute the others


def inertia(x: Tensor, labels: Tensor, centroids: Tensor) -> float:
    return (x.double() - centroids.double()[labels]).square().sum().item()


@pytest.mark.parametrize("iterations", [1, 4, 30])
def test_kmeans_equals_scikit_learn(iterations: int) -> None:
    x = randn(500, 8, seed=4)
    start = x[torch.randperm(500, generator=rng(7))[:10]]
    reference = KMeans(10, init=start.numpy(), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(x.numpy())
    labels, centroids = kmeans(x, 10, iterations, rng(7))
    torch.testing.assert_close(centroids, torch.from_numpy(reference.cluster_centers_), atol=1e-9, rtol=0)
    assert torch.equal(labels, torch.from_numpy(reference.labels_).long())


@pytest.mark.parametrize("spherical", [False, True])
def test_kmeans_labels_match_and_inertia_never_rises(spherical: bool) -> None:
    x = F.normalize(randn(700, 6, seed=5, dtype=torch.float32), dim=1)
    before = math.inf
    for iterations in range(12):
        labels, centroids = kmeans(x, 45, iterations, rng(3), spherical)
        assert torch.equal(labels, torch.cdist(x.double(), centroids.double()).argmin(1))
        now = inertia(x, labels, centroids)
        assert now <= before * (1 + 1e-6)
        before = now
        if spherical:
            torch.testing.assert_close(centroids.norm(dim=1), torch.ones(45))
    assert labels.bincount(minlength=45).min() > 0


@pytest.mark.parametrize("spherical", [False, True])
def test_kmeans_fills_empty_clusters(spherical: bool) -> None:
    """Half of the rows are copies of one row, so that most starts coincide; only 60 distinct rows for 20 clusters."""
    base = F.normalize(randn(60, 5, seed=6, dtype=torch.float32), dim=1)
    x = torch.cat([base[:1].expand(600, -1), base.repeat(10, 1)])
    before = math.inf
    for iterations in (0, 1, 2, 5, 10):
        labels, centroids = kmeans(x, 20, iterations, rng(1), spherical)
        assert labels.bincount(minlength=20).min() > 0, iterations
        now = inertia(x, labels, centroids)
        assert now <= before * (1 + 1e-5)
        before = now
    start = x[torch.randperm(len(x), generator=rng(1))[:20]]
    assert len(start.unique(dim=0)) < 20  # the case is the one it claims to be


def test_kmeans_with_fewer_distinct_rows_than_clusters() -> None:
    labels, centroids = kmeans(torch.eye(3).repeat(10, 1), 5, 4, rng())
    assert inertia(torch.eye(3).repeat(10, 1), labels, centroids) == 0
    assert centroids.isfinite().all()


def test_kmeans_moves_on_after_filling_a_cluster() -> None:
    """Clusters are filled while there are iterations left, so that in the end each centroid is its rows' mean."""
    base = randn(60, 5, seed=6)
    x = torch.cat([base[:1].expand(600, -1), base.repeat(10, 1)])
    labels, centroids = kmeans(x, 20, 40, rng(1))
    means = torch.stack([x[labels == c].mean(0) for c in range(20)])
    torch.testing.assert_close(centroids, means, atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_kmeans_does_not_try_to_split_copies(seed: int) -> None:
    """By size alone nearly every donor would be the cluster of the copies, which rounding spreads a little."""
    base = F.normalize(randn(40, 5, seed=9, dtype=torch.float32), dim=1)
    x = torch.cat([base[:1].expand(5000, -1), base])
    labels, _ = kmeans(x, 20, 5, rng(seed))
    assert labels.bincount(minlength=20).min() > 0


def test_kmeans_far_from_the_origin() -> None:
    """x.c - |c|^2 / 2 with raw coordinates would be off by about 1 in float32, as much as the distances."""
    x = 1000 + randn(2000, 16, seed=8, dtype=torch.float32)
    labels, centroids = kmeans(x, 30, 5, rng())
    nearest = torch.cdist(x.double(), centroids.double(), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    assert (labels != nearest).double().mean() < 0.005


def test_kmeans_is_deterministic_and_needs_no_global_generator() -> None:
    x = randn(300, 4, dtype=torch.float32)
    state = torch.get_rng_state()
    first, second = kmeans(x, 7, 5, rng(2)), kmeans(x, 7, 5, rng(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert not torch.equal(first[1], kmeans(x, 7, 5, rng(3))[1])
    assert torch.equal(state, torch.get_rng_state())


def test_kmeans_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x = randn(333, 4)
    whole = kmeans(x, 7, 5, rng(2))
    monkeypatch.setattr(assign, "_chunks", lambda x, k: (slice(i, min(i + 50, len(x))) for i in range(0, len(x), 50)))
    parts = kmeans(x, 7, 5, rng(2))
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], parts[1])


def test_kmeans_edges() -> None:
    x = randn(6, 3)
    labels, centroids = kmeans(x, 6, 3, rng())
    assert torch.equal(centroids[labels], x)
    labels, centroids = kmeans(x, 1, 3, rng())
    torch.testing.assert_close(centroids[0], x.mean(0))
    assert kmeans(x.bfloat16(), 2, 3, rng())[1].dtype == torch.float32
    for k in (0, 7):
        with pytest.raises(WrongUse, match="6 rows"):
            kmeans(x, k, 3, rng())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whitening_gives_unit_covariance(dtype: torch.dtype) -> None:
    x = (randn(400, 12) @ randn(12, 12, seed=1) + 5).to(dtype)
    y = pca_whiten(x, 7)
    assert y.shape == (400, 7)
    assert y.dtype == dtype
    y = y.double()
    assert y.mean(0).abs().max() < 1e-5
    torch.testing.assert_close(y.T @ y / 400, torch.eye(7, dtype=torch.float64), atol=1e-5, rtol=0)
    rows = F.normalize(y, dim=1)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(400, dtype=torch.float64))


def test_whitening_is_the_projection_on_the_first_eigenvectors() -> None:
    x = randn(300, 5) * torch.tensor([5.0, 4, 3, 2, 1])
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    y = pca_whiten(x, 2)
    for i in range(2):
        e = vectors[:, -1 - i]
        e = e * e[e.abs().argmax()].sign()
        torch.testing.assert_close(y[:, i], (x - x.mean(0)) @ e / values[-1 - i].sqrt(), atol=1e-10, rtol=0)


def test_whitening_of_degenerate_rows() -> None:
    flat = randn(50, 2) @ randn(2, 6, seed=1)
    y = pca_whiten(flat, 10)
    assert y.shape == (50, 6)
    torch.testing.assert_close(y[:, :2].T @ y[:, :2] / 50, torch.eye(2, dtype=torch.float64), atol=1e-8, rtol=0)
    assert y[:, 2:].abs().max() < 1e-6  # no variance, none made up
    assert pca_whiten(torch.full((9, 4), 0.1), 3).abs().max() < 1e-2
    with pytest.raises(WrongUse, match="at least 1"):
        pca_whiten(flat, 0)
