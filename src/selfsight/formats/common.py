"""What formats share: how far what was read back may be off, and files of weights with a header."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from selfsight.checkpoint import Encoder, atomic
from selfsight.encoders.sobel import OnEdges
from selfsight.encoders.stems import MadeBy
from selfsight.errors import WrongUse

CLOSE = 1e-5  #: largest difference of features, as a share of the largest one (of 1, where all are smaller)


def made_by(encoder: Encoder, other: str) -> MadeBy:
    """How timm makes this network. Raises WrongUse, naming the format `other`, if it does not."""
    made: MadeBy | None = getattr(encoder.net, "made_by", None)
    if made is None:
        edges = " on Sobel edges" if isinstance(encoder.net, OnEdges) else ""
        raise WrongUse(
            f"encoder {encoder.header['encoder']!r}{edges} is not a timm model: export it with --format {other}"
        )
    return made


def about(encoder: Encoder, steps: list[str]) -> dict[str, Any]:
    """What a header tells of an encoder: the lines of Python that make and load it, and how pictures are normalised."""
    return {
        "steps": steps,
        "input": "(B, channels, S, S) pictures in 0..1, less mean, divided by std",
        **{k: encoder.header[k] for k in ("channels", "mean", "std", "image_size", "dim")},
        "selfsight": encoder.header,
    }


def save(path: Path, state: dict[str, Tensor], name: str, facts: dict[str, Any]) -> None:
    """Weights as safetensors; the entry `name` of the metadata holds the facts as JSON."""
    plain = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    atomic(path, lambda part: save_file(plain, part, {name: json.dumps(facts), "format": "pt"}))


def pictures(encoder: Encoder, count: int = 2) -> Tensor:
    """Random ones in 0..1, (count, C, S, S), of the encoder's size, at most 96 px where it takes any."""
    size = int(encoder.header["image_size"])
    if not hasattr(encoder.net, "side"):
        size = min(size, max(32, 96 // int(getattr(encoder.net, "patch", 1)) * int(getattr(encoder.net, "patch", 1))))
    shape = (count, int(encoder.header["channels"]), size, size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def normalised(encoder: Encoder, net: nn.Module) -> Callable[[Tensor], Tensor]:
    """`net` in eval mode as a function of pictures in 0..1, as the encoder normalises them."""
    net.eval()
    return lambda images: net((images - encoder.mean) / encoder.std)


def compare(encoder: Encoder, other: Callable[[Tensor], Tensor], path: Path, images: Tensor | None = None) -> None:
    """Remove what was written, and say so, unless `other` gives the encoder's features of `images`, (B, C, S, S) in 0..1."""
    images = pictures(encoder) if images is None else images
    with torch.no_grad():
        ours, theirs = encoder.eval()(images), other(images)
    off = float((ours - theirs).abs().max()) / max(1.0, float(ours.abs().max()))
    if not off <= CLOSE:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise RuntimeError(
            f"{path} does not give the encoder's features when read back (off by {off:.1e}); it was removed"
        )
