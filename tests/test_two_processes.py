"""What is shared between processes, on two gloo processes against one: assignments, whitening, batch normalisation."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from selfsight import distributed
from selfsight.assign import kmeans, pca_whiten, sinkhorn
from selfsight.batchnorm import in_other_groups, sync_batch_norm
from selfsight.errors import WrongUse
from selfsight.losses import nt_xent
from selfsight.nn import mlp
from two import spawn

UNEVEN = 0.375  # share of the first process where the counts of rows may differ


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def share(x: Tensor) -> tuple[Tensor, int]:
    """This process's rows of x, an uneven split, and the number of the first."""
    if distributed.world() == 1:
        return x, 0
    cut = int(len(x) * UNEVEN)
    return (x[:cut], 0) if distributed.rank() == 0 else (x[cut:], cut)


def collect(x: Tensor) -> Tensor:
    """Rows of all processes in order, whatever their counts."""
    if distributed.world() == 1:
        return x
    parts: list[Any] = [None, None]
    td.all_gather_object(parts, x)
    return torch.cat(parts)


def assignments() -> dict[str, Tensor]:
    """sinkhorn, k-means (also with empty clusters) and whitening on rows that lie on two processes."""
    reducers: dict[str, Any] = {"all_sum": distributed.all_sum, "all_max": distributed.all_max}
    scores, _ = share(torch.randn(40, 6, generator=rng(0), dtype=torch.float64))
    rows = torch.randn(400, 5, generator=rng(1), dtype=torch.float64)
    rows = F.normalize(torch.cat([rows[:60].repeat(5, 1), rows[:1].expand(300, -1), rows]), dim=1)
    x, first = share(rows)
    out = {"sinkhorn": collect(sinkhorn(scores, 0.05, 3, **reducers))}
    for spherical in (False, True):
        labels, centroids = kmeans(x, 25, 6, rng(2), spherical, place=(first, len(rows)), **reducers)
        out |= {f"labels {spherical}": collect(labels), f"centroids {spherical}": centroids}
    out["whitened"] = collect(pca_whiten(x, 3, distributed.all_sum))
    return out


class Network(nn.Module):
    """Every kind of batch normalisation, then a contrastive loss over the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), BatchNormAct2d(6), nn.Flatten(),
            mlp((24, 8, 5), bias=False, last_norm="batch-scale"), nn.BatchNorm1d(5, affine=False, momentum=None),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        z1, z2 = self.body(images.flatten(0, 1)).chunk(2)
        gathered = distributed.gather(z1), distributed.gather(z2)
        return nt_xent(z1, z2, 0.2, keys=gathered, rows=distributed.own_rows(len(z1)))


def network() -> dict[str, Tensor]:
    """Gradients and buffers after two steps on the two halves of a batch, in float64."""
    model = Network().double()
    images = torch.randn(2, 2, 8, 3, 6, 6, generator=rng(3), dtype=torch.float64)
    wrapped = distributed.wrap(sync_batch_norm(model))
    for batch in images:  # (2 views, B, ...)
        model.zero_grad()
        loss = wrapped(torch.stack([distributed.own(view) for view in batch]))
        loss.backward()
    out = {f"gradient {name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    out |= dict(model.named_buffers())
    return out | {"loss": distributed.all_sum(loss.detach()) / distributed.world()}


def far_from_zero() -> dict[str, Tensor]:
    """float32 with mean 1000 and variance 1: a difference of squares would be all rounding."""
    norm = sync_batch_norm(nn.BatchNorm1d(4))
    whole = 1000 + torch.randn(16, 4, generator=rng(4))
    x = distributed.own(whole).requires_grad_()
    y = norm(x)
    y.pow(3).sum().backward()
    assert x.grad is not None
    out = {"output": collect(y.detach()), "gradient of the input": collect(x.grad)}
    return out | {name: b for name, b in norm.named_buffers() if name != "num_batches_tracked"}


def hosts() -> dict[str, Tensor]:
    """What the hosts tell each other."""

    def refuse() -> None:
        raise WrongUse("the first process says no")

    with pytest.raises(WrongUse, match="says no"):
        distributed.from_first(refuse)
    value = distributed.from_first(lambda: 7 + distributed.rank())
    return {"agreed": torch.tensor(distributed.agree(3 - distributed.rank())), "made by the first": torch.tensor(value)}


def shuffled() -> dict[str, Tensor]:
    """Keys and maps that another process encodes, back in their rows; and what this one got to see."""
    x = distributed.own(torch.arange(48.0).view(8, 3, 2))
    seen: list[Tensor] = []

    def net(y: Tensor) -> tuple[Tensor, ...]:
        seen.append(y)
        return 2 * y.mean(1), 3 * y

    keys, maps = in_other_groups(net, x, "shuffle", rng(5))
    return {"keys": collect(keys), "maps": collect(maps), "seen": collect(seen[0])}


def everything() -> dict[str, dict[str, Tensor]]:
    return {
        "assign": assignments(),
        "network": network(),
        "far": far_from_zero(),
        "hosts": hosts(),
        "shuffled": shuffled(),
    }


def work(folder: str) -> None:
    torch.save(everything(), f"{folder}/{distributed.rank()}.pt")


Results = tuple[dict[str, dict[str, Tensor]], ...]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Of one process, of the first of two, of the second of two."""
    folder: Path = tmp_path_factory.mktemp("world")
    spawn(work, str(folder))
    return everything(), torch.load(folder / "0.pt"), torch.load(folder / "1.pt")


@pytest.mark.parametrize("part", ["assign", "network", "far", "hosts", "shuffled"])
def test_both_processes_hold_the_same(results: Results, part: str) -> None:
    _, first, second = (result[part] for result in results)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize(
    "name", ["sinkhorn", "whitened", "labels False", "centroids False", "labels True", "centroids True"]
)
def test_assignments_equal_one_process(results: Results, name: str) -> None:
    alone, two, _ = (result["assign"] for result in results)
    torch.testing.assert_close(two[name], alone[name], atol=1e-9, rtol=0)


def test_clusters_of_two_processes_are_not_empty(results: Results) -> None:
    for spherical in (False, True):
        assert results[1]["assign"][f"labels {spherical}"].bincount(minlength=25).min() > 0


def test_hosts_agree_on_the_largest_and_on_what_the_first_made(results: Results) -> None:
    assert results[2]["hosts"] == {"agreed": torch.tensor(3), "made by the first": torch.tensor(7)}


def test_shuffled_keys_and_maps_come_back(results: Results) -> None:
    x = torch.arange(48.0).view(8, 3, 2)
    for result in results:
        assert torch.equal(result["shuffled"]["keys"], 2 * x.mean(1))
        assert torch.equal(result["shuffled"]["maps"], 3 * x)
        assert not torch.equal(result["shuffled"]["seen"], x)


@pytest.mark.parametrize(("part", "tolerance"), [("network", 1e-9), ("far", 1e-3)])
def test_batch_norm_equals_one_process(results: Results, part: str, tolerance: float) -> None:
    alone, two, _ = (result[part] for result in results)
    assert alone.keys() == two.keys()
    for name in alone:
        gap = (two[name] - alone[name]).abs().max() / alone[name].abs().max().clamp(min=1)
        assert gap < tolerance, name


def test_the_network_exercises_every_kind_of_norm(results: Results) -> None:
    alone = results[0]["network"]
    assert alone["gradient body.0.weight"].abs().max() > 1e-3
    assert {n for n in alone if n.startswith("gradient body.6.4")} == {"gradient body.6.4.weight"}
    assert alone["body.7.num_batches_tracked"] == 2
