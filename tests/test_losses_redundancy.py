"""Losses over the whole batch's statistics, against loops written from the papers' formulas, and their closed values."""

import math
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from selfsight import losses
from test_losses import views
from test_losses_formulas import Case, agree, cos, sum_of, unit

Z4 = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)


def slow_barlow(z1: Tensor, z2: Tensor, weight: float) -> Tensor:
    (n, d), standard = z1.shape, []
    for z in (z1, z2):
        means = [sum_of(z[:, a]) / n for a in range(d)]
        spread = [(sum_of((x - means[a]) ** 2 for x in z[:, a]) / n + 1e-5).sqrt() for a in range(d)]
        standard.append([[(z[i, a] - means[a]) / spread[a] for a in range(d)] for i in range(n)])
    one, two = standard
    total = []
    for a in range(d):
        for b in range(d):
            c = sum_of(one[i][a] * two[i][b] for i in range(n)) / n
            total.append((1 - c) ** 2 if a == b else weight * c**2)
    return sum_of(total)


def covariance(z: Tensor, a: int, b: int) -> Tensor:
    """Unbiased."""
    return sum_of((x - z[:, a].mean()) * (y - z[:, b].mean()) for x, y in zip(z[:, a], z[:, b])) / (len(z) - 1)


def slow_vicreg(z1: Tensor, z2: Tensor, lam: float = 25, mu: float = 25, nu: float = 1) -> Tensor:
    n, d = z1.shape
    invariance = sum_of((x - y) ** 2 for x, y in zip(z1.flatten(), z2.flatten())) / (n * d)
    variance = sum_of((1 - (covariance(z, a, a) + 1e-4).sqrt()).clamp(min=0) for z in (z1, z2) for a in range(d)) / (
        2 * d
    )
    between = sum_of(covariance(z, a, b) ** 2 for z in (z1, z2) for a in range(d) for b in range(d) if a != b) / d
    return lam * invariance + mu * variance + nu * between


def slow_whiten(x: Tensor) -> list[list[Tensor]]:
    """Cholesky-Banachiewicz and forward substitution, by hand."""
    n, d = x.shape
    factor: list[list[Tensor]] = []
    for a in range(d):
        row: list[Tensor] = []
        for b in range(a + 1):
            rest = covariance(x, a, b) - sum(
                (row[k] * factor[b][k] if b < a else row[k] ** 2 for k in range(b)), torch.zeros(())
            )
            row.append(rest.sqrt() if a == b else rest / factor[b][b])
        factor.append(row)
    means, out = x.mean(0), []
    for i in range(n):
        y: list[Tensor] = []
        for a in range(d):
            known = sum((factor[a][k] * y[k] for k in range(a)), torch.zeros(()))
            y.append((x[i, a] - means[a] - known) / factor[a][a])
        out.append(y)
    return out


def slow_w_mse(views: list[Tensor], size: int) -> Tensor:
    white = [[torch.stack(y) for part in z.split(size) for y in slow_whiten(part)] for z in views]
    pairs = list(combinations(white, 2))
    return sum_of(2 - 2 * sum_of(cos(x, y) for x, y in zip(a, b)) / len(a) for a, b in pairs) / len(pairs)


def slow_tico(z1: Tensor, z2: Tensor, before: Tensor, beta: float, rho: float) -> Tensor:
    """C holds the past and this batch, as a constant; its quadratic form is written as squared products of pairs."""
    a, b, n = unit(z1), unit(z2.detach()), len(z1)
    attract = sum_of((x * y).sum() for x, y in zip(a, b)) / n
    past = sum_of(sum_of(x[i] * before[i, j] * x[j] for i in range(len(x)) for j in range(len(x))) for x in a) / n
    fresh = sum_of((x * y).sum() ** 2 for x in a for y in a.detach()) / n**2
    return 1 - attract + rho * (beta * past + (1 - beta) * fresh)


def slow_sigreg(z: Tensor, directions: Tensor, furthest: float = 3.0, knots: int = 17) -> Tensor:
    """Trapezoids of a sum over -furthest..furthest, written out; the statistic of each direction."""
    n, total = len(z), []
    grid = [-furthest + k * furthest / (knots - 1) for k in range(2 * knots - 1)]
    for a in directions.T:
        u = [(row * a).sum() / a.norm() for row in z]

        def height(t: float, u: list[Tensor] = u) -> Tensor:
            normal = math.exp(-(t**2) / 2)
            real, imaginary = sum_of((t * x).cos() for x in u) / n, sum_of((t * x).sin() for x in u) / n
            return normal * ((real - normal) ** 2 + imaginary**2)

        heights = [height(t) for t in grid]
        total.append(n * sum_of((x + y) / 2 * furthest / (knots - 1) for x, y in pairwise(heights)))
    return sum_of(total) / len(total)


def determinant(rows: list[list[Tensor]]) -> Tensor:
    """Expanded along the first row."""
    if len(rows) == 1:
        return rows[0][0]
    minor = lambda j: [row[:j] + row[j + 1 :] for row in rows[1:]]
    return sum_of((-1) ** j * x * determinant(minor(j)) for j, x in enumerate(rows[0]))


def slow_rate(z: Tensor, eps: float) -> Tensor:
    n, d = z.shape
    rows = [[(a == b) + d / (n * eps) * (z[:, a] * z[:, b]).sum() for b in range(d)] for a in range(d)]
    return determinant(rows).log() / 2


def slow_emp(patches: list[Tensor], weight: float, eps: float) -> Tensor:
    count, n = len(patches), len(patches[0])
    centre = [torch.stack([z[i] for z in patches]).sum(0) / count for i in range(n)]
    similar = sum_of(cos(z[i], centre[i]) for z in patches for i in range(n)) / (count * n)
    return -weight * similar - sum_of(slow_rate(z, eps) for z in patches) / count


def spread(n: int, d: int) -> list[Tensor]:
    """A covariance of unit rows."""
    rows = unit(views(1, 5, d, 3)[0])
    return [rows.T @ rows / 5]


def axes(n: int, d: int) -> list[Tensor]:
    return [views(1, d, 3, 4)[0]]


def tilted(z: Tensor) -> Tensor:
    """Some deviations are below 1, where VICReg's hinge is open, and some above."""
    return torch.where(torch.arange(z.shape[1]) % 2 == 0, z / 2, z * 2)


SPREADING = {
    "barlow_twins": Case(
        lambda a, b: losses.barlow_twins(a, b, 0.2), lambda a, b: slow_barlow(a, b, 0.2), 2, swap=(1, 0), cosine=False
    ),
    "vicreg": Case(
        lambda a, b: losses.vicreg(tilted(a), tilted(b), 7, 11, 3),
        lambda a, b: slow_vicreg(tilted(a), tilted(b), 7, 11, 3),
        2,
        swap=(1, 0),
        cosine=False,
    ),
    "tico": Case(
        lambda a, b, c: losses.tico(a, b, c, 0.8, 3.0)[0],
        lambda a, b, c: slow_tico(a, b, c, 0.8, 3.0),
        2,
        stopped=(1,),
        extra=spread,
    ),
    "sigreg": Case(
        losses.sigreg, slow_sigreg, 1, extra=axes, cosine=False,
    ),
    "emp_ssl": Case(
        lambda *z: losses.emp_ssl(z, 5.0, 0.2), lambda *z: slow_emp(list(z), 5.0, 0.2), 3, swap=(1, 2, 0), cosine=False
    ),
}  # fmt: skip


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("name", SPREADING)
def test_loops(name: str, n: int, d: int) -> None:
    case = SPREADING[name]
    agree(case.fast, case.slow, case.tensors(n, d, 10 * n + d))


@pytest.mark.parametrize(("n", "size", "d", "count"), [(8, 4, 2, 2), (12, 12, 5, 2), (24, 12, 5, 2), (8, 4, 3, 4)])
def test_w_mse_loops(n: int, size: int, d: int, count: int) -> None:
    given = views(count, n, d, n + d)
    agree(lambda *z: losses.w_mse(z, size), lambda *z: slow_w_mse(list(z), size), given)
    stacked = losses.w_mse(torch.stack(given), size)
    assert stacked.item() == pytest.approx(slow_w_mse(given, size).item(), abs=1e-10)


def test_vicreg_default_weights() -> None:
    a, b = views(2, 6, 4)
    assert losses.vicreg(a, b).item() == pytest.approx(slow_vicreg(a, b, 25, 25, 1).item(), abs=1e-10)


def test_vicreg_covariance_by_the_smaller_matrix() -> None:
    """More dimensions than rows: the Gram matrix of the rows gives the same sum."""
    a, b = views(2, 4, 9)
    agree(lambda x, y: losses.vicreg(x, y, 0, 0, 1), lambda x, y: slow_vicreg(x, y, 0, 0, 1), [a, b])


def test_barlow_closed_values() -> None:
    loss = lambda a, b, weight=0.0051: losses.barlow_twins(a, b, weight).item()
    assert loss(Z4, Z4) == pytest.approx(2e-10, rel=1e-3)
    assert loss(Z4, -Z4) == pytest.approx(7.99992, abs=1e-8)
    twice = Z4[:, [0, 0]]
    assert loss(twice, twice) == pytest.approx(0.0101998, abs=1e-8)
    assert loss(twice, twice, 0.005) == pytest.approx(0.0099998, abs=1e-8)
    assert loss(Z4, Z4.flip(1)) == pytest.approx(2.0102, abs=1e-6)
    assert loss(torch.full((5, 3), 2.5), torch.full((5, 3), -1.0)) == 3  # D
    a, b = views(2, 9, 4)
    sign = torch.tensor([1.0, -1, 1, 1])
    assert loss(a * sign, b * sign) == pytest.approx(loss(a, b), abs=1e-12)
    wide = 100 * torch.tensor([1.0, 2, 3, 4])
    assert loss(a * wide + 7, b * wide - 3) == pytest.approx(loss(a, b), abs=1e-4)  # but for the eps
    assert abs(loss(a * sign, b) - loss(a, b)) > 0.1


def test_vicreg_closed_values() -> None:
    assert losses.vicreg(Z4, Z4).item() == 0
    constant = torch.full((6, 3), 1.5, dtype=torch.float64)
    assert losses.vicreg(constant, constant).item() == pytest.approx(24.75, abs=1e-12)
    twice = Z4[:, [0, 0]]
    assert losses.vicreg(twice, twice, 0, 0, 1).item() == pytest.approx(3.555556, abs=1e-6)
    assert losses.vicreg(Z4, -Z4).item() == pytest.approx(100, abs=1e-12)
    assert losses.vicreg(Z4 / 2, Z4 / 2).item() == pytest.approx(10.564078, abs=1e-6)
    a, b = views(2, 9, 4)
    moved = losses.vicreg(a + 3, b - 1, 0, 25, 1).item()
    assert moved == pytest.approx(losses.vicreg(a, b, 0, 25, 1).item(), abs=1e-10)
    turn = torch.linalg.qr(views(1, 4, 4, 8)[0])[0]
    for weights, kept in (((1, 0, 0), True), ((0, 0, 1), False)):  # a rotation changes the covariances off the diagonal
        gap = losses.vicreg(a @ turn, b @ turn, *weights) - losses.vicreg(a, b, *weights)
        assert (abs(gap) < 1e-10) == kept


def test_whitening() -> None:
    x = views(1, 24, 5)[0]
    white = losses.whiten(x.view(2, 12, 5))
    assert white.mean(1).abs().max() < 1e-12
    for part in white:
        torch.testing.assert_close(part.T @ part / 11, torch.eye(5, dtype=torch.float64), atol=1e-12, rtol=0)
    lower = views(1, 5, 5, 2)[0].tril(-1) + torch.diag(torch.tensor([1.0, 0.5, 2, 3, 0.1], dtype=torch.float64))
    torch.testing.assert_close(losses.whiten(x @ lower.T + 4), losses.whiten(x), atol=1e-9, rtol=0)
    general = views(1, 5, 5, 3)[0]
    assert (losses.whiten(x @ general.T) - losses.whiten(x)).abs().max() > 0.1


def test_w_mse_closed_values() -> None:
    a, b = views(2, 8, 2)
    assert losses.w_mse([a, a], 4).item() == pytest.approx(0, abs=1e-12)
    assert losses.w_mse([a, -a], 4).item() == pytest.approx(4, abs=1e-12)
    within = torch.tensor([2, 0, 3, 1, 5, 4, 7, 6])
    assert losses.w_mse([a[within], b[within]], 4).item() == pytest.approx(losses.w_mse([a, b], 4).item(), abs=1e-12)
    across = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
    assert abs(losses.w_mse([a[across], b[across]], 4) - losses.w_mse([a, b], 4)) > 1e-3
    three = losses.w_mse([a, b, a], 4).item()  # pairs ab, ba, aa
    assert three == pytest.approx(losses.w_mse([a, b], 4).item() * 2 / 3, abs=1e-12)


def test_tico_over_three_steps() -> None:
    eye, covariance = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    for wanted in (0.4, 0.76, 1.084):
        loss, covariance = losses.tico(eye, eye, covariance, 0.9, 8)
        assert loss.item() == pytest.approx(wanted, abs=1e-12)
    for _ in range(400):
        loss, covariance = losses.tico(eye, eye, covariance, 0.9, 8)
    assert loss.item() == pytest.approx(4, abs=1e-12)
    same, covariance = torch.full((5, 3), -0.7, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    first, covariance = losses.tico(same, same, covariance, 0.9, 8)
    assert first.item() == pytest.approx(0.8, abs=1e-12)
    for _ in range(400):
        loss, covariance = losses.tico(same, same, covariance, 0.9, 8)
    assert loss.item() == pytest.approx(8, abs=1e-12)


def test_tico_keeps_what_passed() -> None:
    """C by hand after three batches; the loss's contrast is rho times squared products with all of them."""
    batches, covariance = views(3, 4, 3), torch.zeros(3, 3, dtype=torch.float64)
    for z in batches:
        loss, covariance = losses.tico(z.requires_grad_(), z, covariance, 0.8, 2.0)
        assert not covariance.requires_grad
    rows = [unit(z.detach()) for z in batches]
    weights = [0.2 * 0.8**2, 0.2 * 0.8, 0.2]
    for i in range(3):
        for j in range(3):
            wanted = sum(w * float((z[:, i] * z[:, j]).mean()) for w, z in zip(weights, rows))
            assert covariance[i, j].item() == pytest.approx(wanted, abs=1e-12)
    contrast = sum(
        w * float((x @ y) ** 2) for w, z in zip(weights, rows) for y in z for x in rows[2]
    ) / (4 * 4)  # fmt: skip
    assert loss.item() == pytest.approx(2 * contrast, abs=1e-12)


def exact_statistic(u: Tensor) -> float:
    """The integral over the whole line, in closed form."""
    n, x = len(u), u.tolist()
    pairs = sum(math.exp(-((a - b) ** 2) / 2) for a in x for b in x) / n**2
    single = sum(math.exp(-(a**2) / 4) for a in x) / n
    return n * (math.sqrt(2 * math.pi) * pairs - 2 * math.sqrt(math.pi) * single + math.sqrt(2 * math.pi / 3))


def test_sigreg_closed_values() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    zeros, pair = torch.zeros(5, 1, dtype=torch.float64), torch.tensor([[1.0], [-1]], dtype=torch.float64)
    assert losses.sigreg(zeros, one).item() == pytest.approx(0.402047580 * 5, abs=5e-9)
    assert losses.sigreg(pair, one).item() == pytest.approx(0.205659232, abs=1e-9)
    assert exact_statistic(zeros[:, 0]) == pytest.approx(0.408923082 * 5, abs=5e-9)
    assert exact_statistic(pair[:, 0]) == pytest.approx(0.218714752, abs=1e-9)
    u = views(1, 20, 1)[0]
    for x in (zeros, pair, u):
        fine = losses.sigreg(x, one, 10, 2001).item()
        assert fine == pytest.approx(exact_statistic(x[:, 0]), abs=1e-9)
    assert losses.sigreg(-u, one).item() == pytest.approx(losses.sigreg(u, one).item(), abs=1e-12)
    assert losses.sigreg(u, -5 * one).item() == pytest.approx(losses.sigreg(u, one).item(), abs=1e-12)
    for other in (u + 0.5, 2 * u):
        assert abs(losses.sigreg(other, one) - losses.sigreg(u, one)) > 0.05
    many = views(1, 4000, 1, 1)[0].view(100, 40)  # 40 normal samples of 100 rows
    each = losses.sigreg(many, torch.eye(40, dtype=torch.float64))
    assert each.item() == pytest.approx(1.052464, rel=0.3)  # whatever N is


def test_coding_rate_closed_values() -> None:
    eye, same = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 0], [1, 0]], dtype=torch.float64)
    assert losses.coding_rate(eye, 0.2).item() == pytest.approx(1.791759, abs=1e-6)
    assert losses.coding_rate(same, 0.2).item() == pytest.approx(1.198948, abs=1e-6)
    assert losses.emp_ssl([eye, eye, eye], 200, 0.2).item() == pytest.approx(-201.791759, abs=1e-6)
    wide = unit(views(1, 3, 5)[0])  # more dimensions than rows, and the other way round: the rule of Sylvester
    for z in (wide, wide.T):
        wanted = torch.linalg.eigvalsh(
            torch.eye(z.shape[1], dtype=torch.float64) + z.shape[1] / (len(z) * 0.2) * z.T @ z
        )
        assert losses.coding_rate(z, 0.2).item() == pytest.approx(wanted.log().sum().item() / 2, abs=1e-12)
    turn = torch.linalg.qr(views(1, 5, 5, 8)[0])[0]
    assert losses.coding_rate(wide @ turn, 0.2).item() == pytest.approx(losses.coding_rate(wide, 0.2).item(), abs=1e-12)
    rates = [
        losses.coding_rate(torch.tensor([[1.0, 0], [math.cos(x), math.sin(x)]]), 0.2).item() for x in (0, 0.5, 1, 1.5)
    ]
    assert rates == sorted(rates)
    assert len(set(rates)) == 4
