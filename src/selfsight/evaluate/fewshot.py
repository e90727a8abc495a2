"""How few labels do? A linear classifier on seeded, stratified draws of the training rows.

Legend: N training rows, M test rows, D features, K classes.
"""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from selfsight.data.split import subset
from selfsight.errors import WrongUse
from selfsight.evaluate.linear import logistic
from selfsight.rng import Stream, seed_of

AMOUNTS: tuple[int | float, ...] = (1, 2, 5, 10, 20, 50, 100, 0.01, 0.1)


def draw(labels: Tensor, amount: int | float, seed: int, which: int) -> Tensor:
    """Ascending rows (n,) of draw number `which`: so many of each class, or below 1 a share of all rows.

    A share takes the classes in proportion, as far as whole rows allow: a class of too few rows may be missing. Of one
    draw smaller amounts of a kind are part of larger ones.

    Args:
        labels: (N,) int64.
        amount: labels per class (1, 2, ...), or a share of the rows (above 0, below 1).
        seed: of all draws.
        which: 0, 1, ...

    Raises:
        WrongUse: the amount makes no sense, or a class has fewer rows.
    """
    share = amount if amount < 1 else 1.0
    if amount <= 0 or (amount >= 1 and amount != int(amount)):
        raise WrongUse(f"{amount:g} labels make no sense; give a number per class, or a share above 0 and below 1")
    own = seed_of(seed, Stream.PROBE, which)
    return subset(labels.cpu(), len(labels), share, 0 if amount < 1 else int(amount), None, own)


def few_shot(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    classes: int | None = None,
    *,
    amounts: Sequence[int | float] = (),
    draws: int = 5,
    c: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Logistic regression from 1, 2, 5, ... labels a class and 1 % and 10 % of them: mean and deviation of draws.

    Each fit sees the drawn rows alone, and features are standardised by them. A handful of rows cannot choose a
    penalty, so it is given: 1 / (c n) for n rows.

    Args:
        train, labels, test, test_labels, classes: see the package.
        amounts: labels per class, and shares below 1; none: those of AMOUNTS that the rows allow.
        draws: independent draws of each amount.
        c: inverse strength of the penalty, scikit-learn's C of logistic regression on n rows.
        seed: of the draws.

    Returns:
        `amounts`: for each its name (`labels`), `rows`, `top1`, `top5` and `train_top1` (means), `top1_std` (sample
        deviation over draws, None of one), `each` (top-1 of every draw); `draws`, `c`, `seed`, `protocol`.

    Raises:
        WrongUse: more labels are asked for than there are, or shapes or labels do not fit.
    """
    if draws < 1 or not c > 0:
        raise WrongUse(f"{draws} draws, c = {c}: give at least one draw, and c above 0")
    if labels.shape != (len(train),) or not len(train) or int(labels.min()) < 0:
        raise WrongUse(f"{len(train)} training rows with labels {tuple(labels.shape)}; give one label from 0 on a row")
    counts = torch.bincount(labels.cpu().long())
    least, kinds = int(counts[counts > 0].min()), int((counts > 0).sum())
    chosen = [a for a in AMOUNTS if (a <= least if a >= 1 else round(a * len(labels)) >= kinds)]
    table = []
    for amount in amounts or chosen:
        found = []
        for which in range(draws):
            rows = draw(labels, amount, seed, which).to(train.device)
            found.append(logistic(train[rows], labels[rows], test, test_labels, classes, strength=1 / (c * len(rows))))
        each = [f["top1"] for f in found]
        table.append(
            {
                "labels": f"{100 * amount:g} %" if amount < 1 else f"{int(amount)} a class",
                "rows": len(rows),
                "top1": fmean(each),
                "top1_std": stdev(each) if draws > 1 else None,
                "top5": fmean(f["top5"] for f in found),
                "train_top1": fmean(f["train_top1"] for f in found),
                "each": each,
            }
        )
    return {
        "amounts": table,
        "draws": draws,
        "c": c,
        "seed": seed,
        "protocol": "logistic regression on stratified draws of train, standardised by the drawn rows, penalty 1 / (c n)",
    }
