"""Linear support vector machines on stored features. Legend: N training rows, M test rows, D features, K classes."""

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from torch import Tensor

from selfsight.errors import WrongUse
from selfsight.evaluate.knn import rank_of, unit_rows
from selfsight.evaluate.linear import accuracies, folds

COSTS = (0.01, 0.1, 1.0, 10.0, 100.0)


def svm(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    classes: int | None = None,
    *,
    costs: tuple[float, ...] = COSTS,
    seed: int = 0,
) -> dict[str, Any]:
    """Linear SVM, one class against the rest, rows of unit length; its cost is chosen on a part of train.

    LIBLINEAR with squared hinge and L2 penalty, as for frozen features in arXiv 1905.01235 (there with
    classes weighted for a set of several labels a picture, here not). Costs are tried from small to large on a
    validation part of the *training* rows (a tenth of them; below 5000 rows five-fold cross-validation) until a larger
    one gains nothing, then all rows are fitted.

    Args:
        train, labels, test, test_labels, classes: see the package; the CPU computes.
        costs: C to choose from, ascending.
        seed: of the validation part and of the solver.

    Returns:
        `top1`, `top5` (test), `train_top1`, `validation_top1` (None of a single cost), `cost`, `converged`, `protocol`.

    Raises:
        WrongUse: shapes or labels do not fit, or the features are not finite.
    """
    for name, x, y in (("training", train, labels), ("test", test, test_labels)):
        if x.ndim != 2 or not len(x) or y.shape != (len(x),) or int(y.min()) < 0:
            raise WrongUse(
                f"{name} features {tuple(x.shape)} with labels {tuple(y.shape)}; give (N, D) and (N,), N > 0, labels "
                "from 0 on"
            )
        if not bool(torch.isfinite(x).all()):
            raise WrongUse(f"the {name} features are not all finite; the encoder diverged, nothing can be fitted to it")
    if train.shape[1] != test.shape[1]:
        raise WrongUse(f"{train.shape[1]} training but {test.shape[1]} test features; take both from one encoder")
    labels, test_labels = labels.cpu().long(), test_labels.cpu().long()
    most = int(torch.cat([labels, test_labels]).max()) + 1
    if classes is not None and classes < most:
        raise WrongUse(f"label {most - 1} with classes = {classes}; labels are 0..classes-1")
    if not costs or min(costs) <= 0:
        raise WrongUse(f"costs {costs}: give at least one, above 0")
    x, asked, count = unit_rows(train).cpu(), unit_rows(test).cpu(), classes or most
    parts = folds(len(x), seed, x.device) if len(costs) > 1 else []
    chosen, best, judged = costs[0], -1.0, sum(len(held) for _, held in parts)
    for cost in sorted(costs) if parts else ():
        right = 0
        for fit, held in parts:
            scores, _ = _scores(x[fit], labels[fit], [x[held]], count, cost, seed)
            right += int((rank_of(scores[0], labels[held]) < 1).sum())
        if right / judged <= best:
            break
        chosen, best = cost, right / judged
    (fitted, tested), converged = _scores(x, labels, [x, asked], count, chosen, seed)
    return {
        **accuracies(fitted, labels, tested, test_labels),
        "validation_top1": best if parts else None,
        "cost": chosen,
        "converged": converged,
        "protocol": "linear SVM, one against the rest, squared hinge, rows of unit length, cost chosen on train"
        if parts
        else "linear SVM, one against the rest, squared hinge, rows of unit length, cost given",
    }


def _scores(
    x: Tensor, labels: Tensor, asked: list[Tensor], classes: int, cost: float, seed: int
) -> tuple[list[Tensor], bool]:
    """Fit x (n, D); decision values (m, K) float64 of each set that is asked, -inf for classes without a row."""
    known = labels.unique()
    if len(known) == 1:  # nothing to separate it from
        rows = [torch.full((len(part), classes), -torch.inf, dtype=torch.float64) for part in asked]
        return [row.index_fill(1, known, 0.0) for row in rows], True
    model = LinearSVC(C=cost, dual="auto", max_iter=2000, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by `converged`
        model.fit(x.numpy(), labels.numpy())
    found = []
    for part in asked:
        values = np.atleast_1d(model.decision_function(part.numpy()))
        values = np.stack([-values, values], 1) if values.ndim == 1 else values
        full = torch.full((len(part), classes), -torch.inf, dtype=torch.float64)
        full[:, known] = torch.from_numpy(values).double()
        found.append(full)
    return found, bool(model.n_iter_ < 2000)
