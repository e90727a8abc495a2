"""DenseCL: Dense Contrastive Learning for Self-Supervised Visual Pre-Training (arXiv 2011.09157)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.batchnorm import Apart, average_statistics, check_apart, in_other_groups, keep_apart
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.encoders import check_maps, feature_map
from selfsight.errors import above, at_least, fraction, multiple_of_batch
from selfsight.losses import best_matches, dense_moco, moco, retrieval_accuracy
from selfsight.nn import Ema, Queue, each_view, mlp


@dataclass(frozen=True)
class DenseCLConfig:
    """Settings of DenseCL; defaults are the paper's for ImageNet (section 4.1)."""

    weight: float = 0.5
    """Share of the dense loss (lambda); 0: MoCo v2."""
    temperature: float = 0.2
    """Temperature of the similarities, of both losses."""
    queue: int = 65536
    """Keys in each of the two queues, a multiple of the batch."""
    hidden: int = 2048
    """Width of the heads' hidden layers."""
    dim: int = 128
    """Width of the embeddings."""
    momentum: float = 0.999
    """Momentum of the key network."""
    batch_norm: Apart = "global"
    """What keeps batch statistics from giving the answer away: global, split or shuffle, as in MoCo."""
    splits: int = 8
    """Groups of batch_norm split."""

    def __post_init__(self) -> None:
        above(self, 0, "temperature")
        at_least(self, 1, "queue", "hidden", "dim", "splits")
        fraction(self, "weight", "momentum")


class DenseCL(Method):
    """MoCo v2, and the same for every position of the feature map, whose key is the position that looks most alike."""

    Config = DenseCLConfig
    sample_mean = True

    def __init__(self, config: DenseCLConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        check_maps(encoder)
        keep_apart(encoder, config.batch_norm, config.splits)
        self.config = config
        dims = [int(encoder.dim), config.hidden, config.dim]  # type: ignore[arg-type]
        parts = {"encoder": encoder, "projector": mlp(dims, norm="none")}
        self.query = nn.ModuleDict({**parts, "dense": mlp(dims, norm="none")})  # 1x1 convolutions: positions are rows
        self.keys = Ema(self.query)  # starts equal
        self.queue = Queue(config.queue, config.dim)
        self.dense_queue = Queue(config.queue, config.dim)

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        return self.query["encoder"]

    def check(self, batch: int, part: int) -> None:
        multiple_of_batch(self.config, "queue", batch)
        check_apart(self.config.batch_norm, self.config.splits, part)

    def encode(self, views: Views, step: Step) -> Views:
        x1, x2 = views["global"]  # (B, C, S, S)
        q, dense, features = self._look(self.query, x1)
        with torch.no_grad():
            k, dense_k, others = in_other_groups(
                lambda x: self._look(self.keys.module, x), x2, self.config.batch_norm, step.fresh()
            )
        found = {"q": q, "dense": dense, "k": k, "dense_k": dense_k, "match": best_matches(features, others)}
        return {name: x[None] for name, x in found.items()}

    @staticmethod
    def _look(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, S, S) -> global embedding (B, d), dense ones (B, P, d), features (B, P, D) of the P positions."""
        features = feature_map(net["encoder"], x).flatten(2).mT  # type: ignore[index]
        return net["projector"](features.mean(1)), each_view(net["dense"], features, joint=True), features  # type: ignore[index]

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        config, (q,), (dense,), (match,) = self.config, outputs["q"], outputs["dense"], outputs["match"]
        k, dense_k = (
            x.detach().to(torch.promote_types(x.dtype, torch.float32)) for x in (outputs["k"][0], outputs["dense_k"][0])
        )
        k = F.normalize(k, dim=1)
        whole = moco(q, k, self.queue.rows, config.temperature)  # eq. 1
        local = dense_moco(dense, dense_k, match, self.dense_queue.rows, config.temperature)  # eq. 2
        top1, top5 = retrieval_accuracy(q, k, torch.arange(len(q), device=q.device), others=self.queue.rows)
        logs = {"top1": top1, "top5": top5, "global": whole.detach(), "dense": local.detach()}
        loss = (1 - config.weight) * whole + config.weight * local  # eq. 3
        return Output(loss, logs, {"k": k, "dense": F.normalize(dense_k.mean(1), dim=1)})

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        if self.config.batch_norm != "global":
            average_statistics(self)
        self.keys.follow(self.query, self.config.momentum)
        self.queue.push(carry["k"])
        self.dense_queue.push(carry["dense"])

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.query["projector"]}

    def constant_loss(self, batch: int) -> float:
        """log(K + 1), of both losses: the queues have collapsed, too."""
        return math.log(self.config.queue + 1)
