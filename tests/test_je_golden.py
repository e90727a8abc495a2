"""The golden values of all losses (float64, by brute force, independent of any library), and small closed values."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from selfsight import losses
from selfsight.methods.siamese import predictor_from
from test_losses import COLUMN, P1, P2, Z1, Z2
from test_losses_formulas import unit

LINE = torch.arange(5.0, dtype=torch.float64)[:, None]
RAW = torch.cos(0.7 * LINE + 1.9 * COLUMN + 0.6 * LINE * COLUMN)
Q = unit(RAW)
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
AXES = torch.eye(3, dtype=torch.float64)
ZERO = torch.zeros(3, 3, dtype=torch.float64)
PATCHES = [unit(z) for z in (Z1, Z2, P1)]


def near(value: float | Tensor, golden: float, atol: float = 1e-8) -> bool:
    return float(value) == pytest.approx(golden, abs=atol, rel=0)


def test_queue_is_that_of_the_table() -> None:
    wanted = torch.tensor([-0.94222234, 0.68454667, 0.39349087], dtype=torch.float64)
    torch.testing.assert_close(RAW[4], wanted, atol=1e-8, rtol=0)


def second_tico() -> Tensor:
    _, covariance = losses.tico(Z1, Z2, ZERO, 0.9, 8)
    return losses.tico(Z1, Z2, covariance, 0.9, 8)[0]


def lejepa() -> Tensor:
    both = torch.stack([Z1, Z2])
    invariance = (both - both.mean(0)).square().mean()
    return 0.95 * invariance + 0.05 * (losses.sigreg(Z1, AXES) + losses.sigreg(Z2, AXES)) / 2


GOLDEN: dict[str, tuple[Callable[[], Tensor], float]] = {
    "nt_xent": (lambda: losses.nt_xent(Z1, Z2, 0.5), 1.394543699),
    "dcl, 0.5": (lambda: losses.dcl(Z1, Z2, 0.5), 1.103338366),
    "dcl, 0.1": (lambda: losses.dcl(Z1, Z2, 0.1), -0.619766052),
    "dclw": (lambda: losses.dclw(Z1, Z2, 0.5, 0.5), 1.104905704),
    "moco": (lambda: losses.moco(P1, Z2, Q, 0.2), 4.655515849),
    "moco v3, 0.2": (lambda: losses.moco_v3(P1, Z2, P2, Z1, 0.2), 3.613104046),
    "moco v3, 1": (lambda: losses.moco_v3(P1, Z2, P2, Z1, 1.0), 8.881975698),
    "byol": (lambda: losses.byol(P1, Z2, P2, Z1), 3.972881608),
    "simsiam": (lambda: losses.simsiam(P1, Z2, P2, Z1), -0.006779598),
    "relic, 0.2": (lambda: losses.relic(P1, Z2, P2, Z1, 0.2, 1.0), 7.962048512),
    "relic's contrast": (lambda: losses.relic(P1, Z2, P2, Z1, 0.2, 0.0), 4.516380058),
    "relic, 1": (lambda: losses.relic(P1, Z2, P2, Z1, 1.0, 1.0), 2.503474350),
    "relic's contrast, 1": (lambda: losses.relic(P1, Z2, P2, Z1, 1.0, 0.0), 2.220493924),
    "barlow": (lambda: losses.barlow_twins(Z1, Z2, 0.0051), 0.008437322),
    "barlow, 1": (lambda: losses.barlow_twins(Z1, Z2, 1.0), 0.852276971),
    "barlow's diagonal": (
        lambda: losses.barlow_twins(Z1, Z2, 0.0),
        sum((1 - c) ** 2 for c in (0.97125831, 0.9579618, 0.96103355)),
    ),
    "vicreg": (lambda: losses.vicreg(Z1, Z2), 6.697190346),
    "vicreg's distance": (lambda: losses.vicreg(Z1, Z2, 1, 0, 0), 0.044951135),
    "vicreg's variance": (lambda: losses.vicreg(Z1, Z2, 0, 1, 0), (0.246017551 + 0.181847925) / 2),
    "vicreg's covariance": (lambda: losses.vicreg(Z1, Z2, 0, 0, 1), 0.070377041 + 0.154716472),
    "vicreg's covariance, one view": (lambda: losses.vicreg(Z1, Z1, 0, 0, 1), 2 * 0.070377041),
    "vicreg, solo-learn": (lambda: losses.vicreg(Z1, Z2, 25, 50, 1), 12.045508798),
    "vicreg, paper": (lambda: losses.vicreg(Z1, Z2, 3 * 25, 50, 1), 14.293065561),
    "nnclr": (lambda: losses.nnclr(Z1, Z2, P1, P2, Q, 0.2), 5.302563933),
    "w-mse, one slice": (lambda: losses.w_mse([Z1, Z2], 8), 0.064128767),
    "w-mse, two slices": (lambda: losses.w_mse([Z1, Z2], 4), 0.032633675),
    "tico, step 1": (lambda: losses.tico(Z1, Z2, ZERO, 0.9, 8)[0], 0.362785194),
    "tico, step 2": (second_tico, 0.662686158),
    "supcon": (lambda: losses.supcon([Z1, Z2], Y, 0.1), 7.572441955),
    "sigreg": (lambda: losses.sigreg(Z1, AXES), (0.346330865 + 0.263034363 + 0.329523412) / 3),
    "sigreg, one axis": (lambda: losses.sigreg(Z1, AXES[:, 1:2]), 0.263034363),
    "sigreg, paper's grid": (  # 17 points on -5..5 are 9 on 0..5
        lambda: losses.sigreg(Z1, AXES, 5, 9),
        (0.354408283 + 0.287512571 + 0.338406710) / 3,
    ),
    "sigreg, exact": (lambda: losses.sigreg(Z1, AXES, 10, 2001), (0.354412197 + 0.287519256 + 0.338406470) / 3),
    "sigreg, both": (lambda: (losses.sigreg(Z1, AXES) + losses.sigreg(Z2, AXES)) / 2, 0.274331556),
    "lejepa": (lejepa, 0.024392472),
    "emp": (lambda: losses.emp_ssl(PATCHES, 200, 0.2), -144.755227950),
    "emp's similarity": (lambda: losses.emp_ssl(PATCHES, 1, 0.2) - losses.emp_ssl(PATCHES, 0, 0.2), -0.710913171),
    "emp's rate": (lambda: losses.emp_ssl(PATCHES, 0, 0.2), -2.572593776),
    "coding rates": (lambda: losses.coding_rate(torch.stack(PATCHES), 0.2).mean(), 2.572593776),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    value, golden = GOLDEN[name]
    found = value()
    assert found.dtype == torch.float64
    assert near(found, golden, 2e-7 if name == "emp" else 1e-8)  # 200 times a rounded part


def test_relic_parts() -> None:
    for t, one, other in ((0.2, 3.730946633, 3.160390276), (1.0, 0.289803428, 0.276157423)):
        penalty = losses.relic(P1, Z2, P2, Z1, t, 1) - losses.relic(P1, Z2, P2, Z1, t, 0)
        assert near(penalty, (one + other) / 2)


def test_weights_of_dclw() -> None:
    """The loss is linear in each picture's positive term: its weight is the part of the loss that this term has."""
    similar = (unit(Z1) * unit(Z2)).sum(1)
    weights = 2 - 8 * (similar / 0.5).softmax(0)
    torch.testing.assert_close(
        weights[:3], torch.tensor([1.03661175, 0.96984762, 1.07738501], dtype=torch.float64), atol=1e-8, rtol=0
    )
    gap = losses.dcl(Z1, Z2, 0.5) - losses.dclw(Z1, Z2, 0.5, 0.5)
    assert near(gap, float(((weights - 1) * similar / 0.5).mean()), 1e-12)


def test_neighbours() -> None:
    for z, wanted in ((Z1, [4, 0, 2, 3, 1, 1, 3, 2]), (Z2, [2, 0, 4, 3, 1, 0, 3, 2])):
        assert torch.equal(losses.nearest(z, Q), Q[wanted])


def test_whitened_row() -> None:
    wanted = torch.tensor([0.41776508, 1.42777828, 1.82701113], dtype=torch.float64)
    torch.testing.assert_close(losses.whiten(Z1)[0], wanted, atol=1e-8, rtol=0)


def test_closed_form_predictors() -> None:
    both = torch.cat([Z1, Z2])
    correlation = both.T @ both / 16
    values = torch.tensor([0.21522334, 0.51918306, 0.90843361], dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.eigvalsh(correlation), values, atol=1e-8, rtol=0)
    cases = [
        ((0.1, 0.5, "spectral"), (2.542727012, 0.836059765, -0.189563658), -0.012615000),
        ((0.3, 1.0, "spectral"), (2.708431557, 0.877736529, -0.279427759), -0.028087532),
        ((0.3, 1.0, "frobenius"), (2.437902834, 0.791311182, -0.237627319), -0.031334578),
    ]
    for (epsilon, power, norm), parts, golden in cases:
        w = predictor_from(correlation, epsilon, power, norm)
        for value, wanted in zip((w.trace(), w[0, 0], w[0, 1]), parts):
            assert near(value, wanted)
        assert near(losses.byol(Z1 @ w, P2, Z2 @ w, P1) - 4, golden)  # the authors leave the constant out


def test_contrastive_closed_values() -> None:
    eye, one = torch.eye(2, dtype=torch.float64), torch.ones(6, 4, dtype=torch.float64)
    assert near(losses.dcl(eye, eye, 0.5), -2 + math.log(2), 1e-12)
    assert near(losses.dcl(one, one, 0.1), math.log(10), 1e-12)
    assert near(losses.dclw(eye, eye, 0.5, 0.5), -2 + math.log(2), 1e-12)  # equal similarities: weights 1
    five = torch.eye(5, dtype=torch.float64)
    assert near(losses.moco(five[:1], five[:1], five[1:], 0.2), 0.0265950, 1e-7)
    assert near(losses.moco(five[:1], five[:1], five[1:], 0.2), math.log(1 + 4 * math.exp(-5)), 1e-12)
    assert near(losses.moco(one, one, one / 2, 0.2), math.log(7), 1e-12)
    for t, wanted in ((1.0, 1.253047), (0.2, 0.00537228)):
        assert losses.moco_v3(eye, eye, eye, eye, t).item() == pytest.approx(wanted, rel=1e-6)
    assert near(losses.moco_v3(one, one, one, one, 0.2), 4 * 0.2 * math.log(6), 1e-12)
    assert near(losses.nnclr(eye, eye, eye, eye, eye, 0.2), math.log(1 + math.exp(-5)), 1e-12)
    assert near(losses.nnclr(one, one, one, one, one / 2, 0.2), math.log(6), 1e-12)


def test_dcl_is_nt_xent_before_softplus() -> None:
    """Anchor by anchor: with one pair among constants every anchor of a view counts alike."""
    anchors = losses.dcl(Z1[:1].repeat(3, 1), Z2[:1].repeat(3, 1), 0.4)
    both = losses.nt_xent(Z1[:1].repeat(3, 1), Z2[:1].repeat(3, 1), 0.4)
    assert near(torch.nn.functional.softplus(anchors), float(both), 1e-12)


def test_moco_v3_at_high_temperature() -> None:
    t, (q1, k2, q2, k1) = 1e4, (unit(x) for x in (P1, Z2, P2, Z1))
    first_order = 4 * t * math.log(8)
    for q, k in ((q1, k2), (q2, k1)):
        first_order -= 2 * float((q * k).sum(1).mean() - (q @ k.T).mean())
    assert near(losses.moco_v3(q1, k2, q2, k1, t), first_order, 1e-3)


def test_siamese_closed_values() -> None:
    a, b = torch.eye(4, dtype=torch.float64).chunk(2)
    for value, x, y in ((-1, a, a), (0, a, b), (1, a, -3 * a)):
        assert near(losses.simsiam(x, y, y, x), value, 1e-12)
        assert near(losses.byol(x, y, y, x), 4 * (value + 1), 1e-12)


def test_relic_closed_values() -> None:
    """N = 2 with logits [[1, 0], [0, 1]] and [[0, 1], [1, 0]]."""
    eye = torch.eye(2, dtype=torch.float64)
    both = (0.313262 + 1.313262) / 2
    assert near(losses.relic(eye, eye, eye, eye.flip(0), 1, 0), both, 1e-6)
    penalty = losses.relic(eye, eye, eye, eye.flip(0), 1, 1) - losses.relic(eye, eye, eye, eye.flip(0), 1, 0)
    assert near(penalty, 0.462117, 1e-6)
    assert near(losses.relic(P1, Z2, P1, Z2, 0.3, 5), float(losses.relic(P1, Z2, P1, Z2, 0.3, 0)), 1e-12)  # agreement
    assert near(losses.relic(P1, Z2, P2, Z1, 0.3, 0), float(losses.moco_v3(P1, Z2, P2, Z1, 0.3)) / 1.2, 1e-12)


def test_supcon_closed_values() -> None:
    eye, unique = torch.eye(2, dtype=torch.float64), torch.tensor([4, 2])
    assert near(losses.supcon([eye, eye], unique, 1), 0.551445, 1e-6)
    assert near(losses.supcon([eye, eye], torch.tensor([1, 1]), 1), math.log(math.e + 2) - 1 / 3, 1e-12)
    one = torch.ones(8, 3, dtype=torch.float64)
    assert near(losses.supcon([one, one], Y, 0.1), math.log(15), 1e-12)
    assert near(losses.supcon([Z1, Z2], torch.arange(8), 0.1), float(losses.nt_xent(Z1, Z2, 0.1)), 1e-12)
    renamed = torch.tensor([7, 0, 5])[Y]
    assert near(losses.supcon([Z1, Z2], renamed, 0.1), float(losses.supcon([Z1, Z2], Y, 0.1)), 1e-12)


def test_nnclr_of_its_own_rows_is_contrast_with_the_embeddings() -> None:
    queue = unit(torch.cat([Z1, Z2]))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    wanted = (
        losses.info_nce(Z1, P2, torch.arange(8), 0.3) + losses.info_nce(Z2, P1, torch.arange(8), 0.3)
    ) / 2  # fmt: skip
    for rows in (queue, queue[order]):
        assert near(losses.nnclr(Z1, Z2, P1, P2, rows, 0.3), float(wanted), 1e-12)
