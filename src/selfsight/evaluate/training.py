"""How classifiers that see pictures are trained and asked, by the loop of pre-training. Legend: R heads, D features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from selfsight import augment, optim
from selfsight.checkpoint import Encoder
from selfsight.data import Part
from selfsight.errors import WrongUse
from selfsight.evaluate.classifier import Classifier
from selfsight.evaluate.features import extract, forked
from selfsight.evaluate.knn import rank_of
from selfsight.evaluate.subject import Subject
from selfsight.methods.supervised import SupervisedConfig
from selfsight.run import Run
from selfsight.train import Pictures, steps

Optimizer = Literal["sgd", "adamw", "lars"]
Precision = Literal["fp32", "bf16"]
LARGE = 128  #: px from which on test pictures are cropped by default, as on ImageNet


@dataclass(frozen=True)
class Training:
    """How heads and body are trained."""

    epochs: float
    batch_size: int
    weight_decay: float
    momentum: float
    warmup: float
    optimizer: Optimizer
    policy: str
    scale: tuple[float, ...]
    precision: Precision

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.epochs or self.batch_size < 2 or len(self.scale) not in (0, 2):
            raise WrongUse(
                f"epochs {self.epochs:g}, warmup {self.warmup:g}, batch_size {self.batch_size}, scale {self.scale}: give "
                "0 <= warmup < epochs, at least 2 pictures, and two shares of the picture's area as scale"
            )

    def run(self, count: int, seed: int) -> Run[SupervisedConfig]:
        """The settings of the loop for so many pictures."""
        if count < 2:
            raise WrongUse(f"{count} training pictures are too few: give at least 2")
        batch = min(self.batch_size, count)
        solver = optim.OptimizerConfig(
            name=self.optimizer, lr=1.0, scaling="linear", momentum=self.momentum, weight_decay=self.weight_decay
        )
        schedule = optim.ScheduleConfig(name="cosine", warmup_epochs=self.warmup)
        length = max(1, round(self.epochs * (count // batch)))
        return Run(
            SupervisedConfig(), optimizer=solver, schedule=schedule, steps=length, epochs=self.epochs, batch_size=batch,
            precision=self.precision, seed=seed,
        )  # fmt: skip

    def told(self, run: Run[Any], crop: float, side: int) -> str:
        """The end of `protocol`."""
        moved = f"SGD momentum {self.momentum:g}" if self.optimizer == "sgd" else self.optimizer
        area = f" (crops of {self.scale[0]:g} to {self.scale[1]:g})" if self.scale else ""
        seen = f"central {side} px of {round(side / crop)}" if crop < 1 else "whole central square"
        return (
            f"{self.epochs:g} epochs = {run.steps} steps of {run.batch_size}, {moved}, rates per 256 pictures, cosine, "
            f"warm-up {self.warmup:g} epochs, weight decay {self.weight_decay:g} (not of biases and norms), views "
            f"{self.policy}{area}, tested on the {seen}, last epoch"
        )


def crop_of(crop: float, side: int) -> float:
    """The share of the central square's side that is tested."""
    if not 0 <= crop <= 1:
        raise WrongUse(f"crop {crop:g} is a share of the side: give a number above 0, up to 1, or 0 for the usual one")
    return crop or (0.875 if side >= LARGE else 1.0)


def train(
    model: Classifier, encoder: Encoder, subject: Subject, part: Part, training: Training, seed: int
) -> tuple[Run[Any], list[float]]:
    """Train in place, global generators stay: the run, and each head's mean loss over the last epoch."""
    config = augment.ViewsConfig(policy=training.policy, views=1, scale=training.scale or None)  # type: ignore[arg-type]
    mean, std = encoder.mean.flatten().cpu(), encoder.std.flatten().cpu()
    data = Pictures(part, subject.side, subject.channels, subject.device, subject.count)
    data.views = model.views = augment.build(config, subject.side, subject.channels, mean, std)
    run = training.run(len(part), seed)
    assert isinstance(run.batch_size, int)
    model.to(subject.device).to(memory_format=torch.channels_last)
    last = run.steps - min(run.steps, len(part) // run.batch_size)
    told = {run.steps * tenth // 10 for tenth in range(1, 11)}  # each line waits for the device
    losses: list[Tensor] = []
    with forked(subject.device):
        for done in steps(model, optim.build(run.optimizer, model, run.batch_size), data, run):
            if done.step.index >= last:
                losses.append(torch.stack([*done.logs.values()]))
            if done.step.index + 1 in told:
                subject.log(
                    f"step {done.step.index + 1} of {run.steps}: loss {float(done.loss) / len(model.heads):.4f}"
                )
    return run, torch.stack(losses).mean(0).tolist()


def accuracies(
    model: Classifier, encoder: Encoder, subject: Subject, part: Part, labels: Tensor, crop: float
) -> Tensor:
    """(R, 2) top-1 and top-5 of each head on whole pictures, float64 on the CPU."""
    net = subject.seen_by(_seeing(model.encoder, encoder))
    features = extract(net, subject.chunks(part, crop), subject.device)
    hits = torch.zeros(len(model.heads), 2, dtype=torch.int64)
    model.eval()
    with torch.no_grad():
        for x, wanted in zip(features.split(4096), labels.split(4096)):
            x, wanted = model.norm(x.to(subject.device)), wanted.to(subject.device)
            places = torch.stack([rank_of(head(x), wanted) for head in model.heads])
            hits += torch.stack([(places < 1).sum(1), (places < 5).sum(1)], 1).cpu()
    return hits.double() / len(labels)


def _seeing(net: nn.Module, encoder: Encoder) -> Encoder:
    """The network with the encoder's normalisation: (b, C, S, S) in [0, 1] -> (b, D)."""
    return Encoder(net, encoder.mean.flatten(), encoder.std.flatten(), encoder.header).to(encoder.mean.device)
