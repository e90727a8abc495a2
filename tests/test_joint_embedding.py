"""Methods of joint embedding: a step is the paper's loss of the right views through the right networks.

Each forward pass and its gradient by every parameter, against the loops of test_losses_*, in float64.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfsight.core import Method, Output, Step
from selfsight.methods import METHODS
from test_losses_formulas import (
    slow_dcl,
    slow_moco,
    slow_moco_v3,
    slow_nnclr,
    slow_nt_xent,
    slow_relic,
    slow_supcon,
    slow_weights,
    sum_of,
    unit,
)
from test_losses_redundancy import slow_barlow, slow_emp, slow_sigreg, slow_tico, slow_vicreg, slow_w_mse


class Facts:
    """What a method may know of the data."""

    image_size, channels, classes, tiles = 8, 3, 4, 0


class Net(nn.Module):
    """One linear layer on the pictures' numbers, without batch statistics."""

    dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)[:, :12])


SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"hidden": 8, "dim": 4, "temperature": 0.3},
    "moco": {"hidden": 8, "dim": 4, "queue": 12},
    "mocov3": {"hidden": 8, "dim": 4, "temperature": 0.3},
    "byol": {"hidden": 8, "dim": 4, "predictor_hidden": 8},
    "simsiam": {"hidden": 8, "dim": 4, "predictor_hidden": 8},
    "directpred": {"hidden": 8, "dim": 4},
    "directcopy": {"hidden": 8, "dim": 4},
    "relic": {"hidden": 8, "dim": 4},
    "barlowtwins": {"hidden": 8, "dim": 4},
    "vicreg": {"hidden": 8, "dim": 4},
    "nnclr": {"hidden": 8, "dim": 4, "predictor_hidden": 8, "queue": 12},
    "wmse": {"hidden": 8, "dim": 2, "slice_size": 4},
    "tico": {"hidden": 8, "dim": 4},
    "lejepa": {"hidden": 8, "dim": 4, "directions": 5},
    "empssl": {"hidden": 8, "dim": 4},
    "supcon": {"hidden": 8, "dim": 4},
    "supervised": {},
}


def build(name: str, encoder: nn.Module | None = None, **settings: Any) -> Any:
    """A small method in float64."""
    torch.manual_seed(0)
    kind: Any = METHODS[name]
    return kind(kind.Config(**{**SMALL[name], **settings}), encoder or Net(), Facts()).double()


@torch.no_grad()
def disturb(method: Method, size: float = 0.3) -> None:
    """Move the student away from where it started, and its teacher's copy elsewhere."""
    rng = torch.Generator().manual_seed(1)
    for p in method.parameters():
        p.add_(size * torch.randn(p.shape, generator=rng, dtype=torch.float64))


def step(index: int = 0, total: int = 100) -> Step:
    return Step(index, total, 10, torch.Generator().manual_seed(index))


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, 3, 2, 2, generator=torch.Generator().manual_seed(seed)).double()


def views_of(name: str, count: int = 8, more: int = 2) -> dict[str, Tensor]:
    """Views that a method reads: `more` of one size, some local ones, labels."""
    method = METHODS[name]
    views = {"global": pictures(1 if method.global_views == 1 else more, count)}
    if method.local_views:
        views["local"] = pictures(3, count, seed=1)
    if method.labelled:
        views["label"] = (torch.arange(count) % 3)[None]
    return views


def twins(method: Any, views: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The embeddings of two views."""
    x1, x2 = views["global"]
    return method.embed(x1), method.embed(x2)


def same(method: Method, views: dict[str, Tensor], slow: Callable[[], Tensor], atol: float = 1e-10) -> Output:
    """The step's loss and its gradients are those of `slow`."""
    found: Output = method(views, torch.arange(views["global"].shape[1]), step(3))
    wanted = slow()
    assert found.loss.item() == pytest.approx(wanted.item(), abs=atol)
    live = [p for p in method.parameters() if p.requires_grad]
    ours = torch.autograd.grad(found.loss, live, allow_unused=True)
    theirs = torch.autograd.grad(wanted, live, allow_unused=True)
    for p, a, b in zip(live, ours, theirs):
        zero = torch.zeros_like(p)
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, atol=atol, rtol=0)
    assert any(a is not None and a.abs().max() > 1e-4 for a in ours)
    return found


@pytest.mark.parametrize("objective", ["nt-xent", "dcl", "dclw"])
def test_simclr_and_its_decoupled_forms(objective: str) -> None:
    method, views = build("simclr", objective=objective, sigma=0.6), views_of("simclr")

    def slow() -> Tensor:
        z1, z2 = method.embed(views["global"].flatten(0, 1)).chunk(2)  # batch statistics of both views
        if objective == "nt-xent":
            return slow_nt_xent(z1, z2, 0.3)
        return slow_dcl(z1, z2, 0.3, slow_weights(z1, z2, 0.6) if objective == "dclw" else None)

    same(method, views, slow)


@pytest.mark.parametrize("direction", ["one", "sum", "mean"])
def test_moco(direction: str) -> None:
    method, views = build("moco", direction=direction), views_of("moco")
    disturb(method)
    if direction == "mean":  # queues of view 1's and view 2's keys
        method.queues[1].rows.copy_(method.queues[1].rows.roll(1, 1))
    x1, x2 = views["global"]

    def slow() -> Tensor:
        first = slow_moco(method.embed(x1), method.keys(x2), method.queues[-1].rows, 0.2)
        if direction == "one":
            return first
        both = first + slow_moco(method.embed(x2), method.keys(x1), method.queues[0].rows, 0.2)
        return both if direction == "sum" else both / 2

    same(method, views, slow, 1e-6)  # keys are rounded to float32


@pytest.mark.parametrize("joint", [False, True])
def test_mocov3(joint: bool) -> None:
    method, views = build("mocov3", joint_views=joint), views_of("mocov3")
    disturb(method)
    x1, x2 = views["global"]

    def slow() -> Tensor:
        online = nn.Sequential(method.encoder, method.projector, method.predictor)
        q1, q2 = online(torch.cat([x1, x2])).chunk(2) if joint else (online(x1), online(x2))
        k1, k2 = method.keys(torch.cat([x1, x2])).chunk(2) if joint else (method.keys(x1), method.keys(x2))
        return slow_moco_v3(q1, k2, q2, k1, 0.3)

    same(method, views, slow)
    assert (method.embed(x1) - method.keys(x1)).abs().max() > 0.1


def test_relic() -> None:
    method, views = build("relic", alpha=0.7, temperature=0.4), views_of("relic")
    disturb(method)
    x1, x2 = views["global"]

    def slow() -> Tensor:
        o1, o2 = (method.predictor(method.embed(x)) for x in (x1, x2))
        return slow_relic(o1, method.target(x2), o2, method.target(x1), 0.4, 0.7)

    same(method, views, slow)


def test_barlow_twins() -> None:
    method, views = build("barlowtwins", scale=0.1, weight=0.2), views_of("barlowtwins")
    same(method, views, lambda: 0.1 * slow_barlow(*twins(method, views), weight=0.2))


def test_vicreg() -> None:
    method, views = build("vicreg", invariance=7, variance=11, covariance=3), views_of("vicreg")
    same(method, views, lambda: slow_vicreg(*twins(method, views), lam=7, mu=11, nu=3))


def test_nnclr() -> None:
    """No gradient through the embeddings whose neighbours are looked up."""
    method, views = build("nnclr", temperature=0.3), views_of("nnclr")

    def slow() -> Tensor:
        z1, z2 = (method.embed(x) for x in views["global"])
        return slow_nnclr(z1, z2, method.predictor(z1), method.predictor(z2), method.queue.rows, 0.3)

    found = same(method, views, slow)
    wanted = unit(method.embed(views["global"][0]).detach())
    torch.testing.assert_close(found.carry["z"].double(), wanted, atol=1e-6, rtol=0)  # of view 1, before the predictor


@pytest.mark.parametrize(("count", "iterations"), [(2, 1), (3, 2)])
def test_wmse(count: int, iterations: int) -> None:
    """The same permutation for all views; the head's batch statistics span them."""
    method, views = build("wmse", iterations=iterations), views_of("wmse", more=count)
    rng = step(3).fresh()
    orders = [torch.randperm(8, generator=rng) for _ in range(iterations)]
    assert orders[0].tolist() != list(range(8))

    def slow() -> Tensor:
        z = method.embed(views["global"].flatten(0, 1)).chunk(count)
        return sum_of(slow_w_mse([x[order] for x in z], 4) for order in orders) / iterations

    same(method, views, slow)


def test_tico() -> None:
    method, views = build("tico", beta=0.8, rho=3.0), views_of("tico")
    disturb(method)
    rows = unit(pictures(9).flatten(1)[:, :4])
    method.covariance.copy_(rows.T @ rows / 9)
    before = method.covariance.clone()
    x1, x2 = views["global"]
    found = same(method, views, lambda: slow_tico(method.embed(x1), method.target(x2), before, 0.8, 3.0))
    z = unit(method.embed(x1).detach())
    wanted = 0.8 * before + 0.2 * z.T @ z / 8
    torch.testing.assert_close(found.carry["covariance"][0], wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("local", [False, True])
def test_lejepa(local: bool) -> None:
    """The centre is that of the whole views; distance and normality are those of all."""
    method, views = build("lejepa", weight=0.3), views_of("lejepa")
    if not local:
        del views["local"]
    directions = torch.randn(4, 5, generator=step(3).fresh()).double()

    def slow() -> Tensor:
        x = torch.cat(list(views.values()))  # one pass of the head
        z = method.embed(x.flatten(0, 1)).view(len(x), 8, 4)
        centre = (z[0] + z[1]) / 2
        distance = sum_of((v[i] - centre[i]).pow(2).sum() for v in z for i in range(8)) / z.numel()
        return 0.7 * distance + 0.3 * sum_of(slow_sigreg(v, directions) for v in z) / len(z)

    same(method, views, slow)


def test_empssl() -> None:
    method, views = build("empssl", weight=5.0, eps=0.3), views_of("empssl", more=4)

    def slow() -> Tensor:
        z = unit(method.embed(views["global"].flatten(0, 1))).chunk(4)  # patch by patch
        return slow_emp(list(z), 5.0, 0.3)

    found = same(method, views, slow)
    assert -5 * found.logs["similarity"] > found.loss  # the rate is subtracted


def test_supcon() -> None:
    method, views = build("supcon", temperature=0.3), views_of("supcon")
    same(method, views, lambda: slow_supcon(*twins(method, views), labels=views["label"][0], t=0.3))


def test_supcon_without_classes_in_common_is_simclr() -> None:
    method, views = build("supcon", temperature=0.3), views_of("supcon")
    views["label"] = torch.arange(8)[None]
    same(method, views, lambda: slow_nt_xent(*twins(method, views), t=0.3))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_supervised(smoothing: float) -> None:
    method, views = build("supervised", smoothing=smoothing), views_of("supervised")

    def slow() -> Tensor:
        total = []
        for x, y in zip(views["global"][0], views["label"][0].tolist()):
            scores = method.head(method.encoder(x[None]))[0]
            p = scores.exp() / scores.exp().sum()
            total += [-((1 - smoothing) * (k == y) + smoothing / 4) * p[k].log() for k in range(4)]
        return sum_of(total) / 8

    found = same(method, views, slow)
    guesses = method.head(method.encoder(views["global"][0])).argmax(1)
    assert found.logs["accuracy"].item() == (guesses == views["label"][0]).double().mean().item()
