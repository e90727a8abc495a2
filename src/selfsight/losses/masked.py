"""Losses of hidden patches. Shapes: V views or blocks, B rows, M hidden patches, P numbers of a patch, D features."""

import torch.nn.functional as F
from torch import Tensor

from selfsight.losses.precision import full_precision


@full_precision
def mae(prediction: Tensor, patches: Tensor, normalise: bool = True) -> Tensor:
    """MAE: Masked Autoencoders Are Scalable Vision Learners (arXiv 2111.06377), section 3: mean squared error.

    prediction: (V, B, M, P); patches: (V, B, M, P) pixels of the hidden patches, a constant; normalise: of each patch first
    (x - mean) / sqrt(variance + 1e-6), with the unbiased variance, so that predicting 0 costs (P - 1) / P.
    """
    target = patches.detach()
    if normalise:
        variance, mean = target.var(-1, keepdim=True), target.mean(-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    return (prediction - target).square().mean()


@full_precision
def simmim(prediction: Tensor, patches: Tensor) -> Tensor:
    """SimMIM: A Simple Framework for Masked Image Modeling (arXiv 2111.09886), section 3.4: mean absolute error.

    prediction: (V, B, M, P); patches: (V, B, M, P) pixels of the hidden patches, a constant.
    """
    return (prediction - patches.detach()).abs().mean()


@full_precision
def ijepa(prediction: Tensor, target: Tensor) -> Tensor:
    """I-JEPA (arXiv 2301.08243), section 3, with the smooth L1 of the authors' code instead of the paper's squares.

    prediction: (V, B, M, D); target: (V, B, M, D), a constant, standardised over D here (without it features can vanish).
    """
    target = F.layer_norm(target.detach(), target.shape[-1:])
    return F.smooth_l1_loss(prediction, target)
