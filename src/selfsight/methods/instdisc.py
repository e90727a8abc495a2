"""InstDisc: Unsupervised Feature Learning via Non-Parametric Instance Discrimination (arXiv 1805.01978)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import above, at_least, fraction
from selfsight.losses import memory_accuracy, memory_nce, memory_softmax, noise_logits
from selfsight.nn import Memory, Norm, mlp, reader


@dataclass(frozen=True)
class InstDiscConfig:
    """Settings of InstDisc; defaults are the paper's for ImageNet, but for the loss."""

    temperature: float = 0.07
    """Temperature of the similarities."""
    negatives: int = 4096
    """Rows of the bank that are negatives in a step, the same for all pictures; all others if there are fewer."""
    loss: Literal["infonce", "nce"] = "infonce"
    """infonce: softmax over the own row and the negatives. nce: a yes or no for each of them (the paper's ImageNet)."""
    momentum: float = 0.5
    """Of the bank: what a row keeps when its picture is seen."""
    dim: int = 128
    """Width of the embedding."""
    last_norm: Norm = "none"
    """Normalisation of the embedding; batch-plain keeps a common part of all pictures out of it."""

    def __post_init__(self) -> None:
        above(self, 0, "temperature")
        at_least(self, 1, "negatives", "dim")
        fraction(self, "momentum")


class InstDisc(Method):
    """Every picture is a class of its own: a view finds the picture's row in a memory bank."""

    Config = InstDiscConfig
    indexed = True
    sample_mean = True
    global_views = 1

    def __init__(self, config: InstDiscConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.head = mlp([int(encoder.dim), config.dim], last_norm=config.last_norm)  # type: ignore[arg-type]
        self.bank = Memory(len(data), config.dim)

    def encode(self, views: Views, step: Step) -> Views:
        return {"z": self.embed(views["global"][0])[None]}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        config, z = self.config, outputs["z"][0]
        own, rest, same = self.bank.asked(index, config.negatives, step)
        carry = {"index": index, "row": F.normalize(z.detach().to(own.dtype), dim=1)}
        if config.loss == "nce":
            normaliser = self.bank.mean_score([noise_logits(z, own, rest, config.temperature)], step)
            carry["normaliser"] = normaliser[None]
            loss = memory_nce(z, own, rest, config.temperature, same, normaliser=normaliser)  # eq. 7
        else:
            loss = memory_softmax(z, own, rest, config.temperature, same)  # eq. 2 and 3
        return Output(loss, {"top1": memory_accuracy(z, own, rest, same)}, carry)

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        self.bank.follow(carry["index"], carry["row"], self.config.momentum)
        if step.index == 0 and "normaliser" in carry:
            self.bank.normaliser.copy_(carry["normaliser"].mean())

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": reader(self.encoder, self.head)}

    def constant_loss(self, batch: int) -> float | None:
        """log(K + 1): the bank has collapsed, too."""
        if self.config.loss == "nce":
            return None
        return math.log(1 + min(self.config.negatives, len(self.bank.rows) - 1))
