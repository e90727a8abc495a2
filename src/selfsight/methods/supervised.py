"""Supervised training with cross-entropy: the reference point, not self-supervision."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse, fraction
from selfsight.nn import each_view


@dataclass(frozen=True)
class SupervisedConfig:
    """Settings of supervised training."""

    smoothing: float = 0.0
    """Label smoothing."""

    def __post_init__(self) -> None:
        fraction(self, "smoothing")


class Supervised(Method):
    """A linear classifier on the encoder learns the labels; k-NN then measures the same features as everywhere."""

    Config = SupervisedConfig
    sample_mean = True
    global_views = 1
    labelled = True

    def __init__(self, config: SupervisedConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        if data.classes < 2:
            raise WrongUse(f"supervised training needs labels of at least 2 classes, these data have {data.classes}")
        self.config, self.encoder, self.classes = config, encoder, data.classes
        self.head = nn.Linear(int(encoder.dim), data.classes)  # type: ignore[arg-type]

    def encode(self, views: Views, step: Step) -> Views:
        logits = each_view(nn.Sequential(self.encoder, self.head), views["global"], joint=True)
        return {"logits": logits, "label": views["label"]}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        logits, labels = outputs["logits"][0], outputs["label"][0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision is raised
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.smoothing)
        return Output(loss, {"accuracy": accuracy})

    def constant_loss(self, batch: int) -> float:
        """Log of the number of classes: every class is equally likely."""
        return math.log(self.classes)
