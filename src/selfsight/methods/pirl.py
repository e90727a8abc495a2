"""PIRL: Self-Supervised Learning of Pretext-Invariant Representations (arXiv 1912.01991)."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.augment.tiles import shuffled
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import above, at_least, fraction
from selfsight.losses import memory_accuracy, memory_nce, memory_softmax, noise_logits, pirl
from selfsight.losses.memory import MemoryLoss
from selfsight.nn import Memory, Norm, activated, mlp, reader


@dataclass(frozen=True)
class PIRLConfig:
    """Settings of PIRL; defaults are the paper's, but for the loss. With layers 2: temperature 0.1 (VISSL)."""

    temperature: float = 0.07
    """Temperature of the similarities."""
    negatives: int = 32000
    """Rows of the bank that are negatives in a step, the same for all pictures; all others if there are fewer."""
    loss: Literal["infonce", "nce"] = "infonce"
    """infonce: softmax over the own row and the negatives. nce: a yes or no for each of them (the paper)."""
    weight: float = 0.5
    """Weight of the tiles' loss; the view's has the rest."""
    momentum: float = 0.5
    """Of the bank: what a row keeps when its picture is seen."""
    dim: int = 128
    """Width of the embedding."""
    layers: int = 1
    """Linear layers of the heads: 1, or 2 with a ReLU between."""
    hidden: int = 2048
    """Width between the two."""
    last_norm: Norm = "none"
    """Normalisation of both embeddings; batch-plain keeps a common part of all pictures out of them."""

    def __post_init__(self) -> None:
        above(self, 0, "temperature")
        at_least(self, 1, "negatives", "dim", "layers", "hidden")
        fraction(self, "weight", "momentum")


class PIRL(Method):
    """A view and its shuffled tiles both find the picture's row in a memory bank."""

    Config = PIRLConfig
    indexed = True
    sample_mean = True
    global_views = 1
    tiled = True

    def __init__(self, config: PIRLConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        dims = [int(encoder.dim), *[config.hidden] * (config.layers - 1), config.dim]  # type: ignore[arg-type]
        self.head = mlp(dims, norm="none", last_norm=config.last_norm)  # f
        between = [nn.ReLU(inplace=True)] if config.layers > 1 else []
        self.tile_head = nn.Sequential(mlp(dims, norm="none"), *between)
        # g, of the tiles side by side
        self.tiles_head = mlp([data.tiles * config.dim, config.dim], last_norm=config.last_norm)
        self.bank = Memory(len(data), config.dim)

    def encode(self, views: Views, step: Step) -> Views:
        x, tiles = views["global"][0], views["tiles"]  # (B, C, S, S), (T, B, C, t, t)
        z = self.tile_head(activated(self.encoder, self.encoder(tiles.flatten(0, 1)))).unflatten(0, tiles.shape[:2])
        z = shuffled(z, views["shuffle"][0].argsort(1))
        return {"image": self.embed(x)[None], "tiles": self.tiles_head(z.transpose(0, 1).flatten(1))[None]}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        config, image, tiles = self.config, outputs["image"][0], outputs["tiles"][0]
        own, rest, same = self.bank.asked(index, config.negatives, step)
        carry = {"index": index, "row": F.normalize(image.detach().to(own.dtype), dim=1)}
        single: MemoryLoss = memory_softmax
        if config.loss == "nce":
            logits = [noise_logits(e, own, rest, config.temperature) for e in (image, tiles)]
            normaliser = self.bank.mean_score(logits, step)
            carry["normaliser"] = normaliser[None]
            single = partial(memory_nce, normaliser=normaliser)
        loss = pirl(image, tiles, own, rest, config.temperature, config.weight, same, single)
        logs = {name: memory_accuracy(z[0], own, rest, same) for name, z in outputs.items()}
        return Output(loss, {f"{name}_top1": value for name, value in logs.items()}, carry)

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
