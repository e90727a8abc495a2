"""Linear evaluation by gradient steps on stored features, as papers and projects report it.

Legend: N, M rows, D features, K classes.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfsight import optim
from selfsight.core import Step
from selfsight.errors import WrongUse
from selfsight.evaluate.knn import rank_of
from selfsight.rng import Stream, generator


def sgd(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    classes: int | None = None,
    epochs: int = 90,
    batch_size: int = 4096,
    base_lr: float = 0.1,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    validation: float = 0.0,
    seed: int = 0,
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd",
    scaling: Literal["linear", "none"] = "linear",
    schedule: Literal["cosine", "polynomial", "constant"] = "cosine",
    per: Literal["epoch", "step"] = "epoch",
    final_lr: float = 0.0,
    power: float = 2.0,
) -> dict[str, Any]:
    """One dense layer on raw features: SGD, rate base_lr * batch_size / 256 that falls by a cosine, epoch by epoch.

    The last epoch is reported, never the best. The defaults are those of SimCLR (arXiv 2002.05709, B.6: 90 epochs,
    batch 4096, 0.1 per 256 rows, no penalty).

    Args:
        train, labels, test, test_labels, classes: see the package.
        epochs: passes over the training rows.
        batch_size: rows a step, at most N.
        base_lr: rate, per 256 rows of a step or as it is, see `scaling`.
        weight_decay: L2 penalty; of adamw decoupled.
        momentum: of SGD.
        validation: fraction of the training rows that is kept out of training, to choose settings by.
        seed: of the validation part, the initial weights and the order.
        optimizer: sgd, adam or adamw (both with torch's betas).
        scaling: linear: the rate is base_lr * batch / 256; none: base_lr.
        schedule: cosine, polynomial (both to final_lr), or constant.
        per: when the rate changes: at each epoch, or at each step.
        final_lr: where the rate ends, scaled as base_lr is; not above it.
        power: of polynomial: rate = final + (top - final) * (1 - progress)^power.

    Returns:
        `top1`, `top5` (test), `train_top1`, `validation_top1` (None without a validation part), `protocol`.

    Raises:
        WrongUse: labels are out of range, or no training row is left.
    """
    device, labels, test_labels = train.device, labels.to(train.device), test_labels.to(train.device)
    most = int(torch.cat([labels, test_labels]).max()) + 1
    if (classes is not None and classes < most) or int(torch.cat([labels, test_labels]).min()) < 0:
        raise WrongUse(f"labels must be 0..classes-1, with classes = {classes}; leave out the rows without label")
    if epochs < 1 or batch_size < 1 or not 0 <= final_lr <= base_lr or not base_lr > 0:
        raise WrongUse(
            f"{epochs} epochs, batch {batch_size}, rate {base_lr:g} to {final_lr:g}: give at least 1, 1, and a rate above 0 "
            "that does not rise"
        )
    order = torch.randperm(len(train), generator=generator(seed, Stream.SPLIT))
    held = order[: int(validation * len(train))].sort().values.to(device)
    fit = order[len(held) :].sort().values.to(device)
    if not len(fit):
        raise WrongUse(f"validation = {validation} leaves no training row; give a fraction below 1")
    layer = torch.nn.utils.skip_init(nn.Linear, train.shape[1], classes or most)
    bound, init = train.shape[1] ** -0.5, generator(seed, Stream.INIT)
    with torch.no_grad():  # torch's default for a dense layer, but from our own generator
        layer.weight.uniform_(-bound, bound, generator=init)
        layer.bias.uniform_(-bound, bound, generator=init)
    layer.to(device)
    batch = min(batch_size, len(fit))
    top = base_lr * (batch / 256 if scaling == "linear" else 1)
    solver = _solver(optimizer, layer, top, momentum, weight_decay)
    per_epoch = math.ceil(len(fit) / batch)
    falls = optim.ScheduleConfig(schedule, final=final_lr / base_lr, power=power, per=per)
    for epoch in range(epochs):
        rng = generator(seed, Stream.PROBE, epoch)
        shuffled = fit[torch.randperm(len(fit), generator=rng).to(device)]
        for i, rows in enumerate(shuffled.split(batch)):
            step = Step(epoch * per_epoch + i, epochs * per_epoch, per_epoch, rng)
            for group in solver.param_groups:
                group["lr"] = top * optim.factor(falls, step)
            loss = F.cross_entropy(layer(train[rows].float()), labels[rows])
            solver.zero_grad()
            loss.backward()
            solver.step()

    @torch.no_grad()
    def place(x: Tensor, wanted: Tensor) -> Tensor:
        scores = torch.cat([layer(part.to(device).float()) for part in x.split(8192)])
        return rank_of(scores, wanted)

    tested = place(test, test_labels)
    kind = f"SGD, momentum {momentum:g}" if optimizer == "sgd" else optimizer.capitalize()
    end = final_lr / base_lr * top
    path = {"cosine": f"cosine to {end:g}", "polynomial": f"polynomial ({power:g}) to {end:g}", "constant": "constant"}
    return {
        "top1": float((tested < 1).double().mean()),
        "top5": float((tested < 5).double().mean()),
        "train_top1": float((place(train[fit], labels[fit]) < 1).double().mean()),
        "validation_top1": float((place(train[held], labels[held]) < 1).double().mean()) if len(held) else None,
        "protocol": f"dense layer on stored features by {kind}, {epochs} epochs, batch {batch}, rate {top:g} "
        f"{path[schedule]} per {per}, weight decay {weight_decay:g}, last epoch",
    }


def _solver(name: str, layer: nn.Module, rate: float, momentum: float, decay: float) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(layer.parameters(), lr=rate, momentum=momentum, weight_decay=decay)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(layer.parameters(), lr=rate, weight_decay=decay)
