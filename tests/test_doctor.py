# mypy: disable-error-code="union-attr,index,arg-type,call-overload,misc,func-returns-value"
# (an optional field that is None fails the test by itself)
"""The doctor: each hostile file gets its own finding and nothing else, copies and leaks are found, lists are read back."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hostile
from hostile import photo
from selfsight import cli
from selfsight.data import decode, exclusion, open_data
from selfsight.data.files import Pictures
from selfsight.data.spans import Span
from selfsight.doctor import KINDS, Limits, check, near
from selfsight.doctor import look as looking
from selfsight.doctor.kinds import OF_ONE
from selfsight.doctor.show import to_dict
from selfsight.errors import WrongUse


def told(found, kind):
    """Names of the files of a finding; for kinds of several pictures one list each."""
    finding = to_dict(found)["findings"].get(kind, {})
    if "groups" in finding:
        return [[file["file"] for file in group] for group in finding["groups"]]
    return [file["file"] for file in finding.get("files", [])]


def kinds(found):
    return set(found.findings)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    hostile.write(folder)
    return folder


@pytest.fixture(scope="module")
def seen(zoo):
    return check(zoo)


# ---------------------------------------------------------------------------------------------- single files


@pytest.mark.parametrize("name", hostile.FILES, ids=ascii)
def test_each_hostile_file_gets_its_findings_and_no_others(seen, name):
    assert {kind for kind in OF_ONE if name in told(seen, kind)} == hostile.FILES[name][1]


def test_nothing_else_is_said_of_the_zoo(seen):
    assert kinds(seen) <= set(OF_ONE)  # no copies, no look-alikes
    assert len(seen.sides) == len(hostile.FILES)
    for kind in kinds(seen):
        assert seen.findings[kind].count == sum(kind in expected for _, expected in hostile.FILES.values())


def test_loading_agrees_on_what_cannot_be_read(zoo, seen):
    for name, (_, expected) in hostile.FILES.items():
        broken = bool(expected & {"empty", "unreadable", "bomb", "truncated"})
        try:
            decode.read(zoo / name, 3, 0)
        except decode.Unreadable:
            assert broken, name
        else:
            assert not broken or name in ("no end.png", "cut animation.gif"), name


def test_reasons_are_told(seen):
    files = {file["file"]: file for finding in to_dict(seen)["findings"].values() for file in finding["files"]}
    assert files["zero.jpg"]["why"] == "empty file"
    assert files["text.jpg"]["why"] == "not a picture"
    assert "too large" in files["bomb.png"]["why"]
    assert files["no end.png"]["why"] == "it decodes, but its end is missing"
    assert files["png.jpg"]["why"] == "the content is PNG"


def test_links_folders_and_pipes(tmp_path):
    photo(1).save(tmp_path / "sound.jpg")
    (tmp_path / "dir.jpg").mkdir()
    photo(2).save(tmp_path / "dir.jpg" / "inside.jpg")
    (tmp_path / "to nowhere.jpg").symlink_to("gone.jpg")
    (tmp_path / "to itself.jpg").symlink_to("to itself.jpg")
    (tmp_path / "dir.jpg" / "up").symlink_to(tmp_path)  # for ever and ever
    (tmp_path / "link.jpg").symlink_to("sound.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "to a pipe.jpg").symlink_to("pipe.jpg")
    found = check(tmp_path)
    assert told(found, "unreadable") == ["to itself.jpg", "to nowhere.jpg"]
    assert told(found, "duplicate") == [["link.jpg", "sound.jpg"]]
    assert len(found.sides) == 5
    assert any("no files 2" in line for line in found.notices)
    data = open_data(str(tmp_path), image_size=32, log=lambda line: None)
    assert data.train.paths == ["dir.jpg/inside.jpg", "link.jpg", "sound.jpg"]


def test_a_list_may_name_anything(tmp_path):
    photo(1).save(tmp_path / "sound.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dir.jpg").mkdir()
    (tmp_path / "list.txt").write_text("sound.jpg\npipe.jpg\ndir.jpg\ngone.jpg\n")
    found = check(tmp_path / "list.txt")
    why = {file["file"]: file["why"] for file in to_dict(found)["findings"]["unreadable"]["files"]}
    assert why == {"pipe.jpg": "no file", "dir.jpg": "a folder", "gone.jpg": "no such file"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    photo(1).save(tmp_path / "a.jpg")
    photo(2).save(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").chmod(0)
    found = check(tmp_path)
    assert told(found, "unreadable") == ["b.jpg"]
    assert to_dict(found)["findings"]["unreadable"]["files"][0]["why"] == "Permission denied"


def test_a_file_that_may_not_be_opened_is_told_with_its_reason(tmp_path, monkeypatch):
    photo(1).save(tmp_path / "a.jpg")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(looking, "open", refuse, raising=False)
    picture = looking._file(Span(str(tmp_path / "a.jpg")), "a.jpg", Limits())
    assert (picture.kinds, picture.why) == (("unreadable",), "Permission denied")


def test_giants_and_bombs_follow_pillows_limit(tmp_path, monkeypatch):
    for side in (20, 40, 80):
        photo(side, side, side).save(tmp_path / f"{side}.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    found = check(tmp_path)
    assert told(found, "giant") == ["40.png"]
    assert told(found, "bomb") == ["80.png"]


def test_large_pictures_are_decoded_one_at_a_time_and_reduced(tmp_path, monkeypatch):
    for i in range(6):
        photo(i, 90, 70).save(tmp_path / f"{i}.jpg", quality=95)
    (tmp_path / "copy.jpg").write_bytes((tmp_path / "3.jpg").read_bytes())
    monkeypatch.setattr(looking, "LARGE", 1000)
    monkeypatch.setattr(looking, "CHUNK", 1)
    under_way, most = 0, 0
    read = decode.read

    def slowly(source, channels, shorter):
        nonlocal under_way, most
        assert shorter == looking._REDUCED
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.01)
        under_way -= 1
        return read(source, channels, 16)

    monkeypatch.setattr(looking.decode, "read", slowly)
    found = check(tmp_path)
    assert most == 1
    assert told(found, "duplicate") == [["3.jpg", "copy.jpg"]]
    assert kinds(found) == {"duplicate"}


def test_gray_is_news_among_colours_only(tmp_path):
    for i in range(3):
        photo(i).convert("L").save(tmp_path / f"{i}.png")
    Image.new("L", (64, 64), 9).save(tmp_path / "blank.png")
    assert kinds(check(tmp_path)) == {"blank"}
    photo(9).save(tmp_path / "colour.png")
    assert told(check(tmp_path), "gray") == ["0.png", "1.png", "2.png"]


# ---------------------------------------------------------------------------------------------- copies


@pytest.fixture
def copies(tmp_path):
    """One picture in many guises beside others."""
    scene = photo(1, 200, 160)
    for i in range(20, 30):
        photo(i, 200, 160).save(tmp_path / f"other {i}.png")
    scene.save(tmp_path / "a.png")
    return tmp_path, scene


@pytest.mark.parametrize("suffix", ["bmp", "tif", "webp"])
def test_the_same_pixels_in_another_format_are_a_duplicate(copies, suffix):
    folder, scene = copies
    scene.save(folder / f"b.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    found = check(folder)
    assert told(found, "duplicate") == [["a.png", f"b.{suffix}"]]
    assert found.findings["duplicate"].count == 1
    assert kinds(found) == {"duplicate"}


def test_turned_by_exif_is_the_same_as_turned(copies):
    folder, scene = copies
    exif = Image.Exif()
    exif[0x0112] = 6
    scene.transpose(Image.Transpose.ROTATE_90).save(folder / "b.png", exif=exif)
    assert told(check(folder), "duplicate") == [["a.png", "b.png"]]


ALIKE = {
    "smaller": lambda x: x.resize((90, 72)),
    "larger": lambda x: x.resize((500, 400)),
    "squeezed a little": lambda x: x.resize((190, 160)),
    "brighter": lambda x: x.point(lambda v: min(255, int(v * 0.8 + 40))),
    "gray": lambda x: x.convert("L").convert("RGB"),
    "a faint watermark": lambda x: (
        x.paste(Image.blend(x, Image.new("RGB", x.size, (255, 255, 255)), 0.3).crop((165, 144, 195, 154)), (165, 144)),
        x,
    )[1],
    "cropped by a hair": lambda x: x.crop((2, 2, 198, 158)),
    "noisy": lambda x: Image.fromarray(
        (np.asarray(x) + np.random.default_rng(0).normal(0, 8, (160, 200, 3))).clip(0, 255).astype(np.uint8)
    ),
}


@pytest.mark.parametrize("how", ALIKE)
def test_look_alikes(copies, how):
    folder, scene = copies
    ALIKE[how](scene.copy()).save(folder / "b.png")
    found = check(folder)
    assert told(found, "near_duplicate") == [["a.png", "b.png"]]
    assert found.findings["near_duplicate"].count == 1
    assert "duplicate" not in kinds(found)


@pytest.mark.parametrize("quality", [10, 50, 95])
def test_recompressed_is_a_look_alike(copies, quality):
    folder, scene = copies
    scene.save(folder / "b.jpg", quality=quality)
    assert told(check(folder), "near_duplicate") == [["a.png", "b.jpg"]]


OTHERS = {
    "mirrored": lambda x: x.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda x: x.transpose(Image.Transpose.ROTATE_180),
    "a quarter turn": lambda x: x.transpose(Image.Transpose.ROTATE_90),
    "negative": lambda x: x.point(lambda v: 255 - v),
    "another picture": lambda x: photo(77, 200, 160),
    "the left half": lambda x: x.crop((0, 0, 100, 160)),
}


@pytest.mark.parametrize("how", OTHERS)
def test_no_look_alikes(copies, how):
    folder, scene = copies
    OTHERS[how](scene).save(folder / "b.png")
    assert not kinds(check(folder))


def test_flat_pictures_have_no_look_alikes(tmp_path):
    for i in range(8):
        Image.new("RGB", (40, 40), (i * 20, 90, 90)).save(tmp_path / f"{i}.png")
    assert kinds(check(tmp_path)) == {"blank"}


def test_chains_of_look_alikes_are_one_group(copies):
    folder, scene = copies
    for i in range(4):
        scene.save(folder / f"b{i}.jpg", quality=90 - 20 * i)
    found = check(folder)
    assert told(found, "near_duplicate") == [["a.png", "b0.jpg", "b1.jpg", "b2.jpg", "b3.jpg"]]
    assert found.findings["near_duplicate"].count == 4
    assert not kinds(check(folder, limits=Limits(near=-1)))


def test_every_pair_of_near_hashes_is_found():
    """Against all pairs, with the second look switched off by equal thumbnails."""
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 2**63, 60, dtype=np.uint64)
    hashes = []
    for seed in seeds:
        for count in range(10):
            flips = rng.choice(64, count, replace=False).astype(np.uint64)
            hashes.append(seed ^ np.bitwise_or.reduce(np.uint64(1) << flips) if count else seed)
    values = np.array(hashes, np.uint64)
    thumbs = np.tile(rng.integers(0, 256, near.THUMB, dtype=np.uint8), (len(values), 1))
    for most in (0, 3, 7):
        pairs, bits = near.pairs(values, thumbs, most)
        every: np.ndarray = near.ones(values[:, None] ^ values[None])
        expected = np.argwhere(np.triu(every <= most, 1))
        assert pairs.tolist() == expected.tolist()
        assert bits.tolist() == every[expected[:, 0], expected[:, 1]].tolist()


def test_small_pieces_find_the_same_pairs(monkeypatch):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 256, 300).astype(np.uint64)
    thumbs = np.tile(rng.integers(0, 256, near.THUMB, dtype=np.uint8), (300, 1))
    whole, _ = near.pairs(values, thumbs, 2)
    monkeypatch.setattr(near, "_CANDIDATES", 50)
    monkeypatch.setattr(near, "_PIECE", 7)
    some, _ = near.pairs(values, thumbs, 2)
    assert len(whole) > 1000
    assert whole.tolist() == some.tolist()


def test_thousands_of_frames_of_one_scene_stay_affordable():
    """All are look-alikes: two million pairs. Each picture has partners, on its own side and on the other."""
    rng = np.random.default_rng(4)
    count = 2000
    flips = np.uint64(1) << rng.integers(0, 64, (count, 2)).astype(np.uint64)
    values = np.uint64(0x123456789ABCDEF0) ^ flips[:, 0] ^ flips[:, 1]
    thumbs = np.tile(rng.integers(0, 256, near.THUMB, dtype=np.uint8), (count, 1))
    side = np.arange(count) % 10 == 0
    pairs, bits = near.pairs(values, thumbs, 7, side)
    assert bits.max() <= 4
    assert len(pairs) < 8 * near.PARTNERS * count < count * (count - 1) / 2
    across = side[pairs[:, 0]] != side[pairs[:, 1]]
    assert len(np.unique(pairs[across])) == count
    assert len(np.unique(pairs[~across])) == count


@pytest.mark.parametrize("old", [False, True])
def test_bits_are_counted(old, monkeypatch):
    values = np.random.default_rng(2).integers(0, 2**64, 1000, dtype=np.uint64)
    if old:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert near.ones(values).tolist() == [int(v).bit_count() for v in values]


def test_the_hash_is_the_signs_of_a_cosine_transform():
    from scipy.fft import dctn

    tiles = np.random.default_rng(3).integers(0, 256, (5, near.SIDE, near.SIDE, 3), dtype=np.uint8)
    hashes, _ = near.hashes(tiles)
    for tile, value in zip(tiles, hashes):
        waves = dctn(tile @ np.array([0.299, 0.587, 0.114]))[:9, :8].reshape(-1)[1:65]
        bits = np.unpackbits(np.array([value], np.uint64).view(np.uint8))
        assert bits.tolist() == (waves > 0).astype(int).tolist()


# ---------------------------------------------------------------------------------------------- sets


@pytest.fixture
def split(tmp_path):
    """Train and test folders of two classes, with copies between them and under two labels."""
    for i in range(24):
        part = "train" if i < 16 else "test"
        file = tmp_path / "set" / part / ("cat" if i % 2 else "dog") / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(i).save(file)
    root = tmp_path / "set"
    photo(20).save(root / "train" / "dog" / "of test.png")  # test/dog/20.png
    photo(21).save(root / "train" / "cat" / "near test.jpg")  # test/cat/21.png
    photo(2).save(root / "train" / "cat" / "also dog.png")  # train/dog/02.png
    photo(3).save(root / "train" / "cat" / "again.png")  # train/cat/03.png
    photo(4).save(root / "train" / "cat" / "near dog.jpg")  # train/dog/04.png
    photo(23).save(root / "test" / "cat" / "twice.png")  # test/cat/23.png
    return root


def test_leaks_copies_and_labels(split):
    found = check(split)
    assert told(found, "leak") == [["train/dog/of test.png", "test/dog/20.png"]]
    assert told(found, "near_leak") == [["train/cat/near test.jpg", "test/cat/21.png"]]
    assert told(found, "label_conflict") == [["train/cat/also dog.png", "train/dog/02.png"]]
    assert told(found, "near_label_conflict") == [["train/cat/near dog.jpg", "train/dog/04.png"]]
    assert told(found, "duplicate") == [
        ["train/cat/03.png", "train/cat/again.png"],
        ["train/cat/also dog.png", "train/dog/02.png"],
        ["test/cat/23.png", "test/cat/twice.png"],
    ]
    assert told(found, "near_duplicate") == [["train/cat/near dog.jpg", "train/dog/04.png"]]
    out = {kind: [found.file(row)["file"] for row in rows] for kind, rows in found.left_out().items()}
    assert out == {
        "leak": ["train/dog/of test.png"],
        "label_conflict": ["train/cat/also dog.png", "train/dog/02.png"],
        "near_leak": ["train/cat/near test.jpg"],
        "duplicate": ["train/cat/again.png"],
    }


def test_against_another_set(split, tmp_path):
    found = check(split / "train", split / "test")
    assert told(found, "leak") == [["dog/of test.png", "dog/20.png"]]
    assert to_dict(found)["findings"]["leak"]["groups"][0][1] == {
        "set": str(split / "test"), "part": "train", "file": "dog/20.png",
    }  # fmt: skip
    assert told(found, "near_leak") == [["cat/near test.jpg", "cat/21.png"]]
    # what is wrong with the other set alone is not told
    assert ["cat/23.png", "cat/twice.png"] not in told(found, "duplicate")
    (split / "test" / "cat" / "empty.png").write_bytes(b"")
    again = check(split / "train", split / "test")
    assert "empty" not in kinds(again)
    assert to_dict(again)["parts"]["against"] == {"pictures": 10, "unreadable": 1}
    assert not any(again.sides[row] == 2 for rows in again.left_out().values() for row in rows)


def test_classes(tmp_path):
    for name, count in (("many", 12), ("few", 3), ("one", 1)):
        (tmp_path / name).mkdir()
        for i in range(count):
            photo(hash((name, i)) % 10**6).save(tmp_path / name / f"{i}.png")
    (tmp_path / "one" / "broken.png").write_text("no picture")
    found = check(tmp_path, limits=Limits(few=5, imbalance=12))
    assert found.findings["small_class"].lines == ["train: one has 1", "train: few has 3"]
    assert found.findings["imbalance"].lines == ["train: many has 12, one 1: 12 times as many"]
    assert to_dict(found)["classes"]["train"] == {"counts": {"few": 3, "many": 12, "one": 1}, "imbalance": 12.0}
    assert not kinds(check(tmp_path, limits=Limits(few=0, imbalance=13))) & {"small_class", "imbalance"}


def test_limits_are_followed(tmp_path):
    photo(1, 60, 20).save(tmp_path / "a.png")
    assert not kinds(check(tmp_path))
    assert kinds(check(tmp_path, limits=Limits(smallest=21, aspect=2.5))) == {"tiny", "extreme_aspect"}


def test_sizes(tmp_path):
    for i, size in enumerate([(30, 20), (30, 20), (50, 40)]):
        photo(i, *size).save(tmp_path / f"{i}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(9, 60, 70).save(tmp_path / "turned.jpg", exif=exif)
    sizes = to_dict(check(tmp_path))["sizes"]
    assert sizes["different"] == 3
    assert sizes["most_common"][0] == ["30x20", 2]
    assert ["70x60", 1] in sizes["most_common"]  # upright
    assert sizes["percentiles"]["shorter"]["0"] == 20
    assert sizes["percentiles"]["width"]["100"] == 70


def test_arrays_and_built_in_pictures(tmp_path):
    pictures = np.stack([np.asarray(photo(i, 40, 40)) for i in range(12)])
    test = np.stack([pictures[3], np.asarray(photo(50, 40, 40))])
    labels = np.arange(12) % 2
    file = tmp_path / "set.npz"
    np.savez(
        file,
        images=np.concatenate([pictures, pictures[5:6]]),
        labels=[*labels, 0],
        test_images=test,
        test_labels=[1, 0],
    )
    found = check(file)
    assert told(found, "leak") == [["train:3", "test:0"]]
    assert told(found, "duplicate") == [["train:5", "train:12"]]
    assert told(found, "label_conflict") == [["train:5", "train:12"]]
    alpha = tmp_path / "alpha.npy"
    np.save(alpha, np.random.default_rng(0).integers(0, 256, (3, 8, 40, 4), dtype=np.uint8))
    assert kinds(check(alpha)) == {"tiny", "extreme_aspect", "alpha"}
    shapes = to_dict(check("shapes:16:40"))
    assert shapes["parts"] == {
        "train": {"pictures": 40, "unreadable": 0}, "test": {"pictures": 10, "unreadable": 0},
    }  # fmt: skip
    assert set(shapes["findings"]) == {"small_class"}


def test_files_and_arrays_are_held_against_each_other(tmp_path):
    photo(1, 40, 40).save(tmp_path / "a.png")
    np.save(tmp_path / "x.npy", np.stack([np.asarray(photo(i, 40, 40)) for i in range(3)]))
    assert told(check(tmp_path, tmp_path / "x.npy"), "leak") == [["a.png", "train:1"]]


# ---------------------------------------------------------------------------------------------- leaving out


def test_the_list_is_read_by_loading(split, tmp_path):
    (split / "train" / "dog" / "zz broken.png").write_text("no picture")
    listed = tmp_path / "out.txt"
    check(split, exclude=listed)
    text = listed.read_text().splitlines()
    assert text[0] == exclusion.TITLE
    assert sum(not line.startswith("#") for line in text) == 6
    quiet = {"log": lambda line: None, "holdout": 0, "image_size": 32}
    whole, data = open_data(str(split), **quiet), open_data(str(split), exclude=listed, **quiet)
    assert len(data.train) == len(whole.train) - 5
    assert not data.skipped
    assert any("6 pictures are left out" in line for line in data.choices)
    assert data.fingerprint != whole.fingerprint
    where = dict(zip(whole.train.paths, whole.train.index.tolist()))
    assert [where[name] for name in data.train.paths] == data.train.index.tolist()  # the others keep their numbers
    names = dict(zip(whole.train.paths, whole.train.labels.tolist()))
    assert [names[name] for name in data.train.paths] == data.train.labels.tolist()
    for row, name in enumerate(data.train.paths):
        there = whole.train.paths.index(name)
        assert torch.equal(
            data.train.gather(torch.tensor([row])).pixels, whole.train.gather(torch.tensor([there])).pixels
        )
    assert not kinds(check_left(split, data, tmp_path)) & {"leak", "near_leak", "label_conflict"}


def check_left(split, data, tmp_path):
    """The doctor's word on the pictures that were loaded, and the test part."""
    rest = tmp_path / "rest.csv"
    lines = [f"{split / name},{name.split('/')[1]}" for name in data.train.paths]
    rest.write_text("\n".join(["path,label", *lines]))
    return check(rest, split / "test")


def test_odd_names_survive_the_list(tmp_path):
    root = tmp_path / "zoo"
    root.mkdir()
    names = [name for name in hostile.FILES if name.startswith(("with", "line", "日", "-", "#", "[", "esc", "no text"))]
    for i, name in enumerate([*names, " blank first.jpg", '"quoted".jpg']):
        photo(i).save(root / name)
    pictures = [*names, " blank first.jpg", '"quoted".jpg']
    exclusion.write(tmp_path / "list.txt", [("odd", pictures)])
    assert exclusion.read(tmp_path / "list.txt") == set(pictures)
    photo(99).save(root / "plain.png")
    data = open_data(str(root), exclude=tmp_path / "list.txt", image_size=32, log=lambda line: None)
    assert data.train.paths == ["plain.png"]


def test_pictures_of_arrays_can_be_left_out(tmp_path):
    pictures = np.stack([np.asarray(photo(i, 32, 32)) for i in range(6)])
    np.savez(
        tmp_path / "set.npz", images=pictures, labels=np.arange(6) % 2, test_images=pictures[:2], test_labels=[0, 1]
    )
    check(tmp_path / "set.npz", exclude=tmp_path / "out.txt", limits=Limits(few=0))
    data = open_data(str(tmp_path / "set.npz"), exclude=tmp_path / "out.txt", holdout=0, log=lambda line: None)
    assert data.train.index.tolist() == [2, 3, 4, 5]
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(data.train.gather(torch.arange(4)).pixels, torch.from_numpy(pictures[2:]).permute(0, 3, 1, 2))
    assert len(data.test) == 2


@pytest.mark.parametrize(
    "text, why",
    [("nobody.jpg\n", "names no picture"), ('"open\n', "line 1: a name in quotes"), (None, "cannot be read")],
)
def test_a_wrong_list(split, tmp_path, text, why):
    file = tmp_path / "list.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(WrongUse, match=why):
        open_data(str(split), exclude=file, log=lambda line: None)


def test_a_list_of_other_things_is_not_overwritten(split, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("my own notes\n")
    with pytest.raises(WrongUse, match="exists and is no list"):
        check(split, exclude=mine)
    assert mine.read_text() == "my own notes\n"
    check(split, exclude=tmp_path / "list.txt")
    check(split, exclude=tmp_path / "list.txt")  # its own is


def test_a_file_named_twice_stays_once(tmp_path):
    photo(1).save(tmp_path / "a.png")
    photo(1).save(tmp_path / "b.png")
    (tmp_path / "pictures.txt").write_text("a.png\na.png\nb.png\n")
    found = check(tmp_path / "pictures.txt", exclude=tmp_path / "out.txt")
    assert found.findings["duplicate"].count == 2
    assert exclusion.read(tmp_path / "out.txt") == {"b.png"}


def test_evaluation_leaves_the_listed_pictures_out(split, tmp_path):
    from selfsight import evaluate

    check(split, exclude=tmp_path / "out.txt")
    found = evaluate("pixels", train=str(split), protocols=["knn"], exclude=str(tmp_path / "out.txt"), device="cpu")
    assert found["knn"]["train"].endswith("(train, 14)")  # 21 less 5, less the hold-out


def test_everything_left_out(tmp_path):
    photo(1).save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(WrongUse, match="no readable picture"):
        open_data(str(tmp_path), exclude=tmp_path / "list.txt", log=lambda line: None)


# ---------------------------------------------------------------------------------------------- command line


def run(capsys, *words):
    code = cli.run(["check", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_json_says_everything(zoo, capsys):
    code, out, _ = run(capsys, zoo, "--json")
    told = json.loads(out)
    assert code == 0
    assert out.count("\n") == 1
    assert told["level"] == "serious"
    assert told["parts"]["train"]["pictures"] == len(hostile.FILES)
    assert told["findings"]["empty"]["files"] == [
        {"set": str(zoo), "part": "train", "file": "zero.jpg", "why": "empty file"}
    ]
    assert told["formats"]["JPEG"] > 10
    assert all(set(finding) >= {"count", "level", "what", "advice"} for finding in told["findings"].values())
    assert list(told["findings"]) == [kind for kind in KINDS if kind in told["findings"]]


def test_the_table(zoo, capsys):
    code, out, err = run(capsys, zoo)
    assert code == 0
    assert not err
    assert "\x1b" not in out  # a file name may not paint the terminal
    for kind in ("truncated", "bomb", "16bit"):
        assert KINDS[kind].what in out or KINDS[kind].said(1) in out
    assert "what to do" in out
    assert "better left out" in out


@pytest.mark.parametrize(
    "policy, exclude, code",
    [("list", False, 0), ("error", False, 1), ("error", True, 1), ("skip", False, 1), ("skip", True, 0)],
)
def test_policies(split, tmp_path, capsys, policy, exclude, code):
    more = ["--exclude", tmp_path / "out.txt"] if exclude else []
    assert run(capsys, split, "--policy", policy, *more)[0] == code


def test_unreadable_files_alone_are_skipped_by_loading(tmp_path, capsys):
    photo(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    assert run(capsys, tmp_path, "--policy", "skip")[0] == 0
    assert run(capsys, tmp_path, "--policy", "error")[0] == 1
    (tmp_path / "b.png").unlink()
    code, out, _ = run(capsys, tmp_path, "--policy", "error")
    assert code == 0
    assert "nothing was found that is wrong" in out


@pytest.mark.parametrize(
    "words, why",
    [
        (["/no/such/folder"], "there is no /no/such/folder"),
        (["nonsense"], "no data set and no folder is called 'nonsense'"),
        (["FOLDER", "--agianst", "x"], "Perhaps you meant --against"),
        (["FOLDER", "--policy", "never"], "expected one of"),
        (["FOLDER", "--near", "9"], "--near is 9: give 0 to 7"),
        (["FOLDER", "--smallest", "0"], "--smallest is 0, must be at least 1"),
        (["FOLDER", "--against", "/no/such"], "there is no /no/such"),
        (["FOLDER", "--html", "/no/such/x.html"], "give a file in a folder that is there"),
        (["FOLDER", "--exclude", "/no/such/x.txt"], "give a file in a folder that is there"),
        ([], "check takes one DATA"),
        (["FOLDER", "FOLDER"], "check takes one DATA"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, capsys, words, why):
    photo(1).save(tmp_path / "a.png")
    code, out, err = run(capsys, *[tmp_path if word == "FOLDER" else word for word in words])
    assert code == 2
    assert not out
    assert err.count("\n") == 1
    assert why in err


def test_an_empty_folder(tmp_path, capsys):
    code, _, err = run(capsys, tmp_path)
    assert code == 2
    assert "no pictures in" in err


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.images, self.text, self.tags, self.sections, self.together = [], [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "img":
            self.images.append(given["src"])
        if tag == "section" and "id" in given:
            self.sections.append(given["id"])
        self.together += given.get("class") == "together"

    def handle_data(self, data):
        self.text.append(data)


def test_the_contact_sheet(zoo, tmp_path, capsys):
    page = tmp_path / "sheet.html"
    for i, name in enumerate(n for n, (_, expected) in hostile.FILES.items() if not expected):
        target = tmp_path / "pictures" / "a" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        photo(i).save(target, format="PNG")  # so that odd names have a finding, too
    (tmp_path / "pictures" / "a" / "zero.png").write_bytes(b"")
    for name in ("copy.png", "<script>alert(1)</script>.png".replace("/", "_")):
        photo(5).save(tmp_path / "pictures" / "a" / name)
    code, out, _ = run(capsys, tmp_path / "pictures", "--html", page)
    assert code == 0
    assert str(page) in out
    found = Page(page.read_text())
    assert set(found.sections) == {"empty", "duplicate", "wrong_extension"}
    assert found.together == 1
    assert all(source.startswith("data:image/png;base64,") for source in found.images)
    assert len(found.images) >= 4
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "header", "h1", "p", "b", "dl", "div", "dt", "dd",
               "section", "h2", "span", "figure", "img", "figcaption"}  # fmt: skip
    assert {tag for tag, _ in found.tags} <= allowed  # no name became markup
    assert not any(name.startswith("on") for _, attrs in found.tags for name in attrs)
    assert "<script>alert(1)<_script>.png" in "".join(found.text)
    assert "no picture" in found.text


def test_the_sheet_of_the_zoo_has_every_kind(zoo, tmp_path):
    found = check(zoo, html=tmp_path / "sheet.html")
    page = Page((tmp_path / "sheet.html").read_text())
    assert page.sections == list(found.findings)
    assert (tmp_path / "sheet.html").stat().st_size < 2_000_000


def test_the_sheet_shows_both_sides_of_a_leak_and_the_classes(split, tmp_path):
    for i in range(9):
        photo(20).save(split / "train" / "dog" / f"again {i}.png")
    check(split / "train", split / "test", html=tmp_path / "sheet.html")
    text = "".join(Page((tmp_path / "sheet.html").read_text()).text)
    assert f"{split / 'test'}: dog/20.png" in text
    assert "Classes of the training part" in text
    assert "and 7 more" in text


def test_the_sheet_of_arrays(tmp_path):
    pictures = np.stack([np.asarray(photo(i % 3, 40, 40)) for i in range(6)])
    np.save(tmp_path / "x.npy", pictures)
    check(tmp_path / "x.npy", html=tmp_path / "sheet.html")
    assert len(Page((tmp_path / "sheet.html").read_text()).images) == 6


def test_a_run_leaves_the_listed_pictures_out(split, tmp_path, capsys):
    assert run(capsys, split, "--exclude", tmp_path / "out.txt")[0] == 0
    words = ["pretrain", "--recipe", "tiny", "--data", str(split), "--holdout", "0", "--batch-size", "8"]
    words += ["--exclude", str(tmp_path / "out.txt"), "--dry-run"]
    assert cli.run(words) == 0
    out = capsys.readouterr().out
    assert "exclude: " + str(tmp_path / "out.txt") in out


# ---------------------------------------------------------------------------------------------- work


def test_an_interruption_ends_the_work(tmp_path, monkeypatch, capsys):
    photo(1).save(tmp_path / "a.png")
    pictures = Pictures([tmp_path / "a.png"] * 100_000, ["a.png"] * 100_000)
    looked = []
    file = looking._file
    monkeypatch.setattr(looking, "_file", lambda span, name, limits: (looked.append(1), file(span, name, limits))[1])

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        looking.look_at(pictures, "train", Limits(), stop)
    assert len(looked) < 20_000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
    monkeypatch.setattr("selfsight.doctor.run._Progress.__call__", lambda self, count: stop(count))
    code, out, err = run(capsys, tmp_path)
    assert (code, out, err) == (130, "", "selfsight: interrupted\n")


def test_ctrl_c_in_a_process(tmp_path):
    photo(1).save(tmp_path / "a.jpg")
    (tmp_path / "list.txt").write_text("a.jpg\n" * 100_000)
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a job in the background ignores it
        "from selfsight import cli; from selfsight.doctor import run; run._PLAIN_EVERY = 0; "
        f"cli.main(['check', {str(tmp_path / 'list.txt')!r}, '--json'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("looked at 64 of 100,000")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert not out
    assert err.endswith("selfsight: interrupted\n")
    assert "Traceback" not in err


def test_progress_goes_to_stderr(tmp_path, monkeypatch, capsys):
    for i in range(3):
        photo(i).save(tmp_path / f"{i}.png")
    monkeypatch.setattr("selfsight.doctor.run._PLAIN_EVERY", 0)
    _, out, err = run(capsys, tmp_path, "--json")
    assert "looked at 3 of 3 pictures" in err
    json.loads(out)


def test_memory_of_a_picture_is_small():
    assert looking.FACTS.itemsize <= 300


def test_the_documents_name_every_kind():
    text = (Path(__file__).parents[1] / "docs" / "check.md").read_text()
    assert not [kind for kind in KINDS if f"`{kind}`" not in text]


def test_the_same_findings_whatever_the_chunks(zoo, seen, monkeypatch):
    monkeypatch.setattr(looking, "CHUNK", 3)
    again = to_dict(check(zoo))
    first = to_dict(seen)
    assert again["findings"] == first["findings"]
    assert again["sizes"] == first["sizes"]
    assert Path(zoo).exists()


def test_one_and_several_are_said_right() -> None:
    one = {name: kind.said(1) for name, kind in KINDS.items()}
    assert one["truncated"] == "file that is cut short"
    assert one["duplicate"] == "picture that is a copy of another one, pixel by pixel"
    assert one["imbalance"] == "part whose largest class is many times the smallest"
    assert one["rotated"] == "picture that its EXIF turns or mirrors"
    for name, kind in KINDS.items():
        assert kind.said(2) == kind.what != one[name]
        assert not re.match(r"(gray )?(file|picture|pair|class|part)s\b|.*that (are|look|lie|declare)\b", one[name]), (
            one[name]
        )
