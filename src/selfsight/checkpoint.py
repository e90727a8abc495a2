"""Checkpoints (tensors only, no pickle of code) and encoders (safetensors with a JSON header). Written atomically."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from selfsight import distributed, encoders
from selfsight._version import __version__
from selfsight.errors import WrongUse

FORMAT = 1  #: layout of checkpoints; a checkpoint of another layout is refused


def atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, flush it to disk, then put it in place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_out(path: Path) -> None:
    """Refuse a file that exists, or that could not be written, before any work is done."""
    if path.exists():
        raise WrongUse(f"--out {str(path)!r} exists: choose another name, or remove it first")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise WrongUse(f"--out {str(path)!r} cannot be written ({str(above)!r} takes no files): choose another place")


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    atomic(path, lambda part: part.write_text(text))


class Checkpoint(NamedTuple):
    """All that a run needs to go on."""

    step: int  #: optimizer steps done
    method: dict[str, Tensor]
    optimizer: dict[str, Any]
    run: str  #: the resolved run as YAML
    extra: dict[str, Any]  #: seconds so far, best k-NN, ... (plain numbers and strings)


def gathered(tree: Any) -> Any:
    """The same state with sharded tensors whole, on the CPU of the first process; None in their place on the others.

    Every process must call it. One tensor at a time is whole elsewhere than there.
    """
    if isinstance(tree, dict):
        return {name: gathered(value) for name, value in tree.items()}
    if not isinstance(tree, Tensor) or not distributed.is_sharded(tree):
        return tree
    whole = distributed.whole(tree)
    return whole.cpu() if distributed.rank() == 0 else None


def chosen(target: Path, which: str | None) -> Path:
    """A state of a run: `target` itself, or of a run folder the file that `which` names.

    Args:
        target: run folder or file.
        which: "best" (by the monitor, on held-out pictures), "last", the number of a step whose encoder --export-every
            kept, or None: the finished encoder of a folder, the file as it is.

    Raises:
        WrongUse: a file has no other states, or the run kept no such state.
    """
    if which is None:
        return target
    if not (target / "run.yaml").is_file():
        raise WrongUse(f"--checkpoint {which} needs a run folder, {str(target)!r} is none: leave out one of the two")
    places = target / "checkpoints"
    kept = {int(path.stem.split("-")[1]): path for path in places.glob("encoder-[0-9]*.safetensors")}
    if which in ("best", "last"):
        path = places / f"{which}.pt"
        why = "it measured no --probe.monitor on held-out pictures" if which == "best" else "it did not get so far"
    else:
        path = kept.get(int(which) if which.isdecimal() else -1, places / which)
        why = "--export-every keeps encoders on the way"
    if not path.is_file():
        steps = "".join(f", {step}" for step in sorted(kept))
        found = [name for name in ("best", "last") if (places / f"{name}.pt").is_file()]
        raise WrongUse(f"{str(target)!r} has no checkpoint {which!r} ({why}); known: {', '.join(found)}{steps}")
    return path


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint."""
    content = {"format": FORMAT, "version": __version__, **checkpoint._asdict()}
    atomic(path, lambda part: torch.save(content, part))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        WrongUse: the file is missing, damaged, not a checkpoint of selfsight, or of another layout.
    """
    if not path.is_file():
        raise WrongUse(f"no checkpoint at {str(path)!r}: give the run folder that `selfsight pretrain` wrote")
    try:
        # several processes map the file, whose pages they share
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=distributed.world() > 1)
    except Exception as error:  # torch raises many kinds for files that are not its own
        raise WrongUse(
            f"{str(path)!r} is not a readable checkpoint ({type(error).__name__}): give another file"
        ) from None
    if not isinstance(content, dict) or "format" not in content:
        raise WrongUse(f"{str(path)!r} is not a checkpoint of selfsight: give one from a run's checkpoints folder")
    if content["format"] != FORMAT:
        raise WrongUse(
            f"{str(path)!r} has layout {content['format']} of selfsight {content.get('version', '?')}, this is selfsight "
            f"{__version__} with layout {FORMAT}: use that version, or start a new run"
        )
    if missing := [name for name in Checkpoint._fields if name not in content]:
        raise WrongUse(f"{str(path)!r} is not a whole checkpoint ({missing[0]} is missing): give another file")
    return Checkpoint(*(content[name] for name in Checkpoint._fields))


def load_into(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load whole weights exactly, into shards too. Raises WrongUse if they belong to another architecture or method."""
    own = module.state_dict()
    missing, extra = own.keys() - state.keys(), state.keys() - own.keys()
    shape = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or extra or shape:
        first = next(iter(sorted(missing | extra) or sorted(shape)))
        raise WrongUse(
            f"{what} does not fit this method and encoder ({len(missing)} entries missing, {len(extra)} unknown, "
            f"{len(shape)} of another shape; first: {first}): use the settings it was made with"
        )
    for name, value in own.items():
        distributed.write(value, state[name])


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer, whole, into one whose parameters may be sharded."""
    params = [p for group in optimizer.param_groups for p in group["params"]]

    def cut(value: Any, p: Tensor) -> Any:
        if not distributed.is_sharded(p) or not isinstance(value, Tensor) or value.shape != p.shape:
            return value
        mine = torch.zeros_like(p)
        distributed.write(mine, value)
        return mine

    each = {i: {name: cut(value, params[i]) for name, value in found.items()} for i, found in state["state"].items()}
    optimizer.load_state_dict({**state, "state": each})


class Encoder(nn.Module):
    """What training leaves behind: (B, C, H, W) float in [0, 1] -> (B, D), normalisation included."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor, header: dict[str, Any]) -> None:
        super().__init__()
        self.net, self.header, self.dim = net, header, int(net.dim)  # type: ignore[arg-type]
        self.register_buffer("mean", mean.float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", std.float().view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images - self.mean) / self.std)

    def embed(self, images: Any, batch_size: int = 256) -> Any:
        """Features of a folder, a list of paths, PIL images or uint8 arrays: numpy (N, D) float32."""
        from selfsight.embedding import embed  # the data side is only needed here

        return embed(self, images, batch_size=batch_size).features


def save_encoder(path: Path, net: nn.Module, header: dict[str, Any]) -> None:
    """Weights of the bare encoder as safetensors; `header` says how to rebuild it (JSON). Every process must call it.

    One entry of metadata alone: the library writes several in any order, and equal encoders make equal files.
    """
    found = gathered(net.state_dict())
    if distributed.rank() == 0:
        state = {name: value.detach().cpu().contiguous() for name, value in found.items()}
        atomic(path, lambda part: save_file(state, part, {"selfsight": json.dumps(header)}))


def fresh(header: dict[str, Any], where: str) -> nn.Module:
    """A network as the header of an encoder describes it, with weights of its own. Raises WrongUse if it cannot."""
    if header["encoder"] == "custom":
        raise WrongUse(f"the encoder in {where!r} is your own module: load it with selfsight.load(path, net=module)")
    config = encoders.EncoderConfig(**encoders.settings_of(header["net"]))
    return encoders.build(header["encoder"], header["channels"], header["image_size"], config)


def _read(path: Path) -> tuple[dict[str, Any] | None, str, dict[str, Tensor]]:
    """Header (None: not of selfsight), whose names the entries have, and the entries of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WrongUse(f"{str(path)!r} is not a readable safetensors file ({error}): give another file") from None
    names = next((name for name in ("selfsight", "timm", "torchvision") if name in facts), "")
    try:
        found = json.loads(facts[names]) if names else None
    except json.JSONDecodeError:
        found = None
    return (found if names == "selfsight" or not found else found.get("selfsight")), names, state


def load_encoder(path: Path, net: nn.Module | None = None) -> Encoder:
    """An encoder from a run folder, a checkpoint, an encoder.safetensors or an export, in eval mode on the CPU.

    Args:
        path: run folder or file; or the safetensors file or folder of any format that `export` writes.
        net: the module to fill, for encoders that are not in ENCODERS.

    Raises:
        WrongUse: no such file, a damaged one, or one that selfsight did not write.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / "encoder.safetensors", path / "checkpoints" / "last.pt", path / "model.safetensors"]
        path = next((p for p in found if p.is_file()), path)
        if path.is_dir():
            raise WrongUse(
                f"{str(path)!r} is not a run folder with an encoder: give a folder that `selfsight pretrain` wrote"
            )
    if not path.is_file():
        raise WrongUse(
            f"no run or checkpoint at {str(path)!r}: give a run folder, a checkpoint or an encoder.safetensors"
        )
    names = ""
    if path.suffix == ".pt":
        checkpoint = load(path)
        header = json.loads(checkpoint.extra["encoder"])
        start = "encoder."
        state = {k.removeprefix(start): v for k, v in checkpoint.method.items() if k.startswith(start)}
        if not state:  # the encoder is a part of something that follows, such as a teacher
            from selfsight.evaluate.layers import rebuild

            net = rebuild(checkpoint, net, str(path))[0].encoder
            state = net.state_dict()
    else:
        header, names, state = _read(path)
        if header is None:
            raise WrongUse(f"{str(path)!r} was not written by selfsight: give the encoder.safetensors of a run")
    net = fresh(header, str(path)) if net is None else net
    if names == "torchvision":
        from selfsight.formats import torchvision

        ours = {torchvision.names(net, name): name for name in net.state_dict()}
        state = {ours.get(name, name): value for name, value in state.items()}
    load_into(net, state, str(path))
    return Encoder(net, torch.tensor(header["mean"]), torch.tensor(header["std"]), header).eval()
