"""Encoders of other programs as ours: networks of timm and torchvision, and files of weights. Nothing is ever downloaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from selfsight import checkpoint
from selfsight.encoders import ENCODERS
from selfsight.errors import WrongUse
from selfsight.external import networks, weights
from selfsight.rng import Stream, seed_of

LIBRARIES = ("timm:", "torchvision:")
RANDOM = "random"  #: in the place of weights: none


def say(line: str) -> None:
    """What was found in a file goes to stderr: stdout is for results."""
    print(line, file=sys.stderr)


def is_foreign(target: str | Path, given: str | None = None) -> bool:
    """Whether `load` would make the encoder of this target from another program's network or weights.

    Args:
        target: as in `load`.
        given: weights beside it.
    """
    name, path = str(target), Path(target)
    if name.startswith(LIBRARIES) or (name in ENCODERS and given is not None):
        return True
    if path.is_dir():
        ours = (path / "encoder.safetensors").is_file() or (path / "checkpoints").is_dir()
        return not ours and (path / "config.json").is_file() and not _ours(path / "model.safetensors")
    return path.is_file() and path.suffix in weights.SUFFIXES and not _ours(path)


def load(
    target: str | Path, net: nn.Module | None = None, *, weights: str | Path | None = None, encoder: str | None = None,
    image_size: int = 0, settings: dict[str, Any] | None = None, normalise: str | None = None, prefix: str = "",
    seed: int = 0, log: Callable[[str], None] = say,
) -> checkpoint.Encoder:  # fmt: skip
    """An encoder in eval mode on the CPU: (B, C, H, W) in [0, 1] -> (B, D), normalisation included.

    Args:
        target: run folder, checkpoint, encoder.safetensors, or an export of one. Of other programs: "timm:NAME",
            "torchvision:NAME" or a name of ENCODERS, with `weights`; a file of weights, with `encoder`; or a folder with
            timm's config.json.
        net: the module to fill, for encoders of ours that are not in ENCODERS.
        weights: file (safetensors, or what torch.save wrote, of which only tensors are read) or folder with one; "random":
            an untrained network.
        encoder: the network of a file of weights: "timm:NAME", "torchvision:NAME", or a name of ENCODERS.
        image_size: side in pixels; 0: the network's own.
        settings: of the network: arguments of timm.create_model, or fields of EncoderConfig such as {"stem": "legacy"}.
        normalise: "none", a data set's name, or "0.5,0.5,0.5/0.2,0.2,0.2"; default: what the network says, else ImageNet's.
        prefix: only entries of the file whose names start so, such as "student.backbone."; default: those that fit best.
        seed: of an untrained network.
        log: gets a line on what was taken from a file.

    Raises:
        WrongUse: no such file or network, or weights that do not fit it.
    """
    if not is_foreign(target, None if weights is None else str(weights)):
        if weights is not None or settings or normalise or prefix:
            raise WrongUse(
                f"{str(target)!r} is selfsight's own and says all by itself: leave out weights, settings, normalise, prefix"
            )
        return checkpoint.load_encoder(Path(target), net)
    name, source = _name_and_source(str(target), weights, encoder)
    return _foreign(name, source, image_size, settings or {}, normalise, prefix, seed, log)


def _name_and_source(target: str, given: str | Path | None, encoder: str | None) -> tuple[str, str | None]:
    """The network, and where its weights are (None: untrained)."""
    path = Path(target)
    if path.is_dir():
        if "architecture" not in json.loads((path / "config.json").read_text()):
            raise WrongUse(
                f"config.json in {target!r} names no architecture of timm: give --encoder and a file of weights"
            )
        return f"timm:{networks.FOLDER}{path}", target
    if path.is_file():
        if encoder is None:
            weights.read(path)  # what is wrong with the file comes first
            raise WrongUse(
                f"{target!r} holds weights of another program: name their network, --encoder resnet50, timm:NAME or "
                "torchvision:NAME"
            )
        return encoder, target
    if given is None:
        raise WrongUse(
            f"{target!r} needs --weights FILE (nothing is downloaded), or --weights random for an untrained one"
        )
    return target, None if str(given) == RANDOM else str(given)


def _foreign(
    name: str, source: str | None, image_size: int, settings: dict[str, Any], normalise: str | None, prefix: str,
    seed: int, log: Callable[[str], None],
) -> checkpoint.Encoder:  # fmt: skip
    state = None if source is None else weights.read(Path(source))
    if state is not None and prefix:
        state = {key: value for key, value in state.items() if key.startswith(prefix)}
        if not state:
            raise WrongUse(
                f"nothing in {source!r} is called {prefix!r}...: it has {weights.outline(weights.read(Path(str(source))))}"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, Stream.INIT))
        made = networks.build(name, state, image_size, settings)
    mean, std, called = networks.normalisation(normalise, made)
    found: dict[str, Any] = {"file": RANDOM}
    if state is not None:
        fit = weights.fill(made.net, state, name, str(source))
        found = {"file": Path(str(source)).name, **fit._asdict()}
        log(f"{name}: {fit.describe()} of {source}")
    log(f"{name}: pictures of {made.image_size} px, normalised by {called}")
    header = {
        "encoder": name, "net": settings, "channels": made.channels, "image_size": made.image_size, "mean": mean, "std": std,
        "weights": found,
    }  # fmt: skip
    networks.probe(made, name)
    return checkpoint.Encoder(made.net, torch.tensor(mean), torch.tensor(std), header).eval()


def _ours(path: Path) -> bool:
    """Whether selfsight wrote this file of weights."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                facts = file.metadata() or {}
            if "selfsight" in facts:
                return True
            found = json.loads(facts.get("timm") or facts.get("torchvision") or "{}")
            return isinstance(found, dict) and "selfsight" in found
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return isinstance(content, dict) and {"format", "version"} <= content.keys()
    except (SafetensorError, OSError, ValueError):
        return False
    except Exception:  # torch raises many kinds for files that are not its own; reading it again will tell which
        return False
