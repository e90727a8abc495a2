"""Linear evaluation on stored features: ridge in closed form and logistic regression.

Both standardise the features by the training part and rest on one eigendecomposition of their Gram matrix in float64.
Nothing is chosen on the test part. Legend: N training rows, M test rows, D features, K classes, R rank.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from selfsight.evaluate.knn import rank_of
from selfsight.evaluate.problem import Problem, accuracies, problem, rows_at_once
from selfsight.rng import Stream, generator

RIDGE_STRENGTHS = tuple(10.0 ** (e / 2) for e in range(-12, 7))
LOGISTIC_STRENGTHS = tuple(10.0**e for e in range(0, -7, -1))
SCORES = 512  # scores of a row at a time: strengths times classes


def ridge(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    classes: int | None = None,
    strengths: tuple[float, ...] = RIDGE_STRENGTHS,
) -> dict[str, Any]:
    """Least squares on one-hot labels with an L2 penalty, whose strength exact leave-one-out chooses.

    Minimises sum_i |y_i - b - W' x_i|^2 + N * strength * |W|^2 over standardised x, b unpenalised. The row i left out
    is predicted from the full fit by y_i - (y_i - f_i) / (1 - h_i), h the diagonal of the hat matrix (Allen's PRESS;
    arXiv 2401.15610 for its use on features), for every strength from one eigendecomposition. The strength of most
    rows right wins, of equals that of the smaller squared error. O(N D min(N, D)) in float64.

    Args:
        train, labels, test, test_labels, classes: see the package.
        strengths: penalties per row to choose from.

    Returns:
        `top1`, `top5` (test), `train_top1`, `validation_top1` (leave one out), `validation_error` (its squared error
        per row), `strength`, `protocol`.

    Raises:
        WrongUse: shapes or labels do not fit.
    """
    scores, facts = ridge_scores(train, labels, test, test_labels, classes, strengths)
    place = rank_of(scores, test_labels.to(scores.device).long())
    return {
        "top1": float((place < 1).double().mean()),
        "top5": float((place < 5).double().mean()),
        **facts,
        "protocol": "ridge on one-hot labels, standardised features, strength by exact leave-one-out on train",
    }


def ridge_scores(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    classes: int | None = None,
    strengths: tuple[float, ...] = RIDGE_STRENGTHS,
) -> tuple[Tensor, dict[str, float]]:
    """What the regression of `ridge` says of the test rows, (M, K) float64; how it does on train, and by which strength."""
    p = problem(train, labels, test, test_labels, classes)
    count, grid = len(p.train), torch.tensor(strengths, dtype=torch.float64, device=train.device)
    prior = torch.bincount(p.labels, minlength=p.classes).double() / count  # the intercept: mean of one-hot rows
    product = torch.zeros(p.classes, p.axes.shape[0], dtype=torch.float64, device=train.device)
    for rows, x in p.chunks(p.train):
        product += (F.one_hot(p.labels[rows], p.classes).double() - prior).T @ x
    product = p.axes.T @ product.T  # (R, K)
    shrink = 1 / (p.power[None] + count * grid[:, None])  # (S, R)
    error, right, learnt = (torch.zeros_like(grid) for _ in range(3))
    groups = torch.arange(len(grid)).split(max(1, SCORES // p.classes))
    weights = [(shrink[some].T[:, :, None] * product[:, None]).flatten(1) for some in groups]  # (R, s * K)
    for rows, x in p.chunks(p.train):
        z, wanted = x @ p.axes, F.one_hot(p.labels[rows], p.classes).double()[:, None]
        left = 1 - (z.square() @ shrink.T + 1 / count).clamp(max=1 - 1e-10)  # (n, S); 0 when a row is fitted exactly
        for some, weight in zip(groups, weights, strict=True):
            residual = wanted - prior - (z @ weight).unflatten(1, (len(some), -1))  # (n, s, K)
            learnt[some] += _right(wanted - residual, p.labels[rows])
            residual /= left[:, some, None]
            error[some] += residual.square().sum((0, 2)) / count
            right[some] += _right(wanted - residual, p.labels[rows])
    chosen = min(range(len(grid)), key=lambda i: (-float(right[i]), float(error[i])))
    weight = p.axes @ (shrink[chosen][:, None] * product)  # (D, K)
    return torch.cat([x @ weight + prior for _, x in p.chunks(p.test)]), {
        "train_top1": float(learnt[chosen]) / count,
        "validation_top1": float(right[chosen]) / count,
        "validation_error": float(error[chosen]),
        "strength": strengths[chosen],
    }


def logistic(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    classes: int | None = None,
    strength: float | None = None,
    seed: int = 0,
    iterations: int = 200,
) -> dict[str, Any]:
    """Multinomial logistic regression by L-BFGS.

    Minimises mean cross-entropy + strength / 2 * |W|^2 over standardised features, the bias unpenalised; scikit-learn's
    C is 1 / (N * strength). The strength of least cross-entropy on a validation part of the *training* rows is chosen
    (a tenth of them; below 5000 rows five-fold cross-validation), then all rows are fitted. The problem is solved along
    the Gram matrix's axes, each scaled by its curvature: the penalty does not change, and tens of iterations do.

    Args:
        train, labels, test, test_labels, classes: see the package.
        strength: penalty per row; None chooses among powers of ten from 1 to 1e-6.
        seed: of the validation part.
        iterations: most L-BFGS iterations of a fit.

    Returns:
        `top1`, `top5` (test), `train_top1`, `validation_top1` and `validation_loss` (None when `strength` was given),
        `strength`, `protocol`.

    Raises:
        WrongUse: shapes or labels do not fit.
    """
    p = problem(train, labels, test, test_labels, classes)
    found = _regression(p, strength, seed, iterations)
    test_scores = torch.cat([_scores((x @ p.axes).float(), found.state) for _, x in p.chunks(p.test)])
    return {
        **accuracies(_scores(found.z, found.state), p.labels, test_scores, p.test_labels),
        "validation_top1": found.top1,
        "validation_loss": found.loss,
        "strength": found.strength,
        "protocol": f"logistic regression, L-BFGS, standardised features, strength {found.how}",
    }


class Affine(NamedTuple):
    """A fitted linear classifier of raw features: scores are x @ weight + bias."""

    weight: Tensor  #: (D, K) float64
    bias: Tensor  #: (K,) float64

    def scores(self, x: Tensor) -> Tensor:
        """(n, D) on any device -> (n, K) float64, on the classifier's."""
        return x.to(self.weight.device).double() @ self.weight + self.bias


def fit_logistic(train: Tensor, labels: Tensor, classes: int, seed: int = 0) -> Affine:
    """The classifier that `logistic` fits, for features that come later."""
    p = problem(train, labels, train[:1], labels[:1], classes)
    state = _regression(p, None, seed, 200).state
    weight = p.axes @ state[:-1] / p.scale[:, None]
    return Affine(weight, state[-1] - p.mean @ weight)


class _Regression(NamedTuple):
    z: Tensor  #: (N, R) float32, the training rows along the axes
    state: Tensor  #: (R + 1, K) float64, weights over bias
    strength: float
    top1: float | None  #: of the parts that chose the strength
    loss: float | None
    how: str


def _regression(p: Problem, strength: float | None, seed: int, iterations: int) -> _Regression:
    """Choose the penalty unless it is given, and fit all rows."""
    z = torch.cat([(x @ p.axes).float() for _, x in p.chunks(p.train)])
    power, start = p.power / len(z), torch.zeros(z.shape[1] + 1, p.classes, dtype=torch.float64, device=z.device)
    parts = folds(len(z), seed, z.device) if strength is None else []
    chosen, loss, top1 = (LOGISTIC_STRENGTHS[2] if strength is None else strength), math.inf, 0.0
    states, judged = [start] * len(parts), sum(len(held) for _, held in parts)
    for value in LOGISTIC_STRENGTHS if parts else ():  # strong to weak, each fit from the one before
        error = right = 0.0
        for i, (fit, held) in enumerate(parts):
            states[i] = _fit(z[fit], p.labels[fit], states[i], power, value, min(iterations, 50))
            scores, wanted = _scores(z[held], states[i]), p.labels[held]
            error += float(F.cross_entropy(scores, wanted, reduction="sum")) / judged
            right += float((rank_of(scores, wanted) < 1).sum()) / judged
        if error > loss - 1e-3:  # nats; nothing to gain from less penalty
            break
        chosen, loss, top1 = value, error, right
    state = _fit(z, p.labels, states[0] if parts else start, power, chosen, iterations)
    how = "given" if strength is not None else f"by {'5 folds' if len(parts) > 1 else 'a tenth'} of train"
    return _Regression(z, state, chosen, top1 if parts else None, loss if parts else None, how)


def _right(scores: Tensor, labels: Tensor) -> Tensor:
    """How many rows each of S classifiers has right: scores (n, S, K), labels (n,) -> (S,)."""
    place = rank_of(scores.flatten(0, 1), labels.repeat_interleave(scores.shape[1]))
    return (place < 1).view(scores.shape[:2]).sum(0)


def folds(count: int, seed: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Rows to fit and rows to judge by: five folds of a small set, one tenth of a large one."""
    order = torch.randperm(count, generator=generator(seed, Stream.SPLIT)).to(device)
    if count >= 5000:
        return [(order[count // 10 :], order[: count // 10])]
    parts = order.tensor_split(min(5, count)) if count > 1 else ()
    return [(torch.cat([*parts[:i], *parts[i + 1 :]]), held) for i, held in enumerate(parts)]


def _scores(z: Tensor, state: Tensor) -> Tensor:
    """(n, R) rotated rows and (R + 1, K) weights over bias -> (n, K) float64."""
    return (z @ state[:-1].to(z.dtype)).double() + state[-1]


@torch.no_grad()
def _fit(z: Tensor, labels: Tensor, start: Tensor, power: Tensor, strength: float, iterations: int) -> Tensor:
    """Weights over bias (R + 1, K) float64 that minimise the penalised cross-entropy of z (n, R), from `start` on.

    `power`: (R,) mean square of each column of z. The curvature of the cross-entropy along column j is about
    power_j / K, so the weights are searched in units of (power_j / K + strength)^-1/2.
    """
    classes = start.shape[1]
    unit = torch.cat([power / classes + strength, power.new_full((1,), 1 / classes)]).clamp(min=1e-12).rsqrt()[:, None]
    x = (start / unit).requires_grad_()
    size = 8 * rows_at_once(z)

    def closure() -> Tensor:
        # classes by rows: skinny products run several times faster so, and the softmax over few classes too
        weights = (x.detach() * unit).T.contiguous()
        grad, loss = torch.zeros_like(weights), weights.new_zeros(())
        factors = weights[:, :-1].to(z.dtype)
        for part, wanted in zip(z.split(size), labels.split(size)):
            logs = F.log_softmax((factors @ part.T).double() + weights[:, -1:], dim=0)
            loss -= logs.gather(0, wanted[None]).sum()
            slope = logs.exp_().scatter_add_(0, wanted[None], logs.new_full((1, len(wanted)), -1.0))
            grad[:, :-1] += slope.to(z.dtype) @ part
            grad[:, -1] += slope.sum(1)
        grad /= len(z)
        grad[:, :-1] += strength * weights[:, :-1]
        x.grad = (grad.T * unit).contiguous()
        return loss / len(z) + strength / 2 * weights[:, :-1].square().sum()

    solver = torch.optim.LBFGS(
        [x],
        max_iter=iterations,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    solver.step(closure)
    return x.detach() * unit
