"""The siamese family: one network in four named methods, byol, simsiam, directpred and directcopy.

Their differences are settings: teacher or shared weights; a learnt or a closed-form predictor; the heads; the loss's
scale; rates and decays of the parts. Legend: B batch, D features of the projection.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse, above, at_least, fraction
from selfsight.losses import byol, simsiam
from selfsight.nn import Ema, Norm, each_view, mlp
from selfsight.optim import cosine_ramp

HiddenNorm = Literal["batch", "batch-plain"]


@dataclass(frozen=True)
class SiameseConfig:
    """Settings of the whole family; each method has the defaults of its paper."""

    hidden: int = 4096
    """Width of the projector's hidden layers."""
    dim: int = 256
    """Width D of projection and prediction."""
    layers: int = 2
    """Linear layers of the projector."""
    norm: HiddenNorm = "batch"
    """Batch normalisation of hidden layers: batch (scale and shift) or batch-plain (neither)."""
    bias: bool = True
    """Bias of the projector's hidden linear layers."""
    last_bias: bool = False
    """Bias of the projector's last linear layer."""
    last_norm: Literal["none", "batch", "batch-plain"] = "none"
    """Batch normalisation of the projector's output."""
    predictor: Literal["mlp", "linear", "closed-form"] = "mlp"
    """mlp: two layers. linear: one matrix. closed-form: one matrix that is computed from the projections' correlation."""
    predictor_hidden: int = 4096
    """Width of the mlp predictor's hidden layer."""
    predictor_bias: bool = True
    """Bias of the mlp predictor's hidden layer."""
    predictor_last_bias: bool = False
    """Bias of the mlp predictor's last layer."""
    symmetric: bool = False
    """After each step, make the predictor's matrix symmetric: a linear one by averaging with its transpose; the two
    layers of an mlp are tied, W1 = W2' = their mean, which makes their product positive semi-definite, too."""
    target: Literal["ema", "shared"] = "ema"
    """ema: a teacher that follows slowly (BYOL). shared: the network itself behind a stop-gradient (SimSiam)."""
    momentum: float = 0.99
    """Momentum of the teacher at the start; it rises to `momentum_end` along a cosine, per step."""
    momentum_end: float = 1.0
    """Momentum of the teacher at the end; equal to `momentum`: constant."""
    stop_gradient: bool = True
    """Off: the gradient flows into a shared target, and the run collapses. For experiments."""
    objective: Literal["byol", "simsiam"] = "byol"
    """byol: squared distance, the sum of both directions, 0..8. simsiam: minus the mean cosine, -1..1: a quarter of it."""
    scale: float = 1.0
    """Multiplies the loss."""
    joint_views: bool = False
    """Encode both views in one pass (batch statistics span them); off: a pass per view, as the authors do."""
    rho: float = 0.3
    """Weight of the past in the running correlation F of the projections (DirectPred, section 4)."""
    epsilon: float = 0.1
    """closed-form: added to the eigenvalues after normalisation."""
    power: float = 0.5
    """closed-form: exponent of F's eigenvalues; 1/2 is DirectPred, 1 DirectCopy, others DirectSet."""
    normalise: Literal["spectral", "frobenius", "trace", "none"] = "spectral"
    """closed-form: norm that F to the power is divided by."""
    centre: bool = False
    """Subtract the batch mean from the projections before they enter F."""
    every: int = 1
    """closed-form: steps between two computations of the predictor."""
    train_between: bool = False
    """closed-form: the optimizer trains the predictor in between; off: it stands still."""
    encoder_lr: float = 1.0
    """Multiplies the learning rate of the encoder."""
    projector_lr: float = 1.0
    """Multiplies the learning rate of the projector."""
    predictor_lr: float = 1.0
    """Multiplies the learning rate of the predictor."""
    predictor_constant_lr: bool = False
    """The predictor's learning rate follows no schedule (SimSiam)."""
    encoder_decay: float | None = None
    """Weight decay of the encoder; None: the optimizer's."""
    projector_decay: float | None = None
    """Weight decay of the projector; None: the optimizer's."""
    predictor_decay: float | None = None
    """Weight decay of the predictor; None: the optimizer's."""

    def __post_init__(self) -> None:
        at_least(self, 1, "hidden", "dim", "layers", "predictor_hidden", "every")
        fraction(self, "momentum", "momentum_end", "rho")
        above(self, 0, "scale", "power", "encoder_lr", "projector_lr", "predictor_lr")
        at_least(self, 0, "epsilon")
        for name in ("encoder_decay", "projector_decay", "predictor_decay"):
            if getattr(self, name) is not None:
                at_least(self, 0, name)
        if self.momentum > self.momentum_end:
            raise WrongUse(
                f"method.momentum {self.momentum} is above method.momentum_end {self.momentum_end}: it never falls"
            )
        if self.predictor == "closed-form" and self.symmetric:
            raise WrongUse("method.symmetric is for learnt predictors: a closed-form one is symmetric already")
        if self.train_between and self.predictor != "closed-form":
            raise WrongUse("method.train_between is for method.predictor closed-form; the others always train")
        if self.target == "ema" and not self.stop_gradient:
            raise WrongUse("method.stop_gradient off needs method.target shared: a teacher has no gradient")


class Siamese(Method):
    """The online network predicts what the target says of the other view; no negatives."""

    sample_mean = True
    correlation: Tensor

    def __init__(self, config: SiameseConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        dims = [int(encoder.dim), *[config.hidden] * (config.layers - 1), config.dim]  # type: ignore[arg-type]
        self.projector = mlp(
            dims, norm=cast(Norm, config.norm), bias=config.bias, last_bias=config.last_bias,
            last_norm=cast(Norm, config.last_norm),
        )  # fmt: skip
        self.predictor = self._predictor()
        self.target = Ema(nn.Sequential(encoder, self.projector)) if config.target == "ema" else None  # starts equal
        self.register_buffer("correlation", torch.zeros(config.dim, config.dim))  # F
        if config.predictor == "closed-form":
            distributed.write(self._weights[0], torch.eye(config.dim))
        elif config.symmetric:
            self._symmetrise()

    def _predictor(self) -> nn.Module:
        config = self.config
        if config.predictor == "mlp":
            dims = [config.dim, config.predictor_hidden, config.dim]
            norm = cast(Norm, config.norm)
            return mlp(dims, norm=norm, bias=config.predictor_bias, last_bias=config.predictor_last_bias)
        linear = nn.Linear(config.dim, config.dim, bias=False)
        fixed = config.predictor == "closed-form" and not config.train_between
        return linear.requires_grad_(not fixed)

    @property
    def _weights(self) -> list[Tensor]:
        return [m.weight for m in self.predictor.modules() if isinstance(m, nn.Linear)]

    @property
    def matrix(self) -> Tensor:
        """W_p, (D, D): the product of the predictor's weights, last layer first, without normalisation and ReLU."""
        weights = [distributed.whole(w.detach()) for w in self._weights]
        return reduce(lambda product, weight: weight @ product, weights)

    def encode(self, views: Views, step: Step) -> Views:
        x, joint = views["global"], self.config.joint_views  # (2, B, C, S, S)
        z = each_view(nn.Sequential(self.encoder, self.projector), x, joint)
        p = each_view(self.predictor, z, joint)
        target = z if self.target is None else each_view(self.target, x, joint)
        return {"p": p, "z": z, "target": target}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        config, z = self.config, outputs["z"].detach()
        (p1, p2), (t1, t2) = outputs["p"], outputs["target"]
        objective = byol if config.objective == "byol" else simsiam
        loss = objective(p1, t2, p2, t1)
        if not config.stop_gradient:  # the same value with the other side's gradient
            other = objective(t2, p1, t1, p2)
            loss = loss + other - other.detach()
        logs = {"z_norm": z.float().norm(dim=2).mean()}
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(self.correlation.dtype)
            z = z - distributed.all_sum(z.mean(1, keepdim=True)) / distributed.world() if config.centre else z
            fresh = correlation(z)
        return Output(config.scale * loss, logs, {"correlation": fresh[None]})

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        config = self.config
        fresh = carry["correlation"].mean(0)
        self.correlation.lerp_(fresh, 1.0 if step.index == 0 else 1 - config.rho)
        if config.predictor == "closed-form" and step.index % config.every == 0:
            found = predictor_from(self.correlation, config.epsilon, config.power, config.normalise)
            distributed.write(self._weights[0], found)
        elif config.symmetric:
            self._symmetrise()
        if self.target is not None:
            momentum = cosine_ramp(config.momentum, config.momentum_end, step.progress)
            self.target.follow(nn.Sequential(self.encoder, self.projector), momentum)

    @torch.no_grad()
    def _symmetrise(self) -> None:
        first, last = self._weights[0], self._weights[-1]
        mean = (distributed.whole(first) + distributed.whole(last).T) / 2  # of one matrix: with its own transpose
        distributed.write(first, mean)
        distributed.write(last, mean.T)

    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        for name in ("encoder", "projector", "predictor"):
            params = [p for p in getattr(self, name).parameters() if p.requires_grad]
            group: dict[str, Any] = {"params": params, "lr_scale": getattr(self.config, f"{name}_lr")}
            decay = getattr(self.config, f"{name}_decay")
            if decay is not None:
                group["weight_decay"] = decay
            if name == "predictor":
                group["lr_fixed"] = self.config.predictor_constant_lr
            if params:
                groups.append(group)
        return groups

    def study(self, data: Data, rng: torch.Generator) -> dict[str, Tensor]:
        """F and W_p, whose eigenvectors align as training goes (arXiv 2102.06810, section 3).

        F is that of the given pictures, projected as in training, so that the untrained network has one too.
        """
        z = torch.stack([data.sweep(self.embed, rng=rng, train=True) for _ in range(2)])
        z = z - z.mean(1, keepdim=True) if self.config.centre else z
        return {"correlation": correlation(z), "predictor": self.matrix}

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector, "predictor": self.predictor}

    def constant_loss(self, batch: int) -> float:
        """The minimum: equal outputs predict each other."""
        return self.config.scale * (0.0 if self.config.objective == "byol" else -1.0)


def correlation(z: Tensor) -> Tensor:
    """F, the mean of z z' over both views of all pictures: (V, B, D) -> (D, D), symmetric."""
    rows = z.flatten(0, 1)
    return rows.T @ rows / (z.shape[0] * z.shape[1])


@torch.no_grad()
def predictor_from(
    correlation: Tensor, epsilon: float, power: float = 0.5, normalise: str = "spectral", floor: float = 1e-4
) -> Tensor:
    """The predictor that a correlation matrix of projections calls for: F^power / |F^power| + epsilon I.

    Power 1/2: DirectPred (arXiv 2102.06810, eq. 8, in the form of its code: relative to the largest eigenvalue); 1:
    DirectCopy (arXiv 2110.04947). Eigenvalues of the result are at least `floor`.

    Args:
        correlation: (D, D), symmetric up to rounding; negative eigenvalues count as zero.
        epsilon: added to the eigenvalues after normalisation.
        power: exponent of the eigenvalues.
        normalise: spectral (largest eigenvalue of F^power), frobenius, trace, none.
        floor: smallest eigenvalue.

    Returns:
        (D, D), symmetric.
    """
    wide = correlation.to(torch.promote_types(correlation.dtype, torch.float32))
    values, vectors = torch.linalg.eigh((wide + wide.T) / 2)
    values = values.clamp(min=0) ** power
    norms = {
        "spectral": values.max(), "frobenius": values.norm(), "trace": values.sum(), "none": torch.ones_like(values[0])
    }  # fmt: skip
    values = (values / norms[normalise].clamp(min=torch.finfo(values.dtype).tiny) + epsilon).clamp(min=floor)
    return ((vectors * values) @ vectors.T).to(correlation.dtype)
