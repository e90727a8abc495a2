"""The self-distillation family: one network in three named methods, dino, ibot and dinov2.

Their differences are settings: whether masked patches are predicted, how the teacher's outputs are kept apart (a centre
or Sinkhorn), whether features are spread (KoLeo). Legend: V crops, B batch, D features, K outputs, T patches, M of them
masked at most.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight import distributed, health
from selfsight.assign import sinkhorn
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.encoders import TokenEncoder
from selfsight.errors import WrongUse, above, at_least, fraction
from selfsight.losses import koleo, masked_prediction, swapped_prediction
from selfsight.nn import Ema, mlp
from selfsight.optim import cosine_ramp


@dataclass(frozen=True)
class SelfDistillationConfig:
    """Settings of the whole family; each method has the defaults of its paper."""

    hidden: int = 2048
    """Width of the head's hidden layers."""
    bottleneck: int = 256
    """Width of the head's output before the last layer, brought to unit length there."""
    outputs: int = 65536
    """Number of outputs K."""
    layers: int = 3
    """Linear layers of the head before the last one."""
    norm: Literal["none", "batch"] = "none"
    """Batch normalisation of the head's hidden layers (DINO has it for ResNets)."""
    unit_last: bool = True
    """Rows of the last layer have length 1 for all time, so that outputs are cosines; off: the length is learnt."""
    student_temperature: float = 0.1
    """Temperature of the student."""
    teacher_temperature: float = 0.04
    """Temperature of the teacher in the first epoch."""
    teacher_temperature_end: float = 0.04
    """Temperature of the teacher after `temperature_epochs`; above 0.07 it is unstable."""
    temperature_epochs: int = 30
    """Epochs in which the teacher's temperatures go from start to end, by epoch."""
    momentum: float = 0.996
    """Momentum of the teacher at the start; it rises to `momentum_end` along a cosine, per step."""
    momentum_end: float = 1.0
    """Momentum of the teacher at the end."""
    centring: Literal["centre", "sinkhorn"] = "centre"
    """What keeps one output from winning always: a running mean that is subtracted, or Sinkhorn on the batch."""
    centre_momentum: float = 0.9
    """Momentum of the running mean."""
    iterations: int = 3
    """Sinkhorn iterations."""
    freeze_steps: int = 1251
    """Steps in which the head's last layer does not learn (one epoch of ImageNet at batch 1024)."""
    patches: float = 0.0
    """Weight of the loss of masked patches."""
    patch_temperature: float = 0.04
    """Temperature of the teacher for patches in the first epoch."""
    patch_temperature_end: float = 0.07
    """Temperature of the teacher for patches after `temperature_epochs`."""
    patch_head: Literal["shared", "last", "own"] = "shared"
    """What patches share with the class token: the head, all of it but its last layer (last), or nothing of it (own)."""
    koleo: float = 0.0
    """Weight of KoLeo, which spreads the class tokens over the sphere."""
    layer_decay: float = 1.0
    """Learning rate of each block relative to the next one's (DINOv2: 0.9)."""
    embedding_lr: float = 1.0
    """Multiplies the learning rate of the patch embedding."""

    def __post_init__(self) -> None:
        at_least(self, 1, "hidden", "bottleneck", "layers", "temperature_epochs", "iterations")
        at_least(self, 2, "outputs")
        at_least(self, 0, "freeze_steps", "patches", "koleo")
        above(self, 0, "student_temperature", "teacher_temperature", "teacher_temperature_end")
        above(self, 0, "patch_temperature", "patch_temperature_end", "layer_decay", "embedding_lr")
        fraction(self, "momentum", "momentum_end", "centre_momentum", "layer_decay")
        if self.momentum > self.momentum_end:
            raise WrongUse(
                f"method.momentum {self.momentum} is above method.momentum_end {self.momentum_end}: it never falls"
            )


class LastLayer(nn.Module):
    """K rows of direction v / |v| and length g, asked with unit vectors: (n, bottleneck) -> (n, K)."""

    def __init__(self, config: SelfDistillationConfig) -> None:
        super().__init__()
        self.direction = nn.Parameter(nn.Linear(config.bottleneck, config.outputs, bias=False).weight.detach())  # v
        self.length = nn.Parameter(torch.ones(config.outputs, 1), requires_grad=not config.unit_last)  # g

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z.to(self.direction.dtype), dim=1)
            return F.linear(z, self.length * F.normalize(self.direction, dim=1))


class Head(nn.Module):
    """Linear layers with GELU, then the last layer: (n, D) -> (n, K)."""

    def __init__(self, dim: int, config: SelfDistillationConfig) -> None:
        super().__init__()
        dims = [dim, *[config.hidden] * (config.layers - 1), config.bottleneck]
        self.mlp = mlp(dims, norm=config.norm, activation="gelu")
        for m in self.mlp:
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=0.02)  # truncated at 100 deviations in the authors' code
                nn.init.zeros_(m.bias)
        self.last = LastLayer(config)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.mlp(x))
        return out


class _Net(nn.Module):
    """Encoder and heads, of student or teacher."""

    def __init__(self, encoder: nn.Module, config: SelfDistillationConfig, masked: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = Head(int(encoder.dim), config)  # type: ignore[arg-type]
        self.patch_head = Head(int(encoder.dim), config) if masked and config.patch_head == "own" else None  # type: ignore[arg-type]
        self.patch_last = LastLayer(config) if masked and config.patch_head == "last" else None

    def patches(self, tokens: Tensor) -> Tensor:
        """Outputs of patch tokens: (..., D) -> (..., K)."""
        head, rows = self.patch_head or self.head, tokens.flatten(0, -2)
        out = self.patch_last(head.mlp(rows)) if self.patch_last else head(rows)
        return out.unflatten(0, tokens.shape[:-1])


class SelfDistillation(Method):
    """A student predicts, from every crop, what its teacher says of the other whole views."""

    local_views = True
    centre: Tensor
    patch_centre: Tensor

    def __init__(self, config: SelfDistillationConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        if self.masked and not isinstance(encoder, TokenEncoder):
            raise WrongUse("this method predicts masked patches: choose an encoder that has them, such as vit-small")
        self.config = config
        self.student = _Net(encoder, config, bool(self.masked))
        self.teacher = Ema(self.student)  # starts equal
        self.register_buffer("centre", torch.zeros(config.outputs))  # c
        if self.masked:
            self.mask_token = nn.Parameter(torch.zeros(int(encoder.dim)))  # type: ignore[arg-type]
            self.register_buffer("patch_centre", torch.zeros(config.outputs))  # c'

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """The teacher's: better than the student's all along (arXiv 2104.14294, figure 6)."""
        return self._taught.encoder

    @property
    def _taught(self) -> "_Net":
        return cast(_Net, self.teacher.module)

    def encode(self, views: Views, step: Step) -> Views:
        whole, small = views["global"].flatten(0, 1), views.get("local")
        count = views["global"].shape[1]
        out, teacher = {}, self._taught
        if self.masked:
            mask = views["mask"]  # (2, B, T)
            seeing = cast(TokenEncoder, self.student.encoder)
            tokens = seeing.tokens(whole, mask.flatten(0, 1), self.mask_token)
            features = [seeing.pooled(tokens)]
            with torch.no_grad():
                taught = cast(TokenEncoder, teacher.encoder).tokens(whole)
            # every picture's masked patches first, then padding up to the most that a mask can have
            which = mask.to(torch.uint8).argsort(dim=2, descending=True, stable=True)[:, :, : self.views.masks.most]
            rows = which.flatten(0, 1)[:, :, None].expand(-1, -1, tokens.shape[2])  # (2 B, M, D)
            out["patch"] = self.student.patches(tokens[:, 1:].gather(1, rows)).unflatten(0, (2, -1))
            out["weight"] = mask.gather(2, which).float() / mask.sum(2, keepdim=True).clamp(min=1)
            with torch.no_grad():
                if self.config.centring == "centre":
                    seen = teacher.patches(taught[:, 1:])  # c' is the mean over all patches
                    out["patch_mean"] = seen.mean(1).unflatten(0, (2, -1))
                    seen = seen.gather(1, rows[:, :, :1].expand(-1, -1, seen.shape[2]))
                else:
                    seen = teacher.patches(taught[:, 1:].gather(1, rows))
            out["patch_target"] = seen.unflatten(0, (2, -1))  # (2, B, M, K)
            teacher_features = seeing.pooled(taught)
        else:
            features = [self.student.encoder(whole)]
            with torch.no_grad():
                teacher_features = teacher.encoder(whole)
        if self.config.koleo:
            out["features"] = features[0].unflatten(0, (2, -1))
        if small is not None:
            features.append(self.student.encoder(small.flatten(0, 1)))
        out["student"] = self.student.head(torch.cat(features)).unflatten(0, (-1, count))  # (V, B, K)
        with torch.no_grad():
            out["teacher"] = teacher.head(teacher_features).unflatten(0, (2, -1))
        return out

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        config = self.config
        student, teacher = outputs["student"], outputs["teacher"].detach()
        targets = self._targets(teacher, self.centre, self.temperature(step))  # (2, B, K)
        loss = swapped_prediction(list(student), list(targets), config.student_temperature)
        logs = health.assignments(targets.flatten(0, 1))
        logs["agreement"] = (student[:2].argmax(2) == targets.argmax(2)).float().mean()
        logs["teacher_student"] = loss.detach() - logs["code_entropy"] * math.log(config.outputs)  # their KL divergence
        carry = {"centre": teacher.mean((0, 1))[None]}
        if self.masked:
            target, weight = outputs["patch_target"].detach(), outputs["weight"]
            target = self._targets(target, self.patch_centre, self.patch_temperature(step), (weight > 0).flatten())
            patch = masked_prediction(outputs["patch"], target, weight, config.student_temperature)
            logs["patch_loss"] = patch.detach()
            loss = loss + config.patches * patch
            if "patch_mean" in outputs:
                carry["patch_centre"] = outputs["patch_mean"].detach().mean((0, 1))[None]
        if config.koleo:
            for z in outputs["features"]:
                z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
                spread = koleo(z, distributed.gather(z), distributed.own_rows(len(z), z.device))
                loss = loss + config.koleo * spread
        return Output(loss, logs, carry)

    def _targets(self, logits: Tensor, centre: Tensor, temperature: float, used: Tensor | None = None) -> Tensor:
        """What the student must say, (..., K) -> (..., K): centred or balanced over the rows `used`, then sharpened."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.config.centring == "centre":
            return ((logits - centre) / temperature).softmax(-1)
        reducers = distributed.all_sum, distributed.all_max
        weights = None if used is None else used.to(logits.dtype)
        balanced = sinkhorn(logits.flatten(0, -2), temperature, self.config.iterations, *reducers, weights=weights)
        return balanced.view_as(logits)

    def temperature(self, step: Step) -> float:
        """Of the teacher at this step."""
        return _ramp(self.config.teacher_temperature, self.config.teacher_temperature_end, self.config, step)

    def patch_temperature(self, step: Step) -> float:
        """Of the teacher for patches at this step."""
        return _ramp(self.config.patch_temperature, self.config.patch_temperature_end, self.config, step)

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        for name, rows in carry.items():
            getattr(self, name).lerp_(rows.mean(0).to(self.centre.dtype), 1 - self.config.centre_momentum)
        momentum = cosine_ramp(self.config.momentum, self.config.momentum_end, step.progress)
        self.teacher.follow(self.student, momentum)

    def param_groups(self) -> list[dict[str, Any]]:
        heads = [h for h in (self.student.head, self.student.patch_head) if h is not None]
        ends = [*(h.last for h in heads), *([self.student.patch_last] if self.student.patch_last else [])]
        last = [p for end in ends for p in end.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": last, "start": self.config.freeze_steps}]
        rest = [p for h in heads for p in h.mlp.parameters()]
        if self.masked:
            groups.append({"params": [self.mask_token], "weight_decay": 0.0})
        encoder = self.student.encoder
        if isinstance(encoder, TokenEncoder):
            layers = encoder.layers()
            embedding = {id(p) for p in encoder.embedding().parameters()}
            for i, params in enumerate(layers):
                scale = self.config.layer_decay ** (len(layers) - 1 - i)
                groups.append({"params": [p for p in params if id(p) not in embedding], "lr_scale": scale})
                if i == 0:
                    own = [p for p in params if id(p) in embedding]
                    groups.append({"params": own, "lr_scale": scale * self.config.embedding_lr})
        else:
            rest += [p for p in encoder.parameters() if p.requires_grad]
        return [*groups, {"params": rest}]

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self._taught.head.mlp}

    def constant_loss(self, batch: int) -> float:
        """Log K: teacher and student say nothing."""
        return math.log(self.config.outputs)


def _ramp(start: float, end: float, config: SelfDistillationConfig, step: Step) -> float:
    """A straight line by epochs, at its end in the last of `temperature_epochs`."""
    return start + (end - start) * min(1.0, step.epoch / max(1, config.temperature_epochs - 1))
