# mypy: disable-error-code="misc"
"""Encoders of other programs: checkpoints as other codebases write them give the features of the network they were made of."""

import argparse
import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import selfsight
from selfsight import cli, encoders, external, formats
from selfsight.errors import WrongUse


def quiet(_: str) -> None: ...


def trained(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics that no initialisation has."""
    generator = torch.Generator().manual_seed(seed)
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.add_(0.02 * torch.rand(value.shape, generator=generator))
    return net.eval()


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, nn.Module]:
    """A ResNet-18 of torchvision, and another one as its momentum copy."""
    pair = (torchvision.models.resnet18(weights=None), torchvision.models.resnet18(weights=None))
    for i, net in enumerate(pair):
        net.fc = nn.Identity()
        trained(net, i)
    return pair


IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in external.networks.IMAGENET)


def expected(net: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    with torch.no_grad():
        return net((images - MEAN) / STD)


def sequence(net: nn.Module) -> dict[str, torch.Tensor]:
    return nn.Sequential(*list(net.children())[:-1]).state_dict()


CHECKPOINTS: dict[str, Any] = {
    # as MoCo, SwAV, Barlow Twins, DINO, solo-learn, lightly, VISSL and torchvision write them
    "plain": lambda q, k: q.state_dict() | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)},
    "moco": lambda q, k: {
        "epoch": 200, "arch": "resnet18", "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
        "state_dict": under("module.encoder_q.", q.state_dict() | {"fc.0.weight": torch.zeros(128, 512)})
        | under("module.encoder_k.", k.state_dict()) | {"module.queue": torch.zeros(128, 64)},
    },
    "swav": lambda q, k: under("module.", q.state_dict() | {"prototypes.weight": torch.zeros(30, 128)}),
    "barlow": lambda q, k: {"model": under("module.backbone.", q.state_dict()), "epoch": 3},
    "dino": lambda q, k: {
        "student": under("module.backbone.", k.state_dict()), "teacher": under("backbone.", q.state_dict()),
        "args": argparse.Namespace(arch="resnet18", lr=0.1),
    },
    "solo-learn": lambda q, k: {
        "state_dict": under("backbone.", q.state_dict()) | under("momentum_backbone.", k.state_dict())
        | {"projector.0.weight": torch.zeros(3, 3)},
    },
    "lightly": lambda q, k: under("backbone.", sequence(q)) | under("backbone_momentum.", sequence(k)),
    "vissl": lambda q, k: {
        "classy_state_dict": {"base_model": {"model": {"trunk": under("_feature_blocks.", q.state_dict()), "heads": {}}}}
    },
    "bare-list": lambda q, k: {"models": [q.state_dict()]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, "timm:resnet18") for kind in CHECKPOINTS]
    + [(kind, name) for kind in ("dino", "lightly") for name in ("resnet18", "torchvision:resnet18")],
)
def test_checkpoints_of_other_codebases(
    kind: str, name: str, resnet: tuple[nn.Module, nn.Module], tmp_path: Path
) -> None:
    torch.save(CHECKPOINTS[kind](*resnet), tmp_path / "theirs.pth")
    lines: list[str] = []
    encoder = selfsight.load(tmp_path / "theirs.pth", encoder=name, image_size=64, log=lines.append)
    with torch.no_grad():
        torch.testing.assert_close(encoder(IMAGES), expected(resnet[0]), rtol=1e-5, atol=1e-5)
    fit = encoder.header["weights"]
    assert fit["matched"] == fit["total"] == 100
    assert not fit["missing"]
    assert "100 of 100 tensors" in lines[0]


def test_files_from_before_torch_1_6(resnet: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    content = {
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(3),
        "model": under("module.", resnet[0].state_dict()),
    }
    torch.save(content, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    encoder = selfsight.load(tmp_path / "old.pth.tar", encoder="resnet18", log=quiet)
    assert encoder.header["weights"]["matched"] == 100


def test_patches_of_14_pixels_and_scaled_layers(tmp_path: Path) -> None:
    """As DINOv2 has them: the file says patch, size, and that layers are scaled."""
    settings: dict[str, Any] = {"img_size": 42, "embed_dim": 192, "num_heads": 3, "depth": 12}
    theirs = trained(timm.create_model("vit_small_patch14_dinov2", num_classes=0, **settings))
    state = under("backbone.", theirs.state_dict()) | {"backbone.mask_token": torch.zeros(1, 192)}
    torch.save({"teacher": state | {"dino_head.mlp.0.weight": torch.zeros(4)}}, tmp_path / "dinov2.pth")
    ours: Any = selfsight.load(tmp_path / "dinov2.pth", encoder="vit-tiny", log=quiet)
    assert (ours.header["image_size"], ours.net.patch) == (42, 14)
    assert not ours.header["weights"]["missing"]
    images = torch.rand(2, 3, 42, 42)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), expected(theirs, images), rtol=1e-5, atol=1e-5)


def test_a_prefix_chooses_the_other_copy(resnet: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    torch.save(CHECKPOINTS["dino"](*resnet), tmp_path / "dino.pth")
    load = lambda prefix: selfsight.load(
        "timm:resnet18", weights=tmp_path / "dino.pth", prefix=prefix, image_size=64, log=quiet
    )
    with torch.no_grad():
        torch.testing.assert_close(load("student.")(IMAGES), expected(resnet[1]), rtol=1e-5, atol=1e-5)
    with pytest.raises(WrongUse, match=r"nothing in .* is called 'pupil.'...: it has student \(\d+\), teacher \(\d+\)"):
        load("pupil.")


def test_what_is_missing_and_left_out_is_told(resnet: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    state = {k: v for k, v in resnet[0].state_dict().items() if not k.startswith("layer4.1.bn2")}
    save_file(under("net.", {**state, "head.weight": torch.zeros(2)}), tmp_path / "w.safetensors")
    lines: list[str] = []
    found = selfsight.load("timm:resnet18", weights=tmp_path / "w.safetensors", log=lines.append).header["weights"]
    assert found["prefix"] == "net."
    assert sorted(found["missing"]) == [f"layer4.1.bn2.{k}" for k in ("bias", "running_mean", "running_var", "weight")]
    assert found["left_out"] == {"net.head": 1}
    assert "96 of 100 tensors under 'net.'; MISSING, so random: layer4.1.bn2" in lines[0]


def test_transformers_take_size_patch_and_positions_from_the_file(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"img_size": 48, "patch_size": 16, "embed_dim": 192, "num_heads": 3, "depth": 12}
    theirs = trained(timm.create_model("vit_tiny_patch16_224", num_classes=0, **settings))
    state = {"model": under("encoder.", theirs.state_dict()), "decoder_embed.weight": torch.zeros(2)}
    torch.save(state, tmp_path / "mae.pth")
    small = torch.rand(2, 3, 48, 48)
    ours: Any = selfsight.load(tmp_path / "mae.pth", encoder="vit-tiny", log=quiet)
    assert (ours.header["image_size"], ours.net.patch) == (48, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(small), expected(theirs, small), rtol=1e-5, atol=1e-5)
    # timm's own is made for 224 px: positions are resized to it, or by image_size not at all
    same: Any = selfsight.load("timm:vit_tiny_patch16_224", weights=tmp_path / "mae.pth", image_size=48, log=quiet)
    large: Any = selfsight.load("timm:vit_tiny_patch16_224", weights=tmp_path / "mae.pth", log=quiet)
    with torch.no_grad():
        torch.testing.assert_close(same(small), _half(theirs, small), rtol=1e-5, atol=1e-5)
    assert large.net.pos_embed.shape == (1, 197, 192)
    torch.testing.assert_close(large.net.pos_embed[:, 0], theirs.get_parameter("pos_embed")[:, 0])
    pooled: Any = selfsight.load(tmp_path / "mae.pth", encoder="vit-tiny", settings={"pool": "mean"}, log=quiet)
    assert pooled.net.pooling == "mean"


def _half(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """timm normalises this transformer by 0.5."""
    with torch.no_grad():
        return net((images - 0.5) / 0.5)


def test_timm_says_size_and_normalisation(tmp_path: Path) -> None:
    encoder = selfsight.load("timm:vit_small_patch16_224.dino", weights="random", log=quiet)
    assert encoder.header["image_size"] == 224
    assert encoder.dim == 384
    assert encoder.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert selfsight.load("timm:vit_tiny_patch16_224", weights="random", log=quiet).std.flatten().tolist() == [0.5] * 3
    one = [selfsight.load("timm:resnet10t", weights="random", seed=seed, log=quiet)(IMAGES) for seed in (3, 3, 4)]
    assert torch.equal(one[0], one[1])
    assert not torch.equal(one[0], one[2])


@pytest.mark.parametrize(
    ("given", "mean", "std"),
    [
        ("none", [0.0] * 3, [1.0] * 3),
        ("cifar10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        ("0.5/0.25", [0.5] * 3, [0.25] * 3),
        ("0.1,0.2,0.3/0.4,0.5,0.6", [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]),
    ],
)
def test_normalisation_by_choice(given: str, mean: list[float], std: list[float]) -> None:
    encoder = selfsight.load("timm:resnet10t", weights="random", normalise=given, log=quiet)
    assert encoder.mean.flatten().tolist() == pytest.approx(mean)
    assert encoder.std.flatten().tolist() == pytest.approx(std)


def test_small_stems_are_seen(tmp_path: Path) -> None:
    theirs = trained(encoders.build("resnet18", 3, 32))
    torch.save({"state_dict": under("backbone.", theirs.state_dict())}, tmp_path / "cifar.ckpt")
    encoder = selfsight.load(tmp_path / "cifar.ckpt", encoder="resnet18", log=quiet)
    assert encoder.header["image_size"] == 32
    small = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(small), expected(theirs, small))
    with pytest.raises(
        WrongUse, match=r"holds 77 of the 265 .*weight is \(64, 64, 3, 3\) there, \(64, 64, 1, 1\) in the network"
    ):
        selfsight.load(tmp_path / "cifar.ckpt", encoder="resnet50", log=quiet)


def test_files_with_settings_of_unknown_classes_run_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet: tuple[nn.Module, nn.Module]
) -> None:
    module = types.ModuleType("theirpackage")

    class Config:
        def __init__(self) -> None:
            self.lr, self.sub = 0.1, {"a": np.float64(3.0)}

        def __setstate__(self, state: Any) -> None:
            raise AssertionError("code of the file's classes was run")

    Config.__module__, Config.__qualname__ = "theirpackage", "Config"
    module.Config = Config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "theirpackage", module)
    torch.save({"hyper_parameters": Config(), "state_dict": resnet[0].state_dict()}, tmp_path / "lightning.ckpt")
    encoder = selfsight.load(tmp_path / "lightning.ckpt", encoder="resnet18", log=quiet)
    assert encoder.header["weights"]["matched"] == 100

    class Evil:
        def __reduce__(self) -> Any:
            return (exec, (f"open({str(tmp_path / 'owned')!r}, 'w')",))

    torch.save({"state_dict": resnet[0].state_dict(), "x": Evil()}, tmp_path / "evil.pth")
    selfsight.load(tmp_path / "evil.pth", encoder="resnet18", log=quiet)  # the tensors are there, the call is not made
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"x": Evil()}))
    with pytest.raises(WrongUse, match=r"would run code when opened|no tensors"):
        selfsight.load(tmp_path / "pickle.pth", encoder="resnet18", log=quiet)
    assert not (tmp_path / "owned").exists()
    torch.save(resnet[0], tmp_path / "module.pth")
    with pytest.raises(WrongUse, match=r"state_dict"):
        selfsight.load(tmp_path / "module.pth", encoder="resnet18", log=quiet)


def test_folders_as_the_hub_has_them(tmp_path: Path) -> None:
    theirs: Any = trained(timm.create_model("resnet10t", num_classes=5))
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(theirs.state_dict(), folder / "model.safetensors")
    cfg = {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    (folder / "config.json").write_text(
        json.dumps({"architecture": "resnet10t", "num_classes": 5, "pretrained_cfg": cfg})
    )
    encoder = selfsight.load(folder, log=quiet)
    assert encoder.header["image_size"] == 96
    images = torch.rand(2, 3, 96, 96)
    theirs.reset_classifier(0)
    with torch.no_grad():
        ours = theirs((images - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / 0.5)
        torch.testing.assert_close(encoder(images), ours)
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(WrongUse, match="names no architecture of timm"):
        selfsight.load(folder)


def test_our_own_exports_are_not_foreign(tmp_path: Path) -> None:
    selfsight.pretrain("simclr", recipe="tiny", steps=2, out=tmp_path / "run", quiet=True)
    for format in ("safetensors", "huggingface"):
        assert not external.is_foreign(formats.export(tmp_path / "run", format))
    for path in (tmp_path / "run", tmp_path / "run/checkpoints/last.pt", tmp_path / "run/encoder.safetensors"):
        assert not external.is_foreign(path)
    with pytest.raises(WrongUse, match="is selfsight's own"):
        selfsight.load(tmp_path / "run", weights="w.pth")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled pictures: two classes that any network tells apart by colour."""
    folder = tmp_path_factory.mktemp("desk")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for c, name in enumerate(("blue", "red")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (40, 40, 3)).astype(np.uint8)
                pixels[..., 2 * (1 - c)] += 180
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert cli.run([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("ending", [".npz", ".npy", ".csv", ".parquet"])
def test_features_of_a_foreign_encoder_are_stored_and_probed(
    ending: str, desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """X08 and E12, from the command line."""
    save_file(trained(timm.create_model("resnet10t", num_classes=3)).state_dict(), tmp_path / "w.safetensors")
    named = ["timm:resnet10t", "--weights", str(tmp_path / "w.safetensors"), "--image-size", "32"]
    for part in ("train", "test"):
        told = run(capsys, "embed", *named, "--data", str(desk / part), "--out", str(tmp_path / f"{part}{ending}"))
        assert told["dim"] == 512
        assert told["labels"]
    files = [str(tmp_path / f"{part}{ending}") for part in ("train", "test")]
    stored = run(capsys, "evaluate", files[0], "--test", files[1], "--protocols", "knn,ridge")
    assert stored["knn"]["top1"] == 1.0
    asked = ["--train", str(desk / "train"), "--test", str(desk / "test"), "--protocols", "knn,ridge"]
    found = run(capsys, "evaluate", *named, *asked)
    assert found["ridge"]["top1"] == stored["ridge"]["top1"]
    assert found["knn"]["encoder"] == "timm:resnet10t"
    assert found["knn"]["weights"]["file"] == "w.safetensors"
    own = external.load(named[0], weights=named[2], image_size=32, log=quiet)
    assert selfsight.evaluate(own, train=asked[1], test=asked[3], protocols=["knn"])["knn"]["top1"] == 1.0


def test_other_forms_of_the_command(desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--train", str(desk / "train"), "--test", str(desk / "test"), "--protocols", "knn"]
    theirs = trained(encoders.build("resnet18", 3, 32))
    torch.save(under("encoder_q.", theirs.state_dict()), tmp_path / "q.pth")
    found = run(capsys, "evaluate", str(tmp_path / "q.pth"), "--encoder", "resnet18", *data)
    assert found["knn"]["image_size"] == 32
    assert found["knn"]["weights"]["prefix"] == "encoder_q."
    same = run(capsys, "evaluate", "resnet18", "--weights", str(tmp_path / "q.pth"), *data)
    assert same["knn"]["top1"] == found["knn"]["top1"]
    found = run(capsys, "evaluate", "torchvision:resnet18", "--weights", "random", "--image-size", "32", *data)
    assert found["knn"]["weights"] == {"file": "random"}
    found = run(capsys, "evaluate", "random", "--encoder", "fastnet-tiny", "--image-size", "32", *data)
    assert "weights" not in found["knn"]


REFUSED = {
    "evaluate timm:resnet10t --train t": "needs --weights FILE (nothing is downloaded), or --weights random",
    "evaluate timm:vit_small_patch16_dino --weights random --train t": "Perhaps you meant 'vit_small_patch16",
    "evaluate torchvision:resnet19 --weights random --train t": "Perhaps you meant 'resnet1",
    "evaluate timm:resnet10t --weights nothing.pth --train t": "no file of weights at 'nothing.pth'",
    "evaluate w.pth --train t": "name their network, --encoder resnet50, timm:NAME or torchvision:NAME",
    "evaluate w.pth --encoder resnet18 --train t": "holds 0 of the 100 tensors of resnet18",
    "evaluate timm:resnet10t --weights random --net 'colour: 3' --train t": "cannot be made with --net",
    "evaluate resnet18 --weights random --net 'stemm: small' --train t": "Perhaps you meant 'stem'",
    "evaluate timm:resnet10t --weights random --normalise nearly --train t": "write none, cifar10",
    "evaluate timm:vit_tiny_patch16_224 --weights random --image-size 40 --train t": "40 px",
    "evaluate pixels --weights w.pth --train t": "leave out --weights",
    "evaluate timm:resnet10t --weights random --features projector --train t": "has no projector",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    monkeypatch.chdir(tmp_path)
    torch.save({"a.weight": torch.zeros(2)}, "w.pth")
    assert cli.run(shlex.split(line)) == 2
    told = capsys.readouterr().err
    assert REFUSED[line] in told
    assert "Traceback" not in told
