"""Pure functions of tensors, by family: no state, no randomness, no process group.

All compute in at least float32 with autocast off (float64 stays float64) and return a scalar, the mean over the rows.
"""

from selfsight.losses.clustering import swapped_prediction
from selfsight.losses.contrastive import (
    contrastive_accuracy,
    dcl,
    dclw,
    info_nce,
    moco,
    moco_v3,
    nearest,
    nnclr,
    nt_xent,
    relic,
    retrieval_accuracy,
    supcon,
)
from selfsight.losses.dense import best_matches, dense_moco, near_positions, pixpro
from selfsight.losses.distillation import dino, entropy_gap, koleo, masked_prediction, prediction
from selfsight.losses.masked import ijepa, mae, simmim
from selfsight.losses.memory import memory_accuracy, memory_nce, memory_softmax, noise_logits, pirl
from selfsight.losses.mutual import amdim, cpc
from selfsight.losses.redundancy import barlow_twins, coding_rate, emp_ssl, sigreg, tico, vicreg, w_mse, whiten
from selfsight.losses.siamese import byol, simsiam

__all__ = [
    "amdim", "barlow_twins", "best_matches", "byol", "coding_rate", "contrastive_accuracy", "cpc", "dcl", "dclw",
    "dense_moco", "dino", "emp_ssl", "entropy_gap", "ijepa", "info_nce", "koleo", "mae", "masked_prediction",
    "memory_accuracy", "memory_nce", "memory_softmax", "moco", "moco_v3", "near_positions", "nearest", "nnclr",
    "noise_logits", "nt_xent", "pirl", "pixpro", "prediction", "relic", "retrieval_accuracy", "sigreg", "simmim",
    "simsiam", "supcon", "swapped_prediction", "tico", "vicreg", "w_mse", "whiten",
]  # fmt: skip
