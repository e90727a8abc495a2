"""k nearest neighbours by cosine: exact, in bounded memory, with ties broken the same way everywhere.

The weighted vote is that of InstDisc (arXiv 1805.01978, section 3.4): a neighbour of cosine c votes exp(c / T). The
field's settings are (k 20, T 0.07) of DINO and solo-learn and (k 200, T 0.1) of InstDisc, MoCo and lightly.
Legend: N bank rows, M query rows, D features, K classes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from selfsight.errors import WrongUse

Weighting = Literal["weighted", "majority"]


class Setting(NamedTuple):
    """One way to vote."""

    k: int = 20  #: neighbours that vote, at most the whole bank
    temperature: float = 0.07  #: T of exp(cosine / T); no effect on the majority
    weighting: Weighting = "weighted"  #: or "majority", where every neighbour counts the same


BLOCK = 32  # columns searched together
STANDARD = (Setting(20, 0.07), Setting(200, 0.1), Setting(20, 0.07, "majority"), Setting(200, 0.1, "majority"))


def neighbours(bank: Tensor, query: Tensor, k: int, chunk: int = 0) -> tuple[Tensor, Tensor]:
    """The k rows of `bank` that are nearest to each query by cosine, nearest first; of equals the lower row first.

    A row with a non-finite number counts as the zero vector, whose cosine with everything is 0.

    Args:
        bank: (N, D), on the device that computes.
        query: (M, D), on any device.
        k: how many; more than N gives N.
        chunk: query rows at a time; 0 keeps the table of cosines under 256 MB.

    Returns:
        cosines (M, k) float32 and rows of the bank (M, k) int64, both on the CPU.
    """
    found = [*_nearest(bank, query, k, chunk)]
    return torch.cat([values for values, _ in found]), torch.cat([rows for _, rows in found])


def knn(
    bank: Tensor,
    bank_labels: Tensor,
    query: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    weighting: Weighting = "weighted",
    classes: int | None = None,
    chunk: int = 0,
) -> Tensor:
    """Each class's share of the vote of the k nearest neighbours.

    Args:
        bank: (N, D), on the device that computes.
        bank_labels: (N,) int64, 0..K-1.
        query: (M, D).
        k: neighbours that vote; more than N gives N.
        temperature: T of the weights exp(cosine / T).
        weighting: "weighted", or "majority": every neighbour counts the same.
        classes: K; None takes the largest label plus one.
        chunk: query rows at a time; 0 bounds the memory by itself.

    Returns:
        (M, K) float64 on the CPU, rows sum to 1. `votes.argmax(1)` is the prediction: of equals the lower class.

    Raises:
        WrongUse: a setting or a label is out of range.
    """
    setting = Setting(k, temperature, weighting)
    labels = _checked(bank, bank_labels, [setting])
    count = _classes(classes, labels)
    return torch.cat([_vote(v, labels[rows], count, setting) for v, rows in _nearest(bank, query, k, chunk)])


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    query: Tensor,
    query_labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    weighting: Weighting = "weighted",
    classes: int | None = None,
    chunk: int = 0,
) -> dict[str, Any]:
    """Accuracy of `knn`: `{"top1", "top5", "k", "temperature", "weighting", "bank", "queries"}`, fractions in 0..1."""
    return knn_table(bank, bank_labels, query, query_labels, [Setting(k, temperature, weighting)], classes, chunk)[0]


def knn_table(
    bank: Tensor,
    bank_labels: Tensor,
    query: Tensor,
    query_labels: Tensor,
    settings: Sequence[Setting] = STANDARD,
    classes: int | None = None,
    chunk: int = 0,
) -> list[dict[str, Any]]:
    """`knn_accuracy` for several settings from one pass over the bank, in their order.

    A label is among the top n when fewer than n classes beat it, where of equals the lower class wins and a class
    without a vote wins nothing.
    """
    labels, wanted = _checked(bank, bank_labels, settings), _labels(query_labels, len(query), "query")
    count = _classes(classes, torch.cat([labels, wanted]))
    hits = torch.zeros(len(settings), 2, dtype=torch.int64)
    start = 0
    for values, rows in _nearest(bank, query, max(s.k for s in settings), chunk):
        votes_of, right = labels[rows], wanted[start : start + len(rows)]
        start += len(rows)
        for i, s in enumerate(settings):
            place = rank_of(_vote(values[:, : s.k], votes_of[:, : s.k], count, s), right, needs_vote=True)
            hits[i] += torch.stack([(place < 1).sum(), (place < 5).sum()])
    return [
        {
            "top1": int(hits[i, 0]) / start,
            "top5": int(hits[i, 1]) / start,
            "k": min(s.k, len(bank)),
            "temperature": s.temperature if s.weighting == "weighted" else None,
            "weighting": s.weighting,
            "bank": len(bank),
            "queries": start,
        }
        for i, s in enumerate(settings)
    ]


def rank_of(scores: Tensor, labels: Tensor, needs_vote: bool = False) -> Tensor:
    """How many classes beat the right one: scores (M, K), labels (M,) -> (M,) int64; of equals the lower class wins.

    `needs_vote`: a right class whose score is not above 0 is beaten by all.
    """
    right = scores.gather(1, labels[:, None])
    lower = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    place = ((scores > right) | ((scores == right) & lower)).sum(1)
    return place.masked_fill(right[:, 0] <= 0, scores.shape[1] + 5) if needs_vote else place


def unit_rows(x: Tensor) -> Tensor:
    """(N, D) -> (N, D) float32 rows of unit length; a row that is zero or not finite becomes zero."""
    x = x.float()
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    unit = x / norm.clamp(min=1e-12)
    broken = ~torch.isfinite(norm[:, 0])
    return unit.masked_fill_(broken[:, None], 0) if bool(broken.any()) else unit


@torch.no_grad()
def _nearest(bank: Tensor, query: Tensor, k: int, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of (cosines, rows), see `neighbours`."""
    if not len(bank) or not len(query):
        raise WrongUse("nearest neighbours need at least one bank row and one query; the set is empty")
    if bank.shape[1] != query.shape[1]:
        raise WrongUse(
            f"the bank has {bank.shape[1]} features a row, the query {query.shape[1]}; take both from one encoder"
        )
    count, k, device = len(bank), min(k, len(bank)), bank.device
    bank = F.pad(unit_rows(bank), (0, 0, 0, -count % BLOCK))  # whole blocks
    for part in query.split(chunk or _rows_at_a_time(count, device)):
        cosines = _products(unit_rows(part.to(device)), bank)
        cosines[:, count:] = -torch.inf
        values, rows = _top(cosines, min(k + 1, count))
        if values.shape[1] > k:
            # topk keeps any of the equals at the border; for these rare queries, sort: the lower rows must stay
            tied = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]
            values, rows = values[:, :k], rows[:, :k]
            for some in tied.split(64):
                order = cosines[some].sort(dim=1, descending=True, stable=True)
                values[some], rows[some] = order.values[:, :k], order.indices[:, :k]
        values, rows = values.cpu(), rows.cpu()
        rows, by_row = rows.sort(dim=1)  # by row, then stably by cosine
        values, by_value = values.gather(1, by_row).sort(dim=1, descending=True, stable=True)
        yield values, rows.gather(1, by_value)


def _rows_at_a_time(bank: int, device: torch.device) -> int:
    """Queries whose table of cosines takes at most 256 MB; on a CPU 16 MB, if 64 fit: the system takes back and clears
    larger tables each time, which costs as much as a third of the product.
    """
    most = max(1, 2**26 // bank)
    return min(most, max(64, 2**22 // bank)) if device.type == "cpu" else most


def _products(rows: Tensor, bank: Tensor) -> Tensor:
    """(m, D), (n, D) -> (m, n) float32. On a CPU by oneDNN, which takes half of BLAS's time on some processors."""
    if rows.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return F.linear(rows.to_mkldnn(), bank).to_dense()
    return rows @ bank.T


def _top(table: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(m, n) -> the k largest of each row and where, any of equals. The k blocks of largest maximum hold them all:
    reading maxima is several times faster than a selection over the whole row.
    """
    blocks = table.shape[1] // BLOCK
    if blocks <= 2 * k:
        found = table.topk(k, dim=1)
        return found.values, found.indices
    split = table.unflatten(1, (blocks, BLOCK))
    best = split.amax(2).topk(k, dim=1).indices  # (m, k)
    found = split.gather(1, best[:, :, None].expand(-1, -1, BLOCK)).flatten(1).topk(k, dim=1)
    return found.values, best.gather(1, found.indices // BLOCK) * BLOCK + found.indices % BLOCK


def _vote(values: Tensor, labels: Tensor, classes: int, setting: Setting) -> Tensor:
    """(m, k) cosines and labels -> (m, K) shares, on the CPU: adding in a fixed order is exact to repeat."""
    if setting.weighting == "majority":
        weights = torch.ones_like(values, dtype=torch.float64)
    else:  # relative to the nearest: the shares are the same, and exp never overflows
        weights = ((values - values[:, :1]).double() / setting.temperature).exp()
    votes = torch.zeros(len(values), classes, dtype=torch.float64).scatter_add_(1, labels, weights)
    return votes / votes.sum(1, keepdim=True)


def _checked(bank: Tensor, bank_labels: Tensor, settings: Sequence[Setting]) -> Tensor:
    for s in settings:
        if s.k < 1 or not s.temperature > 0:
            raise WrongUse(f"k = {s.k} and temperature = {s.temperature}: both must be above 0")
        if s.weighting not in ("weighted", "majority"):
            raise WrongUse(f"no weighting {s.weighting!r}; take 'weighted' or 'majority'")
    return _labels(bank_labels, len(bank), "bank")


def _labels(labels: Tensor, count: int, name: str) -> Tensor:
    labels = labels.cpu().long()
    if labels.shape != (count,):
        raise WrongUse(f"{count} {name} rows but labels of shape {tuple(labels.shape)}; give one label a row")
    if count and int(labels.min()) < 0:
        raise WrongUse(f"a {name} label is negative; leave out the rows without label")
    return labels


def _classes(classes: int | None, labels: Tensor) -> int:
    found = int(labels.max()) + 1 if len(labels) else 1
    if classes is not None and classes < found:
        raise WrongUse(f"label {found - 1} with classes = {classes}; labels are 0..classes-1")
    return classes or found
