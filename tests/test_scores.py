"""Label-free scores, clusters and Parzen windows against numpy, scikit-learn and closed forms."""

import importlib
import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.pairwise import rbf_kernel

from selfsight.errors import WrongUse
from selfsight.evaluate import cluster, geometry, matched_accuracy, mean_criterion, parzen
from selfsight.evaluate.geometry import alignment, alpha_req, lidar, rankme, uniformity
from selfsight.evaluate.parzen import similarity


def gauss(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def entropy_rank(values, eps=1e-7):
    share = values / values.sum() + eps
    return float(np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_rankme_by_singular_values(shape):
    x = gauss(*shape) * torch.linspace(0.1, 2, shape[1])
    assert rankme(x) == pytest.approx(entropy_rank(np.linalg.svd(x.double().numpy(), compute_uv=False)), rel=1e-5)
    assert rankme(torch.ones(20, 3)) == pytest.approx(1, abs=1e-4)
    assert rankme(torch.eye(6)) == pytest.approx(6, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_is_the_exponent_of_the_spectrum(alpha):
    basis, _ = torch.linalg.qr(gauss(100, 21).double() - 0.3)
    basis, _ = torch.linalg.qr(torch.cat([torch.ones(100, 1), basis], 1).double())  # columns of mean 0, but the first
    x = basis[:, 1:] * torch.arange(1, 22) ** (-alpha / 2)
    assert alpha_req(x) == pytest.approx(alpha, rel=1e-6)
    assert alpha_req(torch.ones(5, 3)) is None


def test_alpha_is_a_weighted_fit():
    x = gauss(200, 10) * torch.rand(10, generator=torch.Generator().manual_seed(1))
    values = np.linalg.eigvalsh(np.cov(x.double().numpy().T))[::-1]
    i = np.arange(1, 11)
    slope = np.polyfit(np.log(i), np.log(values), 1, w=np.sqrt(1 / i))[0]  # polyfit weighs residuals, not squares
    assert alpha_req(x) == pytest.approx(-slope, rel=1e-6)


def test_uniformity_and_alignment_by_loops():
    x, views = gauss(30, 4), gauss(9, 3, 5, seed=1)
    unit = torch.nn.functional.normalize(x.double())
    pairs = [math.exp(-2 * float((a - b).square().sum())) for a, b in itertools.combinations(unit, 2)]
    assert uniformity(x, chunk=7) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-5)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-5)
    rows = torch.nn.functional.normalize(views.double(), dim=2)
    near = [float((a - b).square().sum()) for row in rows for a, b in itertools.combinations(row, 2)]
    assert alignment(views) == pytest.approx(sum(near) / len(near))
    assert alignment(views[:, :1].expand(-1, 3, -1)) == pytest.approx(0, abs=1e-12)


def test_lidar_by_numpy():
    views = gauss(40, 5, 6, seed=2) * 0.3 + gauss(40, 1, 6, seed=3) * torch.tensor([3.0, 2, 1, 0.5, 0.1, 0])
    x = views.double().numpy()
    means = x.mean(1)
    between = np.cov(means.T)
    within = sum(np.cov(row.T) for row in x) / 40 + 1e-4 * np.eye(6)
    power, axes = np.linalg.eigh(within)
    root = axes @ np.diag(power**-0.5) @ axes.T
    wanted = entropy_rank(np.linalg.eigvalsh(root @ between @ root))
    assert lidar(views) == pytest.approx(wanted, rel=1e-6)
    one = gauss(40, 1, 1, seed=4) * torch.eye(6)[0] + 1e-3 * gauss(40, 5, 6, seed=5)
    assert lidar(one) < 1.1  # pictures differ in one direction


def test_geometry_sees_a_collapse():
    whole, flat = gauss(200, 16), gauss(200, 1, seed=1) * torch.ones(16) + torch.tensor([0.0] * 15 + [1.0])
    flat[:, 3] = 5.0  # constant
    good, bad = geometry(whole), geometry(flat)
    assert good["rankme"] > 14 > 3 > bad["rankme"]
    assert good["effective_rank"] > 14 > 1.1 > bad["effective_rank"]
    assert (good["dead"], bad["dead"]) == (0, 1 / 16)
    assert good["uniformity"] < bad["uniformity"]
    assert good["std"] == pytest.approx(1, abs=0.1)
    assert (good["lidar"], good["alignment"], good["views"]) == (None, None, None)
    more = geometry(whole, whole[:, None] + 0.1 * gauss(200, 4, 16, seed=2))
    assert more["views"] == [200, 4]
    assert more["lidar"] > 10
    assert more["alignment"] < 0.1
    with pytest.raises(WrongUse, match="not all finite"):
        geometry(whole / 0)
    with pytest.raises(WrongUse, match="two rows"):
        geometry(whole[:1])


def test_matching_by_all_permutations():
    g = torch.Generator().manual_seed(0)
    for clusters, kinds in ((4, 4), (3, 5), (5, 3)):
        own, labels = torch.randint(clusters, (60,), generator=g), torch.randint(kinds, (60,), generator=g)
        most = max(clusters, kinds)
        best = max(
            int((torch.tensor(names)[own] == labels).sum()) for names in itertools.permutations(range(most), most)
        )
        assert matched_accuracy(own, labels) == best / 60


def test_clusters_are_found_and_judged_as_scikit_learn_does(monkeypatch):
    labels = torch.arange(120) % 4
    x = 4 * torch.eye(6)[labels] + 0.3 * gauss(120, 6)
    found = cluster(x, labels * 3 + 2)  # numbers are names
    assert (found["accuracy"], found["nmi"], found["ari"]) == pytest.approx((1, 1, 1))
    assert (found["clusters"], found["classes"], found["seed"]) == (4, 4, 0)
    module = importlib.import_module("selfsight.evaluate.cluster")  # the package's attribute is the function

    kept = {}
    real = module.kmeans

    def spy(rows, *rest, **more):
        own, centroids = real(rows, *rest, **more)
        kept[float((rows * centroids[own]).sum(1).double().mean())] = own
        return own, centroids

    monkeypatch.setattr(module, "kmeans", spy)
    noise = gauss(120, 6, seed=4)
    found = cluster(noise, labels, clusters=7, restarts=4, seed=3)
    own = kept[max(kept)]  # labels choose nothing: the start of the best objective
    assert len(kept) == 4
    assert found["cosine"] == max(kept)
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(labels, own))
    assert found["ari"] == pytest.approx(adjusted_rand_score(labels, own))
    assert found["accuracy"] == matched_accuracy(own, labels)
    assert found == cluster(noise, labels, clusters=7, restarts=4, seed=3)
    with pytest.raises(WrongUse, match="500 clusters"):
        cluster(noise, labels, clusters=500)
    with pytest.raises(WrongUse, match="at least one start"):
        cluster(noise, labels, restarts=0)


def test_the_mean_criterion():
    x = gauss(50, 3) * torch.tensor([1.0, 2.0, 0.5]) + 100
    square = ((x[:, None].double() - x.double()) ** 2).sum(2)
    mean = float(square.sum() / (50 * 49))  # over pairs of different rows
    gamma = mean_criterion(x)
    # at the mean squared distance the kernel is delta / sqrt(N - 1)
    assert math.exp(-gamma * mean) == pytest.approx(math.sqrt(2) * 1e-6 / 7, rel=1e-6)
    assert mean_criterion(torch.ones(9, 4)) == 0.25
    assert mean_criterion(torch.ones(1, 4)) == 0.25


@pytest.mark.parametrize("gamma", [None, 0.05, 3.0])
def test_parzen_windows_equal_scikit_learns_kernel(gamma):
    g = torch.Generator().manual_seed(5)
    labels, asked = torch.randint(3, (90,), generator=g), torch.randint(3, (50,), generator=g)
    centres = 2 * torch.randn(3, 4, generator=g)
    train, test = centres[labels] + gauss(90, 4, seed=6), centres[asked] + gauss(50, 4, seed=7)
    found = parzen(train, labels, test, asked, 5, gamma=gamma)
    kernel = rbf_kernel(test.double().numpy(), train.double().numpy(), gamma=found["gamma"])
    votes = kernel @ np.eye(5)[labels.numpy()]
    assert found["top1"] == pytest.approx((votes.argmax(1) == asked.numpy()).mean())
    if gamma is None:
        assert found["gamma"] == mean_criterion(train)
    inside = rbf_kernel(test.double().numpy(), gamma=found["gamma"])
    upper = np.triu_indices(50, 1)
    same = (asked[:, None] == asked).numpy()[upper]
    values, told = inside[upper], found["similarity"]
    assert [told["mean"], told["std"], told["max"]] == pytest.approx(
        [values.mean(), values.std(), values.max()], rel=1e-3
    )
    assert [told["within"], told["between"]] == pytest.approx([values[same].mean(), values[~same].mean()], rel=1e-3)
    assert told["median"] == pytest.approx(np.sort(values)[(len(values) - 1) // 2], rel=1e-3)


def test_far_rows_still_vote_and_mistakes_are_refused():
    train, labels = torch.tensor([[0.0], [1.0]]), torch.tensor([1, 0])
    far = torch.tensor([[-1e4], [1e4]])
    assert parzen(train, labels, far, torch.tensor([1, 0]), gamma=1.0)["top1"] == 1
    alone = similarity(torch.zeros(1, 2), torch.tensor([0]), 1.0)
    assert (alone["mean"], alone["within"], alone["rows"]) == (None, None, 1)
    tie = parzen(torch.tensor([[-1.0], [1.0]]), labels, torch.zeros(1, 1), torch.tensor([0]), gamma=1.0)
    assert tie["top1"] == 1  # of equals the lower class
    with pytest.raises(WrongUse, match="above 0"):
        parzen(train, labels, far, labels, gamma=0.0)
    with pytest.raises(WrongUse, match="one encoder"):
        parzen(train, labels, torch.zeros(2, 3), labels)
    with pytest.raises(WrongUse, match="classes = 1"):
        parzen(train, labels, far, labels, 1)
