"""SupCon: Supervised Contrastive Learning (arXiv 2004.11362): an upper bound, not self-supervision."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import above, at_least
from selfsight.losses import supcon
from selfsight.nn import each_view, mlp


@dataclass(frozen=True)
class SupConConfig:
    """Settings of SupCon; defaults are those of the authors' code."""

    temperature: float = 0.1
    """Temperature of the similarities."""
    hidden: int = 2048
    """Width of the head's hidden layer."""
    dim: int = 128
    """Width of the embedding."""
    joint_views: bool = True
    """Encode both views in one pass (the authors' choice)."""

    def __post_init__(self) -> None:
        above(self, 0, "temperature")
        at_least(self, 1, "hidden", "dim")


class SupCon(Method):
    """SimCLR that knows the labels: all views of a class attract each other."""

    Config = SupConConfig
    labelled = True

    def __init__(self, config: SupConConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.projector = mlp([int(encoder.dim), config.hidden, config.dim], norm="none")  # type: ignore[arg-type]

    def encode(self, views: Views, step: Step) -> Views:
        z = each_view(nn.Sequential(self.encoder, self.projector), views["global"], self.config.joint_views)
        return {"z": z, "label": views["label"]}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        z, labels = outputs["z"], outputs["label"][0]
        keys = distributed.gather(z.transpose(0, 1)).transpose(0, 1)  # (V, N, D)
        rows = distributed.own_rows(len(labels), labels.device)
        theirs = distributed.gather(labels)
        return Output(supcon(z, labels, self.config.temperature, keys=keys, key_labels=theirs, rows=rows))

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector}

    def constant_loss(self, batch: int) -> float:
        """log(2N - 1): every candidate is equally likely."""
        return math.log(2 * batch - 1)
