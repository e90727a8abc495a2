"""Losses against codes. Shapes: V views, B rows, K prototypes."""

from collections.abc import Sequence

from torch import Tensor

from selfsight.losses.precision import full_precision


@full_precision
def swapped_prediction(
    scores: Sequence[Tensor] | Tensor, codes: Sequence[Tensor] | Tensor, temperature: float
) -> Tensor:
    """SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments (arXiv 2006.09882), eq. 1, 6.

    mean over coded views i, over the other V - 1 views v, over rows, of -sum_k codes_i,k log softmax(scores_v / t)_k.
    scores: V of (B, K), the coded views first. codes: (B, K) for each coded view, rows sum to 1; detached here.
    """
    loss = scores[0].new_zeros(())
    for v, score in enumerate(scores):
        log_p = (score / temperature).log_softmax(1)
        target = sum(code.detach() for i, code in enumerate(codes) if i != v)  # one product for all codes of a view
        loss = loss - (target * log_p).sum(1).mean()
    return loss / (len(codes) * (len(scores) - 1))
