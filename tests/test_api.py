# mypy: disable-error-code="arg-type,union-attr,unused-ignore"
"""The library as a program uses it: own encoders, loading, features of anything, going on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import selfsight
from selfsight import WrongUse, api

pytestmark = pytest.mark.xdist_group("api")
SHORT: dict[str, Any] = {"recipe": "tiny", "quiet": True, "threads": 1, "precision": "fp32"}


class Mine(nn.Module):
    """An encoder that selfsight does not know."""

    dim = 24

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 2)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = selfsight.pretrain("simclr", **SHORT, steps=8, out=tmp_path_factory.mktemp("api") / "run")
    assert result.code == 0
    return result.folder


def mine(out: Path, **changes: Any) -> Any:
    torch.manual_seed(5)
    return selfsight.pretrain("simclr", encoder=Mine(), **SHORT, **{"steps": 6, "out": out, "log_every": 1, **changes})


def test_names_are_there() -> None:
    for name in selfsight.__all__:
        assert getattr(selfsight, name) is not None
    assert set(selfsight.__all__) <= set(dir(selfsight))
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        selfsight.pretrian
    assert callable(selfsight.evaluate)


def test_evaluate_stays_a_function() -> None:
    """A submodule of the same name must not replace it."""
    from selfsight import api as front

    assert selfsight.evaluate is front.evaluate or callable(selfsight.evaluate)


def test_settings_reach_the_run(tmp_path: Path) -> None:
    result = selfsight.pretrain(
        "byol", **SHORT, steps=2, out=tmp_path / "run", seed=3, method_settings={"momentum": 0.5}, optimizer={"lr": 0.2},
        views={"scale": (0.5, 1.0)}, probe={"every": -1},
    )  # fmt: skip
    assert result.code == 0
    found = selfsight.Run
    from selfsight import run as runs

    saved = runs.load(tmp_path / "run/run.yaml")
    assert isinstance(saved, found)
    assert (saved.method.momentum, saved.optimizer.lr, saved.views.scale, saved.seed) == (0.5, 0.2, (0.5, 1.0), 3)
    assert result.summary["steps"] == 2
    assert result.summary["final_loss"] is not None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"method": "simcrl"}, "Perhaps you meant 'simclr'"),
        ({"epoch": 3}, "Perhaps you meant epochs"),
        ({"encoder": "resnet8"}, "Perhaps you meant 'resnet18'"),
        ({"method_settings": {"temprature": 3}}, "Perhaps you meant method.temperature"),
        ({"encoder": nn.Identity()}, "no attribute `dim`"),
        ({"encoder": Mine(), "processes": 2}, "start torchrun yourself"),
        ({"data": 3}, "data: 3 is not text"),
    ],
)
def test_wrong_use_writes_nothing(given: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUse) as error:
        selfsight.pretrain(**{**SHORT, "out": tmp_path / "run", **given})
    assert told in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_load_takes_pictures_in_0_1(run: Path) -> None:
    encoder = selfsight.load(run)
    assert not encoder.training
    assert encoder.dim == 32
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        features = encoder(images)
        bare = encoder.net((images - encoder.mean) / encoder.std)
    assert features.shape == (3, 32)
    assert torch.equal(features, bare)
    assert not torch.allclose(features, encoder.net(images))
    for path in (str(run), run / "encoder.safetensors", run / "checkpoints/last.pt"):
        with torch.no_grad():
            assert torch.equal(selfsight.load(path)(images), features)


def test_embed_takes_folders_paths_pictures_and_arrays(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    paths = []
    for i, array in enumerate(arrays):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(array).save(paths[-1])
    encoder = selfsight.load(run)
    expected = encoder.embed(arrays)
    assert (expected.shape, expected.dtype) == ((5, 32), np.float32)
    with torch.no_grad():
        by_hand = encoder(torch.from_numpy(arrays).permute(0, 3, 1, 2) / 255).numpy()
    assert expected == pytest.approx(by_hand, abs=1e-5)
    others = [tmp_path, str(tmp_path), paths, [str(p) for p in paths], [Image.open(p) for p in paths], list(arrays)]
    for given in others:
        assert encoder.embed(given) == pytest.approx(expected, abs=1e-5)
    met: list[int] = []
    hook = encoder.register_forward_pre_hook(lambda module, args: met.append(len(args[0])))
    assert encoder.embed(arrays, batch_size=2) == pytest.approx(expected, abs=1e-5)
    hook.remove()
    assert max(met) == 2
    assert np.array_equal(selfsight.embed(run, tmp_path).features, encoder.embed(tmp_path))
    assert selfsight.embed(run, tmp_path).paths == [f"{i}.png" for i in range(5)]


def test_embed_leaves_out_what_a_list_says(run: Path, tmp_path: Path) -> None:
    """The others keep their place; without a data set there is nothing that a list could name."""
    for i in range(4):
        Image.new("RGB", (20, 20), (60 * i, 90, 120)).save(tmp_path / f"{i}.png")
    (tmp_path / "list.txt").write_text("2.png\n")
    out = tmp_path / "features.npz"
    words = [str(run), "--data", str(tmp_path), "--exclude", str(tmp_path / "list.txt"), "--out", str(out)]
    from selfsight import cli

    assert cli.run(["embed", *words]) == 0
    found = np.load(out)
    assert found["paths"].tolist() == ["0.png", "1.png", "3.png"]
    assert found["index"].tolist() == [0, 1, 3]
    with pytest.raises(WrongUse, match="names pictures of a data set"):
        api.embed(run, [tmp_path / "0.png"], exclude="list.txt")
    with pytest.raises(WrongUse, match="holds features: leave out --train, --exclude"):
        api.evaluate(str(out), test=str(out), exclude=str(tmp_path / "list.txt"))


def test_embed_writes_nothing_that_is_not_asked(run: Path, tmp_path: Path) -> None:
    found = selfsight.embed(run, "shapes:16:20")
    assert found.features.shape == (20, 32)
    assert found.labels is not None
    assert found.paths is None
    assert list(tmp_path.iterdir()) == []


def test_evaluate_gives_fractions_with_their_protocol(run: Path) -> None:
    found = selfsight.evaluate(run, protocols=["knn", "ridge"])
    assert list(found) == ["knn", "ridge"]
    for numbers in found.values():
        assert 0 <= numbers["top1"] <= 1
        assert {"protocol", "train", "test", "features", "dim", "image_size"} <= numbers.keys()
    json.dumps(found)
    again = selfsight.evaluate(run, protocols=["knn", "ridge"])
    assert found == again


def test_the_random_baseline_follows_its_seed() -> None:
    ask = lambda seed: selfsight.evaluate(
        "random", encoder="fastnet-tiny", train="shapes:16:640", protocols=["knn"], seed=seed
    )["knn"]
    assert ask(1)["top1"] == ask(1)["top1"]
    assert len({ask(seed)["top1"] for seed in (1, 2, 3)}) > 1


def test_an_encoder_of_your_own(tmp_path: Path) -> None:
    result = mine(tmp_path / "run")
    assert result.code == 0
    with pytest.raises(WrongUse, match="your own module"):
        selfsight.load(result.folder)
    encoder = selfsight.load(result.folder, net=Mine())
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    assert encoder.embed(images).shape == (4, 24)
    assert selfsight.embed(encoder, images).features.shape == (4, 24)
    with pytest.raises(WrongUse, match="does not fit"):
        selfsight.load(result.folder, net=Mine(width=12))
    torch.manual_seed(5)
    start = Mine()
    assert not torch.equal(start.conv.weight, encoder.net.conv.weight)  # type: ignore[union-attr]


def test_a_run_with_an_encoder_of_your_own_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mine(tmp_path / "whole")
    from selfsight import watch

    answers = iter([0, 0, 2 * 15])  # a signal arrives during the third step
    monkeypatch.setattr(watch.distributed, "agree", lambda number: next(answers))
    cut = mine(tmp_path / "cut")
    assert (cut.code, cut.summary["steps"]) == (143, 3)
    monkeypatch.undo()
    with pytest.raises(WrongUse, match="own module"):
        selfsight.resume(cut.folder)
    early = tmp_path / "early"  # killed before the first checkpoint
    early.mkdir()
    (early / "run.yaml").write_text((cut.folder / "run.yaml").read_text())
    with pytest.raises(WrongUse, match="own module"):
        selfsight.resume(early)
    done = selfsight.resume(cut.folder, Mine())
    assert (done.code, done.summary["steps"]) == (0, 6)
    assert (done.folder / "encoder.safetensors").read_bytes() == (whole.folder / "encoder.safetensors").read_bytes()
    assert done.summary["final_loss"] == whole.summary["final_loss"]


def test_plan_says_what_would_run() -> None:
    facts = api.plan(api.settings("swav", "tiny", epochs=2))
    assert (facts["steps"], facts["steps_per_epoch"], facts["pictures"]) == (16, 8, 512)
    assert facts["settings"]["epochs"] == 2
    text = api.describe(facts)
    assert "# steps: 16" in text
    assert "name: swav" in text
