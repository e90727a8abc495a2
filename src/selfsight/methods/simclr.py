"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations (arXiv 2002.05709)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse
from selfsight.losses import contrastive_accuracy, nt_xent
from selfsight.nn import mlp


@dataclass(frozen=True)
class SimCLRConfig:
    """Settings of SimCLR; defaults are the paper's for ImageNet (section 2, appendix B)."""

    temperature: float = 0.1
    """Temperature of the similarities (section 5.1)."""
    hidden: int = 2048
    """Width of the projector's hidden layers."""
    dim: int = 128
    """Width of the embedding."""
    layers: int = 2
    """Linear layers of the projector: 2 in SimCLR, 3 in SimCLR v2 (arXiv 2006.10029)."""
    norm: bool = True
    """Batch normalisation in the projector, as in the authors' code; off, the linear layers have biases."""
    joint_views: bool = True
    """Encode both views in one pass, so that batch statistics span them (the authors' choice)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise WrongUse(f"method.temperature is {self.temperature}, must be above 0 (0.1 to 0.5 is usual)")
        if min(self.hidden, self.dim, self.layers) < 1:
            raise WrongUse("method.hidden, method.dim and method.layers must be at least 1")


class SimCLR(Method):
    """Two views of an image attract each other against all other views of the batch."""

    Config = SimCLRConfig

    def __init__(self, config: SimCLRConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        dims = [int(encoder.dim), *[config.hidden] * (config.layers - 1), config.dim]  # type: ignore[arg-type]
        if config.norm:  # hidden: BN + ReLU; output: BN with scale, without shift; no linear bias
            self.projector = mlp(dims, norm="batch", bias=False, last_norm="batch-scale", last_bias=False)
        else:
            self.projector = mlp(dims, norm="none")

    def forward(self, views: Views, index: Tensor, step: Step) -> Output:
        x = views["global"]  # (2, B, C, S, S)
        if self.config.joint_views:
            z1, z2 = self.embed(x.flatten(0, 1)).chunk(2)
        else:
            z1, z2 = self.embed(x[0]), self.embed(x[1])
        # anchors are this process's rows, candidates everybody's, with gradient: eq. 1 over the global batch
        keys = (distributed.gather(z1), distributed.gather(z2))
        rows = distributed.own_rows(len(z1), z1.device)
        loss = nt_xent(z1, z2, self.config.temperature, keys=keys, rows=rows)
        top1, top5 = contrastive_accuracy(z1, z2, (1, 5), keys=keys, rows=rows)
        return Output(loss, {"top1": top1, "top5": top5})

    def embed(self, images: Tensor) -> Tensor:
        return self.projector(self.encoder(images))

    def constant_loss(self, batch: int) -> float:
        """log(2N - 1): every candidate is equally likely."""
        return float(torch.tensor(2.0 * batch - 1).log())
