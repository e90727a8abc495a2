# mypy: disable-error-code="func-returns-value,method-assign,arg-type,union-attr,assignment,index"
"""DeepCluster-v2: what the memory holds, what is clustered, who predicts what."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.assign import kmeans
from selfsight.core import Step
from selfsight.errors import WrongUse
from selfsight.losses.clustering import centroid_prediction, pseudo_labels
from selfsight.methods.deepclusterv2 import NONE, DeepClusterV2, DeepClusterV2Config
from test_methods import Facts, Flat, pictures
from tiny import losses, make, tiny


def at(index: int) -> Step:
    return Step(index, 100, 4, torch.Generator().manual_seed(index))


class Noisy(Facts):
    """Pictures whose augmentation is noise; what a sweep is asked for is written down."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.sweeps: list[tuple[bool, bool]] = []

    def sweep(self, fn, *, rng=None, train=False):
        self.sweeps.append((rng is not None, train))
        noise = 0 if rng is None else 0.1 * torch.randn(self.images.shape, generator=rng)
        with torch.no_grad():
            return fn((self.images + noise).to(self.images.dtype))


def made(count: int = 64, **settings: Any) -> tuple[Any, Noisy]:
    torch.manual_seed(0)
    data = Noisy(pictures(count).double())
    config = DeepClusterV2Config(**{"hidden": 8, "dim": 4, "clusters": 5, "iterations": 4, **settings})
    return DeepClusterV2(config, Flat(), data).double(), data


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def test_before_the_first_epoch_the_network_as_it_is_fills_the_memory() -> None:
    method, data = made()
    method.before_step(at(0), data)
    assert data.sweeps == [(True, True)] * 2  # views of their own, batch statistics
    torch.testing.assert_close(method.memory.norm(dim=2), torch.ones(2, 64).double())
    assert not torch.allclose(method.memory[0], method.memory[1])
    assert (method.labels >= 0).all()
    method.before_step(at(1), data)
    assert len(data.sweeps) == 2


def test_each_head_clusters_its_view_and_the_centroids_are_its_classifier() -> None:
    method, data = made()
    method.before_step(at(0), data)
    method.memory.copy_(unit(2, 64, 4, seed=3))
    method.seen.fill_(True)
    method.before_step(at(4), data)
    rng = torch.Generator().manual_seed(4)
    for head in range(3):
        labels, centroids = kmeans(method.memory[head % 2], 5, 4, rng, spherical=True)  # starts drawn in turn
        assert torch.equal(method.labels[head], labels)
        torch.testing.assert_close(method.centroids[head], centroids)
        torch.testing.assert_close(centroids.norm(dim=1), torch.ones(5).double())
        assert torch.equal(labels, (method.memory[head % 2] @ centroids.T).argmax(1))
    assert not torch.equal(method.labels[0], method.labels[2])  # the same view, another start
    kept = method.labels.clone()
    method.seen.fill_(True)
    method.before_step(at(4), data)
    assert torch.equal(method.labels, kept)
    assert float(method.agreement) == pytest.approx(1.0)


def test_pictures_that_an_epoch_left_out_have_no_label() -> None:
    method, data = made()
    method.before_step(at(0), data)
    kept = method.memory.clone()
    rows, z = torch.tensor([9, 3, 60, 11, 40, 7]), unit(6, 2, 4, seed=1)
    method.after_step(at(0), {"index": rows[:4], "z": z[:4]})
    method.after_step(at(1), {"index": rows[4:], "z": z[4:]})
    for i, row in enumerate(rows.tolist()):
        assert torch.equal(method.memory[:, row], z[i])
    others = torch.ones(64, dtype=torch.bool).index_fill_(0, rows, False)
    assert torch.equal(method.memory[:, others], kept[:, others])
    method.before_step(at(4), data)
    assert (method.labels[:, others] == NONE).all()
    labels, _ = kmeans(z[:, 0][[1, 5, 0, 3, 4, 2]], 5, 4, torch.Generator().manual_seed(4), spherical=True)
    assert torch.equal(method.labels[0, rows.sort().values], labels)  # rows in the order of their numbers


def test_the_loss_by_loops() -> None:
    """Every crop of a picture has its label, rows without one count in no mean, the gradient stays out of the centroids."""
    method, data = made(temperature=0.3)
    method.before_step(at(0), data)
    index = torch.tensor([5, 0, 63, 20])
    method.labels[:, 63] = NONE
    z = unit(4, 4, 4, seed=2).requires_grad_()
    found = method.loss({"z": z}, index, at(1))
    total = 0.0
    for head in range(3):
        for crop in range(4):
            for b, picture in enumerate(index.tolist()):
                if picture != 63:
                    scores = [float(z[crop, b].detach() @ c) / 0.3 for c in method.centroids[head]]
                    label = int(method.labels[head, picture])
                    total += math.log(sum(math.exp(s) for s in scores)) - scores[label]
    assert found.loss.item() == pytest.approx(total / (3 * 4 * 3), abs=1e-12)
    found.loss.backward()
    assert float(z.grad[:, 2].abs().max()) == 0
    assert (z.grad[:, [0, 1, 3]].abs().sum(2) > 0).all()
    assert found.carry["z"].shape == (4, 2, 4)
    assert torch.equal(found.carry["z"][1, 0], z[0, 1].detach())
    assert not found.carry["z"].requires_grad
    assert not any(method.centroids is p for p in method.parameters())


def test_rows_without_a_label_count_in_no_mean() -> None:
    logits, labels = unit(2, 3, 5), torch.tensor([[1, NONE, 4], [NONE, NONE, 0]])
    kept = [(0, 0, 1), (0, 2, 4), (1, 2, 0)]
    wanted = sum(-float((logits[i, j] / 0.5).log_softmax(0)[y]) for i, j, y in kept) / 3
    assert pseudo_labels(logits, labels, 0.5).item() == pytest.approx(wanted, abs=1e-12)
    weights = torch.tensor([[2.0, 7, 3], [1, 1, 0.5]]).double()
    wanted = sum(-float(weights[i, j] * logits[i, j].log_softmax(0)[y]) for i, j, y in kept) / 10
    assert pseudo_labels(logits, labels, weights=weights, count=torch.tensor(10.0)).item() == pytest.approx(wanted)


def test_centroids_are_constants_of_the_loss() -> None:
    z, centroids = unit(2, 6, 4).requires_grad_(), unit(3, 5, 4, seed=1).requires_grad_()
    centroid_prediction(z, centroids, torch.zeros(3, 6, dtype=torch.long), 0.1).backward()
    assert z.grad is not None
    assert centroids.grad is None


def test_a_batch_without_labels_costs_nothing() -> None:
    method, data = made()
    method.before_step(at(0), data)
    method.labels.fill_(NONE)
    z = unit(2, 4, 4).requires_grad_()
    found = method.loss({"z": z}, torch.arange(4), at(1))
    found.loss.backward()
    assert float(found.loss) == 0
    assert float(z.grad.abs().max()) == 0
    assert float(pseudo_labels(torch.randn(3, 5), torch.full((3,), NONE))) == 0


def test_half_precision_is_raised() -> None:
    z, centroids = unit(2, 6, 4), unit(3, 5, 4, seed=1)
    labels = torch.randint(5, (3, 6), generator=torch.Generator().manual_seed(0))
    wanted = centroid_prediction(z.bfloat16().float(), centroids.float(), labels, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(centroid_prediction(z.bfloat16(), centroids.float(), labels, 0.1), wanted)


class Identity(nn.Module):
    dim = 4

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4]


def test_every_crop_predicts_the_cluster_of_its_own_picture() -> None:
    """Crops that say which picture they are of: the loss is small, and large if small crops are mixed up."""
    images = torch.zeros(8, 3, 2, 2).double()
    images.flatten(1)[torch.arange(8), torch.arange(8) % 4] = 1.0
    data = Noisy(images)
    method: Any = DeepClusterV2(DeepClusterV2Config(dim=4, clusters=4, iterations=10), Identity(), data).double()
    method.projector = nn.Identity()
    method.memory.copy_(images.flatten(1)[:, :4].expand(2, -1, -1))
    for seed in range(50):  # a start without two equal rows
        method.seen.fill_(True)
        method.cluster(torch.Generator().manual_seed(seed))
        if all(len(head.unique()) == 4 for head in method.labels):
            break
    index = torch.tensor([6, 1, 4, 3])
    views = {"global": images[index].expand(2, -1, -1, -1, -1), "local": images[index].expand(3, -1, -1, -1, -1)}
    right = float(method(views, index, at(1)).loss)
    wrong = float(method(views | {"local": views["local"].roll(1, 1)}, index, at(1)).loss)
    assert right < 0.01
    assert wrong > 1


def test_the_memory_follows_the_epoch() -> None:
    run, data = tiny("deepclusterv2")
    built = make(run, data)
    method = built[0]
    losses(run, built, 0, 3)
    assert int(method.seen.sum()) == 3 * run.batch_size
    before = method.labels.clone()
    losses(run, built, 3, 9)
    assert not torch.equal(before, method.labels)
    assert int(method.seen.sum()) == run.batch_size
    assert 0 < float(method.agreement) <= 1
    torch.testing.assert_close(method.memory.norm(dim=2), torch.ones(2, 512))


@pytest.mark.parametrize("settings", [{"clusters": 1}, {"heads": 0}, {"temperature": 0}, {"iterations": 0}])
def test_wrong_settings(settings: Any) -> None:
    with pytest.raises(WrongUse, match=r"method\."):
        DeepClusterV2Config(**settings)


def test_more_clusters_than_an_epoch_has_pictures_are_refused() -> None:
    method, _ = made(64, clusters=61)
    method.check(32, 32)
    with pytest.raises(WrongUse, match="an epoch has 60 pictures"):
        method.check(30, 30)
