"""Weights for timm's networks: key names are timm's own."""

from pathlib import Path

from safetensors.torch import load_file

from selfsight.checkpoint import Encoder
from selfsight.formats.common import about, compare, made_by, normalised, save


def check(encoder: Encoder) -> None:
    """WrongUse unless timm makes the network."""
    made_by(encoder, "safetensors or onnx")


def lines(encoder: Encoder, file: str = "FILE") -> list[str]:
    """Lines of Python that make `model`, with its weights."""
    return [
        "import timm, torch",
        "from safetensors.torch import load_file",
        *made_by(encoder, "safetensors").steps,
        f"model.load_state_dict(load_file({file}))",
    ]


def write(encoder: Encoder, path: Path) -> None:
    """Weights, and in the entry `timm` of the header the lines that load them."""
    made = made_by(encoder, "safetensors")
    save(path, encoder.net.state_dict(), "timm", {"settings": made.settings, **about(encoder, lines(encoder))})
    fresh = made.build(**made.settings)
    fresh.load_state_dict(load_file(path))
    compare(encoder, normalised(encoder, fresh), path)
