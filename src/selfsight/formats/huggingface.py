"""A folder as the Hugging Face Hub has them: model.safetensors, config.json, README.md. Nothing is sent anywhere.

timm loads it (`timm.create_model("local-dir:FOLDER")`, or `hf-hub:OWNER/NAME` once you have put it there) where
timm.create_model alone makes the network. Others (stems for small pictures, our own networks) are loaded by
`selfsight.load("FOLDER")`, or by the lines in README.md.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import timm

from selfsight._version import __version__
from selfsight.checkpoint import Encoder, load_encoder, write_text
from selfsight.formats import timm as weights
from selfsight.formats.common import compare, normalised, save

LINES = '    import selfsight\n\n    encoder = selfsight.load("FOLDER")  # pictures (B, {channels}, S, S) in 0..1 -> (B, {dim})'


def write(encoder: Encoder, path: Path) -> None:
    """The folder, whole or not at all."""
    made = getattr(encoder.net, "made_by", None)
    created: dict[str, Any] | None = made.created if made else None
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        save(part / "model.safetensors", encoder.net.state_dict(), "selfsight", encoder.header)
        write_text(part / "config.json", json.dumps(config(encoder, created), indent=2) + "\n")
        write_text(part / "README.md", card(encoder, created))
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if encoder.header["encoder"] != "custom":
        compare(encoder, load_encoder(path), path)
    if created:
        net = timm.create_model(f"local-dir:{path}", pretrained=True)
        compare(encoder, normalised(encoder, net), path)


def config(encoder: Encoder, created: dict[str, Any] | None) -> dict[str, Any]:
    """config.json: timm's, where it makes the network, with our header beside it."""
    header = encoder.header
    found: dict[str, Any] = {"library_name": "selfsight", "selfsight": header, "selfsight_version": __version__}
    if created is None:
        return found
    more = {
        name: value
        for name, value in created.items()
        if name not in ("model_name", "num_classes") and value is not None
    }
    side = header["image_size"]
    cfg = {
        "input_size": [header["channels"], side, side], "fixed_input_size": False, "interpolation": "bilinear",
        "crop_pct": 1.0, "crop_mode": "center", "mean": header["mean"], "std": header["std"], "num_classes": 0,
        "pool_size": None, "first_conv": None, "classifier": None,
    }  # fmt: skip
    own = {"architecture": created["model_name"], "num_classes": 0, "num_features": header["dim"], "model_args": more}
    return {**own, "pretrained_cfg": cfg, **found, "library_name": "timm"}


def card(encoder: Encoder, created: dict[str, Any] | None) -> str:
    """README.md: what it is, how it is loaded."""
    header = encoder.header
    lines = [LINES.format(**header)]
    if created:
        lines.append('    import timm\n\n    model = timm.create_model("local-dir:FOLDER", pretrained=True)')
    elif getattr(encoder.net, "made_by", None):
        lines.append("\n".join("    " + line for line in weights.lines(encoder, '"FOLDER/model.safetensors"')))
    told = (
        f"Features of pictures, D = {header['dim']}, trained at {header['image_size']} px without labels"
        f"{' by ' + header['method'] if header.get('method') else ''}. timm's form and `load_file` take normalised pictures: "
        f"mean {_short(header['mean'])}, std {_short(header['std'])}; `selfsight.load` normalises by itself.\n"
    )
    tags = (
        f"---\nlibrary_name: {'timm' if created else 'selfsight'}\ntags: [image-feature-extraction, selfsight]\n---\n\n"
    )
    return tags + f"# {header['encoder']}\n\n" + told + "\n" + "\n\n".join(lines) + "\n"


def _short(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
