"""Losses against a memory bank: a row for every picture. Shapes: B rows, K rows of the bank as noise, D features.

Embeddings are brought to unit length here, rows of the bank have it; the bank is constant, so that gradients reach the
network through its similarity with the positive and with every negative.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight.losses.precision import full_precision

MemoryLoss = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Tensor]


@full_precision
def noise_logits(e: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """e . m / t with the own row of the bank first, then the noise: e, positive (B, D), negatives (K, D) -> (B, 1 + K)."""
    e = F.normalize(e, dim=1)
    own = (e * positive.detach().to(e.dtype)).sum(1, keepdim=True)
    return torch.cat([own, e @ negatives.detach().to(e.dtype).T], dim=1) / temperature


@full_precision
def memory_softmax(
    e: Tensor, positive: Tensor, negatives: Tensor, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """InfoNCE against a bank: -log exp(e . m_n / t) / (exp(e . m_n / t) + sum_j exp(e . m_j / t)), mean over rows.

    e: (B, D); positive: (B, D) each row's own in the bank; negatives: (K, D). mask: (B, K) bool, True leaves out.
    """
    logits = noise_logits(e, positive, negatives, temperature)
    if mask is not None:
        logits = logits.masked_fill(F.pad(mask, (1, 0)), -torch.inf)
    return (logits.logsumexp(1) - logits[:, 0]).mean()


@torch.no_grad()
@full_precision
def memory_accuracy(e: Tensor, positive: Tensor, negatives: Tensor, mask: Tensor) -> Tensor:
    """How often the own row is nearer than all negatives, (); arguments as in `memory_softmax`."""
    logits = noise_logits(e, positive, negatives, 1.0).masked_fill(F.pad(mask, (1, 0)), -torch.inf)
    return (logits[:, 0] > logits[:, 1:].amax(1)).float().mean()


@full_precision
def memory_nce(
    e: Tensor,
    positive: Tensor,
    negatives: Tensor,
    temperature: float,
    mask: Tensor | None = None,
    *,
    normaliser: Tensor,
) -> Tensor:
    """NCE: Unsupervised Feature Learning via Non-Parametric Instance Discrimination (arXiv 1805.01978), eq. 4 to 7.

    -log h(n) - sum_j log(1 - h(j)) with P(j | e) = exp(e . m_j / t) / Z and h = P / (P + K / N), mean over rows.
    normaliser: () Z / N, the mean of exp(e . m / t). Other arguments as in `memory_softmax`.
    """
    logits = noise_logits(e, positive, negatives, temperature)
    # h = 1 / (1 + K / (N P)), and N P = exp(logit) / (Z / N)
    odds = logits - normaliser.detach().to(logits.dtype).log() - math.log(len(negatives))
    noise = F.softplus(odds[:, 1:])  # -log(1 - h)
    if mask is not None:
        noise = noise.masked_fill(mask, 0)
    return (F.softplus(-odds[:, 0]) + noise.sum(1)).mean()


def pirl(
    image: Tensor,
    tiles: Tensor,
    positive: Tensor,
    negatives: Tensor,
    temperature: float,
    weight: float = 0.5,
    mask: Tensor | None = None,
    loss: MemoryLoss = memory_softmax,
) -> Tensor:
    """PIRL: Self-Supervised Learning of Pretext-Invariant Representations (arXiv 1912.01991), eq. 5.

    weight * loss(tiles) + (1 - weight) * loss(image), each against the picture's row of the bank among negatives.
    image, tiles: (B, D) embeddings of a view and of its shuffled tiles; the rest as in `memory_softmax`.
    """
    rest = positive, negatives, temperature, mask
    return weight * loss(tiles, *rest) + (1 - weight) * loss(image, *rest)
