"""DirectPred: Understanding Self-Supervised Learning Dynamics without Contrastive Pairs (arXiv 2102.06810)."""

from dataclasses import dataclass
from typing import Literal

from selfsight.methods.siamese import HiddenNorm, Siamese, SiameseConfig, predictor_from

__all__ = ["DirectPred", "DirectPredConfig", "predictor_from"]


@dataclass(frozen=True)
class DirectPredConfig(SiameseConfig):
    """Settings of DirectPred; defaults are those of the authors' code for CIFAR-10 and STL-10."""

    hidden: int = 512
    """Width of the projector's hidden layer."""
    dim: int = 128
    """Width D of projection and prediction."""
    norm: HiddenNorm = "batch-plain"
    """Batch normalisation of hidden layers: batch (scale and shift) or batch-plain (neither)."""
    last_bias: bool = True
    """Bias of the projector's last linear layer."""
    predictor: Literal["mlp", "linear", "closed-form"] = "closed-form"
    """mlp: two layers. linear: one matrix. closed-form: one matrix that is computed from the projections' correlation."""
    predictor_hidden: int = 512
    """Width of the mlp predictor's hidden layer."""
    momentum: float = 0.996
    """Momentum of the teacher at the start; it rises to `momentum_end` along a cosine, per step."""
    momentum_end: float = 0.996
    """Momentum of the teacher at the end; equal to `momentum`: constant."""


class DirectPred(Siamese):
    """The predictor is not learnt: it is computed from the correlation of the projections, square root of spectrum."""

    Config = DirectPredConfig
