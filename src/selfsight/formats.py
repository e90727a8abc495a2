"""Encoders for other programs. Every export is read back and compared before it says done."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from selfsight.checkpoint import Encoder, atomic, check_out, chosen, load_encoder, save_encoder
from selfsight.encoders.sobel import OnEdges
from selfsight.encoders.stems import MadeBy
from selfsight.errors import WrongUse, perhaps

FORMATS = {
    "safetensors": "the encoder as selfsight loads it: weights, and a JSON header that says how to rebuild it",
    "timm": "weights for timm.create_model(..., num_classes=0), with the settings to create it in the header",
}


def export(run: str | Path, format: str = "timm", out: str | Path | None = None, checkpoint: str | None = None) -> Path:
    """Write the encoder of a run for other programs, after a check that what was written gives the same features.

    Args:
        run: run folder, checkpoint or encoder.safetensors.
        format: a name of FORMATS.
        out: the file; default: RUN/encoder-FORMAT.safetensors.
        checkpoint: which state of a run folder: "best", "last", or the number of a step (see `checkpoint.chosen`).

    Returns:
        The file.

    Raises:
        WrongUse: unknown format, a file that exists, or an encoder that the format cannot hold.
    """
    if format not in FORMATS:
        raise WrongUse(f"unknown format {format!r}.{perhaps(format, set(FORMATS))}")
    encoder = load_encoder(chosen(Path(run), checkpoint))
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    path = Path(out) if out else folder / f"encoder-{format}{f'-{checkpoint}' if checkpoint else ''}.safetensors"
    if format == "timm":
        _made_by(encoder)
    check_out(path)
    if format == "timm":
        _timm(encoder, path)
    else:
        save_encoder(path, encoder.net, encoder.header)
        _compare(encoder.net, load_encoder(path).net, encoder, path)
    return path


def _timm(encoder: Encoder, path: Path) -> None:
    made = _made_by(encoder)
    about = {
        "settings": made.settings,
        "steps": [
            "import timm, torch",
            "from safetensors.torch import load_file",
            *made.steps,
            "model.load_state_dict(load_file(FILE))",
        ],
        **{k: encoder.header[k] for k in ("mean", "std", "image_size")},
    }
    state = {key: value.contiguous() for key, value in encoder.net.state_dict().items()}
    atomic(path, lambda part: save_file(state, part, {"timm": json.dumps(about), "format": "pt"}))
    fresh = made.build(**made.settings)
    fresh.load_state_dict(load_file(path))
    _compare(encoder.net, fresh, encoder, path)


def _made_by(encoder: Encoder) -> MadeBy:
    """How timm makes this network. Raises WrongUse if it does not."""
    made: MadeBy | None = getattr(encoder.net, "made_by", None)
    if made is None:
        edges = " on Sobel edges" if isinstance(encoder.net, OnEdges) else ""
        raise WrongUse(
            f"encoder {encoder.header['encoder']!r}{edges} is not a timm model: export it with --format safetensors"
        )
    return made


def _compare(ours: nn.Module, theirs: nn.Module, encoder: Encoder, path: Path) -> None:
    """Same features on random pictures, bit for bit; else the file is removed and the failure told."""
    size = min(96, encoder.header["image_size"])
    x = torch.randn(2, encoder.header["channels"], size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same = torch.equal(ours.eval()(x), theirs.eval()(x))
    if not same:
        path.unlink()
        raise RuntimeError(f"{path} does not give the encoder's features when read back; it was removed")
