"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments (arXiv 2006.09882)."""

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight import distributed, health
from selfsight.assign import sinkhorn
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse
from selfsight.losses import swapped_prediction
from selfsight.nn import Prototypes, Queue, mlp, multi_crop


@dataclass(frozen=True)
class SwAVConfig:
    """Settings of SwAV; defaults are the paper's for ImageNet at batch 4096 (section 4, appendix A)."""

    hidden: int = 2048
    """Width of the projector's hidden layer."""
    dim: int = 128
    """Width of the embedding."""
    layers: int = 2
    """Linear layers of the projector (SEER: 3)."""
    norm: Literal["batch", "none"] = "batch"
    """Normalisation of the projector's hidden layers (SEER: none)."""
    prototypes: int = 3000
    """Number of prototypes K."""
    temperature: float = 0.1
    """Temperature of the predictions (eq. 2)."""
    epsilon: float = 0.05
    """Entropy of the codes (eq. 3): smaller is sharper."""
    iterations: int = 3
    """Sinkhorn iterations."""
    hard_steps: int = 0
    """First steps whose codes are hard: all of the weight on the best prototype. -1: every step."""
    queue: int = 0
    """Past embeddings, per coded view, that balance the codes together with the batch; for batches below 4 K. 0: none."""
    queue_from_step: int = 0
    """First step whose embeddings enter the queue; it is used once it is full."""
    freeze_steps: int = 313
    """Steps during which the prototypes do not learn (the authors freeze them for one epoch)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.epsilon <= 0:
            raise WrongUse("method.temperature and method.epsilon must be above 0 (0.1 and 0.05 in the paper)")
        if min(self.hidden, self.dim, self.layers, self.iterations) < 1 or self.prototypes < 2:
            raise WrongUse("method.hidden, dim, layers and iterations must be at least 1, method.prototypes at least 2")
        if self.norm not in ("batch", "none"):
            raise WrongUse(f"method.norm is {self.norm!r}: use batch or none")
        if min(self.queue, self.queue_from_step, self.freeze_steps) < 0:
            raise WrongUse("method.queue, queue_from_step and freeze_steps must not be negative")


class SwAV(Method):
    """Each view predicts the balanced cluster assignment (code) of the other ones; small crops only predict."""

    Config = SwAVConfig
    local_views = True

    def __init__(self, config: SwAVConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        widths = [int(encoder.dim), *[config.hidden] * (config.layers - 1), config.dim]  # type: ignore[arg-type]
        self.projector = mlp(widths, norm=config.norm)
        self.prototypes = Prototypes(config.dim, config.prototypes)
        self.queues = nn.ModuleList(Queue(config.queue, config.dim) for _ in range(2 if config.queue else 0))

    def before_step(self, step: Step, data: Data) -> None:
        self.prototypes.normalise()

    def encode(self, views: Views, step: Step) -> Views:
        count = views["global"].shape[1]
        z = self.projector(multi_crop(self.encoder, views))  # one pass of the head over all crops
        z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)  # half precision is raised
        return {
            "scores": self.prototypes(z).unflatten(0, (-1, count)),
            "z": z[: 2 * count].detach().unflatten(0, (2, -1)),
        }

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        scores = outputs["scores"].unbind()  # V x (B, K)
        codes = [self.codes(scores[i].detach(), i, step) for i in range(2)]
        loss = swapped_prediction(list(scores), codes, self.config.temperature)  # eq. 1 and 6
        carry = {f"z{i}": outputs["z"][i].detach() for i in range(len(self.queues))}
        return Output(loss, health.assignments(torch.cat(codes)), carry)

    @torch.no_grad()
    def codes(self, scores: Tensor, view: int, step: Step) -> Tensor:
        """Codes of this process's rows, balanced over the global batch and the queue. (B, K) -> (B, K)."""
        rows, weights = scores, None
        if self.queues and step.index > self.config.queue_from_step:
            queue = cast(Queue, self.queues[view])
            past = queue.rows[distributed.rank() :: distributed.world()]  # each once
            rows = torch.cat([scores, self.prototypes(past)])
            # a half-filled queue would soak up prototype mass: it does not count, which costs no wait for the device
            counts = (queue.filled >= len(queue.rows)).to(scores.dtype).expand(len(past))
            weights = torch.cat([scores.new_ones(len(scores)), counts])
        reducers = distributed.all_sum, distributed.all_max
        codes = sinkhorn(rows, self.config.epsilon, self.config.iterations, *reducers, weights=weights)[: len(scores)]
        if self.config.hard_steps < 0 or step.index < self.config.hard_steps:
            codes = torch.zeros_like(codes).scatter_(1, codes.argmax(1, keepdim=True), 1.0)
        return codes

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        if step.index >= self.config.queue_from_step:
            for i, queue in enumerate(self.queues):
                queue.push(carry[f"z{i}"])  # type: ignore[operator]

    def param_groups(self) -> list[dict[str, Any]]:
        prototypes = list(self.prototypes.parameters())
        rest = [*self.encoder.parameters(), *self.projector.parameters()]
        return [{"params": rest}, {"params": prototypes, "start": self.config.freeze_steps}]

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector}

    def constant_loss(self, batch: int) -> float:
        """Log K: every prototype is equally likely."""
        return math.log(self.config.prototypes)
