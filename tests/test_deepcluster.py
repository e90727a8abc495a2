# mypy: disable-error-code="func-returns-value,method-assign,assignment,operator,arg-type"
"""DeepCluster: labels belong to pictures, the clustering finds what is there, the head starts anew."""

import math
import sys
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import nn

from selfsight import measure
from selfsight.assign import kmeans, uniform_rows
from selfsight.core import Step
from selfsight.errors import WrongUse
from selfsight.methods.deepcluster import DeepCluster, DeepClusterConfig, matched
from selfsight.optim import OptimizerConfig
from selfsight.rng import Stream, generator
from test_methods import Facts, step
from tiny import losses, make, tiny


class Means(nn.Module):
    dim = 6

    def forward(self, x):
        return x.flatten(1)[:, :6]


def blobs(per=30, k=6, seed=0):
    """Well separated groups, in random order: pictures (N, 3, 2, 2) and which group each is of."""
    rng = torch.Generator().manual_seed(seed)
    truth = torch.arange(k).repeat(per)[torch.randperm(k * per, generator=rng)]
    rows = torch.zeros(k * per, 12)
    rows[:, :6] = 8 * torch.eye(6)[truth] + 0.1 * torch.randn(k * per, 6, generator=rng)
    return rows.view(-1, 3, 2, 2), truth


def clustered(seed=0, **settings):
    images, truth = blobs()
    torch.manual_seed(seed)
    data = Facts(images)
    method = DeepCluster(DeepClusterConfig(**{"clusters": 6, "pca": 6, **settings}), Means(), data)
    method.before_step(step(0), data)
    return method, data, truth


def test_separated_groups_are_found():
    best = max(normalized_mutual_info_score(truth, m.labels) for m, _, truth in [clustered(pca=5)])
    assert best > 0.85  # k-means from random rows may merge two groups
    method, _, truth = clustered(clusters=12)
    purity = sum(truth[method.labels == k].bincount().max().item() for k in range(12) if (method.labels == k).any())
    assert purity / len(truth) > 0.99  # more clusters than groups: every cluster is of one group


def test_label_i_is_of_picture_i():
    """An encoder whose output is the picture's number: neighbours in number share a label, and batches ask by index."""
    images = torch.zeros(64, 3, 2, 2)
    images[:, 0, 0, 0] = torch.arange(64.0)

    class Number(nn.Module):
        dim = 2

        def forward(self, x):
            angle = x[:, 0, 0, 0] * (2 * math.pi / 64)
            return torch.stack([angle.cos(), angle.sin()], 1)

    torch.manual_seed(0)
    data = Facts(images)
    method = DeepCluster(DeepClusterConfig(clusters=8, pca=2), Number(), data)
    method.before_step(step(0), data)
    changes = (method.labels != method.labels.roll(1)).sum()
    assert changes <= 8  # each cluster is one arc of the circle
    rows = torch.tensor([50, 3, 17, 3])
    found = method({"global": images[rows][None]}, rows, step(0))
    logits = method.head(method.encoder(images[rows]))
    want = (
        nn.functional.cross_entropy(logits, method.labels[rows], reduction="none") * method.weights[method.labels[rows]]
    )
    assert float(found.loss) == pytest.approx(float(want.mean()), abs=1e-6)


def test_weights_make_clusters_count_the_same():
    method, _, _ = clustered(balanced="weight")
    assert not method.reorders
    share = torch.zeros(6).index_add_(0, method.labels, method.weights[method.labels])
    used = share > 0
    torch.testing.assert_close(share[used], torch.full_like(share[used], len(method.labels) / int(used.sum())))
    for balanced in ("sample", "off"):
        plain, _, _ = clustered(balanced=balanced, clusters=5)
        assert torch.equal(plain.weights, torch.ones(5))
        assert plain.reorders == (balanced == "sample")


def test_the_sampler_draws_every_cluster_the_same_number_of_times() -> None:
    """Before it is cut to N; clusters 1 and 4 are empty; a large one is not repeated, a small one as often as it must."""
    labels = torch.tensor([0] * 40 + [2] * 3 + [3] * 6 + [5] * 1)[torch.randperm(50, generator=seeded(3))]
    rows = uniform_rows(labels, seeded(0))
    assert labels[rows].bincount(minlength=6).tolist() == [13, 0, 13, 13, 0, 13]  # 50 // 4 + 1
    drawn = rows[labels[rows] == 0]
    assert len(drawn.unique()) == 13  # without replacement where there are enough
    assert len(rows[labels[rows] == 5].unique()) == 1
    assert torch.equal(rows, uniform_rows(labels, seeded(0)))
    assert not torch.equal(rows, uniform_rows(labels, seeded(1)))
    assert (labels[rows[:26]].bincount(minlength=6) > 0).sum() == 4  # shuffled: clusters do not come in turn
    often = torch.zeros(50)
    for seed in range(400):
        often += uniform_rows(labels, seeded(seed)).bincount(minlength=50)
    for cluster, size in ((0, 40), (2, 3), (3, 6)):  # each picture of a cluster as often as the others
        torch.testing.assert_close(often[labels == cluster] / 400, torch.full((size,), 13 / size), rtol=0.25, atol=0)
    exactly = torch.tensor([0] * 26 + [1] * 24)  # one cluster has just as many as are drawn
    rows = uniform_rows(exactly, seeded(0))
    assert labels_of(exactly, rows) == [26, 26]
    assert len(rows[exactly[rows] == 0].unique()) < 26  # with replacement, as the authors' code


def labels_of(labels, rows):
    return labels[rows].bincount().tolist()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_an_epoch_sees_what_the_sampler_drew():
    run, data = tiny("deepcluster")
    made = make(run, data)
    method, seen = made[0], []
    loss = method.loss
    method.loss = lambda outputs, index, at: (seen.append(index), loss(outputs, index, at))[1]
    losses(run, made, 0, 8)
    wanted = uniform_rows(method.labels, generator(run.seed, Stream.ORDER, 0))[:512]
    assert torch.equal(torch.cat(seen), wanted)


def test_separated_blobs_are_found_without_an_error():
    """From random rows k-means may merge two of them, but not at every seed."""
    images, truth = blobs(per=40, k=6)
    found = []
    for seed in range(8):
        method = DeepCluster(DeepClusterConfig(clusters=6, pca=0, iterations=30), Means(), Facts(images))
        method.before_step(Step(0, 100, 10, seeded(seed)), Facts(images))
        found.append(normalized_mutual_info_score(truth, method.labels))
    assert max(found) == pytest.approx(1.0)


def test_whitening_can_be_left_out():
    images, _ = blobs()
    data = Facts(images)
    plain = DeepCluster(DeepClusterConfig(clusters=6, pca=0), Means(), data)
    rows = nn.functional.normalize(images.flatten(1)[:, :6], dim=1)
    wanted, _ = kmeans(rows, 6, 20, seeded(0))
    assert torch.equal(plain.cluster(images.flatten(1)[:, :6], seeded(0)), wanted)


@pytest.mark.parametrize(
    ("count", "pca", "dim"),
    [(400, 256, 12), (400, 5, 5), (65, 256, 6), (7, 256, 1)],  # all there are, as asked, N / 10, at least one
)
def test_features_are_whitened_to_at_most_a_tenth_of_the_pictures(count, pca, dim):
    """Against loops: mean, covariance, its leading eigenvectors, each at unit variance, then rows of unit length."""
    scales = 10.0 ** torch.linspace(-1, 2, 12, dtype=torch.float64)
    mix = torch.randn(12, 12, generator=seeded(1), dtype=torch.float64)
    x = (torch.randn(count, 12, generator=seeded(0), dtype=torch.float64) * scales) @ mix + 50
    rows = x.tolist()
    mean = [sum(r[i] for r in rows) / count for i in range(12)]
    covariance = [
        [sum((r[i] - mean[i]) * (r[j] - mean[j]) for r in rows) / count for j in range(12)] for i in range(12)
    ]
    values, vectors = np.linalg.eigh(np.array(covariance))
    values = np.maximum(values, 1e-5 * values[-1])
    white = []
    for r in rows:
        y = [
            sum(vectors[i, d] * (r[i] - mean[i]) for i in range(12)) / math.sqrt(values[d])
            for d in range(11, 11 - dim, -1)
        ]
        white.append([a / math.sqrt(sum(b * b for b in y)) for a in y])
    wanted, _ = kmeans(torch.tensor(white, dtype=torch.float64), 3, 4, seeded(5))
    method = DeepCluster(DeepClusterConfig(clusters=3, pca=pca, iterations=4), Means(), Facts(x.view(count, 3, 2, 2)))
    assert torch.equal(method.cluster(x, seeded(5)), wanted)


def test_matched_clusters_keep_their_numbers_and_the_head():
    images, _ = blobs()
    data = Facts(images)
    method = DeepCluster(DeepClusterConfig(clusters=6, pca=6, head="matched"), Means(), data)
    method.before_step(step(0), data)
    assert float(method.head.bias.abs().max()) == 0  # the first clustering has nothing to match
    old, weight = method.labels.clone(), method.head.weight.clone()
    shuffle = torch.tensor([3, 5, 0, 1, 4, 2])
    method.cluster = lambda features, rng: torch.where(torch.arange(180) < 5, 0, shuffle[old])  # renamed, five moved
    method.before_step(step(10), data)
    assert torch.equal(method.labels[5:], old[5:])
    assert torch.equal(method.head.weight, weight)
    again = DeepCluster(DeepClusterConfig(clusters=6, pca=6), Means(), data)
    again.before_step(step(0), data)
    first = again.head.weight.clone()
    again.before_step(step(10), data)
    assert not torch.equal(again.head.weight, first)


def test_matching_is_the_best_of_all():
    rng = seeded(2)
    new, old = torch.randint(4, (60,), generator=rng), torch.randint(4, (60,), generator=rng)
    kept = max(sum(int(p[a] == b) for a, b in zip(new.tolist(), old.tolist())) for p in permutations(range(4)))
    assert int((matched(new, old, 4) == old).sum()) == kept
    assert len(matched(torch.arange(4), torch.tensor([0, 0, 0, 0]), 4).unique()) == 4


def test_features_before_a_relu_are_clustered_and_classified_after_it():
    images, _ = blobs()
    images = images - 4
    data = Facts(images)
    encoder = Means()
    encoder.pre_activation = True
    torch.manual_seed(0)
    method = DeepCluster(DeepClusterConfig(clusters=6, pca=0), encoder, data)
    method.before_step(step(0), data)
    raw = images.flatten(1)[:, :6]
    assert (raw < 0).any()
    wanted, _ = kmeans(nn.functional.normalize(raw, dim=1), 6, 20, seeded(0))
    assert torch.equal(method.labels, wanted)
    logits = method.encode({"global": images[None]}, step(0))["logits"][0]
    torch.testing.assert_close(logits, method.head(raw.relu()))


def test_faiss_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(WrongUse, match="pip install faiss-cpu"):
        clustered(backend="faiss")


def test_faiss_finds_the_same_groups():
    pytest.importorskip("faiss")
    found = [normalized_mutual_info_score(truth, m.labels) for m, _, truth in [clustered(backend="faiss", clusters=12)]]
    assert found[0] > 0.7
    assert torch.equal(clustered(backend="faiss")[0].labels, clustered(backend="faiss")[0].labels)


def test_probes_compare_clusters_with_labels():
    run, data = tiny("deepcluster")
    method, _, pictures = make(run, data)
    method.labels.copy_(pictures.part.labels + 3)
    assert measure.nmi_labels(method, pictures)["nmi_labels"] == pytest.approx(1.0)
    method.labels.copy_(torch.arange(len(method.labels)) % 7)
    assert measure.nmi_labels(method, pictures)["nmi_labels"] < 0.2
    half = torch.where(torch.arange(512) < 200, pictures.part.labels, -100)
    method.assignment = lambda: torch.stack([half, half])  # two heads; pictures in no cluster do not count
    assert measure.nmi_labels(method, pictures)["nmi_labels"] == pytest.approx(1.0)
    method.assignment = lambda: None
    assert measure.nmi_labels(method, pictures) == {}


@pytest.mark.parametrize(
    "settings", [{"balanced": "maybe"}, {"head": "old"}, {"backend": "numpy"}, {"pca": -1}, {"iterations": 0}]
)
def test_wrong_settings(settings):
    with pytest.raises(WrongUse, match=r"method\."):
        DeepClusterConfig(**settings)


def test_clustering_follows_the_epochs_and_the_head_starts_anew():
    method, data, _ = clustered(every=2)
    method.head.weight.data.fill_(5.0)
    kept = method.labels.clone()
    method.before_step(step(3), data)  # inside an epoch
    method.before_step(step(10), data)  # second epoch: not due
    assert float(method.head.weight.min()) == 5.0
    assert torch.equal(method.labels, kept)
    method.before_step(step(20), data)
    assert float(method.head.weight.abs().max()) < 0.1
    assert float(method.head.bias.abs().max()) == 0
    assert 0.5 < float(method.agreement) <= 1.0 + 1e-6
    found = method({"global": data.images[None]}, torch.arange(len(data)), step(20))
    assert float(found.loss) == pytest.approx(math.log(6), abs=0.3)


def test_labels_and_head_follow_the_steps_generator_alone():
    """The same on every rank, whatever the state of torch's global generator (two ranks: test_contract.py)."""
    one, data, _ = clustered(seed=0)
    two, *_ = clustered(seed=1)
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.head.weight, two.head.weight)
    two.before_step(Step(0, 100, 10, seeded(9)), data)
    assert not torch.equal(one.labels, two.labels)
    assert not torch.equal(one.head.weight, two.head.weight)


def test_the_head_carries_no_momentum():
    run, data = tiny("deepcluster")
    method, optimizer, _ = make(run, data)
    heads = {id(p) for p in method.head.parameters()}
    momenta = {group["momentum"] for group in optimizer.param_groups for p in group["params"] if id(p) in heads}
    assert momenta == {0.0}


@pytest.mark.parametrize(("head", "kept"), [("new", 3), ("matched", 19)])
def test_a_new_head_gets_a_new_optimizer(head, kept):
    """Adam's second moments, too: after two epochs of 8 steps and 3 more they have seen 3."""
    run, data = tiny("deepcluster", optimizer=OptimizerConfig(name="adamw", lr=0.001))
    made = make(replace(run, method=replace(run.method, head=head)), data)
    assert len(made[2]) // int(run.batch_size) == 8
    losses(run, made, 0, 19)
    method, optimizer, _ = made
    assert {float(optimizer.state[p]["step"]) for p in method.head.parameters()} == {kept}
    assert {float(optimizer.state[p]["step"]) for p in method.encoder.parameters()} == {19}


def test_clusters_are_learnt():
    """The loss of one clustering falls below log k; with labels in wrong order it hardly does."""
    late = []
    for wrong in (False, True):
        run, data = tiny("deepcluster", epochs=24.0, optimizer=OptimizerConfig(lr=0.4))
        run = replace(run, method=DeepClusterConfig(clusters=10, pca=16, iterations=5, every=24))
        made = make(run, data)
        if wrong:
            cluster = made[0].cluster
            made[0].cluster = lambda x, rng: cluster(x, rng)[torch.randperm(512, generator=seeded(0))]
        values = losses(run, made)
        assert values[0] == pytest.approx(math.log(10), abs=0.3)
        late.append(sum(values[-24:]) / 24 / math.log(10))
    assert late[0] < 0.88
    assert late[1] > 0.95
