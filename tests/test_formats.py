# mypy: disable-error-code="misc"
"""Exports give the features of the encoder in the other program, and never replace a file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from selfsight import encoders, formats
from selfsight.checkpoint import Encoder, load_encoder, save_encoder
from selfsight.encoders.stems import MadeBy
from selfsight.errors import WrongUse


def saved(folder: Path, name: str, channels: int = 3, size: int = 32, **net: Any) -> Path:
    """encoder.safetensors of an untrained encoder with batch statistics that are not the initial ones."""
    torch.manual_seed(0)
    config = encoders.EncoderConfig(**net)
    module = encoders.build(name, channels, size, config)
    with torch.no_grad():
        module.train()(torch.randn(4, channels, size, size))
        for parameter in module.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    header = {
        "encoder": name, "net": encoders.EncoderConfig(**net).__dict__, "channels": channels, "image_size": size,
        "mean": [0.4] * channels, "std": [0.2] * channels, "dim": module.dim,
    }  # fmt: skip
    save_encoder(folder / "encoder.safetensors", module, header)
    return folder


@pytest.mark.parametrize(
    ("name", "channels", "size", "net"),
    [
        ("resnet18", 3, 32, {}),  # small stem
        ("resnet18", 3, 128, {}),  # imagenet stem
        ("resnet18", 1, 32, {"stem": "legacy", "zero_init_residual": False}),
        ("resnet50", 3, 32, {"norm": "group", "output_stride": 16}),  # basic blocks of timm have no dilation
        ("vit-toy", 3, 32, {"drop_path": 0.2}),
        ("regnety-200mf", 3, 32, {}),
        ("regnety-200mf", 1, 128, {"output_stride": 16}),
        ("vit-tiny", 1, 96, {"pool": "mean", "layer_scale": 1e-5, "patch": 16}),
        ("vit-micro", 3, 32, {"conv_stem": True}),
        ("vit-toy", 3, 32, {"positions": "sincos", "pool": "mean"}),
    ],
)
def test_timm_builds_the_same_network_by_the_steps_in_the_header(
    name: str, channels: int, size: int, net: dict[str, Any], tmp_path: Path
) -> None:
    run = saved(tmp_path, name, channels, size, **net)
    path = formats.export(run, "timm")
    assert path == tmp_path / "encoder-timm.safetensors"
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["timm"])
    space: dict[str, Any] = {"FILE": str(path)}
    exec("\n".join(about["steps"]), space)
    ours = load_encoder(run)
    images = torch.rand(2, channels, size, size)
    mean, std = (torch.tensor(about[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        assert torch.equal(space["model"].eval()((images - mean) / std), ours(images))
    assert "selfsight" not in "\n".join(about["steps"])


@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("fastnet-tiny", {}),
        ("alexnet", {"sobel": "only"}),
        ("vit-toy", {"pool": "mean"}),
        ("mininet", {"sobel": "concat"}),
        ("wrn-28-2", {"dropout": 0.3}),
        ("alexnet-tile", {"norm": "none"}),
        ("vit-toy", {"sobel": "only"}),
    ],
)
def test_safetensors_is_the_encoder(name: str, net: dict[str, Any], tmp_path: Path) -> None:
    run = saved(tmp_path, name, **net)
    path = formats.export(run, "safetensors", tmp_path / "new" / "mine.safetensors")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_encoder(path)(images), load_encoder(run)(images))
    assert load_encoder(path).header == load_encoder(run).header


def test_refused(tmp_path: Path) -> None:
    run = saved(tmp_path, "fastnet-tiny")
    with pytest.raises(WrongUse, match="not a timm model: export it with --format safetensors"):
        formats.export(run, "timm")
    assert not (tmp_path / "encoder-timm.safetensors").exists()
    formats.export(run, "safetensors")
    before = (tmp_path / "encoder-safetensors.safetensors").read_bytes()
    with pytest.raises(WrongUse, match="exists: choose another name"):
        formats.export(run, "safetensors")
    assert (tmp_path / "encoder-safetensors.safetensors").read_bytes() == before
    with pytest.raises(WrongUse, match=r"unknown format 'tim'\. Perhaps you meant 'timm'"):
        formats.export(run, "tim")
    with pytest.raises(WrongUse, match="no run or checkpoint"):
        formats.export(tmp_path / "nothing", "timm")


def test_an_export_that_differs_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved(tmp_path, "resnet18")
    right = formats._made_by

    def wrong(encoder: Encoder) -> MadeBy:
        made = right(encoder)
        return made._replace(settings={**made.settings, "stem": "legacy"})  # pools once too often

    monkeypatch.setattr(formats, "_made_by", wrong)
    with pytest.raises(RuntimeError, match="it was removed"):
        formats.export(run, "timm")
    assert not (tmp_path / "encoder-timm.safetensors").exists()
