"""W-MSE: Whitening for Self-Supervised Representation Learning (arXiv 2007.06346)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse, at_least
from selfsight.losses import w_mse
from selfsight.nn import each_view, mlp


@dataclass(frozen=True)
class WMSEConfig:
    """Settings of W-MSE; defaults are the authors' for CIFAR-10. The number of views d is `--views.views`, 2 or 4."""

    slice_size: int = 128
    """Rows that are whitened together: at least twice `dim`, and a divisor of the batch."""
    iterations: int = 1
    """Partitions into slices that the loss is averaged over (4 for STL-10 and Tiny ImageNet)."""
    hidden: int = 1024
    """Width of the head's hidden layer."""
    dim: int = 64
    """Width D of the embedding (128 for ImageNet-100)."""

    def __post_init__(self) -> None:
        at_least(self, 1, "iterations", "hidden", "dim")
        if self.slice_size < 2 * self.dim:
            raise WrongUse(
                f"method.slice_size {self.slice_size} is below twice method.dim {self.dim}: the covariance of a slice "
                f"is nearly singular; choose at least {2 * self.dim}, or a smaller method.dim"
            )


class WMSE(Method):
    """Embeddings are whitened in random slices of the batch, so that pulling views together cannot collapse them."""

    Config = WMSEConfig
    more_views = True

    def __init__(self, config: WMSEConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.projector = mlp([int(encoder.dim), config.hidden, config.dim])  # type: ignore[arg-type]

    def check(self, batch: int, part: int) -> None:
        size = self.config.slice_size
        if batch < size or batch % size:
            raise WrongUse(
                f"a batch of {batch} does not split into slices of {size} (method.slice_size, twice method.dim or "
                f"more): choose a batch of {-(-batch // size) * size}, or a smaller method.dim and slice_size"
            )

    def encode(self, views: Views, step: Step) -> Views:
        features = each_view(self.encoder, views["global"], joint=False)  # a pass per view,
        return {"z": each_view(self.projector, features, joint=True)}  # then the head over all of them

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        z = torch.stack([distributed.gather(view) for view in outputs["z"]])  # slices of the whole batch
        rng, losses = step.fresh(), []
        for _ in range(self.config.iterations):
            order = torch.randperm(z.shape[1], generator=rng).to(z.device)  # the same for all views and processes
            losses.append(w_mse(z[:, order], self.config.slice_size))
        return Output(torch.stack(losses).mean())

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector}
