"""Losses that compare rows, against loops written from the papers' formulas: values, gradients, what is a constant.

The loops use scalars of torch in float64 and detach what the paper stops, so that autograd gives their gradient, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from selfsight import losses
from test_losses import views

Loss = Callable[..., Tensor]


def cos(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of two vectors."""
    return sum_of(x * y for x, y in zip(a, b)) / (a.pow(2).sum() * b.pow(2).sum()).sqrt()


def sum_of(terms) -> Tensor:
    """Sum of scalars."""
    return torch.stack(list(terms)).sum()


def log_sum(terms) -> Tensor:
    """Log of the sum of exponentials, as it is written."""
    return sum_of(x.exp() for x in terms).log()


def slow_nt_xent(z1: Tensor, z2: Tensor, t: float) -> Tensor:
    z, n = [*z1, *z2], len(z1)
    s = [[cos(a, b) / t for b in z] for a in z]
    return sum_of(-s[i][(i + n) % (2 * n)] + log_sum(s[i][k] for k in range(2 * n) if k != i) for i in range(2 * n)) / (
        2 * n
    )


def slow_dcl(z1: Tensor, z2: Tensor, t: float, weights: Sequence[Tensor] | None = None) -> Tensor:
    z, n = [*z1, *z2], len(z1)
    s = [[cos(a, b) / t for b in z] for a in z]
    total = []
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        weight = 1 if weights is None else weights[i % n]
        total.append(-weight * s[i][positive] + log_sum(s[i][k] for k in range(2 * n) if k not in (i, positive)))
    return sum_of(total) / (2 * n)


def slow_weights(z1: Tensor, z2: Tensor, sigma: float) -> list[Tensor]:
    """w_i = 2 - exp(c_i / sigma) / mean_j exp(c_j / sigma)."""
    high = [(cos(a, b) / sigma).exp() for a, b in zip(z1.detach(), z2.detach())]
    return [2 - x / (sum_of(high) / len(high)) for x in high]


def slow_moco(q: Tensor, k: Tensor, queue: Tensor, t: float) -> Tensor:
    k, queue, total = k.detach(), queue.detach(), []
    for a, b in zip(q, k):
        positive = cos(a, b) / t
        total.append(-positive + log_sum([positive, *(cos(a, c) / t for c in queue)]))
    return sum_of(total) / len(q)


def slow_info_nce(q: Tensor, k: Tensor, t: float) -> Tensor:
    rows = [[cos(a, b) / t for b in k] for a in q]
    return sum_of(-row[i] + log_sum(row) for i, row in enumerate(rows)) / len(q)


def slow_moco_v3(q1: Tensor, k2: Tensor, q2: Tensor, k1: Tensor, t: float) -> Tensor:
    return 2 * t * slow_info_nce(q1, k2.detach(), t) + 2 * t * slow_info_nce(q2, k1.detach(), t)


def slow_byol(p1: Tensor, t2: Tensor, p2: Tensor, t1: Tensor) -> Tensor:
    pairs = [*zip(p1, t2.detach()), *zip(p2, t1.detach())]
    return sum_of((p / p.norm() - t / t.norm()).pow(2).sum() for p, t in pairs) / len(p1)


def slow_simsiam(p1: Tensor, z2: Tensor, p2: Tensor, z1: Tensor) -> Tensor:
    pairs = [*zip(p1, z2.detach()), *zip(p2, z1.detach())]
    return sum_of(-cos(p, z) for p, z in pairs) / (2 * len(p1))


def slow_relic(o1: Tensor, t2: Tensor, o2: Tensor, t1: Tensor, t: float, alpha: float) -> Tensor:
    n, p = len(o1), []
    for o, keys in ((o1, t2.detach()), (o2, t1.detach())):
        high = [[(cos(a, b) / t).exp() for b in keys] for a in o]
        p.append([[x / sum_of(row) for x in row] for row in high])
    total = []
    for i in range(n):
        total += [-p[0][i][i].log() / 2, -p[1][i][i].log() / 2]
        for a, b in ((0, 1), (1, 0)):  # Kullback-Leibler of a from b
            total += [alpha / 2 * p[a][i][j] * (p[a][i][j] / p[b][i][j]).log() for j in range(n)]
    return sum_of(total) / n


def slow_nnclr(z1: Tensor, z2: Tensor, p1: Tensor, p2: Tensor, queue: Tensor, t: float) -> Tensor:
    total = []
    for z, p in ((z1, p2), (z2, p1)):
        near = [max(queue.detach(), key=lambda row: float(cos(a, row))) for a in z.detach()]
        total.append(slow_info_nce(torch.stack(near), p, t))
    return (total[0] + total[1]) / 2


def slow_supcon(z1: Tensor, z2: Tensor, labels: Tensor, t: float) -> Tensor:
    z, y = [*z1, *z2], labels.tolist() * 2
    s = [[cos(a, b) / t for b in z] for a in z]
    total = []
    for i in range(len(z)):
        everyone = log_sum(s[i][k] for k in range(len(z)) if k != i)
        positives = [p for p in range(len(z)) if p != i and y[p] == y[i]]
        total.append(sum_of(everyone - s[i][p] for p in positives) / len(positives))
    return sum_of(total) / len(z)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Case:
    """A loss of tensors: the first `rows` of them have a row for each picture."""

    fast: Loss
    slow: Loss
    rows: int
    stopped: tuple[int, ...] = ()  #: which get no gradient
    swap: tuple[int, ...] = ()  #: their order with the two views exchanged; (): the loss knows the views apart
    extra: Callable[[int, int], list[Tensor]] = lambda n, d: []  #: further tensors
    cosine: bool = True  #: rows are made unit

    def tensors(self, n: int, d: int, seed: int = 0) -> list[Tensor]:
        return views(self.rows, n, d, seed) + self.extra(n, d)

    def leaves(self, tensors: list[Tensor]) -> list[Tensor]:
        return [x.clone().requires_grad_(x.is_floating_point()) for x in tensors]


def queue(n: int, d: int) -> list[Tensor]:
    return [unit(views(1, 6, d, 7)[0])]


def labels(n: int, d: int) -> list[Tensor]:
    return [torch.arange(n) % 3 % 2]


CASES = {
    "nt_xent": Case(lambda a, b: losses.nt_xent(a, b, 0.3), lambda a, b: slow_nt_xent(a, b, 0.3), 2, swap=(1, 0)),
    "dcl": Case(lambda a, b: losses.dcl(a, b, 0.3), lambda a, b: slow_dcl(a, b, 0.3), 2, swap=(1, 0)),
    "dclw": Case(
        lambda a, b: losses.dclw(a, b, 0.3, 0.5),
        lambda a, b: slow_dcl(a, b, 0.3, slow_weights(a, b, 0.5)),
        2,
        swap=(1, 0),
    ),
    "moco": Case(
        lambda q, k, rows: losses.moco(q, k, rows, 0.2),
        lambda q, k, rows: slow_moco(q, k, rows, 0.2),
        2,
        stopped=(1, 2),
        extra=queue,
    ),
    "moco_v3": Case(
        partial(losses.moco_v3, temperature=0.4),
        partial(slow_moco_v3, t=0.4),
        4,
        stopped=(1, 3),
        swap=(2, 3, 0, 1),
    ),
    "byol": Case(losses.byol, slow_byol, 4, stopped=(1, 3), swap=(2, 3, 0, 1)),
    "simsiam": Case(losses.simsiam, slow_simsiam, 4, stopped=(1, 3), swap=(2, 3, 0, 1)),
    "relic": Case(
        partial(losses.relic, temperature=0.4, alpha=0.7),
        partial(slow_relic, t=0.4, alpha=0.7),
        4,
        stopped=(1, 3),
        swap=(2, 3, 0, 1),
    ),
    "nnclr": Case(
        partial(losses.nnclr, temperature=0.3),
        partial(slow_nnclr, t=0.3),
        4,
        stopped=(0, 1, 4),
        swap=(1, 0, 3, 2, 4),
        extra=queue,
    ),
    "supcon": Case(
        lambda a, b, y: losses.supcon([a, b], y, 0.3),
        lambda a, b, y: slow_supcon(a, b, y, 0.3),
        2,
        swap=(1, 0, 2),
        extra=labels,
    ),
}


def gradients(loss: Loss, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    """The loss, and its gradient by each tensor; None for integers and for what plays no part."""
    live = [x.clone().requires_grad_(x.is_floating_point()) for x in tensors]
    value = loss(*live)
    found = iter(torch.autograd.grad(value, [x for x in live if x.requires_grad], allow_unused=True))
    return value.detach(), [next(found) if x.requires_grad else None for x in live]


def agree(fast: Loss, slow: Loss, tensors: list[Tensor]) -> None:
    """Equal values, and equal gradients where there is one."""
    value, ours = gradients(fast, tensors)
    wanted, theirs = gradients(slow, tensors)
    assert value.item() == pytest.approx(wanted.item(), abs=1e-10)
    for x, a, b in zip(tensors, ours, theirs):
        zero = torch.zeros_like(x)
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, atol=1e-10, rtol=0)


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("name", CASES)
def test_loops(name: str, n: int, d: int) -> None:
    case = CASES[name]
    agree(case.fast, case.slow, case.tensors(n, d, 10 * n + d))


@pytest.mark.parametrize("name", CASES)
def test_gradients_by_differences(name: str) -> None:
    """Of the tensors that have one; this also shows that nothing is detached that should not be."""
    case = CASES[name]
    tensors = case.tensors(4, 3, 5)
    live = [i for i, x in enumerate(tensors) if x.is_floating_point() and i not in case.stopped]
    if name == "dclw":  # its weights are constants, which differences do not know
        return

    def loss(*values: Tensor) -> Tensor:
        given = dict(zip(live, values))
        return case.fast(*(given.get(i, x) for i, x in enumerate(tensors)))

    assert torch.autograd.gradcheck(loss, [tensors[i].clone().requires_grad_() for i in live])


def test_dclw_differs_from_dcl_in_constants_only() -> None:
    a, b = views(2, 5, 4)
    weights = slow_weights(a, b, 0.5)
    assert sum_of(weights).item() == pytest.approx(5, abs=1e-12)  # mean 1
    assert max(weights) - min(weights) > 0.1
    _, ours = gradients(lambda x, y: losses.dclw(x, y, 0.3, 0.5), [a, b])
    _, fixed = gradients(lambda x, y: slow_dcl(x, y, 0.3, weights), [a, b])
    for x, y in zip(ours, fixed):
        torch.testing.assert_close(x, y, atol=1e-10, rtol=0)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_supcon_of_three_views(n: int) -> None:
    """The loop has two; the third view is read as more pictures of the same classes."""
    a, b, c = views(3, n, 4, n)
    y = torch.arange(n) % 2
    z, labels, total = [*a, *b, *c], y.tolist() * 3, []
    for i in range(3 * n):
        everyone = log_sum(cos(z[i], z[k]) / 0.2 for k in range(3 * n) if k != i)
        positive = [k for k in range(3 * n) if k != i and labels[k] == labels[i]]
        total.append(everyone - sum_of(cos(z[i], z[k]) / 0.2 for k in positive) / len(positive))
    assert losses.supcon(torch.stack([a, b, c]), y, 0.2).item() == pytest.approx(
        (sum_of(total) / (3 * n)).item(), abs=1e-10
    )


def test_retrieval_accuracy_by_sorting() -> None:
    """Ties count against the positive."""
    q, k = views(2, 9, 3)
    k, others = q + 0.9 * k, queue(9, 3)[0]
    for given, candidates in ((None, k), (others, others)):
        hits = {1: 0, 5: 0}
        for i in range(9):
            own = float(cos(q[i], k[i]))
            rest = [float(cos(q[i], c)) for j, c in enumerate(candidates) if given is not None or j != i]
            for top in hits:
                hits[top] += sum(x >= own for x in rest) < top
        assert 0 < hits[1] < hits[5]
        top1, top5 = losses.retrieval_accuracy(q, k, torch.arange(9), others=given)
        assert (top1.item(), top5.item()) == (pytest.approx(hits[1] / 9), pytest.approx(hits[5] / 9))
    one = torch.ones(9, 3)
    assert losses.retrieval_accuracy(one, one, torch.arange(9))[1].item() == 0


def test_nearest_is_the_first_of_equal_rows() -> None:
    rows = torch.tensor([[-1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])  # the last two are as near to (1, 0)
    z = torch.tensor([[2.0, 0.0], [-3.0, 0.1]], requires_grad=True)
    assert torch.equal(losses.nearest(z, rows), rows[[1, 0]])
    assert torch.equal(losses.nearest(z, rows.flip(0)), rows[[2, 0]])
    assert not losses.nearest(z, rows).requires_grad
