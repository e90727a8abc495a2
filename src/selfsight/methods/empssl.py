"""EMP-SSL: Towards Self-Supervised Learning in One Training Epoch (arXiv 2304.03977)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import above, at_least
from selfsight.losses import emp_ssl
from selfsight.nn import each_view, mlp


@dataclass(frozen=True)
class EMPSSLConfig:
    """Settings of EMP-SSL; defaults are the authors' for CIFAR-10. The number of patches is `--views.views`, 20 to 200."""

    weight: float = 200.0
    """Weight of the similarity to the mean patch."""
    eps: float = 0.2
    """Precision of the coding rate (the paper squares it, the authors' code does not)."""
    hidden: int = 4096
    """Width of the expanded features."""
    dim: int = 1024
    """Width D of the embedding."""

    def __post_init__(self) -> None:
        above(self, 0, "eps")
        at_least(self, 0, "weight")
        at_least(self, 1, "hidden", "dim")


class EMPSSL(Method):
    """Many patches of a picture agree with their mean, while the batch keeps a large coding rate."""

    Config = EMPSSLConfig
    more_views = True

    def __init__(self, config: EMPSSLConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        # Linear, BN, ReLU to the expanded features; Linear, BN, ReLU, Linear to the embedding
        self.projector = mlp([int(encoder.dim), config.hidden, config.hidden, config.dim])  # type: ignore[arg-type]

    def encode(self, views: Views, step: Step) -> Views:
        z = each_view(nn.Sequential(self.encoder, self.projector), views["global"], joint=True)
        return {"z": F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=2)}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        z = torch.stack([distributed.gather(patch) for patch in outputs["z"]])  # the rate of the whole batch
        similar = F.cosine_similarity(z.detach(), z.detach().mean(0, keepdim=True), dim=2).mean()
        return Output(emp_ssl(z, self.config.weight, self.config.eps), {"similarity": similar})

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector}

    def constant_loss(self, batch: int) -> float:
        """All rows equal: similarity 1 and the rate of one direction, log(1 + D / eps) / 2."""
        return -self.config.weight - float(torch.tensor(1 + self.config.dim / self.config.eps).log()) / 2
