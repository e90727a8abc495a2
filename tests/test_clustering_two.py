"""Clustering on two gloo processes against one: rows shared out unevenly, or all to one of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight import distributed
from selfsight.assign import balanced_labels, kmeans, sinkhorn
from selfsight.batchnorm import sync_batch_norm
from selfsight.core import Step
from selfsight.methods.deepcluster import DeepCluster, DeepClusterConfig
from selfsight.methods.deepclusterv2 import NONE, DeepClusterV2, DeepClusterV2Config
from selfsight.methods.swav import SwAV, SwAVConfig
from selfsight.nn import collect, share
from test_methods import Facts, Flat
from tiny import make, tiny
from two import spawn

pytestmark = pytest.mark.xdist_group("clustering two")
SPLITS = {"uneven": 15, "all on the first": 40, "all on the second": 0}


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def mine(x: Tensor, cut: int) -> Tensor:
    if distributed.world() == 1:
        return x
    return x[:cut] if distributed.rank() == 0 else x[cut:]


def everyone(x: Tensor, count: int, cut: int) -> Tensor:
    """Rows that lie on the processes as `mine` shares them out, in order."""
    if distributed.world() == 1:
        return x
    padded = torch.cat([x, x.new_zeros(count - len(x), *x.shape[1:])])
    first, second = distributed.gather(padded).chunk(2)
    return torch.cat([first[:cut], second[: count - cut]])


def assignments() -> dict[str, Tensor]:
    both: dict[str, Any] = {"all_sum": distributed.all_sum, "all_max": distributed.all_max}
    scores, weights = randn(40, 6) / 3, torch.rand(40, generator=rng(1)) * (torch.rand(40, generator=rng(2)) > 0.3)
    x, w, b = randn(40, 8, seed=3), randn(5, 8, seed=4), randn(5, seed=5)
    out = {}
    for name, cut in SPLITS.items():
        codes = sinkhorn(mine(scores, cut), 0.05, 3, weights=mine(weights, cut), **both)
        out[f"sinkhorn {name}"] = everyone(codes, 40, cut)
        labels = balanced_labels(mine(x, cut), w, b, 10.0, all_sum=distributed.all_sum)
        out[f"balanced labels {name}"] = everyone(labels, 40, cut)
        first = cut if distributed.rank() == 1 else 0
        labels, centroids = kmeans(mine(x, cut), 7, 5, rng(6), place=(first, 40), **both)
        out |= {f"k-means {name}": everyone(labels, 40, cut), f"centroids {name}": centroids}
    nobody = sinkhorn(mine(scores, 15), 0.05, 3, weights=torch.zeros(len(mine(scores, 15))), **both)
    out["sinkhorn nobody"] = everyone(nobody, 40, 15)
    return out


def shares() -> dict[str, Tensor]:
    return {f"{n}": collect(torch.arange(n)[share(n)] * 2, n) for n in (1, 2, 7, 8)} | {
        "rows": collect(randn(7, 3)[share(7)], 7)
    }


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(30)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.flatten(1)[:, :30].double())
        return y


def sweeps() -> dict[str, Tensor]:
    """Rows, draws and batch statistics do not depend on who does what."""
    _, _, pictures = make(*tiny("simclr"))
    net = sync_batch_norm(Normed().double())
    out = {"rows": pictures.sweep(net, torch.arange(333))}
    for train in (False, True):
        out |= {
            f"plain {train}": pictures.sweep(net, train=train),
            f"views {train}": pictures.sweep(net, rng=rng(1), train=train),
            f"some {train}": pictures.sweep(net, torch.arange(301), chunk=100, rng=rng(1), train=train),
        }
    return out


def swav() -> dict[str, Tensor]:
    """Each row of a queue that does not divide by two counts once."""
    torch.manual_seed(0)
    config = SwAVConfig(hidden=8, dim=4, prototypes=6, freeze_steps=0, queue=13)
    method = SwAV(config, Flat(), Facts(torch.zeros(64, 3, 2, 2))).double()
    for i, queue in enumerate(method.queues):
        queue.rows.copy_(F.normalize(randn(13, 4, seed=i), dim=1))  # type: ignore[operator]
    scores = F.normalize(randn(8, 4, seed=5), dim=1) @ method.prototypes.weight.detach().T
    step = Step(50, 100, 10, rng(0))
    return {"codes": distributed.gather(method.codes(distributed.own(scores), 1, step))}


def deepcluster_v2() -> dict[str, Tensor]:
    """The mean is over labelled rows of all processes, however they are shared out; 7 on one, 1 on the other."""
    torch.manual_seed(0)
    config = DeepClusterV2Config(hidden=8, dim=4, clusters=5)
    method = DeepClusterV2(config, Flat(), Facts(torch.zeros(16, 3, 2, 2))).double()
    method.centroids.copy_(F.normalize(randn(3, 5, 4, seed=1), dim=2))
    method.labels.copy_(torch.randint(5, (3, 16), generator=rng(2)))
    method.labels[:, [0, 9, 10, 11, 12, 13, 14, 15]] = NONE
    z = F.normalize(randn(2, 16, 4, seed=3), dim=2)
    own = z.chunk(distributed.world(), 1)[distributed.rank()].clone().requires_grad_()
    found = method.loss({"z": own}, distributed.own(torch.arange(16)), Step(1, 100, 10, rng(0)))
    found.loss.backward()
    assert own.grad is not None
    gradient = distributed.gather(own.grad.transpose(0, 1)) / distributed.world()  # as averaging makes of parameters'
    return {"loss": distributed.all_sum(found.loss.detach()) / distributed.world(), "gradient": gradient}


def deepcluster() -> dict[str, Tensor]:
    """Whitening and k-means on shares, 91 rows."""
    torch.manual_seed(0)
    method = DeepCluster(DeepClusterConfig(clusters=6, pca=5), Flat(), Facts(torch.zeros(91, 3, 2, 2)))
    return {"labels": method.cluster(randn(91, 12, seed=2) @ randn(12, 12, seed=3), rng(4))}


WORK = (assignments, shares, sweeps, swav, deepcluster_v2, deepcluster)


def worker(folder: str) -> None:
    torch.save({work.__name__: work() for work in WORK}, f"{folder}/{distributed.rank()}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of the two processes has."""
    folder: Path = tmp_path_factory.mktemp("two")
    spawn(worker, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_two_processes_equal_one(work: Any, found: list[dict[str, dict[str, Tensor]]]) -> None:
    alone = work()
    first, second = (each[work.__name__] for each in found)
    assert first.keys() == alone.keys()
    for key, value in alone.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, atol=1e-11, rtol=0)
