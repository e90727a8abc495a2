"""Weights in files of other programs: read without running any code, found behind whatever prefix, put into a network.

A checkpoint is a tree; its tensors are called by the path to them, such as `teacher.backbone.blocks.0.norm1.weight`. The
part of the path in front of a network's own names is the prefix.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from selfsight.errors import WrongUse
from selfsight.formats import torchvision as twins

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".tar", ".bin", ".torch")
ENOUGH = 0.9  #: of a network's tensors must be in the file
_NOT_WEIGHTS = ("optim", "scaler", "schedul", "amp", "loss")  #: parts of a checkpoint, by the start of their names
_COUNTER = "num_batches_tracked"


class Inert:
    """Stands in for every class that a file names and we do not know: takes anything, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


class Fit(NamedTuple):
    """What came of a file."""

    prefix: str
    matched: int  #: tensors of the network that were found
    total: int
    missing: list[str]  #: parameters and statistics of the network that keep their random values
    left_out: dict[str, int]  #: entries of the file that the network has not: where, how many

    def describe(self) -> str:
        """In a line."""
        line = f"{self.matched} of {self.total} tensors" + (f" under {self.prefix!r}" if self.prefix else "")
        if self.missing:
            line += f"; MISSING, so random: {', '.join(self.missing[:5])}{' ...' if len(self.missing) > 5 else ''}"
        if self.left_out:
            line += f"; left out: {_listed(self.left_out)}"
        return line + ";"


def read(path: Path) -> dict[str, Tensor]:
    """Path in the tree -> tensor, of a file, or of the file of weights in a folder.

    Raises:
        WrongUse: no such file, one without tensors, or one that cannot be read without running its code.
    """
    if path.is_dir():
        found = [path / name for name in ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")]
        path = next((file for file in found if file.is_file()), path / "model.safetensors")
    if not path.is_file():
        raise WrongUse(f"no file of weights at {str(path)!r}: give a safetensors file, or one that torch.save wrote")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except SafetensorError as error:
        raise WrongUse(f"{str(path)!r} is not a readable safetensors file ({error}): give another file") from None
    except Exception as error:  # torch raises many kinds
        raise WrongUse(
            f"{str(path)!r} is not readable as weights ({type(error).__name__}): it is damaged, or would run code when opened; "
            "where you trust it, write torch.save(model.state_dict(), FILE) and give that"
        ) from None
    tensors = dict(_flat(content, ()))
    if not tensors:
        what = "a whole module" if isinstance(content, Inert) else "no tensors"
        raise WrongUse(f"{str(path)!r} holds {what}: give a file of its state_dict()")
    return tensors


def _load(path: Path) -> Any:
    """A tree of tensors and plain values; objects of unknown classes (settings, as a rule) become inert."""
    known: list[Any] = [argparse.Namespace]
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file from before torch 1.6, which cannot be asked: what such files often hold beside tensors
        names = ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "_codecs.encode"]
    stand_ins = [(type("Inert", (Inert,), {}), name) for name in names]
    with torch.serialization.safe_globals([*known, *stand_ins]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _flat(tree: Any, path: tuple[str, ...]) -> Iterable[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield ".".join(path), tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            if isinstance(value, Tensor) or not str(key).lower().startswith(_NOT_WEIGHTS):
                yield from _flat(value, (*path, str(key)))
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from _flat(value, (*path, str(i)))


def _aliases(net: nn.Module) -> list[Callable[[str], str]]:
    """How other programs call the entries of this network: as it does, by place in a sequence, as torchvision does."""
    found: list[Callable[[str], str]] = [str]
    places = {"conv1": "0", "bn1": "1", **{f"layer{i}": str(3 + i) for i in (1, 2, 3, 4)}}

    def by_place(key: str) -> str:  # nn.Sequential(*list(resnet.children())[:-1])
        head, _, rest = key.partition(".")
        return f"{places.get(head, head)}.{rest}"

    if isinstance(net, ResNet) or type(net).__name__ == "ResNet":
        found.append(by_place)
    if isinstance(net, RegNet | VisionTransformer):
        found.append(lambda key: twins.names(net, key))
    return found


def _preference(prefix: str) -> int:
    """Of several copies: what papers evaluate. A teacher's of self-distillation, the trained one beside a momentum copy."""
    words = prefix.lower()
    if "teacher" in words or "target_encoder" in words:
        return 0
    return 2 if any(word in words for word in ("momentum", "encoder_k", "student", "ema")) else 1


def fill(net: nn.Module, state: dict[str, Tensor], name: str, where: str) -> Fit:
    """Put the weights of a file into a network, from behind the prefix under which most of it is found.

    Args:
        net: the network, without classifier.
        state: path -> tensor.
        name: of the network, for messages.
        where: name of the file, for messages.

    Raises:
        WrongUse: less than ENOUGH of the network is there.
    """
    own = net.state_dict()
    wanted = [key for key in own if not key.endswith(_COUNTER)]
    best: tuple[tuple[float, ...], str, dict[str, str]] | None = None
    for alias in _aliases(net):
        theirs = {alias(key): key for key in own}
        hits: dict[str, dict[str, str]] = defaultdict(dict)
        for path in state:
            parts = path.split(".")
            for i in range(len(parts)):
                key = theirs.get(".".join(parts[i:]))
                if key is not None and _fits(net, key, own[key], state[path]):
                    hits["".join(f"{part}." for part in parts[:i])][key] = path
        for prefix, found in hits.items():
            count = sum(not key.endswith(_COUNTER) for key in found)
            rank = (-count, _preference(prefix), len(prefix))
            if best is None or rank < best[0]:
                best = (rank, prefix, found)
    _, prefix, found = best or ((), "", {})
    missing = [key for key in wanted if key not in found]
    matched = len(wanted) - len(missing)
    if matched < ENOUGH * len(wanted):
        raise WrongUse(_refusal(own, state, prefix, missing, matched, len(wanted), name, where))
    values = {key: _resized(net, key, own[key], state[path]).to(own[key].dtype) for key, path in found.items()}
    net.load_state_dict({**own, **values})
    used = set(found.values())
    rest = [path for path in state if path not in used and not path.endswith(_COUNTER)]
    return Fit(prefix, matched, len(wanted), missing, _grouped(rest, prefix))


def _refusal(
    own: dict[str, Tensor], state: dict[str, Tensor], prefix: str, missing: list[str], matched: int, total: int, name: str,
    where: str,
) -> str:  # fmt: skip
    first = missing[0]
    other = state.get(prefix + first)
    why = (
        f"no {first}"
        if other is None
        else f"{first} is {tuple(other.shape)} there, {tuple(own[first].shape)} in the network"
    )
    return (
        f"{where!r} holds {matched} of the {total} tensors of {name} ({why}; it has {outline(state)}): name the network "
        "that it was made for, and its settings by --net"
    )


def _fits(net: nn.Module, key: str, own: Tensor, other: Tensor) -> bool:
    return own.shape == other.shape or _grid(net, key, own, other) is not None


def _grid(net: nn.Module, key: str, own: Tensor, other: Tensor) -> tuple[int, int] | None:
    """(side of the grid, tokens ahead of it) of another size's positions, where they can be resized to the network's."""
    if key != "pos_embed" or own.ndim != 3 or other.ndim != 3 or own.shape[::2] != other.shape[::2]:
        return None
    ahead = own.shape[1] - int(net.patch_embed.num_patches)  # type: ignore[union-attr,arg-type]
    side = round((other.shape[1] - ahead) ** 0.5)
    return (side, ahead) if side > 0 and side**2 == other.shape[1] - ahead else None


def _resized(net: nn.Module, key: str, own: Tensor, other: Tensor) -> Tensor:
    found = None if own.shape == other.shape else _grid(net, key, own, other)
    if found is None:
        return other
    side, ahead = found
    new: list[int] = list(net.patch_embed.grid_size)  # type: ignore[union-attr,arg-type]
    resized: Tensor = resample_abs_pos_embed(other.float(), new, [side, side], num_prefix_tokens=ahead)
    return resized


def _grouped(paths: Iterable[str], prefix: str) -> dict[str, int]:
    """Entries by their place: the first name in which their path departs from the prefix."""
    counts: Counter[str] = Counter()
    for path in paths:
        parts = path.split(".")
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(parts, prefix.split(".")))))
        counts[".".join(parts[: shared + 1])] += 1
    return dict(counts)


def outline(state: dict[str, Tensor]) -> str:
    """What a file has: the first names of its paths, as far as they are shared by all, and how many."""
    common = ""
    while True:
        heads = {path.removeprefix(common).partition(".")[0] for path in state}
        if len(heads) != 1 or any(path == common + next(iter(heads)) for path in state):
            break
        common += f"{heads.pop()}."
    inside = {path.removeprefix(common): value for path, value in state.items()}
    return _listed(_grouped(inside, "")) + (f" under {common!r}" if common else "")


def _listed(counts: dict[str, int]) -> str:
    names = [f"{name} ({count})" for name, count in counts.items()]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
