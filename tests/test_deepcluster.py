"""DeepCluster: labels belong to pictures, the clustering finds what is there, the head starts anew."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import nn

from selfsight.methods.deepcluster import DeepCluster, DeepClusterConfig
from selfsight.optim import OptimizerConfig
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
    method, _, _ = clustered()
    share = torch.zeros(6).index_add_(0, method.labels, method.weights[method.labels])
    used = share > 0
    torch.testing.assert_close(share[used], torch.full_like(share[used], len(method.labels) / int(used.sum())))
    plain, _, _ = clustered(balanced=False)
    assert torch.equal(plain.weights, torch.ones(6))


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


def test_the_same_seed_gives_the_same_labels_on_every_rank():
    assert torch.equal(clustered()[0].labels, clustered()[0].labels)


def test_the_head_carries_no_momentum():
    run, data = tiny("deepcluster")
    method, optimizer, _ = make(run, data)
    heads = {id(p) for p in method.head.parameters()}
    momenta = {group["momentum"] for group in optimizer.param_groups for p in group["params"] if id(p) in heads}
    assert momenta == {0.0}


def test_clusters_are_learnt_within_an_epoch():
    """The loss of the first clustering falls below log k: wrong labels, or labels in wrong order, cannot be learnt."""
    run, data = tiny("deepcluster", epochs=24.0, optimizer=OptimizerConfig(lr=0.4))
    run = replace(run, method=DeepClusterConfig(clusters=10, pca=16, iterations=5, every=24))
    values = losses(run, make(run, data))
    assert sum(values[-8:]) / 8 < 0.85 * math.log(10)
