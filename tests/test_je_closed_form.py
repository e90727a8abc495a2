"""DirectPred and DirectCopy: the predictor is computed from the projections' correlation, by numpy's eigenvalues here."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selfsight import optim
from selfsight.methods.siamese import predictor_from
from test_joint_embedding import build, disturb, pictures, step
from test_losses_formulas import slow_byol
from test_siamese import INDEX, VIEWS, targets, train


def formula(values: Tensor, power: float, epsilon: float, norm: str, floor: float = 1e-4) -> Tensor:
    """W_p by numpy's eigenvalues of the symmetric part."""
    f = values.numpy().astype(np.float64)
    w, u = np.linalg.eigh((f + f.T) / 2)
    w = np.maximum(w, 0) ** power
    size = {"spectral": w.max(), "frobenius": np.sqrt((w**2).sum()), "trace": w.sum(), "none": 1.0}[norm]
    return torch.from_numpy(u @ np.diag(np.maximum(w / size + epsilon, floor)) @ u.T)


def correlation(top: float) -> Tensor:
    """Symmetric, with largest eigenvalue `top`."""
    u = torch.linalg.qr(pictures(5).flatten(1)[:, :5])[0]
    return (u * torch.tensor([top, 0.4 * top, 0.1 * top, 1e-2 * top, 1e-3 * top]).double()) @ u.T


@pytest.mark.parametrize("top", [0.3, 7.0])
@pytest.mark.parametrize("norm", ["spectral", "frobenius", "trace", "none"])
@pytest.mark.parametrize("power", [0.5, 1.0, 0.25])
def test_closed_form_by_numpy(power: float, norm: str, top: float) -> None:
    f = correlation(top)
    f = f + torch.triu(torch.full((5, 5), 1e-3).double(), 1) - torch.tril(torch.full((5, 5), 1e-3).double(), -1)
    found = predictor_from(f, 0.1, power, norm)
    torch.testing.assert_close(found, formula(f, power, 0.1, norm), atol=1e-9, rtol=0)
    torch.testing.assert_close(found, found.T, atol=1e-12, rtol=0)
    clean = correlation(top)
    w = predictor_from(clean, 0.1, power, norm)
    torch.testing.assert_close(w @ clean, clean @ w, atol=1e-9, rtol=0)
    turn = torch.linalg.qr(pictures(5, seed=3).flatten(1)[:, :5])[0]
    turned = predictor_from(turn.T @ clean @ turn, 0.1, power, norm)
    torch.testing.assert_close(turned, turn.T @ w @ turn, atol=1e-9, rtol=0)
    invariant = torch.allclose(predictor_from(9 * clean, 0.1, power, norm), w, atol=1e-9)
    assert invariant == (norm != "none")


def test_closed_form_closed_values() -> None:
    f = torch.diag(torch.tensor([4.0, 1, 0]).double())
    for found, wanted in (
        (predictor_from(f, 0.1), [1.1, 0.6, 0.1]),
        (predictor_from(f, 0.4, normalise="none"), [2.4, 1.4, 0.4]),  # the paper's: eps times the largest root
        (predictor_from(f, 0.3, 1.0), [1.3, 0.55, 0.3]),
        (predictor_from(f, 0.3, 1.0, "frobenius"), [1.27014, 0.542536, 0.3]),
        (predictor_from(f, 0.0), [1, 0.5, 1e-4]),  # the floor
        (predictor_from(f, 0.0, floor=0.7), [1, 0.7, 0.7]),
        (predictor_from(torch.zeros(3, 3).double(), 0.1), [0.1] * 3),
        (predictor_from(f - 2 * torch.eye(3).double(), 0.1), [1.1, 0.1, 0.1]),  # below zero counts as zero
    ):
        torch.testing.assert_close(found, torch.diag(torch.tensor(wanted).double()), atol=1e-5, rtol=0)
    half = predictor_from(f.bfloat16(), 0.1)
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["directpred", "directcopy"])
@pytest.mark.parametrize("target", ["ema", "shared"])
@pytest.mark.parametrize("size", [0.05, 20.0])
def test_the_closed_form_predicts_with_a_teacher_and_without(name: str, target: str, size: float) -> None:
    """Whatever the scale of F: its largest eigenvalue is below 1 and above."""
    method = build(name, target=target)
    assert torch.equal(method.matrix, torch.eye(4).double())
    with torch.no_grad():
        method.projector[-1].weight.mul_(size)
        method.projector[-1].bias.mul_(size)
    found = method(VIEWS, INDEX, step(0))
    z = [method.embed(x).detach() for x in VIEWS["global"]]
    wanted = torch.stack([torch.outer(row, row) for view in z for row in view]).mean(0)
    assert (float(torch.linalg.eigvalsh(wanted).max()) > 1) == (size > 1)
    method.after_step(step(0), found.carry)
    torch.testing.assert_close(method.correlation, wanted, atol=1e-12, rtol=1e-12)
    power, epsilon = {"directpred": (0.5, 0.1), "directcopy": (1.0, 0.3)}[name]
    matrix = formula(wanted, power, epsilon, "spectral")
    torch.testing.assert_close(method.matrix, matrix, atol=1e-6, rtol=0)
    assert (matrix - torch.eye(4)).abs().max() > 0.1
    outputs = method.encode(VIEWS, step(1))
    torch.testing.assert_close(outputs["p"][0], z[0] @ matrix, atol=1e-5, rtol=0)  # it is what predicts
    p1, p2 = (view @ matrix for view in z)
    t1, t2 = targets(method)
    wanted_loss = slow_byol(p1, t2, p2, t1).item()
    assert method(VIEWS, INDEX, step(1)).loss.item() == pytest.approx(wanted_loss, abs=1e-6)


@pytest.mark.parametrize("centre", [False, True])
def test_the_correlation_follows_rho(centre: bool) -> None:
    """F = the first batch's, then rho F + (1 - rho) the new one's; of the online projections of both views."""
    method, wanted = build("directpred", rho=0.3, centre=centre), torch.zeros(4, 4).double()
    for index in range(3):
        disturb(method, 0.2)
        given = {"global": pictures(2, 8, seed=index)}
        z = torch.stack([method.embed(x) for x in given["global"]]).detach()
        z = z - z.mean(1, keepdim=True) if centre else z
        fresh = torch.stack([torch.outer(row, row) for row in z.flatten(0, 1)]).mean(0)
        wanted = fresh if index == 0 else 0.3 * wanted + 0.7 * fresh
        before = method.correlation.clone()
        found = method(given, INDEX, step(index))
        assert torch.equal(method.correlation, before)  # after the step, once
        method.after_step(step(index), found.carry)
        torch.testing.assert_close(method.correlation, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("between", [False, True])
def test_every_fifth_step_the_predictor_is_computed(between: bool) -> None:
    method: Any = build("directpred", every=5, train_between=between)
    kept = [method.matrix.clone()]

    def look(index: int) -> None:
        now = method.matrix.clone()
        moved = not torch.equal(now, kept[-1])
        assert moved == (between or index % 5 == 0)
        if index % 5 == 0:
            assert torch.equal(now, predictor_from(method.correlation, 0.1))
        elif between:
            assert (now - predictor_from(method.correlation, 0.1)).abs().max() > 1e-3
        kept.append(now)

    train(method, 11, look)


def test_a_closed_form_is_not_the_optimizers() -> None:
    fixed, between = (build("directpred", train_between=x, every=5) for x in (False, True))
    listed = lambda m: {id(p) for group in m.param_groups() for p in group["params"]}
    assert id(fixed.predictor.weight) not in listed(fixed)
    assert not fixed.predictor.weight.requires_grad
    assert id(between.predictor.weight) in listed(between)
    fixed(VIEWS, INDEX, step()).loss.backward()
    assert fixed.predictor.weight.grad is None
    optim.build(optim.OptimizerConfig(name="sgd"), fixed, 8)  # every trainable parameter once
