"""Losses of self-distillation. Shapes: V crops, the first G of them global; B rows, K outputs, M masked patches, D features."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight.losses.clustering import swapped_prediction
from selfsight.losses.precision import full_precision


@full_precision
def dino(
    student: Sequence[Tensor] | Tensor,
    teacher: Sequence[Tensor] | Tensor,
    centre: Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """DINO: Emerging Properties in Self-Supervised Vision Transformers (arXiv 2104.14294), eq. 3.

    Mean over pairs (g, v) of different crops and over rows of the cross-entropy of softmax(student_v / t_s) under
    softmax((teacher_g - centre) / t_t). student: V of (B, K); teacher: G of (B, K), of the first G crops; centre: (K,).
    Teacher and centre are constants.
    """
    targets = [((t.detach() - centre.detach()) / teacher_temperature).softmax(1) for t in teacher]
    return swapped_prediction(student, targets, student_temperature)


@full_precision
def masked_prediction(student: Tensor, target: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """iBOT: Image BERT Pre-Training with Online Tokenizer (arXiv 2111.07832), eq. 2, averaged over masked patches.

    Mean over crops and pictures of sum_m weight_m * CE(target_m, softmax(student_m / t)). student: (V, B, M, K) logits of
    the masked patches; target: (V, B, M, K), rows sum to 1, a constant; weight: (V, B, M), 1 / number of masked patches
    of the picture, 0 for padding. A picture without mask adds 0 and counts.
    """
    log_p = (student / temperature).log_softmax(-1)
    entropy = -(target.detach() * log_p).sum(-1)  # (V, B, M)
    return (weight * entropy).sum(2).mean()


@full_precision
def prediction(scores: Tensor, target: Tensor, temperature: float) -> Tensor:
    """MSN: Masked Siamese Networks (arXiv 2204.07141), eq. 1 without its entropy: mean CE(target, softmax(scores / t)).

    scores: (V, B, K) of every anchor; target: (B, K), rows sum to 1, a constant.
    """
    return -(target.detach() * (scores / temperature).log_softmax(-1)).sum(-1).mean()


@full_precision
def koleo(z: Tensor, keys: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
    """KoLeo: Spreading Vectors for Similarity Search (arXiv 1806.03198), as in DINOv2 (arXiv 2304.07193).

    -mean log(|z_i - z_n(i)| + 1e-8) of unit rows, n(i) the nearest other row. z: (B, D). keys: (W * B, D) rows of all
    processes and rows: (B,) which of them are z; default: z itself.
    """
    z = F.normalize(z, dim=1)
    keys = z if keys is None else F.normalize(keys, dim=1)
    rows = torch.arange(len(z), device=z.device) if rows is None else rows
    with torch.no_grad():
        cosine = (z @ keys.T).scatter_(1, rows[:, None], -2.0)  # below every cosine, also of an antipode
        nearest = cosine.argmax(1)
    # its gradient stays finite for copies
    distance = ((z - keys[nearest]).square().sum(1) + 1e-16).sqrt()
    return -(distance + 1e-8).log().mean()


@full_precision
def entropy_gap(mean: Tensor) -> Tensor:
    """log K - H(mean), at least 0: what the mean-entropy term of MSN (arXiv 2204.07141, eq. 1) adds. mean: (K,) sums to 1."""
    return math.log(len(mean)) + (mean * mean.clamp(min=torch.finfo(mean.dtype).tiny).log()).sum()
