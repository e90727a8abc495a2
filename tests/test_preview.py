"""The verb preview: every policy, every method's own views, gray and colour."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfsight import cli
from selfsight.augment import POLICIES, ViewsConfig, build, columns, suits
from selfsight.augment import preview as sheet
from selfsight.augment.sheet import seen
from selfsight.methods import METHODS
from selfsight.preview import preview
from selfsight.rng import Stream, generator

torch.set_num_threads(1)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_shows_its_own_views(method: str, tmp_path: Path) -> None:
    found = preview("shapes:32:64", method=method, out=tmp_path / "a.png", count=3)
    picture, names = read(tmp_path / "a.png"), found["columns"]
    assert names[0] == "picture"
    assert len(names) > 1
    assert picture.shape[0] * len(names) == picture.shape[1] * 3  # square cells
    assert any("hidden" in name or name == "context" for name in names) == (METHODS[method].masked != ())
    assert ("tiles" in names) == METHODS[method].tiled
    cells = picture.reshape(3, picture.shape[0] // 3, len(names), -1, 3).swapaxes(1, 2)
    assert all(cell.std() > 1 for cell in cells.reshape(-1, *cells.shape[2:]))  # none is blank


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_in_colour_and_gray(policy: str) -> None:
    for channels in (3, 1):
        if suits(policy, channels):
            half = torch.full((channels,), 0.5)
            views = build(ViewsConfig(policy=policy, views=3, locals=2), 32, channels, half, half)
            images = torch.randint(0, 256, (2, channels, 40, 36), dtype=torch.uint8)
            grid = sheet(views, images, generator(0, Stream.PROBE, 0))
            assert grid.shape == (channels, 2 * 34, 34 * len(columns(views)))
            assert columns(views)[-2:] == ["small crop 1", "small crop 2"]


def test_hidden_patches_are_gray() -> None:
    x = torch.rand(1, 2, 3, 8, 8) * 0.3
    patches = torch.zeros(1, 2, 16, dtype=torch.bool)
    patches[0, 0, 5] = True  # second row, second column
    shown = seen(x, patches)
    assert torch.equal(shown[0, 0, :, 2:4, 2:4], x[0, 0, :, 2:4, 2:4])
    assert int((shown[0, 0] == 0.5).all(0).sum()) == 64 - 4
    assert (shown[0, 1] == 0.5).all()


def test_the_verb_says_where_and_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "views.png"
    words = ["preview", "shapes:16:64", "--method", "swav", "--policy", "byol", "--count", "2", "--views.locals", "3"]
    assert cli.run([*words, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "out": str(out), "rows": 2, "policy": "byol", "image_size": 16,
        "columns": ["picture", "view 1", "view 2", "small crop 1", "small crop 2", "small crop 3"],
    }  # fmt: skip
    other = [*words, "--out", str(tmp_path / "b.png")]
    assert cli.run(other) == 0
    said = capsys.readouterr().out
    assert "b.png: 2 pictures of 16 px, policy byol" in said
    assert "small crop 3" in said
    assert np.array_equal(read(out), read(tmp_path / "b.png"))  # the seed decides
    assert cli.run([*words, "--out", str(tmp_path / "c.png"), "--seed", "1"]) == 0
    assert not np.array_equal(read(out), read(tmp_path / "c.png"))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_pictures(tmp_path: Path, channels: int) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (30 + i, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("L" if channels == 1 else "RGB").save(tmp_path / "photos" / f"{i}.png")
    found = preview(str(tmp_path / "photos"), out=tmp_path / "a.png", channels=channels)
    assert found["rows"] == 5
    assert read(tmp_path / "a.png").ndim == (2 if channels == 1 else 3)
    assert found["policy"] == ("plain" if channels == 1 else "simclr-cifar")


@pytest.mark.parametrize(
    "words,said",
    [
        ("--out views.jpg", "ends in .png"),
        ("--count 0", "at least one"),
        ("--policy byoll", "Perhaps you meant 'byol'"),
        ("--method byoll", "byol"),
        ("--polcy byol", "--policy"),
        ("--policy byol --views.policy moco-v2", "contradict"),
    ],
)
def test_wrong_use(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["preview", "shapes:16:64", *words.split()]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
