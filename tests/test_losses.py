"""Losses against the golden vectors and against slow loops written from the papers' formulas, in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from selfsight.losses import byol, contrastive_accuracy, info_nce, nt_xent, swapped_prediction

ROW, COLUMN = torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(3.0, dtype=torch.float64)[None]
Z1 = torch.sin(0.3 + 1.7 * ROW + 0.9 * COLUMN + 0.5 * ROW * COLUMN)
Z2 = Z1 + 0.3 * torch.cos(0.5 + 1.1 * ROW + 2.3 * COLUMN + 0.4 * ROW * COLUMN)
P1 = torch.sin(1 + 0.6 * ROW + 1.3 * COLUMN + 0.7 * ROW * COLUMN)
P2 = torch.cos(0.2 + 0.8 * ROW + 0.5 * COLUMN + 0.3 * ROW * COLUMN)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def slow_nt_xent(z1: Tensor, z2: Tensor, t: float) -> float:
    z, n, total = z1.tolist() + z2.tolist(), len(z1), 0.0
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        others = sum(math.exp(cosine(z[i], z[k]) / t) for k in range(2 * n) if k != i)
        total += -cosine(z[i], z[positive]) / t + math.log(others)
    return total / (2 * n)


def slow_byol(p1: Tensor, t2: Tensor, p2: Tensor, t1: Tensor) -> float:
    rows = zip(p1.tolist(), t2.tolist(), p2.tolist(), t1.tolist())
    return sum(4 - 2 * cosine(a, b) - 2 * cosine(c, d) for a, b, c, d in rows) / len(p1)


def slow_swapped(scores: list[Tensor], codes: list[Tensor], t: float) -> float:
    total = 0.0
    for i, code in enumerate(codes):
        for v, score in enumerate(scores):
            if v == i:
                continue
            for q, s in zip(code.tolist(), score.tolist()):
                log_sum = math.log(sum(math.exp(x / t) for x in s))
                total -= sum(a * (x / t - log_sum) for a, x in zip(q, s)) / len(score)
    return total / len(codes) / (len(scores) - 1)


def views(count: int, n: int, d: int, seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, dtype=torch.float64, generator=rng) for _ in range(count)]


def test_inputs_are_those_of_the_table() -> None:
    torch.testing.assert_close(
        torch.stack([Z1[0], Z2[7], P1[3], P2[5]]),
        torch.tensor(
            [
                [0.29552021, 0.93203909, 0.86320937],
                [-0.45997574, -0.55552733, 1.10684769],
                [0.33498815, -0.0830894, -0.17432678],
                [-0.49026082, 0.9965421, -0.33915486],
            ],
            dtype=torch.float64,
        ),
        atol=1e-8,
        rtol=0,
    )


@pytest.mark.parametrize(
    ("value", "golden"),
    [
        (lambda: nt_xent(Z1, Z2, 0.5), 1.394543699),
        (lambda: nt_xent(Z1, Z2, 0.1), 0.764005899),
        (lambda: byol(P1, Z2, P2, Z1), 3.972881608),
    ],
)
def test_golden(value: Callable[[], Tensor], golden: float) -> None:
    assert value().item() == pytest.approx(golden, abs=1e-8)


def test_golden_in_single_precision() -> None:
    a, b, p, q = Z1.float(), Z2.float(), P1.float(), P2.float()
    assert nt_xent(a, b, 0.5).item() == pytest.approx(1.394543699, abs=1e-5)
    assert byol(p, b, q, a).item() == pytest.approx(3.972881608, abs=1e-5)
    assert nt_xent(a, b, 0.5).dtype == torch.float32


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("d", [2, 5])
def test_loops(n: int, d: int) -> None:
    a, b, c, e = views(4, n, d, n * d)
    assert nt_xent(a, b, 0.3).item() == pytest.approx(slow_nt_xent(a, b, 0.3), abs=1e-10)
    assert byol(a, b, c, e).item() == pytest.approx(slow_byol(a, b, c, e), abs=1e-10)
    codes = [x.softmax(1) for x in views(2, n, d, 99)]
    scores = [a, b, c, e]
    assert swapped_prediction(scores, codes, 0.4).item() == pytest.approx(slow_swapped(scores, codes, 0.4), abs=1e-10)
    stacked = swapped_prediction(torch.stack(scores), torch.stack(codes), 0.4)
    assert stacked.item() == pytest.approx(slow_swapped(scores, codes, 0.4), abs=1e-10)


def test_nt_xent_closed_forms() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    for t, value in ((1, 0.551445), (0.5, 0.239545), (0.1, 9.0796e-5)):
        assert nt_xent(eye, eye, t).item() == pytest.approx(value, rel=1e-4)
    eye = torch.eye(5, 8, dtype=torch.float64)
    assert nt_xent(eye, eye, 0.2).item() == pytest.approx(math.log(1 + 8 * math.exp(-5)), abs=1e-12)
    one = torch.ones(6, 4, dtype=torch.float64)
    assert nt_xent(one, one, 0.1).item() == pytest.approx(math.log(11), abs=1e-12)
    assert nt_xent(one[:1], one[:1], 0.1).item() == 0


def test_invariances() -> None:
    a, b, c, e = views(4, 6, 5)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    for loss in (lambda x, y: nt_xent(x, y, 0.2), lambda x, y: byol(x, y, x.flip(0), y.flip(0))):
        assert loss(a[order], b[order]).item() == pytest.approx(loss(a, b).item(), abs=1e-12)
        assert loss(3 * a, 0.1 * b).item() == pytest.approx(loss(a, b).item(), abs=1e-12)
    assert nt_xent(b, a, 0.2).item() == pytest.approx(nt_xent(a, b, 0.2).item(), abs=1e-12)
    assert byol(c, e, a, b).item() == pytest.approx(byol(a, b, c, e).item(), abs=1e-12)
    codes = [x.softmax(1) for x in (c, e)]
    swapped = swapped_prediction([b, a], codes[::-1], 0.1)
    assert swapped.item() == pytest.approx(swapped_prediction([a, b], codes, 0.1).item(), abs=1e-12)


def test_gradients_of_nt_xent() -> None:
    a, b = (x.requires_grad_() for x in views(2, 5, 4))
    torch.autograd.gradcheck(lambda x, y: nt_xent(x, y, 0.3), (a, b))
    nt_xent(a, b, 0.3).backward()
    for x in (a, b):
        assert x.grad is not None
        assert (x.grad * x).sum(1).abs().max() < 1e-12  # along the row nothing changes
        assert x.grad.abs().sum(1).min() > 1e-4


def test_info_nce_is_nt_xent_with_the_anchor_masked() -> None:
    a, b = views(2, 5, 4)
    keys, line = torch.cat([a, b]), torch.arange(5)
    mask = torch.arange(10) == line[:, None]
    first = info_nce(a, keys, line + 5, 0.3, mask)
    second = info_nce(b, keys, line, 0.3, torch.arange(10) == line[:, None] + 5)
    assert ((first + second) / 2).item() == pytest.approx(nt_xent(a, b, 0.3).item(), abs=1e-12)
    assert info_nce(a, keys, line + 5, 0.3).item() > first.item()


def test_rows_of_two_processes_make_the_whole_batch() -> None:
    """Anchors local, candidates global: the processes' losses average to the whole one, and so do their gradients."""
    whole = [x.requires_grad_() for x in views(2, 6, 4)]
    value = nt_xent(whole[0], whole[1], 0.3)
    wanted = torch.autograd.grad(value, whole)
    parts = []
    for rows in (torch.arange(3), torch.arange(3, 6)):
        parts.append(nt_xent(whole[0][rows], whole[1][rows], 0.3, keys=(whole[0], whole[1]), rows=rows))
    assert parts[0].item() != pytest.approx(parts[1].item())
    assert torch.stack(parts).mean().item() == pytest.approx(value.item(), abs=1e-12)
    for got, want in zip(torch.autograd.grad(torch.stack(parts).mean(), whole), wanted):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="both"):
        nt_xent(whole[0], whole[1], 0.3, rows=torch.arange(6))


def test_byol_range_and_stopped_targets() -> None:
    a, b, c, e = (x.requires_grad_() for x in views(4, 5, 4))
    assert byol(a, a, b, b).item() == 0
    assert byol(a, -a, b, -3 * b).item() == pytest.approx(8, abs=1e-12)
    x, y = torch.eye(4, dtype=torch.float64).chunk(2)
    assert byol(x, y, y, x).item() == pytest.approx(4, abs=1e-12)
    byol(a, b, c, e).backward()
    assert b.grad is None
    assert e.grad is None
    assert a.grad is not None
    assert (a.grad * a).sum(1).abs().max() < 1e-12
    assert a.grad.abs().min() > 0


def test_swapped_prediction_golden_and_stopped_codes() -> None:
    scores = torch.tensor([[0.1, 0.0], [0.0, 0.1]], dtype=torch.float64)
    codes = torch.tensor([[0.880797, 0.119203], [0.119203, 0.880797]], dtype=torch.float64)
    assert swapped_prediction([scores, scores], [codes, codes], 0.1).item() == pytest.approx(0.432465, abs=1e-6)
    flat = torch.zeros(4, 7, dtype=torch.float64)
    assert swapped_prediction([flat] * 5, [flat + 1 / 7] * 2, 0.1).item() == pytest.approx(math.log(7), abs=1e-12)
    live = [codes.clone().requires_grad_() for _ in range(2)]
    three = [scores.clone().requires_grad_() for _ in range(3)]
    swapped_prediction(three, live, 0.1).backward()
    assert all(code.grad is None for code in live)
    assert all(score.grad is not None for score in three)


def test_half_precision_is_raised_and_autocast_is_left() -> None:
    a, b, c, e = (x.float() for x in views(4, 16, 8))
    codes = [x.softmax(1) for x in (c, e)]
    cases: list[Callable[..., Tensor]] = [
        lambda x: nt_xent(x(a), x(b), 0.07),
        lambda x: byol(x(a), x(b), x(c), x(e)),
        lambda x: info_nce(x(a), x(b), torch.arange(16), 0.07),
        lambda x: swapped_prediction([x(a), x(b)], codes, 0.07),
    ]
    for loss in cases:
        exact = loss(lambda x: x)
        with torch.autocast("cpu", torch.bfloat16):
            inside = loss(lambda x: x)
        assert torch.equal(inside, exact)  # products in bfloat16 would differ in the third digit
        rounded = loss(lambda x: x.bfloat16())
        assert rounded.dtype == torch.float32
        assert rounded.item() == pytest.approx(exact.item(), rel=2e-2)


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_rows_give_finite_losses(scale: float) -> None:
    a, b = (x.float() * scale for x in views(2, 4, 8))
    codes = [torch.full((4, 8), 1 / 8)] * 2
    for loss in (nt_xent(a, b, 0.07), byol(a, b, b, a), swapped_prediction([a, b], codes, 0.07)):
        assert loss.isfinite()


def test_accuracy_of_the_positive() -> None:
    """Against sorting each anchor's candidates in a loop."""
    a, b = views(2, 9, 3)
    b = a + 0.7 * b
    z, hits = torch.cat([a, b]).tolist(), {1: 0, 5: 0}
    for i in range(18):
        order = sorted((k for k in range(18) if k != i), key=lambda k: -cosine(z[i], z[k]))
        for top in hits:
            hits[top] += (i + 9) % 18 in order[:top]
    top1, top5 = contrastive_accuracy(a, b)
    assert top1.item() == pytest.approx(hits[1] / 18)
    assert top5.item() == pytest.approx(hits[5] / 18)
    assert 0 < hits[1] < hits[5] < 18
    halves = [
        contrastive_accuracy(a[rows], b[rows], (1,), keys=(a, b), rows=rows)[0]
        for rows in (torch.arange(3), torch.arange(3, 6), torch.arange(6, 9))
    ]
    assert torch.stack(halves).mean().item() == pytest.approx(hits[1] / 18)
    assert contrastive_accuracy(torch.ones(9, 3), torch.ones(9, 3))[0].item() == 0  # collapsed: no credit for ties
