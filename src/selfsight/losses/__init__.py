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
from selfsight.losses.redundancy import barlow_twins, coding_rate, emp_ssl, sigreg, tico, vicreg, w_mse, whiten
from selfsight.losses.siamese import byol, simsiam

__all__ = [
    "barlow_twins", "best_matches", "byol", "coding_rate", "contrastive_accuracy", "dcl", "dclw", "dense_moco", "dino",
    "emp_ssl", "entropy_gap", "info_nce", "koleo", "masked_prediction", "moco", "moco_v3", "near_positions", "nearest",
    "nnclr", "nt_xent", "pixpro", "prediction", "relic",
    "retrieval_accuracy", "sigreg", "simsiam", "supcon", "swapped_prediction", "tico", "vicreg", "w_mse", "whiten",
]  # fmt: skip
