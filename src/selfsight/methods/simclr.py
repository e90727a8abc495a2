"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations (arXiv 2002.05709).

Options: the head of SimCLR v2 (arXiv 2006.10029); the losses of Decoupled Contrastive Learning (arXiv 2110.06848).
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import above, at_least
from selfsight.losses import contrastive_accuracy, dcl, dclw, nt_xent
from selfsight.nn import each_view, mlp


@dataclass(frozen=True)
class SimCLRConfig:
    """Settings of SimCLR; defaults are the paper's for ImageNet (section 2, appendix B)."""

    temperature: float = 0.1
    """Temperature of the similarities (section 5.1)."""
    objective: Literal["nt-xent", "dcl", "dclw"] = "nt-xent"
    """nt-xent: SimCLR. dcl: the positive leaves the denominator. dclw: and hard positives weigh more."""
    sigma: float = 0.5
    """dclw: temperature of the positives' weights."""
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
        above(self, 0, "temperature", "sigma")
        at_least(self, 1, "hidden", "dim", "layers")


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

    def encode(self, views: Views, step: Step) -> Views:
        return {"z": each_view(nn.Sequential(self.encoder, self.projector), views["global"], self.config.joint_views)}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        z1, z2 = outputs["z"]  # (B, D)
        # anchors are this process's rows, candidates everybody's, with gradient: eq. 1 over the global batch
        keys = (distributed.gather(z1), distributed.gather(z2))
        rows = distributed.own_rows(len(z1), z1.device)
        t = self.config.temperature
        if self.config.objective == "nt-xent":
            loss = nt_xent(z1, z2, t, keys=keys, rows=rows)
        elif self.config.objective == "dcl":
            loss = dcl(z1, z2, t, keys=keys, rows=rows)
        else:
            loss = dclw(z1, z2, t, self.config.sigma, keys=keys, rows=rows)
        top1, top5 = contrastive_accuracy(z1, z2, keys=keys, rows=rows)
        return Output(loss, {"top1": top1, "top5": top5})

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector}

    def constant_loss(self, batch: int) -> float:
        """log(2N - 1), or log(2N - 2) without the positive: every candidate is equally likely."""
        return math.log(max(1, 2 * batch - (1 if self.config.objective == "nt-xent" else 2)))
