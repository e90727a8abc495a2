"""Features from files, arrays and the two moons go through the protocols as those of an encoder do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import selfsight
from selfsight import cli
from selfsight.errors import WrongUse
from selfsight.evaluate import PROTOCOLS, stored


def clusters(count: int, seed: int, dim: int = 6, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Rows around one centre a class, overlapping."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(classes, dim))
    labels = rng.permutation(count) % classes
    return (centres[labels] + 0.8 * rng.normal(size=(count, dim))).astype(np.float32), labels


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    for name, count, seed in (("train", 90, 0), ("test", 30, 1)):
        features, labels = clusters(count, seed)
        np.savez(tmp_path / f"{name}.npz", features=features, labels=labels)
    return tmp_path


def test_a_file_gives_what_its_arrays_give(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["features", "--train", f"{desk}/train.npz", "--test", f"{desk}/test.npz", "--protocols", "knn,ridge,linear"]
    assert cli.run(["evaluate", *line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (x, y), (x2, y2) = clusters(90, 0), clusters(30, 1)
    for name in ("knn", "ridge", "linear"):
        train, labels, test, test_labels = (torch.from_numpy(a) for a in (x, y, x2, y2))
        direct = PROTOCOLS[name](train, labels, test, test_labels, 3)
        assert found[name]["top1"] == direct["top1"]
        assert 0.5 < found[name]["top1"] < 1
        facts = {key: found[name][key] for key in ("train", "test", "features", "dim", "classes")}
        assert facts == {
            "train": f"{desk}/train.npz (train, 90)", "test": f"{desk}/test.npz (test, 30)", "features": "stored",
            "dim": 6, "classes": 3,
        }  # fmt: skip
    assert cli.run(["evaluate", *line]) == 0
    assert "stored" in capsys.readouterr().out
    arrays = [stored.from_arrays(*part) for part in ((x, y), (x2, y2))]
    again: Any = selfsight.evaluate("features", train=arrays[0], test=arrays[1], protocols=["knn"])
    assert again["knn"]["top1"] == found["knn"]["top1"]


def test_one_file_of_both_parts_and_the_hold_out(desk: Path) -> None:
    (x, y), (x2, y2) = clusters(90, 0), clusters(30, 1)
    np.savez(desk / "both.npz", features=x, labels=y, test_features=x2, test_labels=y2)
    both = selfsight.evaluate("features", train=f"{desk}/both.npz", protocols=["knn"])["knn"]
    two = selfsight.evaluate("features", train=f"{desk}/train.npz", test=f"{desk}/test.npz", protocols=["knn"])["knn"]
    assert both["top1"] == two["top1"]
    assert both["test"] == f"{desk}/both.npz (test, 30)"
    held = [
        selfsight.evaluate("features", train=f"{desk}/train.npz", protocols=["knn"], seed=seed)["knn"]
        for seed in (0, 0, 1)
    ]
    assert [h["test"] for h in held] == [f"{desk}/train.npz (holdout, 9)"] * 3
    assert held[0] == held[1]
    data = stored.load(f"{desk}/train.npz")
    kept, asked, _ = stored.parts(data, None, 0)
    rows = {tuple(row) for row in data.features.tolist()}
    assert {tuple(row) for row in kept.features.tolist()} | {tuple(row) for row in asked.features.tolist()} == rows
    assert sorted(asked.labels) == ["0"] * 3 + ["1"] * 3 + ["2"] * 3


def test_what_embed_writes_is_read(tmp_path: Path) -> None:
    """Names of classes, and rows without a label."""
    from selfsight.api import Embedded, write_features

    x, y = clusters(40, 0)
    y[:10] = -1
    made = Embedded(x, y, None, np.arange(40), ["cat", "dog", "horse"])
    write_features(tmp_path / "a.npz", made)
    data = stored.load(str(tmp_path / "a.npz"))
    assert np.array_equal(data.features.numpy(), x[10:])
    assert data.labels == [["cat", "dog", "horse"][k] for k in y[10:]]
    assert data.classes == ["cat", "dog", "horse"]


def test_classes_are_matched_by_name() -> None:
    """Numbers in the order of numbers, and other numbers of the same names in a second file."""
    x, y = clusters(60, 0)
    names = np.array(["2", "10", "1"])
    train, other = stored.from_arrays(x, names[y]), stored.from_arrays(x, y, classes=names.tolist())
    assert train.classes == other.classes == ["1", "2", "10"]
    turned = stored.from_arrays(x, 2 - y, classes=names[::-1].tolist())
    found = stored.evaluate(train, turned, ["knn"], 0)["knn"]
    assert found["top1"] == stored.evaluate(train, train, ["knn"], 0)["knn"]["top1"] > 0.6
    part = turned.rows(torch.arange(60)[torch.tensor([name == "10" for name in turned.labels])])
    assert stored.evaluate(train, part, ["knn"], 0)["knn"]["classes"] == 3  # a class may be missing in the test part


def test_two_moons() -> None:
    data = stored.load("two-moons:400:0")
    assert data.features.shape == (400, 2)
    assert data.test is not None
    assert data.test.features.shape == (80, 2)
    upper = torch.tensor([label == "upper" for label in data.labels])
    assert upper.sum() == 200
    centres = torch.where(upper[:, None], torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.5]))
    offset = data.features - centres
    assert torch.allclose(offset.norm(dim=1), torch.ones(400), atol=1e-6)  # half circles of radius 1
    assert (offset[upper, 1] >= 0).all()
    assert (offset[~upper, 1] <= 0).all()
    noisy = stored.load("two-moons")
    assert torch.equal(noisy.features, stored.load("two-moons").features)
    radius = (noisy.features - centres.repeat(3, 1)[:1000]).norm(dim=1) - 1
    assert 0.09 < radius.std() < 0.11
    found = stored.evaluate(noisy, None, ["linear", "ridge"], 0)
    assert 0.8 < found["linear"]["top1"] < 0.95  # no line divides them
    near = torch.cdist(noisy.test.features, noisy.features).argmin(1)  # type: ignore[union-attr]
    agree = [noisy.labels[i] == label for i, label in zip(near.tolist(), noisy.test.labels)]  # type: ignore[union-attr]
    assert np.mean(agree) > 0.98  # but they do not overlap


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "say which features: evaluate features --train FILE.npz"),
        ({"train": "nowhere.npz"}, "is no file of features; give a .npz with features and labels"),
        ({"train": "cifar10"}, "cifar10 is no file of features"),
        ({"train": "{}/broken.npz"}, "cannot be read as arrays"),
        ({"train": "{}/pictures.npz"}, "holds x, y, no features"),
        ({"train": "{}/bare.npz"}, "holds features, no labels"),
        ({"train": "{}/train.npz", "test": "{}/wide.npz"}, "has 7 features, .*train.npz 6: take both from one encoder"),
        ({"train": "{}/train.npz", "test": "{}/more.npz"}, r"has classes that .* has not \(3, 4\)"),
        ({"train": "{}/nan.npz"}, "1 of 90 rows of features are not finite"),
        ({"train": "{}/short.npz"}, r"labels \(9,\)|labels int64 \(9,\); give N x D numbers"),
        ({"train": "{}/none.npz"}, "no row has a label"),
        ({"train": "{}/names.npz"}, "label 2 is none of the 2 classes"),
        ({"train": "{}/tiny.npz"}, "has 3 rows, too few to hold some out: give --test"),
        ({"train": "two-moons:many"}, "write two-moons, two-moons:COUNT or two-moons:COUNT:NOISE"),
        ({"train": "two-moons:100:0.1:3"}, "write two-moons, two-moons:COUNT or two-moons:COUNT:NOISE"),
        ({"train": "two-moons:3"}, "from 10 to 1000000"),
    ],
)
def test_mistakes_say_what_to_do(desk: Path, given: dict[str, str], message: str) -> None:
    x, y = clusters(90, 0)
    (desk / "broken.npz").write_bytes(b"PK no zip")
    np.savez(desk / "pictures.npz", x=x, y=y)
    np.savez(desk / "bare.npz", features=x)
    np.savez(desk / "wide.npz", features=np.ones((6, 7)), labels=y[:6])
    np.savez(desk / "more.npz", features=x[:5], labels=[0, 1, 2, 3, 4])
    np.savez(desk / "nan.npz", features=np.where(np.arange(540).reshape(90, 6) == 7, np.nan, x), labels=y)
    np.savez(desk / "short.npz", features=x, labels=y[:9])
    np.savez(desk / "none.npz", features=x, labels=np.full(90, -1))
    np.savez(desk / "names.npz", features=x, labels=y, classes=["a", "b"])
    np.savez(desk / "tiny.npz", features=x[:3], labels=y[:3])
    named: dict[str, Any] = {key: value.format(desk) for key, value in given.items()}
    with pytest.raises(WrongUse, match=message) as caught:
        selfsight.evaluate("features", protocols=["knn"], **named)
    assert "\n" not in str(caught.value)


def test_features_given_as_pictures_are_told_where_to_go(desk: Path) -> None:
    from selfsight.data import open_data

    with pytest.raises(WrongUse, match="stored features go to `selfsight evaluate features --train FILE`"):
        open_data(str(desk / "train.npz"))
