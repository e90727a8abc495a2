# mypy: disable-error-code="union-attr,index,arg-type,call-overload,misc"
# (an optional field that is None fails the test by itself)
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfsight.data import files
from selfsight.errors import WrongUse


def picture(file, value=0, size=(12, 10)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256, 10, 20)).save(file)


def test_an_unlabelled_tree_of_any_depth(tmp_path):
    picture(tmp_path / "z.png")
    picture(tmp_path / "a b" / "ä ü" / "日本.jpg")
    picture(tmp_path / "a b" / "UPPER.JPG")
    for junk in (".hidden.png", ".git/x.png", "__MACOSX/y.png"):
        picture(tmp_path / junk)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "IMG.heic").write_bytes(b"x")
    source = files.from_folder(tmp_path)
    assert source.train.names == ["a b/UPPER.JPG", "a b/ä ü/日本.jpg", "z.png"]
    assert Path(source.train.paths[1].path).exists()
    assert source.train.labels is None
    assert source.test is None
    assert any("2 files" in n and ".heic 1" in n for n in source.notices)


def test_class_folders_become_labels(tmp_path):
    for name in ("dog/1.png", "cat/deep/er/2.png", "cat/3.png"):
        picture(tmp_path / name)
    source = files.from_folder(tmp_path)
    assert list(zip(source.train.names, source.train.labels)) == [
        ("cat/3.png", "cat"),
        ("cat/deep/er/2.png", "cat"),
        ("dog/1.png", "dog"),
    ]
    picture(tmp_path / "stray.png")  # a picture beside the folders: no class layout
    assert files.from_folder(tmp_path).train.labels is None


def test_one_folder_is_no_class(tmp_path):
    picture(tmp_path / "all" / "1.png")
    assert files.from_folder(tmp_path).train.labels is None


@pytest.mark.parametrize("train, test", [("train", "test"), ("Train", "val"), ("training", "validation")])
def test_train_and_test_folders(tmp_path, train, test):
    for name in (f"{train}/dog/1.png", f"{train}/cat/2.png", f"{test}/cat/3.png", f"{test}/dog/4.png", "extra/5.png"):
        picture(tmp_path / name)
    source = files.from_folder(tmp_path)
    assert source.train.labels == ["cat", "dog"]
    assert source.train.names == [f"{train}/cat/2.png", f"{train}/dog/1.png"]
    assert source.test.labels == ["cat", "dog"]
    assert source.classes is None
    assert any("extra (1)" in n for n in source.notices)


def test_the_labelled_one_of_two_test_folders(tmp_path):
    """ImageNet's test folder has no classes, its val folder has."""
    for name in ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png", "test/5.png"):
        picture(tmp_path / name)
    assert files.from_folder(tmp_path).test.names == ["val/a/3.png", "val/b/4.png"]
    picture(tmp_path / "unlabelled" / "train" / "1.png")
    source = files.from_folder(tmp_path / "unlabelled")
    assert source.train.labels is None
    assert source.test is None


def test_links_that_lead_back_up_end(tmp_path):
    picture(tmp_path / "in" / "1.png")
    (tmp_path / "in" / "back").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "in" / "nowhere").symlink_to(tmp_path / "gone", target_is_directory=True)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    picture(outside / "2.png")
    (tmp_path / "link").symlink_to(outside, target_is_directory=True)
    assert files.from_folder(tmp_path).train.names == ["in/1.png", "link/2.png"]


def test_an_empty_folder(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(WrongUse, match=r"no pictures in .*\.txt 1"):
        files.from_folder(tmp_path)


def test_text_lists(tmp_path):
    (tmp_path / "list.txt").write_text("# a comment\nsub/a, b.png\n\n/abs/c.jpg\n", encoding="utf-8")
    part = files.from_list(tmp_path / "list.txt").train
    assert part.names == ["sub/a, b.png", "/abs/c.jpg"]
    assert [str(p) for p in part.paths] == [str(tmp_path / "sub/a, b.png"), "/abs/c.jpg"]
    assert part.labels is None
    (tmp_path / "list.txt").write_text("a.png\tcat\nb.png\tdog\n")
    assert files.from_list(tmp_path / "list.txt").train.labels == ["cat", "dog"]


def test_csv_lists(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text('a.png,cat\n"b, 2.png",dog\n')
    part = files.from_list(file).train
    assert (part.names, part.labels) == (["a.png", "b, 2.png"], ["cat", "dog"])
    file.write_text("id,label,path\n1,cat,a.png\n2,dog,b.png\n", encoding="utf-8-sig")
    part = files.from_list(file).train
    assert (part.names, part.labels) == (["a.png", "b.png"], ["cat", "dog"])
    file.write_text("label,path\ncat\n")
    with pytest.raises(WrongUse, match="entry 1 has 1 columns"):
        files.from_list(file)
    file.write_text("")
    with pytest.raises(WrongUse, match="holds no paths"):
        files.from_list(file)
    file.write_text("some,thing\nelse,here\n")
    with pytest.raises(WrongUse, match="lists no pictures"):
        files.from_list(file)
    file.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(WrongUse, match="not a text file"):
        files.from_list(file)


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)


def test_array_layouts(tmp_path, rgb):
    wanted = torch.from_numpy(rgb.transpose(0, 3, 1, 2).copy())
    for name, array in {
        "last": rgb,
        "first": rgb.transpose(0, 3, 1, 2),
        "float": rgb.astype(np.float32) / 255,
        "deep": rgb.astype(np.uint16) * 257,
        "int": rgb.astype(np.int64),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
        assert torch.equal(files.from_arrays(tmp_path / f"{name}.npy").train.pixels, wanted), name
    np.save(tmp_path / "gray.npy", rgb[..., 0])
    assert torch.equal(files.from_arrays(tmp_path / "gray.npy").train.pixels, wanted[:, :1])
    np.save(tmp_path / "bands.npy", np.zeros((2, 16, 16, 13), np.uint8))
    assert files.from_arrays(tmp_path / "bands.npy").train.pixels.shape == (2, 13, 16, 16)
    np.save(tmp_path / "bits.npy", rgb[..., 0] > 127)
    assert files.from_arrays(tmp_path / "bits.npy").train.pixels.unique().tolist() == [0, 255]
    assert any("16 bit" in n for n in files.from_arrays(tmp_path / "deep.npy").notices)


def test_array_archives(tmp_path, rgb):
    np.savez(tmp_path / "a.npz", x=rgb, y=[3, 1, 3, 1, 3, 1], test_x=rgb[:2], test_y=[1, 3])
    source = files.from_arrays(tmp_path / "a.npz")
    assert source.train.labels == ["3", "1"] * 3
    assert source.test.labels == ["1", "3"]
    np.savez(tmp_path / "b.npz", images=rgb, labels=np.array(["cat", "dog"] * 3))
    assert files.from_arrays(tmp_path / "b.npz").train.labels[:2] == ["cat", "dog"]
    assert files.from_arrays(tmp_path / "b.npz").test is None


def test_arrays_that_are_no_pictures(tmp_path, rgb):
    cases = {
        "shape": (rgb[0, 0], "has shape"),
        "range": (rgb.astype(np.float32), "from 0 to 25"),
        "nan": (np.full((2, 4, 4), np.nan), "nan"),
        "negative": (rgb.astype(np.int64) - 300, "from -"),
        "text": (np.array([[["a"]]]), "holds <U1"),
        "empty": (rgb[:0], "has shape"),
    }
    for name, (array, message) in cases.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(WrongUse, match=message) as caught:
            files.from_arrays(tmp_path / f"{name}.npy")
        assert "\n" not in str(caught.value)
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    with pytest.raises(WrongUse, match="cannot be read as arrays"):
        files.from_arrays(tmp_path / "pickle.npy")
    (tmp_path / "broken.npz").write_bytes(b"PK no zip")
    with pytest.raises(WrongUse, match="cannot be read as arrays"):
        files.from_arrays(tmp_path / "broken.npz")
    np.savez(tmp_path / "names.npz", pictures=rgb)
    with pytest.raises(WrongUse, match="holds pictures; the pictures must be called"):
        files.from_arrays(tmp_path / "names.npz")
    np.savez(tmp_path / "count.npz", x=rgb, y=[1, 2])
    with pytest.raises(WrongUse, match="2 y for 6 x"):
        files.from_arrays(tmp_path / "count.npz")
