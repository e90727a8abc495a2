# mypy: disable-error-code="union-attr,index,arg-type"
# (an optional field that is None fails the test by itself)
"""CelebA, CUB-200-2011, Cars-196 and Stanford Online Products in the layouts of their archives, at toy size."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from selfsight import api, cli
from selfsight.data import DATASETS, DataSet, open_data
from selfsight.errors import WrongUse


def picture(file: Path, number: int, size: tuple[int, int] = (24, 20)) -> None:
    """Noise of a seed: width, height."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, quality=90)


def opened(name: str, root: Path, **settings: Any) -> DataSet:
    return open_data(name, root=root, **{"image_size": 16, "holdout": 0, "log": lambda line: None, **settings})


def make_celeba(root: Path, count: int = 60, size: tuple[int, int] = (18, 22)) -> None:
    """Faces of an aspect of 178 x 218; every sixth is of the validation part, every sixth of the test part."""
    folder = root / "celeba"
    names = [f"{i:06}.jpg" for i in range(1, count + 1)]
    for i, name in enumerate(names):
        picture(folder / "img_align_celeba" / name, i, size)
    part = lambda i: {4: 1, 5: 2}.get(i % 6, 0)
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {part(i)}\n" for i, n in enumerate(names)))
    lines = [f"{n}  {1 if i % 2 else -1} {1 if i % 3 == 0 else -1} -1" for i, n in enumerate(names)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(count), "Eyeglasses Smiling Young ", *lines]) + "\n")


def make_cub200(root: Path) -> None:
    """Six classes of four pictures; the official parts take turns."""
    folder = root / "CUB_200_2011"
    birds = ["Black_footed_Albatross", "Laysan_Albatross", "Sooty_Albatross", "Groove_billed_Ani", "Auklet", "Cardinal"]
    classes = [f"{k + 1:03}.{bird}" for k, bird in enumerate(birds)]
    rows = [
        (i + 1, k, f"{classes[k]}/{birds[k]}_{i:04}.jpg") for i, k in enumerate(k for k in range(6) for _ in range(4))
    ]
    for i, _, name in rows:
        picture(folder / "images" / name, i)
    (folder / "images.txt").write_text("".join(f"{i} {name}\n" for i, _, name in rows))
    (folder / "image_class_labels.txt").write_text("".join(f"{i} {k + 1}\n" for i, k, _ in rows))
    (folder / "train_test_split.txt").write_text("".join(f"{i} {i % 2}\n" for i, _, _ in rows))
    (folder / "classes.txt").write_text("".join(f"{k + 1} {name}\n" for k, name in enumerate(classes)))


CARS = ["Acura RL Sedan 2012", "BMW M3 Coupe 2012", "Fiat 500 Abarth 2012", "smart fortwo Convertible 2012"]


def make_cars196(root: Path) -> None:
    """The development kit: MATLAB structs, boxes included."""
    folder = root / "stanford_cars"
    kind = np.dtype([(n, object) for n in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")])
    for place, file, per in (
        ("cars_train", "devkit/cars_train_annos.mat", 3),
        ("cars_test", "cars_test_annos_withlabels.mat", 2),
    ):
        found = np.empty((1, 4 * per), dtype=kind)
        for i in range(4 * per):
            found[0, i] = (1, 1, 9, 9, i % 4 + 1, f"{i + 1:05}.jpg")
            picture(folder / place / f"{i + 1:05}.jpg", 100 * per + i)
        (folder / file).parent.mkdir(exist_ok=True)
        savemat(folder / file, {"annotations": found})
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([CARS], dtype=object)})


def make_cars196_folders(root: Path) -> None:
    for place, per in (("train", 3), ("test", 2)):
        for i in range(4 * per):
            picture(root / "stanford_cars" / "car_data" / place / CARS[i % 4] / f"{i:05}.jpg", 100 * per + i)


def make_sop(root: Path) -> None:
    folder = root / "Stanford_Online_Products"
    number = 0
    for file, first in (("Ebay_train.txt", 1), ("Ebay_test.txt", 4)):
        lines = ["image_id class_id super_class_id path"]
        for product in range(first, first + 3):
            kind = ("bicycle", "sofa")[product % 2]
            for i in range(3):
                number += 1
                name = f"{kind}_final/{11108 + product}_{i}.JPG"
                picture(folder / name, number)
                lines.append(f"{number} {product} {product % 2 + 1} {name}")
        (folder / file).write_text("\n".join(lines) + "\n")


def labelled(data: DataSet, part: Any) -> set[tuple[str, str]]:
    return {(path, data.classes[k]) for path, k in zip(part.paths, part.labels.tolist(), strict=True)}


def classes_of(part: Any) -> set[int]:
    return set(part.labels.tolist())


# ---- CelebA


def test_celeba_without_labels(tmp_path: Path) -> None:
    make_celeba(tmp_path)
    data = opened("celeba", tmp_path)
    assert (len(data.train), len(data.test)) == (40, 10)
    assert data.classes is None
    assert data.train.labels is None
    assert data.train.paths[:5] == [f"00000{i}.jpg" for i in (1, 2, 3, 4, 7)]
    assert data.test.paths[0] == "000006.jpg"
    assert any("left out beside them: the validation part (10)" in line for line in data.choices)
    pixels, sizes = data.train.gather(torch.tensor([4]))
    want = np.array(Image.open(tmp_path / "celeba" / "img_align_celeba" / "000007.jpg"))
    assert sizes is None
    assert torch.equal(pixels[0].permute(1, 2, 0), torch.from_numpy(want))


def test_celeba_with_an_attribute(tmp_path: Path) -> None:
    make_celeba(tmp_path)
    for name, column in (("Eyeglasses", lambda i: bool(i % 2)), ("Smiling", lambda i: i % 3 == 0)):
        data = opened(f"celeba:{name}", tmp_path)
        assert data.classes == [f"not {name}", name]
        for part in (data.train, data.test):
            for path, label in zip(part.paths, part.labels.tolist(), strict=True):
                assert label == column(int(path[:6]) - 1)
    assert not opened("celeba:Young", tmp_path).train.labels.any()
    assert opened("celeba:Smiling", tmp_path).fingerprint != opened("celeba:Eyeglasses", tmp_path).fingerprint
    half = opened("celeba:Smiling", tmp_path, fraction=0.5, cache="memory")  # row D05: fraction and preload
    assert len(half.train) == 20
    assert any("kept in memory" in line for line in half.choices)


def test_celeba_as_its_folders_unpack(tmp_path: Path) -> None:
    """The owners' drive has the lists in Anno and Eval, the pictures in Img."""
    make_celeba(tmp_path)
    before, folder = opened("celeba:Smiling", tmp_path), tmp_path / "celeba"
    for name, place in (
        ("img_align_celeba", "Img"),
        ("list_attr_celeba.txt", "Anno"),
        ("list_eval_partition.txt", "Eval"),
    ):
        (folder / place).mkdir()
        shutil.move(folder / name, folder / place / name)
    after = opened("celeba:Smiling", tmp_path)
    assert after.fingerprint == before.fingerprint
    assert labelled(after, after.test) == labelled(before, before.test)


# ---- splits by class


def test_cub200(tmp_path: Path) -> None:
    make_cub200(tmp_path)
    data = opened("cub200", tmp_path)
    assert data.classes[:2] == ["Black_footed_Albatross", "Laysan_Albatross"]
    assert len(data.classes) == 6
    assert data.train.labels.bincount().tolist() == data.test.labels.bincount().tolist() == [2] * 6
    for path, name in labelled(data, data.train) | labelled(data, data.test):
        assert path.split("/")[0].split(".")[1] == name
    official = {line.split()[0]: line.split()[1] for line in read(tmp_path, "CUB_200_2011/train_test_split.txt")}
    names = {line.split()[1]: line.split()[0] for line in read(tmp_path, "CUB_200_2011/images.txt")}
    assert all(official[names[path]] == "1" for path in data.train.paths)
    assert all(official[names[path]] == "0" for path in data.test.paths)


def read(root: Path, name: str) -> list[str]:
    return (root / name).read_text().splitlines()


def test_cub200_by_class(tmp_path: Path) -> None:
    make_cub200(tmp_path)
    data = opened("cub200:disjoint", tmp_path)
    assert classes_of(data.train) == {0, 1, 2}  # the first half
    assert classes_of(data.test) == {3, 4, 5}
    whole = opened("cub200", tmp_path)
    assert labelled(data, data.train) | labelled(data, data.test) == labelled(whole, whole.train) | labelled(
        whole, whole.test
    )


@pytest.mark.parametrize("make", [make_cars196, make_cars196_folders])
def test_cars196(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    data = opened("cars196", tmp_path)
    assert data.classes == CARS
    assert data.train.labels.bincount().tolist() == [3] * 4
    assert data.test.labels.bincount().tolist() == [2] * 4
    number = {path.split("/")[-1]: label for path, label in zip(data.train.paths, data.train.labels.tolist())}
    first = 1 if make is make_cars196 else 0
    assert number == {f"{i + first:05}.jpg": i % 4 for i in range(12)}
    other = opened("cars196:disjoint", tmp_path)
    assert classes_of(other.train) | classes_of(other.test) == {0, 1, 2, 3}
    assert classes_of(other.train) & classes_of(other.test) == set()
    assert classes_of(other.train) == {1, 3}  # recorded: the same half for every user
    assert labelled(other, other.train) | labelled(other, other.test) == labelled(data, data.train) | labelled(
        data, data.test
    )


def test_sop(tmp_path: Path) -> None:
    make_sop(tmp_path)
    data = opened("sop", tmp_path)
    assert data.classes == ["sofa 1", "bicycle 2", "sofa 3", "bicycle 4", "sofa 5", "bicycle 6"]
    assert classes_of(data.train) == {0, 1, 2}
    assert classes_of(data.test) == {3, 4, 5}
    assert all(
        int(path.split("/")[1][:5]) - 11108 == k + 1 for path, k in zip(data.train.paths, data.train.labels.tolist())
    )


MAKERS: dict[str, Callable[[Path], None]] = {
    "cub200:disjoint": make_cub200, "cars196:disjoint": make_cars196, "sop": make_sop
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_parts_of_other_classes(tmp_path: Path, name: str) -> None:
    """No class and no picture in both; k-NN does not ask pictures whose class no training picture has."""
    MAKERS[name](tmp_path)
    data = opened(name, tmp_path)
    assert data.disjoint
    assert classes_of(data.train) & classes_of(data.test) == set()
    assert set(data.train.paths) & set(data.test.paths) == set()
    assert any("classes of its own" in line for line in data.choices)
    few = opened(name, tmp_path, per_class=2)  # classes of the test part are not asked for
    assert few.train.labels.bincount().max() == 2
    assert len(few.train) == 2 * len(classes_of(data.train))
    assert not opened("shapes:16:100", tmp_path).disjoint


def test_a_run_and_an_evaluation_ask_the_hold_out_part(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_cub200(tmp_path)
    found = api.evaluate(
        "random",
        train="cub200:disjoint",
        encoder="fastnet-tiny",
        image_size=16,
        data_root=str(tmp_path),
        protocols=["knn"],
    )
    assert "(holdout, " in found["knn"]["test"]
    words = [
        "simclr",
        "--recipe",
        "tiny",
        "--data",
        "cub200:disjoint",
        "--data-root",
        str(tmp_path),
        "--batch-size",
        "4",
    ]
    words += ["--holdout", "3", "--steps", "1", "--quiet", "--json", "--out", str(tmp_path / "run")]
    assert cli.run(["pretrain", *words]) == 0
    assert json.loads(capfd.readouterr().out)["knn"]["part"] == "holdout"


# ---- what is missing or wrong


SETS = {"celeba:Smiling": make_celeba, "cub200": make_cub200, "cars196": make_cars196, "sop": make_sop}


@pytest.mark.parametrize("name", SETS)
def test_a_set_that_is_not_there_says_what_goes_where(tmp_path: Path, name: str) -> None:
    with pytest.raises(WrongUse, match=r"is not there: no .*fetch it from https://.*and put into .*: .*") as caught:
        opened(name, tmp_path, download=True)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    SETS[name](tmp_path)
    folder = next(path for path in tmp_path.iterdir() if path.name in message)
    opened(name, tmp_path)
    for needed in sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".mat")):
        kept = needed.read_bytes()
        needed.unlink()
        with pytest.raises(WrongUse, match=f"is not there: no .*{needed.name}"):
            opened(name, tmp_path)
        needed.write_bytes(b"1 2 3 4 5 6 7\n" * 3)
        with pytest.raises(WrongUse, match=r"is damaged: line|is damaged \(|no attribute"):
            opened(name, tmp_path)
        needed.write_bytes(b"")
        with pytest.raises(WrongUse, match=r"is damaged: it is empty|is damaged \(|no attribute"):
            opened(name, tmp_path)
        needed.write_bytes(kept)


def test_lists_of_different_sets(tmp_path: Path) -> None:
    make_cub200(tmp_path)
    make_celeba(tmp_path)
    for name, file in (("cub200", "CUB_200_2011/images.txt"), ("celeba:Young", "celeba/list_attr_celeba.txt")):
        (tmp_path / file).write_text("\n".join(read(tmp_path, file)[:-1]) + "\n")
        with pytest.raises(WrongUse, match=r"are not of one set; unpack .* again"):
            opened(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("celeba:Smilin", "no attribute 'Smilin'. Perhaps you meant 'Smiling'"),
        ("celeba:Young:Smiling", "write celeba, or celeba:ATTRIBUTE"),
        ("cub200:half", r"write cub200 \(the official parts\) or cub200:disjoint"),
        ("cars196:1", "cars196:disjoint"),
        ("sop:disjoint", "sop has no options"),
    ],
)
def test_wrong_options(tmp_path: Path, name: str, message: str) -> None:
    make_celeba(tmp_path)
    with pytest.raises(WrongUse, match=message):
        opened(name, tmp_path)


def test_a_missing_picture_is_skipped_by_name(tmp_path: Path) -> None:
    make_sop(tmp_path)
    (tmp_path / "Stanford_Online_Products" / "sofa_final" / "11109_1.JPG").unlink()
    data = opened("sop", tmp_path)
    assert [name for name, _ in data.skipped] == ["sofa_final/11109_1.JPG"]
    assert len(data.train) == 8


def test_folders_of_cars_need_classes(tmp_path: Path) -> None:
    picture(tmp_path / "stanford_cars" / "train" / "1.jpg", 0)
    picture(tmp_path / "stanford_cars" / "test" / "2.jpg", 0)
    with pytest.raises(WrongUse, match="no train/CLASS and test/CLASS folders"):
        opened("cars196", tmp_path)


def test_published_counts() -> None:
    counts = {name: (DATASETS[name].train, DATASETS[name].test) for name in ("celeba", "cub200", "cars196", "sop")}
    assert counts == {
        "celeba": (162_770, 19_962), "cub200": (5_994, 5_794), "cars196": (8_144, 8_041), "sop": (59_551, 60_502)
    }  # fmt: skip


# ---- row X09


@pytest.mark.parametrize("method", ["jigsaw", "deepcluster"])
def test_faces_train_a_reference_method(tmp_path: Path, capfd: pytest.CaptureFixture[str], method: str) -> None:
    """On pictures in CelebA's format, the whole command: pre-training, k-NN on an attribute, a folder that loads."""
    make_celeba(tmp_path, count=240)
    words = [method, "--recipe", "tiny", "--data", "celeba:Smiling", "--data-root", str(tmp_path), "--fraction", "0.9"]
    words += [
        "--holdout",
        "16",
        "--batch-size",
        "32",
        "--epochs",
        "2",
        "--quiet",
        "--json",
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.run(["pretrain", *words]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["steps"] == 2 * (130 // 32)
    assert summary["knn"]["part"] == "test"
    assert 0 <= summary["knn"]["top1"] <= 1
    features = api.embed(tmp_path / "run", "celeba:Young", data_root=str(tmp_path))
    assert features.features.shape[0] == 160
    assert np.isfinite(features.features).all()
