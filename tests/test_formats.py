# mypy: disable-error-code="misc"
"""Exports give the features of the encoder in the other program, and never replace a file."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from selfsight import encoders, formats
from selfsight.checkpoint import Encoder, load_encoder, save_encoder
from selfsight.encoders.stems import MadeBy
from selfsight.errors import WrongUse
from selfsight.formats import timm as timm_format


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
    with pytest.raises(WrongUse, match="not a timm model: export it with --format safetensors or onnx"):
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
    right = timm_format.made_by

    def wrong(encoder: Encoder, other: str) -> MadeBy:
        made = right(encoder, other)
        return made._replace(settings={**made.settings, "stem": "legacy"})  # pools once too often

    monkeypatch.setattr(timm_format, "made_by", wrong)
    with pytest.raises(RuntimeError, match="it was removed"):
        formats.export(run, "timm")
    assert not (tmp_path / "encoder-timm.safetensors").exists()


def features(model: Any, run: Path, images: torch.Tensor) -> torch.Tensor:
    """Of a foreign network, which takes normalised pictures."""
    header = load_encoder(run).header
    mean, std = (torch.tensor(header[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        return model.eval()((images - mean) / std)


@pytest.mark.parametrize(
    ("name", "channels", "size", "net"),
    [
        ("resnet18", 3, 32, {}),
        ("resnet18", 1, 128, {}),
        ("resnet50", 3, 32, {"stem": "legacy", "norm": "group"}),
        ("regnety-400mf", 3, 32, {}),
        ("regnety-400mf", 1, 128, {}),
        pytest.param("vit-base", 3, 32, {"patch": 16}, marks=pytest.mark.slow),
    ],
)
def test_torchvision_builds_the_same_network(
    name: str, channels: int, size: int, net: dict[str, Any], tmp_path: Path
) -> None:
    run = saved(tmp_path, name, channels, size, **net)
    path = formats.export(run, "torchvision")
    space: dict[str, Any] = {}
    exec("\n".join(formats.usage(path, "torchvision")), space)
    images = torch.rand(2, channels, size, size)
    with torch.no_grad():
        ours = load_encoder(run)(images)
        assert torch.equal(load_encoder(path)(images), ours)  # and back
    torch.testing.assert_close(features(space["model"], run, images), ours, rtol=1e-5, atol=1e-5)


def test_torchvision_takes_the_weights_beside_its_own_classifier(tmp_path: Path) -> None:
    import torchvision
    from safetensors.torch import load_file

    path = formats.export(saved(tmp_path, "resnet18", size=128), "torchvision")
    found = torchvision.models.resnet18(weights=None).load_state_dict(load_file(path), strict=False)
    assert sorted(found.missing_keys) == ["fc.bias", "fc.weight"]
    assert not found.unexpected_keys


@pytest.mark.parametrize(
    ("name", "net", "reason"),
    [
        ("fastnet-tiny", {}, "not a timm model"),
        ("resnet18", {"sobel": "only"}, "on Sobel edges is not a timm model"),
        ("regnety-200mf", {}, "no network like this regnety-200mf"),
        ("vit-toy", {}, "no network like this vit-toy"),
        ("resnet50", {"output_stride": 16}, "no network like this resnet50"),
    ],
)
def test_what_torchvision_lacks(name: str, net: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=reason):
        formats.export(saved(tmp_path, name, **net), "torchvision")


@pytest.mark.parametrize(("name", "channels", "net"), [("vit-toy", 3, {}), ("alexnet-tile", 1, {"sobel": "concat"})])
def test_onnx_takes_pictures_and_any_number_of_them(
    name: str, channels: int, net: dict[str, Any], tmp_path: Path
) -> None:
    import onnxruntime

    run = saved(tmp_path, name, channels, **net)
    path = formats.export(run, "onnx")
    assert path == tmp_path / "encoder.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.rand(5, channels, 32, 32)
    with torch.no_grad():
        ours = load_encoder(run)(images)
    (theirs,) = session.run(["features"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-5, atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["selfsight"]) == load_encoder(run).header


def test_onnx_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(WrongUse, match=r"needs the package onnxscript: pip install 'selfsight\[onnx\]'"):
        formats.export(saved(tmp_path, "fastnet-tiny"), "onnx")


@pytest.mark.parametrize(
    ("name", "channels", "size", "net"),
    [
        ("resnet18", 3, 128, {}),
        ("vit-toy", 1, 32, {"pool": "mean", "layer_scale": 0.1}),
        ("regnety-200mf", 3, 128, {"output_stride": 16}),
    ],
)
def test_timm_loads_the_folder_for_the_hub(
    name: str, channels: int, size: int, net: dict[str, Any], tmp_path: Path
) -> None:
    import timm

    run = saved(tmp_path, name, channels, size, **net)
    path = formats.export(run, "huggingface", tmp_path / "mine")
    assert sorted(p.name for p in path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    model: Any = timm.create_model(f"local-dir:{path}", pretrained=True)
    images = torch.rand(2, channels, size, size)
    with torch.no_grad():
        ours = load_encoder(run)(images)
    assert torch.equal(features(model, run, images), ours)
    assert model.pretrained_cfg["mean"] == load_encoder(run).header["mean"]
    assert timm.data.resolve_data_config(model=model)["input_size"] == (channels, size, size)


@pytest.mark.parametrize(("name", "net"), [("resnet18", {}), ("fastnet-tiny", {}), ("vit-toy", {"sobel": "only"})])
def test_folders_that_timm_cannot_load_are_ours(name: str, net: dict[str, Any], tmp_path: Path) -> None:
    run = saved(tmp_path, name, **net)
    path = formats.export(run, "huggingface")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_encoder(path)(images), load_encoder(run)(images))
    assert "architecture" not in json.loads((path / "config.json").read_text())
    assert "selfsight.load" in (path / "README.md").read_text()
    with pytest.raises(WrongUse, match="exists"):
        formats.export(run, "huggingface")


def test_your_own_module(tmp_path: Path) -> None:
    class Mine(torch.nn.Module):
        dim = 6

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.mean((2, 3)))

    header = {
        "encoder": "custom",
        "net": {},
        "channels": 3,
        "image_size": 32,
        "mean": [0.4] * 3,
        "std": [0.2] * 3,
        "dim": 6,
    }
    save_encoder(tmp_path / "encoder.safetensors", net := Mine(), header)
    images = torch.rand(2, 3, 32, 32)
    for format in ("safetensors", "huggingface"):
        path = formats.export(tmp_path, format, net=Mine())
        with torch.no_grad():
            assert torch.equal(load_encoder(path, Mine())(images), net((images - 0.4) / 0.2))
    with pytest.raises(WrongUse, match="your own module"):
        formats.export(tmp_path, "safetensors", tmp_path / "again.safetensors")


SMALL = [name for name in encoders.ENCODERS if not name.endswith(("gf", "10b")) and name != "vit-large"]
GRAPHS = ("resnet50", "regnety-400mf", "vit-tiny", "wrn-28-2", "alexnet", "mininet", "amdim-toy", "cpc-toy", "fastnet")


def test_regnets_of_other_widths_are_refused(tmp_path: Path) -> None:
    """torchvision's regnet_y_800mf has 144 channels where timm's and the paper's have 128."""
    with pytest.raises(WrongUse, match="torchvision has no network like this"):
        formats.export(saved(tmp_path, "regnety-800mf"), "torchvision")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_encoder_in_every_format(name: str, tmp_path: Path) -> None:
    run = saved(tmp_path, name)
    for format in formats.FORMATS:  # each compares what it wrote
        lacks = format in ("timm", "torchvision")
        if format != "onnx" or name in GRAPHS:
            with contextlib.suppress(WrongUse) if lacks else contextlib.nullcontext():
                formats.export(run, format)
