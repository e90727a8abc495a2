"""Losses in which parts of a picture find each other among other pictures' parts.

Shapes: B rows of this process, N pictures of all processes, L locations of a map, R or D features.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from selfsight.losses.precision import full_precision

LOGITS = 1 << 24
"""At most so many logits exist at a time; of more, parts are computed again in the backward pass."""


def by_rows(function: Callable[..., Tensor], *rows: Tensor, width: int) -> Tensor:
    """Sum of `function` over parts of the rows (n, ...), which makes (part, width) logits of each: () float."""
    step = max(1, LOGITS // width)
    if len(rows[0]) <= step:
        return function(*rows)
    parts = zip(*(x.split(step) for x in rows), strict=True)
    sums = [checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.stack(sums).sum()


@full_precision
def amdim(source: Tensor, target: Tensor, clip: float, weight: float, rows: Tensor | None = None) -> Tensor:
    """AMDIM: Learning Representations by Maximizing Mutual Information Across Views (arXiv 1906.00910).

    Scores s_ijl = source_i . target_jl / sqrt(R). weight * mean s^2, then c tanh(s / c), then the mean over i and l of

        -log[ exp(s_iil) / (exp(s_iil) + sum over j != i and all l' of exp(s_ijl')) ]

    Other locations of the same picture are no negatives. source: (B, R). target: (N, L, R), gathered with gradient.
    rows: (B,) int64, which pictures the sources are; default: the first B. Gradients flow through both.
    """
    count, places, width = target.shape
    keys = target.flatten(0, 1) / math.sqrt(width)

    def part(source: Tensor, rows: Tensor) -> Tensor:
        scores = (source @ keys.T).view(-1, count, places)
        regulariser = scores.square().mean((1, 2))
        scores = clip * (scores / clip).tanh()
        own = rows[:, None, None]
        positive = scores.gather(1, own.expand(-1, -1, places))[:, 0]  # (b, L)
        negative = scores.scatter(1, own.expand(-1, -1, places), -torch.inf).flatten(1).logsumexp(1)
        nce = (torch.logaddexp(positive, negative[:, None]) - positive).mean(1)
        return (nce + weight * regulariser).sum()

    rows = torch.arange(len(source), device=source.device) if rows is None else rows
    return by_rows(part, source, rows, width=count * places) / len(source)


@full_precision
def cpc(prediction: Tensor, target: Tensor, rows: Tensor | None = None) -> Tensor:
    """CPC: Data-Efficient Image Recognition with Contrastive Predictive Coding (arXiv 1905.09272), InfoNCE over locations.

    -log softmax of prediction_nij . target over the targets of all locations of all pictures, at picture n, row i + k,
    column j; the mean over predictions. k is how many rows the predictions miss.

    prediction: (B, H - k, W, D). target: (N, H, W, D), gathered with gradient. rows: (B,) int64, which pictures the
    predictions are of; default: the first B. Gradients flow through both.
    """
    places = target.shape[1] * target.shape[2]
    keys = target.flatten(0, 2)
    below = torch.arange(places - prediction[0, ..., 0].numel(), places, device=target.device)
    rows = torch.arange(len(prediction), device=target.device) if rows is None else rows
    labels = rows[:, None] * places + below  # (B, (H - k) W)

    def part(prediction: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(prediction @ keys.T, labels, reduction="sum")

    return by_rows(part, prediction.flatten(0, 2), labels.flatten(), width=len(keys)) / labels.numel()
