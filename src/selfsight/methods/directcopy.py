"""DirectCopy: Towards Demystifying Representation Learning with Non-contrastive Self-supervision (arXiv 2110.04947)."""

from dataclasses import dataclass

from selfsight.methods.directpred import DirectPredConfig
from selfsight.methods.siamese import Siamese


@dataclass(frozen=True)
class DirectCopyConfig(DirectPredConfig):
    """Settings of DirectCopy: DirectPred with the spectrum itself, DirectSet(1). rho and epsilon as public ports do."""

    rho: float = 0.5
    """Weight of the past in the running correlation F of the projections."""
    epsilon: float = 0.3
    """closed-form: added to the eigenvalues after normalisation."""
    power: float = 1.0
    """closed-form: exponent of F's eigenvalues; 1/2 is DirectPred, 1 DirectCopy, others DirectSet."""


class DirectCopy(Siamese):
    """The predictor is the correlation matrix of the projections itself, normalised, plus a multiple of the identity."""

    Config = DirectCopyConfig
