"""Pure functions of tensors, by family: no state, no randomness, no process group.

All compute in at least float32 with autocast off (float64 stays float64) and return a scalar, the mean over the rows.
"""

from selfsight.losses.clustering import swapped_prediction
from selfsight.losses.contrastive import contrastive_accuracy, info_nce, nt_xent
from selfsight.losses.siamese import byol

__all__ = ["byol", "contrastive_accuracy", "info_nce", "nt_xent", "swapped_prediction"]
