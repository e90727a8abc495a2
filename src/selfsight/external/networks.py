"""Networks of timm, torchvision and ours, untrained, as encoders: no classifier, features (B, D)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from selfsight import encoders
from selfsight.data import DATASETS
from selfsight.errors import WrongUse, perhaps

FOLDER = "local-dir:"  #: timm's mark of a folder with config.json
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Made:
    """A network, and what it says of its pictures."""

    net: nn.Module
    channels: int
    image_size: int
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    said_by: str = "ImageNet's mean and deviation, as it does not say how"


def build(name: str, state: dict[str, Tensor] | None, image_size: int, settings: dict[str, Any]) -> Made:
    """An untrained network.

    Args:
        name: "timm:NAME", "torchvision:NAME" or a name of ENCODERS.
        state: weights that will be put into it, whose shapes tell of stems and patches; None: none.
        image_size: side in pixels; 0: the network's own.
        settings: arguments of timm.create_model, of the function of torchvision, or fields of EncoderConfig.

    Raises:
        WrongUse: an unknown name, or settings that it does not have.
    """
    library, colon, rest = name.partition(":")
    try:
        if colon and library == "timm":
            return _timm(rest, image_size, settings)
        if colon and library == "torchvision":
            return _torchvision(rest, image_size, settings)
        return _own(name, state or {}, image_size, settings)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if isinstance(error, WrongUse):
            raise
        raise WrongUse(f"{name} cannot be made with --net {settings}: {' '.join(str(error).split())}") from None


def _timm(name: str, image_size: int, settings: dict[str, Any]) -> Made:
    if name.startswith(FOLDER):
        cfg = json.loads((Path(name.removeprefix(FOLDER)) / "config.json").read_text()).get("pretrained_cfg", {})
    elif timm.is_model(name):
        known: Any = timm.get_pretrained_cfg(name)
        cfg = known.to_dict() if known else {}
    else:
        raise WrongUse(
            f"timm {timm.__version__} has no model {name!r}.{perhaps(name, timm.list_models() + timm.list_pretrained())}"
        )
    own = tuple(cfg.get("input_size") or (3, 224, 224))
    more = dict(settings)
    if image_size and image_size != own[1] and cfg.get("fixed_input_size"):
        more.setdefault("img_size", image_size)
    net: Any = timm.create_model(name, pretrained=False, **{"num_classes": 0, **more})
    size = image_size or more.get("img_size") or own[1]
    mean, std = tuple(cfg.get("mean") or IMAGENET[0]), tuple(cfg.get("std") or IMAGENET[1])
    return Made(net, int(more.get("in_chans", own[0])), int(size), mean, std, "timm's mean and deviation for it")


def _torchvision(name: str, image_size: int, settings: dict[str, Any]) -> Made:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise WrongUse(f"torchvision {torchvision.__version__} has no model {name!r}.{perhaps(name, known)}")
    net: nn.Module = torchvision.models.get_model(name, weights=None, **settings)
    heads = ("fc", "classifier", "heads", "head")
    linear = [key for key, layer in net.named_modules() if isinstance(layer, nn.Linear) and key.split(".")[0] in heads]
    if not linear:
        raise WrongUse(f"torchvision's {name} does not end in a linear layer, whose input would be the features")
    above, _, last = linear[-1].rpartition(".")
    setattr(net.get_submodule(above), last, nn.Identity())
    size = image_size or int(settings.get("image_size", 224))
    return Made(net, 3, size, *IMAGENET, "ImageNet's mean and deviation, as torchvision's own weights")


def _own(name: str, state: dict[str, Tensor], image_size: int, settings: dict[str, Any]) -> Made:
    """One of ENCODERS; stem, patch and size of a transformer as the weights have them."""
    if name not in encoders.ENCODERS:
        raise WrongUse(f"unknown encoder {name!r}.{perhaps(name, set(encoders.ENCODERS))}")
    given, shapes = dict(settings), {path: tuple(value.shape) for path, value in state.items()}
    stems = [shape for key in ("conv1.weight", "0.weight") for shape in _shapes(shapes, key) if len(shape) == 4]
    first = min(stems, key=lambda shape: shape[1], default=None)  # the first convolution has the fewest inputs
    patches, positions = (next(iter(_shapes(shapes, key)), None) for key in ("patch_embed.proj.weight", "pos_embed"))
    channels, size = 3, image_size or 224
    if patches and name in encoders.vit.SHAPES:
        channels, patch = patches[1], patches[3]
        given.setdefault("patch", patch)
        if not image_size and positions:
            size = round((positions[1] - 1) ** 0.5) * patch
        if any(".ls1.gamma" in path for path in shapes):
            given.setdefault("layer_scale", 1e-5)
    elif first:
        channels = first[1]
        small = first[2] == 3
        given.setdefault("stem", "small" if small else "imagenet")
        size = image_size or (32 if small else 224)
    known = {field.name for field in encoders.fields(encoders.EncoderConfig)}
    if strange := set(given) - known:
        raise WrongUse(f"--net has no setting {min(strange)!r} for {name}.{perhaps(min(strange), known)}")
    return Made(encoders.build(name, channels, size, encoders.EncoderConfig(**given)), channels, size)


def _shapes(shapes: dict[str, tuple[int, ...]], name: str) -> list[tuple[int, ...]]:
    """The shapes of the entries with this name behind any prefix."""
    return [shape for path, shape in shapes.items() if path == name or path.endswith(f".{name}")]


def normalisation(asked: str | None, made: Made) -> tuple[list[float], list[float], str]:
    """Mean and deviation for each channel, and in words where they are from.

    Raises:
        WrongUse: neither a data set with published numbers nor numbers.
    """
    if asked is None:
        mean, std, called = made.mean, made.std, made.said_by
    elif asked == "none":
        mean, std, called = (0.0,), (1.0,), "nothing: they stay in 0..1"
    elif asked in DATASETS and DATASETS[asked].mean is not None:
        mean, std, called = DATASETS[asked].mean, DATASETS[asked].std, f"the mean and deviation of {asked}"  # type: ignore[assignment]
    else:
        try:
            mean, std = (tuple(float(x) for x in part.split(",")) for part in asked.split("/"))
        except ValueError:
            named = ", ".join(name for name, known in DATASETS.items() if known.mean is not None)
            raise WrongUse(
                f"--normalise {asked!r}: write none, {named}, or 0.5,0.5,0.5/0.2,0.2,0.2 (mean/deviation)"
            ) from None
        called = "the numbers that were given"
    if not all(value > 0 for value in std):
        raise WrongUse(f"--normalise {asked!r}: deviations must be above 0")
    means, stds = (list(values) * made.channels if len(values) == 1 else list(values) for values in (mean, std))
    if asked is None and made.channels != len(means):  # numbers for RGB, a network for something else
        means, stds = [sum(means) / len(means)] * made.channels, [sum(stds) / len(stds)] * made.channels
    if len(means) != made.channels or len(stds) != made.channels:
        raise WrongUse(
            f"--normalise has {len(means)} and {len(stds)} numbers, the network {made.channels} channels: give as many"
        )
    return means, stds, called


def probe(made: Made, name: str) -> None:
    """Find the width of the features, `net.dim`. Raises WrongUse if the network does not take its pictures."""
    net: Any = made.net.eval()
    with torch.no_grad():
        try:
            found = net(torch.zeros(1, made.channels, made.image_size, made.image_size))
        except (RuntimeError, AssertionError, ValueError) as error:
            why = " ".join(str(error).split())
            raise WrongUse(
                f"{name} does not take pictures of {made.image_size} px ({why}): choose another --image-size"
            ) from None
    if not isinstance(found, Tensor) or found.ndim != 2:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise WrongUse(
            f"{name} gives {what}, not one row of features a picture: choose another network, or --net global_pool"
        )
    net.dim = int(found.shape[1])
