"""Encoders for other programs: a file for each format. Every export is read back and compared before it says done."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open
from torch import nn

from selfsight.checkpoint import Encoder, check_out, chosen, load_encoder
from selfsight.errors import WrongUse, perhaps


class Format(NamedTuple):
    """An entry: how it is called when it is written into a run folder, and what it is."""

    default: str  #: name of the file or folder inside of the run folder
    about: str


FORMATS = {
    "timm": Format(
        "encoder-timm.safetensors",
        "weights for timm.create_model(..., num_classes=0), with the lines that load them in the header",
    ),
    "torchvision": Format(
        "encoder-torchvision.safetensors",
        "weights under torchvision's names, of ResNets, RegNets and large transformers; the lines are in the header",
    ),
    "safetensors": Format(
        "encoder-safetensors.safetensors",
        "the encoder as selfsight loads it: weights, and a JSON header that says how to rebuild it",
    ),
    "onnx": Format("encoder.onnx", "a graph for onnxruntime and others: pictures in 0..1 in, features out"),
    "huggingface": Format(
        "huggingface", "a folder for the Hugging Face Hub, which timm loads where the network is one of its own"
    ),
}
"""Name -> entry; the module of that name has `write`, and perhaps `check`."""


def export(
    run: str | Path, format: str = "timm", out: str | Path | None = None, net: nn.Module | None = None,
    checkpoint: str | None = None,
) -> Path:  # fmt: skip
    """Write the encoder of a run for other programs, after a check that what was written gives the same features.

    Args:
        run: run folder, checkpoint or encoder.safetensors.
        format: a name of FORMATS.
        out: the file, or the folder of `huggingface`; default: a name inside of the run folder.
        net: the module to fill, for encoders that are not in ENCODERS.
        checkpoint: which state of a run folder: "best", "last", or the number of a step (see `checkpoint.chosen`).

    Returns:
        The file or folder.

    Raises:
        WrongUse: unknown format, a file that exists, a package that is missing, or an encoder that the format cannot hold.
    """
    if format not in FORMATS:
        raise WrongUse(f"unknown format {format!r}.{perhaps(format, set(FORMATS))}")
    encoder = load_encoder(chosen(Path(run), checkpoint), net)
    module = import_module(f"selfsight.formats.{format}")
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    default = Path(FORMATS[format].default)
    path = Path(out) if out else folder / (f"{default.stem}-{checkpoint}{default.suffix}" if checkpoint else default)
    check: Callable[[Encoder], object] | None = getattr(module, "check", None)
    if check:
        check(encoder)
    check_out(path)
    module.write(encoder, path)
    return path


def usage(path: Path, format: str) -> list[str]:
    """Lines of Python that load what `export` wrote."""
    if format in ("timm", "torchvision"):
        with safe_open(path, "pt") as file:
            steps: list[str] = json.loads(file.metadata()[format])["steps"]
        return [line.replace("(FILE)", f"({str(path)!r})") for line in steps]
    if format == "onnx":
        session = f"onnxruntime.InferenceSession({str(path)!r})"
        return ["import onnxruntime", f'features, = {session}.run(["features"], {{"images": images}})']
    if format == "huggingface" and "architecture" in json.loads((path / "config.json").read_text()):
        return ["import timm", f"model = timm.create_model('local-dir:{path}', pretrained=True)"]
    return ["import selfsight", f"encoder = selfsight.load({str(path)!r})"]
