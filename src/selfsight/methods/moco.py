"""MoCo: Momentum Contrast for Unsupervised Visual Representation Learning (arXiv 1911.05722), and v2 (arXiv 2003.04297)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.batchnorm import Apart, average_statistics, check_apart, in_other_groups, keep_apart
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse, above, at_least, fraction, multiple_of_batch
from selfsight.losses import moco, retrieval_accuracy
from selfsight.nn import Ema, Queue, mlp
from selfsight.optim import cosine_ramp


@dataclass(frozen=True)
class MoCoConfig:
    """Settings of MoCo; defaults are those of v2 for ImageNet. v1: layers 1, temperature 0.07, policy moco-v1."""

    temperature: float = 0.2
    """Temperature of the similarities (v1: 0.07)."""
    queue: int = 65536
    """Keys in the queue, a multiple of the batch."""
    layers: int = 2
    """Linear layers of the head: 1 in v1, 2 in v2; without batch normalisation."""
    hidden: int = 2048
    """Width of the head's hidden layer."""
    dim: int = 128
    """Width of the embedding."""
    momentum: float = 0.999
    """Momentum of the key network at the start; it rises to `momentum_end` along a cosine, per step."""
    momentum_end: float = 0.999
    """Momentum of the key network at the end; equal to `momentum`: constant (the authors)."""
    direction: Literal["one", "sum", "mean"] = "one"
    """one: view 1 asks, view 2 answers. sum: both directions against one queue, which takes both views' keys (the CIFAR
    demo). mean: both directions, a queue for each view's keys (solo-learn's MoCo v2+)."""
    batch_norm: Apart = "global"
    """What keeps batch statistics from giving the answer away. global: nothing, statistics of the whole batch. split: in
    `splits` groups, the keys' groups drawn anew at each step, as if the batch lay on several GPUs. shuffle: each process
    has its own statistics, and keys are encoded by other processes than queries (the authors)."""
    splits: int = 8
    """Groups of batch_norm split."""

    def __post_init__(self) -> None:
        above(self, 0, "temperature")
        at_least(self, 1, "queue", "layers", "hidden", "dim", "splits")
        fraction(self, "momentum", "momentum_end")
        if self.momentum > self.momentum_end:
            raise WrongUse(
                f"method.momentum {self.momentum} is above method.momentum_end {self.momentum_end}: it never falls"
            )


class MoCo(Method):
    """A query finds the key of the other view, from a slowly following network, among a queue of past keys."""

    Config = MoCoConfig
    sample_mean = True

    def __init__(self, config: MoCoConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        keep_apart(encoder, config.batch_norm, config.splits)
        self.config, self.encoder = config, encoder
        width = int(encoder.dim)  # type: ignore[arg-type]
        self.projector = mlp([width, *[config.hidden] * (config.layers - 1), config.dim], norm="none")
        self.keys = Ema(nn.Sequential(encoder, self.projector))  # starts equal
        self.queues = nn.ModuleList(
            Queue(config.queue, config.dim) for _ in range(2 if config.direction == "mean" else 1)
        )

    def check(self, batch: int, part: int) -> None:
        multiple_of_batch(self.config, "queue", batch * (2 if self.config.direction == "sum" else 1))
        check_apart(self.config.batch_norm, self.config.splits, part)

    def encode(self, views: Views, step: Step) -> Views:
        x1, x2 = views["global"]  # (B, C, S, S)
        pairs = [(x1, x2)] if self.config.direction == "one" else [(x1, x2), (x2, x1)]
        queries = torch.stack([self.embed(a) for a, _ in pairs])
        return {"q": queries, "k": torch.stack([self._keys(b, step) for _, b in pairs])}

    @torch.no_grad()
    def _keys(self, x: Tensor, step: Step) -> Tensor:
        """Keys of some views; where batch statistics are kept apart, in an order that queries do not have."""
        (keys,) = in_other_groups(lambda y: (self.keys(y),), x, self.config.batch_norm, step.fresh())
        return keys

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        queries, keys = outputs["q"], outputs["k"].detach()
        keys = F.normalize(keys.to(torch.promote_types(keys.dtype, torch.float32)), dim=2)
        t, queues = self.config.temperature, [queue.rows for queue in self.queues]
        if self.config.direction == "mean":  # keys of view 2 are asked first, view 1's queue is the second
            queues = queues[::-1]
        losses = [moco(q, k, queues[i % len(queues)], t) for i, (q, k) in enumerate(zip(queries, keys, strict=True))]  # type: ignore[arg-type]
        loss = torch.stack(losses)
        rows = torch.arange(len(queries[0]), device=loss.device)
        top1, top5 = retrieval_accuracy(queries[0], keys[0], rows, others=queues[0])  # type: ignore[arg-type]
        logs = {"top1": top1, "top5": top5}
        total = loss.mean() if self.config.direction == "mean" else loss.sum()
        return Output(total, logs, {f"k{i}": k for i, k in enumerate(keys)})

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        if self.config.batch_norm != "global":
            average_statistics(self)
        momentum = cosine_ramp(self.config.momentum, self.config.momentum_end, step.progress)
        self.keys.follow(nn.Sequential(self.encoder, self.projector), momentum)
        if self.config.direction == "mean":
            self.queues[1].push(carry["k0"])  # type: ignore[operator]
            self.queues[0].push(carry["k1"])  # type: ignore[operator]
        else:
            self.queues[0].push(torch.cat(list(carry.values())))  # type: ignore[operator]

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector}

    def constant_loss(self, batch: int) -> float:
        """log(K + 1), of each direction that is summed: the queue has collapsed, too."""
        return math.log(self.config.queue + 1) * (2 if self.config.direction == "sum" else 1)
