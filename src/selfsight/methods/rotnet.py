"""RotNet: Unsupervised Representation Learning by Predicting Image Rotations (arXiv 1803.07728)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.core import Data, Method, Output, Step, Views
from selfsight.nn import activated


@dataclass(frozen=True)
class RotNetConfig:
    """RotNet has no settings of its own."""


class RotNet(Method):
    """Says by how many quarter turns a picture was turned: all four of every picture, without interpolation."""

    Config = RotNetConfig
    sample_mean = True
    global_views = 1

    def __init__(self, config: RotNetConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.head = nn.Linear(int(encoder.dim), 4)  # type: ignore[arg-type]

    def encode(self, views: Views, step: Step) -> Views:
        x = views["global"][0]  # (B, C, S, S)
        turned = torch.cat([x.rot90(k, (2, 3)) for k in range(4)])  # g(X | y), counter-clockwise
        logits: Tensor = self.head(activated(self.encoder, self.encoder(turned)))
        return {"logits": logits.unflatten(0, (4, -1))}  # (4, B, 4)

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        logits = outputs["logits"].flatten(0, 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision is raised
        turns = torch.arange(4, device=logits.device).repeat_interleave(outputs["logits"].shape[1])
        accuracy = (logits.detach().argmax(1) == turns).float().mean()
        return Output(F.cross_entropy(logits, turns), {"accuracy": accuracy})  # eq. 2 and 3

    def constant_loss(self, batch: int) -> float:
        """Log 4: every turn is equally likely."""
        return math.log(4)
