# mypy: disable-error-code="union-attr,index,arg-type,operator"
# (an optional field that is None fails the test by itself)
"""SVHN, STL-10, ImageNet, its subsets and the small sets made of it, in the formats of their owners, at toy size."""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from selfsight import api, cli
from selfsight.data import DATASETS, DataSet, arrays, content, open_data
from selfsight.data.spans import Span
from selfsight.data.synsets import SUBSETS
from selfsight.data.synsets import imagenet as all_synsets
from selfsight.errors import WrongUse
from selfsight.recipes import recipe, resolve


def opened(name: str, root: Path, **settings: Any) -> DataSet:
    return open_data(name, root=root, **{"image_size": 16, "holdout": 0, "log": lambda line: None, **settings})


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def of(part: Any) -> torch.Tensor:
    """Every picture (N, C, H, W), taken as training takes them."""
    pixels, sizes = part.gather(torch.arange(len(part)))
    assert sizes is None
    return pixels


# ---- SVHN


def make_svhn(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The .mat files: X (32, 32, 3, N), y (N, 1) with 10 for the digit 0. Part -> pictures (N, 32, 32, 3) and digits."""
    made = {}
    for i, (part, count) in enumerate({"train": 40, "test": 20, "extra": 30}.items()):
        pictures, digits = noise(i, count, 32, 32, 3), np.random.default_rng(i).permutation(count) % 10
        root.mkdir(parents=True, exist_ok=True)
        y = np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]
        savemat(root / f"{part}_32x32.mat", {"X": pictures.transpose(1, 2, 3, 0), "y": y}, do_compression=True)
        made[part] = (pictures, digits)
    return made


@pytest.mark.parametrize("folder", ["svhn", "."])  # ours, and where torchvision puts the files
def test_svhn(tmp_path: Path, folder: str) -> None:
    made = make_svhn(tmp_path / folder)
    data = opened("svhn", tmp_path)
    assert data.classes == [str(digit) for digit in range(10)]
    for part, name in ((data.train, "train"), (data.test, "test")):
        pictures, digits = made[name]
        assert part.labels.tolist() == digits.tolist()
        assert np.array_equal(of(part).permute(0, 2, 3, 1).numpy(), pictures)
    assert torch.allclose(data.mean, torch.tensor([0.4377, 0.4438, 0.4728]))
    assert torch.allclose(data.std, torch.tensor([0.1980, 0.2010, 0.1970]))


@pytest.mark.parametrize("cache", ["auto", "memory"])
def test_the_extra_part_of_svhn_is_there_to_train_on(
    tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_LARGE", 1)  # the user is told what takes a while
    made, lines = make_svhn(tmp_path / "svhn"), list[str]()
    for _ in range(2):  # the second time from the cache
        data = opened("svhn:extra", tmp_path, cache=cache, log=lines.append)
        pictures = np.concatenate([made["train"][0], made["extra"][0]])
        assert np.array_equal(of(data.train).permute(0, 2, 3, 1).numpy(), pictures)
        assert data.train.labels.tolist() == [*made["train"][1], *made["extra"][1]]
        assert len(data.test) == 20
        x = pictures.astype(np.float64) / 255  # published numbers are of the training part alone
        assert np.allclose(data.mean, x.mean((0, 1, 2)), atol=1e-5)
    assert len(list((tmp_path / "store").glob("svhn-*"))) == (2 if cache == "auto" else 0)  # and its lock
    assert len([line for line in lines if line.endswith(", once")]) == (1 if cache == "auto" else 0)
    assert data.fingerprint != opened("svhn", tmp_path).fingerprint


def test_damaged_files_of_svhn(tmp_path: Path) -> None:
    make_svhn(tmp_path / "svhn")
    file = tmp_path / "svhn" / "test_32x32.mat"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WrongUse, match=r"test_32x32\.mat is damaged"):
        opened("svhn", tmp_path)
    savemat(file, {"X": noise(0, 8, 8, 3, 4), "y": np.ones((4, 1))})
    with pytest.raises(WrongUse, match=r"X is \(8, 8, 3, 4\), not \(32, 32, 3, pictures\)"):
        opened("svhn", tmp_path)
    savemat(file, {"X": noise(0, 32, 32, 3, 4), "y": np.ones((5, 1))})
    with pytest.raises(WrongUse, match="not one label for each picture"):
        opened("svhn", tmp_path)


def test_digits_are_not_mirrored_and_not_cropped(tmp_path: Path) -> None:
    """Views of SVHN by themselves: the set asks for a policy, whoever names one gets it, and the user is told."""
    make_svhn(tmp_path / "svhn")
    assert opened("svhn", tmp_path).policy == opened("svhn:extra", tmp_path).policy == "svhn"
    assert opened("shapes:16:100", tmp_path).policy == ""
    plan = api.plan(api.settings("simclr", data="svhn", data_root=str(tmp_path), batch_size=16, holdout=0.0))
    assert plan["settings"]["views"]["policy"] == "svhn"
    assert "policy svhn: svhn asks for it in place of simclr-cifar" in plan["choices"]
    named = api.settings("simclr", data="svhn", data_root=str(tmp_path), batch_size=16, views={"policy": "byol"})
    assert api.plan(named)["settings"]["views"]["policy"] == "byol"
    facts: dict[str, Any] = {"pictures": 500, "image_size": 32, "cuda": False, "policy_of_data": "svhn"}
    masked, _ = resolve(recipe("mae", "any"), channels=3, **facts)
    assert masked.views.policy == "mae"  # which has no colours to give up
    gray, _ = resolve(recipe("simclr", "any"), channels=1, **facts)
    assert gray.views.policy == "plain"


# ---- STL-10

BIRDS = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def make_stl10(root: Path) -> dict[str, np.ndarray]:
    """The binary files: each picture channel by channel, each channel column by column. Part -> (N, 96, 96, 3)."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for i, (part, count) in enumerate({"train": 20, "test": 10, "unlabeled": 30}.items()):
        made[part] = noise(i, count, 96, 96, 3)
        made[part].transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            (np.arange(count, dtype=np.uint8) % 10 + 1).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(BIRDS) + "\n")
    return made


def test_stl10_trains_on_pictures_with_and_without_labels(tmp_path: Path) -> None:
    made = make_stl10(tmp_path)
    for cache in ("memory", "auto", "auto"):  # the last one finds the file of the one before
        data = opened("stl10", tmp_path, cache=cache, image_size=0)
        both = np.concatenate([made["train"], made["unlabeled"]])
        assert np.array_equal(of(data.train).permute(0, 2, 3, 1).numpy(), both)
        assert data.train.labels.tolist() == [*[i % 10 for i in range(20)], *[-1] * 30]
        assert np.array_equal(of(data.test).permute(0, 2, 3, 1).numpy(), made["test"])
        assert data.test.labels.tolist() == list(range(10))
    assert data.classes == BIRDS == list(DATASETS["stl10"].classes)
    assert data.image_size == 96
    assert data.train.labelled().tolist() == list(range(20))


@pytest.mark.parametrize("name", ["train", "unlabeled"])
def test_one_kind_of_stl10(tmp_path: Path, name: str) -> None:
    made = make_stl10(tmp_path)
    data = opened(f"stl10:{name}", tmp_path)
    assert np.array_equal(of(data.train).permute(0, 2, 3, 1).numpy(), made[name])
    assert (data.train.labels is None) == (name == "unlabeled")
    assert len(data.test) == 10
    assert any("stl10:train has some" in line for line in data.choices) == (name == "unlabeled")


def test_labels_are_asked_where_there_are_some(tmp_path: Path) -> None:
    """Hold-out, subsets, k-NN and evaluation: of pictures with labels; training: of all."""
    make_stl10(tmp_path)
    data = opened("stl10", tmp_path, holdout=None)
    assert len(data.holdout) == 2  # a tenth of 20
    assert (data.holdout.labels >= 0).all()
    assert len(data.train) == 48
    assert (data.train.labels < 0).sum() == 30
    few = opened("stl10", tmp_path, per_class=1)
    assert sorted(few.train.labels.tolist()) == list(range(10))
    half = opened("stl10", tmp_path, fraction=0.5)
    assert (half.train.labels < 0).sum() == 15
    words = ["simclr", "--recipe", "tiny", "--data", "stl10", "--data-root", str(tmp_path), "--image-size", "16"]
    words += ["--batch-size", "16", "--holdout", "10", "--steps", "2", "--quiet", "--out", str(tmp_path / "run")]
    assert cli.run(["pretrain", *words]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    knn = [line["knn"] for line in lines if "knn" in line][-1]
    assert (knn["bank"], knn["queries"]) == (10, 10)
    assert "green frame: same class" in (tmp_path / "run" / "report.html").read_text().lower()
    found = api.evaluate(tmp_path / "run", protocols=["knn"])
    assert found["knn"]["train"] == "stl10 (train, 10)"
    assert found["knn"]["test"] == "stl10 (test, 10)"
    with pytest.raises(WrongUse, match="learns from labels, and pictures of 'stl10' have none"):
        api.pretrain(
            "supcon", recipe="tiny", data="stl10", data_root=str(tmp_path), image_size=16, batch_size=16, holdout=10
        )


def test_damaged_files_of_stl10(tmp_path: Path) -> None:
    make_stl10(tmp_path)
    folder = tmp_path / "stl10_binary"
    (folder / "test_y.bin").write_bytes(b"\x01" * 9)
    with pytest.raises(WrongUse, match=r"test_y\.bin does not have a class for each picture"):
        opened("stl10", tmp_path)
    (folder / "test_y.bin").write_bytes(b"\x0b" * 10)
    with pytest.raises(WrongUse, match=r"test_y\.bin does not have a class for each picture"):
        opened("stl10", tmp_path)
    (folder / "test_X.bin").write_bytes(b"\x01" * 1000)
    with pytest.raises(WrongUse, match=r"1000 bytes are no pictures of 27648"):
        opened("stl10", tmp_path)


def test_an_archive_that_is_there_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the right checksum, and without a network; another one is not touched."""
    from torchvision.datasets import STL10

    make_stl10(tmp_path / "made")
    archive = tmp_path / "stl10_binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "stl10_binary", "stl10_binary")
    with pytest.raises(WrongUse, match="STL-10 is not there"):
        opened("stl10", tmp_path)
    monkeypatch.setattr(STL10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(opened("stl10", tmp_path).train) == 50


# ---- ImageNet


def jpeg(file: Path, number: int, size: tuple[int, int] = (20, 18)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(number, size[1], size[0], 3)).save(file, "JPEG")


def make_imagenet(parts: Path, wanted: tuple[str, ...], val: str = "folders") -> dict[str, str]:
    """train/SYNSET/*.JPEG with two pictures each, val/ with one, flat or by folders. Name of the val picture -> synset."""
    truth = {}
    order = np.random.default_rng(0).permutation(len(wanted))
    for i, k in enumerate(order.tolist()):
        synset, name = wanted[k], f"ILSVRC2012_val_{i + 1:08}.JPEG"
        for j in (10026, 9):
            jpeg(parts / "train" / synset / f"{synset}_{j}.JPEG", 3 * i + j % 2)
        jpeg(parts / "val" / (synset if val == "folders" else "") / name, 1000 + i)
        truth[name] = synset
    return truth


def named(data: DataSet, part: Any) -> dict[str, str]:
    """Name of the file -> synset of its label."""
    return {p.split("/")[-1]: data.classes[k].split()[0] for p, k in zip(part.paths, part.labels.tolist(), strict=True)}


TEN = SUBSETS["imagenet50"][:10]


def write_csv(parts: Path, base: Path, truth: dict[str, str]) -> None:
    rows = [f"{name[:-5]},{synset} 85 1 499 272 n02123394 1 2 3 4 " for name, synset in reversed(truth.items())]
    (base / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")


def write_devkit(parts: Path, base: Path, truth: dict[str, str]) -> None:
    """meta.mat has the ids in an order of their own, and nodes above the classes."""
    synsets = [*sorted(set(truth.values()), reverse=True), "n00001740"]
    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    table = np.empty((len(synsets), 1), dtype=np.dtype([(name, object) for name in names]))
    for i, synset in enumerate(synsets):
        table[i, 0] = (i + 1, synset, "a, b", "c", int(synset == "n00001740"), np.zeros((1, 0)), 0, 2)
    data = base / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    savemat(data / "meta.mat", {"synsets": table})
    lines = [str(synsets.index(synset) + 1) for _, synset in sorted(truth.items())]
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(lines) + "\n")


def write_numbers(parts: Path, base: Path, truth: dict[str, str]) -> None:
    """A place among all 1000 synsets."""
    order = list(all_synsets())
    (parts / "val.txt").write_text("".join(f"{name} {order.index(synset)}\n" for name, synset in truth.items()))


def write_synsets(parts: Path, base: Path, truth: dict[str, str]) -> None:
    (base / "val.txt").write_text("".join(f"{name}\t{synset}\n" for name, synset in truth.items()))


@pytest.fixture
def ten_classes(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A subset small enough for many trees."""
    monkeypatch.setitem(SUBSETS, "imagenet50", TEN)
    return TEN


@pytest.mark.parametrize(
    "folder", ["imagenet", "ILSVRC2012", "imagenet/ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC", "."]
)
def test_layouts_of_imagenet(tmp_path: Path, ten_classes: tuple[str, ...], folder: str) -> None:
    truth = make_imagenet(tmp_path / folder, ten_classes)
    jpeg(tmp_path / folder / "train" / "n99999999" / "n99999999_1.JPEG", 0)  # of no class of the set
    (tmp_path / folder / "train" / ten_classes[0] / "notes.txt").write_text("no picture")
    data = opened("imagenet50", tmp_path)
    assert [name.split()[0] for name in data.classes] == sorted(ten_classes)  # the number is the place among them
    assert named(data, data.test) == truth
    assert all(name.split("_")[0] == synset for name, synset in named(data, data.train).items())
    assert data.train.labels.bincount().tolist() == [2] * 10
    first = ten_classes[0]
    assert data.train.paths[:2] == [f"train/{first}/{first}_{j}.JPEG" for j in (10026, 9)]
    want = np.array(Image.open(tmp_path / folder / data.train.paths[1]))
    assert np.array_equal(of(data.train)[1].permute(1, 2, 0).numpy(), want)
    assert torch.allclose(data.mean, torch.tensor([0.485, 0.456, 0.406]))


@pytest.mark.parametrize("write", [write_csv, write_devkit, write_numbers, write_synsets])
@pytest.mark.parametrize("inside", ["", "ILSVRC/Data/CLS-LOC"])
def test_a_flat_validation_part_and_its_lists(
    tmp_path: Path, ten_classes: tuple[str, ...], write: Callable[[Path, Path, dict[str, str]], None], inside: str
) -> None:
    base = tmp_path / "imagenet"
    truth = make_imagenet(base / inside, ten_classes, val="flat")
    data = opened("imagenet50", tmp_path)
    assert data.test is None
    assert any("no test part" in line and "LOC_val_solution.csv" in line for line in data.choices)
    write(base / inside, base, truth)
    data = opened("imagenet50", tmp_path)
    assert named(data, data.test) == truth
    assert any(line.startswith("classes of val/: from ") for line in data.choices)


def test_lists_that_do_not_fit(tmp_path: Path, ten_classes: tuple[str, ...]) -> None:
    base = tmp_path / "imagenet"
    truth = make_imagenet(base, ten_classes, val="flat")
    (base / "val.txt").write_text("ILSVRC2012_val_00000001 50000\n")
    with pytest.raises(WrongUse, match=r"shows '50000', which is no synset and no number from 0 to 999"):
        opened("imagenet50", tmp_path)
    (base / "val.txt").write_text("ILSVRC2012_val_00000001\n")
    with pytest.raises(WrongUse, match="line 1 has 1 columns, not 2"):
        opened("imagenet50", tmp_path)
    some = dict(list(truth.items())[:7])
    write_synsets(base, base, {**some, list(truth)[7]: "n99999999"})  # a class of another subset
    data = opened("imagenet50", tmp_path)
    assert named(data, data.test) == some
    assert any("2 of 10 pictures in val/ are not in val.txt: left out" in line for line in data.choices)
    write_devkit(base, base, truth)
    numbers = base / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"
    numbers.write_text("1\n77\n")
    with pytest.raises(WrongUse, match="are not of one set"):
        opened("imagenet50", tmp_path)


@pytest.fixture(scope="module")
def subsets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All classes of imagenet200, for all subsets."""
    root = tmp_path_factory.mktemp("subsets")
    make_imagenet(root / "imagenet", SUBSETS["imagenet200"])
    return root


def test_subsets_are_parts_of_one_tree(subsets: Path) -> None:
    found = {count: opened(f"imagenet{count}", subsets) for count in (50, 100, 200)}
    for count, data in found.items():
        assert len(data.classes) == count == len(SUBSETS[f"imagenet{count}"])
        assert data.train.labels.bincount().tolist() == [2] * count
        assert sorted(data.test.labels.tolist()) == list(range(count))
        assert list(SUBSETS[f"imagenet{count}"]) == sorted(set(SUBSETS[f"imagenet{count}"]))
    assert set(found[50].classes) < set(found[100].classes) < set(found[200].classes)
    assert set(found[50].train.paths) < set(found[100].train.paths) < set(found[200].train.paths)
    for synset in SUBSETS["imagenet200"]:
        assert synset in all_synsets()
    with pytest.raises(
        WrongUse, match=r"200 of the 1000 classes of imagenet; missing are n01440764 tench, .* 795 more"
    ):
        opened("imagenet", subsets)
    kept = opened("imagenet50", subsets, cache="memory")  # row D10: preload
    assert any("100 pictures kept in memory" in line for line in kept.choices)
    again = opened("imagenet50", subsets, cache="off", workers=0)
    assert kept.fingerprint == again.fingerprint


def test_a_whole_imagenet(tmp_path: Path) -> None:
    """All 1000 folders: one picture each is enough to number them."""
    picture = tmp_path / "one.JPEG"
    jpeg(picture, 0)
    for synset in all_synsets():
        for part in ("train", "val"):
            (tmp_path / "imagenet" / part / synset).mkdir(parents=True)
            (tmp_path / "imagenet" / part / synset / f"{synset}_1.JPEG").hardlink_to(picture)
    data = opened("imagenet", tmp_path, cache="off", workers=0)
    assert len(data.classes) == len(set(data.classes)) == 1000
    assert data.classes[:2] == ["n01440764 tench", "n01443537 goldfish"]
    assert data.train.labels.tolist() == data.test.labels.tolist() == list(range(1000))


def test_missing_classes_are_named(subsets: Path, tmp_path: Path) -> None:
    wanted = SUBSETS["imagenet50"]
    for part in ("train", "val"):
        (tmp_path / "imagenet" / part).mkdir(parents=True)
        for synset in wanted[3:]:
            (tmp_path / "imagenet" / part / synset).symlink_to(subsets / "imagenet" / part / synset)
    (tmp_path / "imagenet" / "train" / wanted[0]).mkdir()  # without a picture
    data = opened("imagenet50", tmp_path)
    names = ", ".join(f"{synset} {all_synsets()[synset]}" for synset in wanted[:3])
    for part in ("train", "val"):
        assert f"3 of 50 classes are missing in {part}/: {names}" in data.choices
    assert len(data.classes) == 50
    assert data.train.labels.min() == 3  # the others keep their numbers
    assert named(data, data.test).keys() == {f.name for f in (tmp_path / "imagenet" / "val").glob("*/*")}
    for synset in wanted[3:30]:
        (tmp_path / "imagenet" / "train" / synset).unlink()
    with pytest.raises(
        WrongUse, match=r"has pictures of 20 of the 50 classes of imagenet50; missing are n.* and 25 more\."
    ):
        opened("imagenet50", tmp_path)


def test_a_large_set_is_hashed_by_a_sample(subsets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted((subsets / "imagenet" / "train").glob("*/*"))[:20]
    names = [path.name for path in paths]
    whole = content.content_of_files(names, paths)
    monkeypatch.setattr(content, "_READ", 7)  # every third is read
    part = content.content_of_files(names, paths)
    assert part != whole
    read: list[str] = []
    ends = Span.ends

    def noted(span: Span, most: int) -> Any:
        read.extend([span.path] * (most != 0))
        return ends(span, most)

    monkeypatch.setattr(Span, "ends", noted)
    assert content.content_of_files(names, paths) == part
    assert sorted(read) == [str(path) for path in paths[::3]]
    assert content.content_of_files(names[1:], paths[1:]) != part


# ---- row X07


def test_a_pre_training_on_imagenet_100(subsets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["simclr", "--recipe", "tiny", "--data", "imagenet100", "--data-root", str(subsets), "--image-size", "16"]
    words += [
        "--batch-size",
        "32",
        "--holdout",
        "20",
        "--steps",
        "2",
        "--quiet",
        "--json",
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.run(["pretrain", *words]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["steps"] == 2
    assert summary["knn"]["part"] == "test"
    assert summary["knn"]["queries"] == 100
    features = api.embed(tmp_path / "run", "imagenet50", data_root=str(subsets))
    assert features.features.shape[0] == 100
    assert [name.split()[0] for name in features.classes] == list(SUBSETS["imagenet50"])


# ---- sets made of it


@pytest.mark.parametrize("name", ["imagenette", "imagewoof"])
@pytest.mark.parametrize("size", ["", "320", "160"])
def test_ten_classes_of_fast_ai(tmp_path: Path, name: str, size: str) -> None:
    folder = tmp_path / "-".join(filter(None, [f"{name}2", size]))
    truth = make_imagenet(folder, SUBSETS[name])
    data = opened(":".join(filter(None, [name, size])), tmp_path)
    assert [c.split()[0] for c in data.classes] == list(SUBSETS[name])
    assert data.classes[0] == {"imagenette": "n01440764 tench", "imagewoof": "n02086240 Shih-Tzu"}[name]
    assert named(data, data.test) == truth
    assert data.train.labels.bincount().tolist() == [2] * 10
    with pytest.raises(WrongUse, match=rf"no {tmp_path}/{name}2-?{'160' if size != '160' else '320'}/train"):
        opened(f"{name}:{'160' if size != '160' else '320'}", tmp_path)


def make_tiny_imagenet(root: Path) -> dict[str, str]:
    """wnids.txt in an order of its own, words.txt with more than the classes."""
    folder, truth = root / "tiny-imagenet-200", {}
    wanted = [f"n0{1000000 + 7919 * ((37 * k) % 200)}" for k in range(200)]
    for i, synset in enumerate(wanted):
        jpeg(folder / "train" / synset / "images" / f"{synset}_0.JPEG", i, (8, 8))
        (folder / "train" / synset / f"{synset}_boxes.txt").write_text(f"{synset}_0.JPEG\t0\t0\t7\t7\n")
        jpeg(folder / "val" / "images" / f"val_{i}.JPEG", 500 + i, (8, 8))
        truth[f"val_{i}.JPEG"] = wanted[(i * 3) % 200]
    (folder / "val" / "val_annotations.txt").write_text("".join(f"{n}\t{s}\t0\t32\t44\t62\n" for n, s in truth.items()))
    (folder / "wnids.txt").write_text("\n".join(wanted) + "\n")
    (folder / "words.txt").write_text(
        "".join(f"{s}\tthing {s[-3:]}, another word\n" for s in ["n00001740", *sorted(wanted)])
    )
    return truth


def test_tiny_imagenet(tmp_path: Path) -> None:
    truth = make_tiny_imagenet(tmp_path)
    data = opened("tiny-imagenet", tmp_path)
    assert len(data.classes) == 200
    assert data.classes == sorted(data.classes)
    assert data.classes[0] == "n01000000 thing 000"
    assert named(data, data.test) == truth
    assert all(name.split("_")[0] == synset for name, synset in named(data, data.train).items())
    folder = tmp_path / "tiny-imagenet-200" / "val"
    for file, synset in truth.items():  # as some people sort it
        (folder / synset).mkdir(exist_ok=True)
        shutil.move(folder / "images" / file, folder / synset / file)
    (folder / "images").rmdir()
    other = opened("tiny-imagenet", tmp_path)
    assert named(other, other.test) == truth


# ---- what is missing or wrong

ABSENT = {
    "svhn": r"SVHN is not there: .*/svhn/train_32x32\.mat; add --download, or put http.*train_32x32\.mat at .*/svhn/train_32x32",
    "stl10": r"STL-10 is not there: .*/class_names\.txt; add --download, or put http.*gz at .*/stl10_binary\.tar\.gz",
    "imagenet": r"ImageNet is not there: .*fetch ILSVRC 2012 from https.*train/SYNSET/\*\.JPEG.*LOC_val_solution\.csv",
    "imagenet100": r"ImageNet is not there: .*fetch ILSVRC 2012 from https.*train/SYNSET/\*\.JPEG.*devkit",
    "imagenette": r"no .*imagenette2/train; fetch it from https.*2\.tgz, or add --download, and put into .*/imagenette2: train/SYN",
    "imagewoof:160": r"no .*/imagewoof2-160/train; fetch it from https.*imagewoof2-160\.tgz \(--download does not\)",
    "tiny-imagenet": r"Tiny ImageNet is not there: no .*wnids\.txt; fetch .*zip .*val_annotations\.txt, wnids\.txt, words\.txt",
}


@pytest.mark.parametrize("name", ABSENT)
def test_a_set_that_is_not_there_says_what_goes_where(tmp_path: Path, name: str) -> None:
    with pytest.raises(WrongUse, match=ABSENT[name]) as caught:
        opened(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["svhn", "stl10"])
def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from torchvision import datasets

    def refused(self: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(getattr(datasets, name.upper()), "download", refused)
    with pytest.raises(WrongUse, match=r"could not be downloaded \(no network\); fetch http.* yourself and put it at "):
        opened(name, tmp_path, download=True)


@pytest.mark.parametrize("name", ["svhn", "stl10"])
def test_a_download_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is asked for once, and not at all where the files are."""
    from torchvision import datasets

    maker, asked = getattr(datasets, name.upper()), []

    def fetch(self: Any) -> None:
        asked.append(self.split)
        (make_svhn if name == "svhn" else make_stl10)(Path(self.root))

    monkeypatch.setattr(maker, "download", fetch)
    monkeypatch.setattr(maker, "_check_integrity", lambda self: True)  # the checksums are of the real files
    for _ in range(2):
        assert len(opened(name, tmp_path, download=True).test) in (10, 20)
    assert len(asked) == 1


@pytest.mark.parametrize("size", ["", "320"])
def test_imagenette_can_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    """Once; what fails says what to do; there is no Imagewoof to be had so."""
    from torchvision.datasets import Imagenette

    name, asked = ":".join(filter(None, ["imagenette", size])), []
    folder = tmp_path / "-".join(filter(None, ["imagenette2", size]))

    def refused(self: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(Imagenette, "_download", refused)
    with pytest.raises(WrongUse, match=rf"\(no network\); fetch http.*{folder.name}\.tgz yourself and put it at .*tgz"):
        opened(name, tmp_path, download=True)
    with pytest.raises(WrongUse, match="--download does not"):
        opened("imagewoof", tmp_path, download=True)

    def fetch(self: Any) -> None:
        asked.append(self._size)
        make_imagenet(self._size_root, SUBSETS["imagenette"])

    monkeypatch.setattr(Imagenette, "_download", fetch)
    for _ in range(2):
        assert len(opened(name, tmp_path, download=True).classes) == 10
    assert asked == [f"{size}px" if size else "full"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("svhn:test", "write svhn, or svhn:extra"),
        ("stl10:unlabelled", "write stl10 .* stl10:train or stl10:unlabeled"),
        ("imagenet:64", "imagenet has no options; write imagenet"),
        ("imagenet100:224", "imagenet100 has no options"),
        ("imagenette:64", "write imagenette, imagenette:320 or imagenette:160"),
        ("tiny-imagenet:32", "tiny-imagenet has no options"),
    ],
)
def test_wrong_options(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        opened(name, tmp_path)


def test_published_facts() -> None:
    facts = {name: (known.train, known.test, known.image_size) for name, known in DATASETS.items()}
    assert {name: facts[name] for name in ("svhn", "stl10", "imagenet", "imagenette", "imagewoof", "tiny-imagenet")} == {
        "svhn": (73_257, 26_032, 32), "stl10": (105_000, 8_000, 96), "imagenet": (1_281_167, 50_000, 224),
        "imagenette": (9_469, 3_925, 224), "imagewoof": (9_025, 3_929, 224), "tiny-imagenet": (100_000, 10_000, 64),
    }  # fmt: skip
    assert [facts[f"imagenet{count}"][:2] for count in (50, 100, 200)] == [
        (64_274, 2_500), (128_545, 5_000), (256_558, 10_000)
    ]  # fmt: skip
    for name, known in DATASETS.items():
        assert known.licence, name
        for values in (known.mean, known.std):
            assert values is None or (len(values) == 3 and all(0 < v < 1 for v in values)), name
    assert {name for name, known in DATASETS.items() if known.mean is not None} == {
        "cifar10", "cifar100", "svhn", "imagenet", "imagenet50", "imagenet100", "imagenet200"
    }  # fmt: skip
    assert {name: known.policy for name, known in DATASETS.items() if known.policy} == {"svhn": "svhn"}
