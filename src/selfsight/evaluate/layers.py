"""Features of other layers than the encoder's last: what a method's head makes of them, from a checkpoint of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfsight import checkpoint
from selfsight import run as runs
from selfsight.augment.config import NO_TILES, ViewsConfig
from selfsight.core import Method
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.run import Run


@dataclass(frozen=True)
class _Facts:
    """What a method asks of its data when it is built (core.Data), as the run's record has it: no picture is read."""

    image_size: int
    channels: int
    tiles: int
    classes: int
    count: int

    def __len__(self) -> int:
        return self.count

    def sweep(self, fn: Callable[[Tensor], Tensor], **_: Any) -> Tensor:
        """No picture is at hand."""
        raise RuntimeError("a method that is rebuilt for its features does not train")


class Behind(nn.Module):
    """An encoder and layers behind it: (B, C, S, S) -> (B, dim)."""

    def __init__(self, encoder: nn.Module, layers: list[nn.Module], channels: int, size: int) -> None:
        super().__init__()
        self.encoder, self.after = encoder, nn.ModuleList(layers)
        self.eval()
        with torch.no_grad():
            self.dim = int(self(torch.zeros(1, channels, size, size)).shape[1])

    def forward(self, images: Tensor) -> Tensor:
        x = self.encoder(images)
        for layer in self.after:
            x = layer(x)
        return x


def load(target: Path, features: str = "encoder", net: nn.Module | None = None) -> checkpoint.Encoder:
    """An encoder, or with `features` the layers behind it too, in eval mode on the CPU: (B, C, H, W) in [0, 1] -> (B, D).

    Args:
        target: run folder, checkpoint, or (of the encoder alone) encoder.safetensors.
        features: "encoder", or a name of `Method.after_encoder`, such as "projector" or "predictor"; NAME-1 is its first
            linear layer with the normalisation and activation that follow, NAME-2 the first two, and so on.
        net: the module to fill, for encoders that are not in ENCODERS.

    Raises:
        WrongUse: no such file, or the method has no such layer.
    """
    if features == "encoder":
        return checkpoint.load_encoder(target, net)
    path = target / "checkpoints" / "last.pt" if target.is_dir() else target
    if path.suffix != ".pt":
        raise WrongUse(
            f"{str(target)!r} holds the encoder alone, no {features}: give the run folder, or a file of its checkpoints"
        )
    saved = checkpoint.load(path)
    method, header = rebuild(saved, net, str(path))
    name, _, number = features.partition("-")
    found = method.after_encoder()
    if name not in found or (number and not re.fullmatch("[1-9][0-9]*", number)):
        known = ", ".join(["encoder", *found, *(f"{head}-1" for head in found)])
        raise WrongUse(f"{header['method']} has no features {features!r}; known: {known}")
    names = list(found)
    chain = [found[head] for head in names[: names.index(name) + 1]]
    if number:
        chain[-1] = first_layers(chain[-1], int(number), name)
    behind = Behind(method.encoder, chain, header["channels"], int(header["image_size"]))
    mean, std = torch.tensor(header["mean"]), torch.tensor(header["std"])
    return checkpoint.Encoder(behind, mean, std, header).eval()


def rebuild(saved: checkpoint.Checkpoint, net: nn.Module | None, where: str) -> tuple[Method, dict[str, Any]]:
    """The method of a checkpoint with its weights, from what the run's record says of the data; and the encoder's header.

    Args:
        saved: the checkpoint.
        net: an encoder that is not in ENCODERS, to be filled.
        where: the file's name, for messages.

    Raises:
        WrongUse: the weights do not fit.
    """
    header = json.loads(saved.extra["encoder"])
    if net is None:
        net = checkpoint.fresh(header, where)
    plain = runs.read_yaml(saved.run, where)
    run: Run[Any] = runs.from_dict(plain)
    data = plain["provenance"]["data"]
    kinds = data["classes"]
    facts = _Facts(
        image_size=header["image_size"],
        channels=header["channels"],
        tiles=run.views.tiles.grid**2,
        classes=kinds if isinstance(kinds, int) else len(kinds),
        count=data["train"],
    )
    method = METHODS[run.method_name](run.method, net, facts)
    checkpoint.load_into(method, saved.method, where)
    return method.eval(), header


def augmentation(target: Path) -> ViewsConfig | None:
    """How the run of a folder or checkpoint made its whole views; None where that is not recorded, or it made none."""
    if (target / "run.yaml").is_file():
        views = runs.load(target / "run.yaml").views
    elif target.suffix == ".pt" and target.is_file():
        views = runs.from_dict(runs.read_yaml(checkpoint.load(target).run, str(target))).views
    else:
        return None
    return replace(views, locals=0, mask="none", places=False, clean=False, tiles=NO_TILES) if views.views else None


def first_layers(head: nn.Module, count: int, name: str) -> nn.Sequential:
    """The first `count` linear layers of a head, each with what follows it up to the next.

    Raises:
        WrongUse: the head has fewer.
    """
    kept: list[nn.Module] = []
    seen = 0
    for module in _leaves(head):
        seen += isinstance(module, nn.Linear)
        if seen <= count:
            kept.append(module)
    if count > seen:
        raise WrongUse(f"the {name} has {seen} linear layers, not {count}: choose {name}-1 to {name}-{seen}, or {name}")
    return nn.Sequential(*kept)


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The modules of nested sequences, in the order in which they act."""
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    else:
        yield module
