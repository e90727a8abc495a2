"""NNCLR: With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning (arXiv 2104.14548)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import above, at_least, multiple_of_batch
from selfsight.losses import nearest, nnclr, retrieval_accuracy
from selfsight.nn import Queue, each_view, mlp


@dataclass(frozen=True)
class NNCLRConfig:
    """Settings of NNCLR; defaults are the paper's for ImageNet (section 4.1)."""

    temperature: float = 0.1
    """Temperature of the similarities."""
    queue: int = 98304
    """Embeddings in the support set, a multiple of the batch."""
    hidden: int = 2048
    """Width of the projector's hidden layers."""
    predictor_hidden: int = 4096
    """Width of the predictor's hidden layer."""
    dim: int = 256
    """Width of the embedding."""
    layers: int = 3
    """Linear layers of the projector."""
    joint_views: bool = False
    """Encode both views in one pass (batch statistics span them)."""

    def __post_init__(self) -> None:
        above(self, 0, "temperature")
        at_least(self, 1, "queue", "hidden", "predictor_hidden", "dim", "layers")


class NNCLR(Method):
    """A picture's nearest neighbour among past embeddings stands for one of its views."""

    Config = NNCLRConfig

    def __init__(self, config: NNCLRConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        dims = [int(encoder.dim), *[config.hidden] * (config.layers - 1), config.dim]  # type: ignore[arg-type]
        # linear layers before a batch normalisation have no bias, which it would take away
        self.projector = mlp(dims, bias=False, last_norm="batch")
        self.predictor = mlp([config.dim, config.predictor_hidden, config.dim], bias=False, last_bias=True)
        self.queue = Queue(config.queue, config.dim)

    def check(self, batch: int, part: int) -> None:
        multiple_of_batch(self.config, "queue", batch)

    def encode(self, views: Views, step: Step) -> Views:
        z = each_view(nn.Sequential(self.encoder, self.projector), views["global"], self.config.joint_views)
        return {"z": z.detach(), "p": each_view(self.predictor, z, self.config.joint_views)}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        z = outputs["z"].detach()
        (z1, z2), (p1, p2) = z.to(torch.promote_types(z.dtype, torch.float32)), outputs["p"]
        keys = (distributed.gather(p1), distributed.gather(p2))  # with gradient: the anchors carry none
        rows = distributed.own_rows(len(z1), z1.device)
        loss = nnclr(z1, z2, p1, p2, self.queue.rows, self.config.temperature, keys=keys, rows=rows)
        top1, top5 = retrieval_accuracy(nearest(z1, self.queue.rows), keys[1], rows)
        return Output(loss, {"top1": top1, "top5": top5}, {"z": F.normalize(z1, dim=1)})

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        self.queue.push(carry["z"])

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector, "predictor": self.predictor}

    def constant_loss(self, batch: int) -> float:
        """log N: every candidate is equally likely."""
        return math.log(batch)
