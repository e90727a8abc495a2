"""Which rows: hold-out part, fraction, so many per class. Pure functions of the seed and the labels. N rows.

A label below 0 says that a picture has none, where others have one.
"""

import torch
from torch import Tensor

from selfsight.errors import WrongUse
from selfsight.rng import Stream, generator

HOLDOUT, FRACTION, STATISTICS, HEADERS = range(4)  # keys of the stream SPLIT


def ranking(count: int, labels: Tensor | None, seed: int, key: int) -> Tensor:
    """A random order of N rows whose every prefix has the classes in proportion: (N,) int64.

    `labels`: (N,) or None. A prefix is nested in every longer one, so growing a fraction only adds pictures. Pictures
    without a label count as one more class.
    """
    order = torch.randperm(count, generator=generator(seed, Stream.SPLIT, key))
    if labels is None or not count:
        return order
    labels = labels - labels.min().clamp(max=0)
    return order[((_rank(labels[order]) + 0.5) / torch.bincount(labels)[labels[order]]).argsort(stable=True)]


def _rank(labels: Tensor) -> Tensor:
    """(N,) how many rows of the same class come before each row."""
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    starts = (counts.cumsum(0) - counts)[labels[by_class]]
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - starts
    return rank


def hold_out(count: int, labels: Tensor | None, share: float | int | None, seed: int) -> tuple[Tensor, Tensor]:
    """(rows kept, rows held out), both ascending. `share`: a fraction below 1, a count, or None for the default.

    Held out are pictures with a label, and `share` is one of them, if there are any labels.

    Raises:
        WrongUse: nothing would be left to train on.
    """
    if share is None:
        share = 0.1 if labels is not None else 0
    if share < 0 or (share >= 1 and share != int(share)):
        raise WrongUse(f"hold-out {share} makes no sense; give a fraction below 1 or a number of pictures")
    rows = torch.arange(count) if labels is None else (labels >= 0).nonzero()[:, 0]
    size = round(len(rows) * share) if share < 1 else int(share)
    if size >= len(rows) and size:
        raise WrongUse(f"a hold-out of {size} pictures leaves none of {len(rows)} to train on; make it smaller")
    held = rows[ranking(len(rows), None if labels is None else labels[rows], seed, HOLDOUT)[:size]]
    kept = torch.ones(count, dtype=torch.bool)
    kept[held] = False
    return kept.nonzero()[:, 0], held.sort().values


def subset(
    labels: Tensor | None, count: int, fraction: float, per_class: int, classes: list[str] | None, seed: int
) -> Tensor:
    """Ascending rows of a subset. `fraction`: up to 1 a share, above it a number of pictures; `per_class`: 0 is all.

    Raises:
        WrongUse: more than there are, or per class without labels.
    """
    if per_class < 0 or not (0 < fraction <= 1 or fraction == int(fraction) > 1):
        raise WrongUse(
            f"fraction {fraction:g}, per class {per_class}: give a fraction above 0 up to 1, or a number of pictures, "
            "and a number per class of at least 1"
        )
    if per_class and labels is None:
        raise WrongUse("so many pictures per class need labels, and this set has none; use a fraction")
    order = ranking(count, labels, seed, FRACTION)
    if per_class and labels is not None:
        order = order[labels[order] >= 0]
        counts = torch.bincount(labels[order], minlength=len(classes or []))
        few = int(counts.where(counts > 0, len(labels) + 1).argmin())  # a class of the test part alone has none here
        if counts[few] < per_class:
            name = classes[few] if classes else few
            raise WrongUse(f"class {name!r} has {int(counts[few])} pictures, not {per_class}; ask for fewer per class")
        order = order[_rank(labels[order]) < per_class]
    size = round(len(order) * fraction) if fraction <= 1 else int(fraction)
    if not 0 < size <= len(order):
        raise WrongUse(
            f"a fraction of {fraction:g} asks for {size} of {len(order)} pictures; ask for 1 to {len(order)}"
        )
    return order[:size].sort().values
