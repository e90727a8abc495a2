# mypy: disable-error-code="union-attr,index,arg-type,call-overload,misc"
# (an optional field that is None fails the test by itself)
import multiprocessing as mp
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selfsight.data import DATASETS, from_objects, open_data, reading, synthetic
from selfsight.data.feed import Decoded
from selfsight.data.opening import _auto_size
from selfsight.data.reading import Look
from selfsight.data.split import hold_out, ranking, subset
from selfsight.errors import WrongUse

quiet: dict[str, Any] = {"log": lambda line: None}


def noise(seed, height, width, channels=3):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFSIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path, home):
    """30 photos of 3 classes and sizes about 60 x 40."""
    for i in range(30):
        file = tmp_path / "photos" / f"class {i % 3}" / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(i, 40 + i % 5, 60 - i % 7).save(file)
    return tmp_path / "photos"


@pytest.fixture
def odd(tmp_path, home):
    """What people have on their disks."""
    root = tmp_path / "odd"
    root.mkdir()
    photo = noise(0, 50, 70)
    photo.convert("CMYK").save(root / "a cmyk.jpg")
    Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256)).save(root / "b16.png")
    photo.quantize(16).save(root / "c palette.png")
    photo.convert("RGBA").save(root / "d alpha.png")
    photo.save(root / "e animated.gif", save_all=True, append_images=[noise(1, 50, 70)])
    photo.save(root / "f.jpg")
    whole = (root / "f.jpg").read_bytes()
    (root / "g truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "h text.jpg").write_text("not a picture")
    (root / "i empty.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(root / "j tiny.png")
    Image.new("RGB", (4000, 20), (9, 200, 9)).save(root / "k panorama.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(root / "l turned.jpg", exif=exif)
    photo.save(root / "m ünïcode 日本 \U0001f431.webp")
    return root


GOOD = [0, 1, 2, 3, 4, 5, 9, 10, 11, 12]
BAD = ["g truncated.jpg", "h text.jpg", "i empty.png"]


@pytest.mark.parametrize("cache", ["auto", "memory", "disk"])
def test_a_folder_of_odd_pictures(odd, cache):
    data = open_data(str(odd), cache=cache, image_size=32, **quiet)
    assert [name for name, _ in data.skipped] == BAD
    assert all(why for _, why in data.skipped)
    assert any("3 unreadable files are skipped" in line for line in data.choices)
    assert data.train.index.tolist() == GOOD  # the others keep their numbers
    assert len(data.train) == len(data.train.paths) == 10
    assert data.channels == 3
    assert data.classes is None
    assert data.train.labels is None
    assert data.holdout is None
    assert data.test is None
    pixels, sizes = data.train.gather(torch.arange(10))
    assert pixels.dtype == torch.uint8
    assert sizes.max() <= 4 * 64
    turned = sizes[data.train.paths.index("l turned.jpg")]
    assert turned[0] > turned[1]


def test_odd_pictures_can_be_an_error(odd):
    with pytest.raises(WrongUse, match=r"3 pictures cannot be read: g truncated\.jpg \(.*h text\.jpg") as caught:
        open_data(str(odd), bad_files="error", **quiet)
    assert "\n" not in str(caught.value)
    with pytest.raises(WrongUse, match=r"i empty\.png"):
        open_data(str(odd), bad_files="error", cache="off", **quiet)


def test_without_a_cache_the_pictures_are_the_same(odd):
    at_hand = open_data(str(odd), cache="memory", image_size=32, **quiet)
    lines: list[str] = []
    later = open_data(str(odd), cache="off", image_size=32, workers=0, log=lines.append)
    assert isinstance(later.train.store, Decoded)
    assert later.train.index.tolist() == sorted([*GOOD, 6, 7])  # only the empty file is known beforehand
    for name in at_hand.train.paths:
        a = at_hand.train.gather(torch.tensor([at_hand.train.paths.index(name)]))
        b = later.train.gather(torch.tensor([later.train.paths.index(name)]))
        assert torch.equal(a.pixels, b.pixels), name
    assert later.fingerprint == at_hand.fingerprint
    assert any("truncated.jpg" in line for line in lines)  # found out while the statistics were taken


def test_a_labelled_folder(folder):
    data = open_data(str(folder), **quiet)
    assert data.classes == ["class 0", "class 1", "class 2"]
    assert len(data.train) == 27
    assert len(data.holdout) == 3
    assert sorted(data.holdout.labels.tolist()) == [0, 1, 2]
    assert sorted([*data.train.paths, *data.holdout.paths]) == sorted(f"class {i % 3}/{i:02}.png" for i in range(30))
    for part in (data.train, data.holdout):
        assert [data.classes[k] for k in part.labels.tolist()] == [p.split("/")[0] for p in part.paths]
    assert data.image_size == 32
    assert any(line.startswith("image size 32: the median picture is") for line in data.choices)
    name = data.train.paths[4]
    pixels, _ = data.train.gather(torch.tensor([4]))
    assert torch.equal(pixels[0], torch.from_numpy(np.array(Image.open(folder / name)).transpose(2, 0, 1).copy()))


def test_the_cache_is_shared_and_follows_the_content(folder, home, tmp_path):
    lines: list[str] = []
    first = open_data(str(folder), log=lines.append)
    assert len(lines) == 1
    shutil.copytree(folder, tmp_path / "elsewhere")
    second = open_data(str(tmp_path / "elsewhere"), log=lines.append)
    assert len(lines) == 1  # nothing was read again
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.mean, second.mean)
    open_data(str(folder), image_size=16, log=lines.append)
    assert len(lines) == 2  # another size is another cache
    victim = folder / "class 0" / "00.png"
    noise(99, 40, 60).save(victim)
    third = open_data(str(folder), holdout=0, log=lines.append)
    assert len(lines) == 3
    assert third.fingerprint != first.fingerprint
    pixels, sizes = third.train.gather(torch.tensor([0, 1]))
    assert sizes[0].tolist() == [40, 60]
    assert torch.equal(pixels[0, :, :40, :60].permute(1, 2, 0), torch.from_numpy(np.array(Image.open(victim))))


def _open_in_a_process(folder, queue):
    lines: list[str] = []
    data = open_data(folder, log=lines.append)
    queue.put((data.train.index.tolist(), data.holdout.index.tolist(), data.fingerprint, len(lines)))


def test_processes_agree_and_build_once(folder):
    context = mp.get_context("fork")
    queue = context.Queue()
    others = [context.Process(target=_open_in_a_process, args=(str(folder), queue)) for _ in range(2)]
    for process in others:
        process.start()
    answers = [queue.get(timeout=60) for _ in others]
    for process in others:
        process.join(60)
    assert answers[0][:3] == answers[1][:3]
    assert answers[0][3] + answers[1][3] == 1  # one of them read the pictures
    data = open_data(str(folder), **quiet)
    assert answers[0][:3] == (data.train.index.tolist(), data.holdout.index.tolist(), data.fingerprint)


def test_a_home_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    data = open_data(str(folder), root=tmp_path / "file" / "home", **quiet)
    assert len(data.train) == 27
    assert any("kept in memory" in line for line in data.choices)
    with pytest.raises(WrongUse, match="cannot be written"):
        open_data(str(folder), root=tmp_path / "file" / "home", cache="disk", **quiet)


def test_what_does_not_fit_is_decoded(folder, monkeypatch):
    monkeypatch.setattr(reading, "CACHE_LIMIT", 10_000)
    assert isinstance(open_data(str(folder), **quiet).train.store, Decoded)
    assert open_data(str(folder), cache="disk", **quiet).train.store.sizes.shape == (30, 2)
    assert not isinstance(open_data(str(folder), **quiet).train.store, Decoded)  # there is a cache now


def test_train_and_test_folders(tmp_path, home):
    for i in range(24):
        file = tmp_path / "d" / ("test" if i >= 20 else "train") / "ab"[i % 2] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(i, 32, 32).save(file)
    data = open_data(str(tmp_path / "d"), holdout=0, **quiet)
    assert data.classes == ["a", "b"]
    assert (len(data.train), len(data.test), data.holdout) == (20, 4, None)
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.train.whole().shape == (20, 3, 32, 32)
    assert data.train.whole() is data.train.store.uniform
    assert data.image_size == 32
    assert any(line == "image size 32: every picture has it" for line in data.choices)


def test_an_unlabelled_training_part_with_a_labelled_test_part(tmp_path, home):
    for i, name in enumerate(["train/1.png", "train/2.png", "test/a/3.png", "test/b/4.png"]):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        noise(i, 32, 32).save(tmp_path / "d" / name)
    data = open_data(str(tmp_path / "d"), **quiet)
    assert data.classes == ["a", "b"]
    assert data.train.labels is None
    assert data.holdout is None
    assert data.test.labels.tolist() == [0, 1]


def test_classes_of_the_test_part_alone_are_classes(tmp_path, home):
    np.savez(
        tmp_path / "a.npz",
        x=np.zeros((4, 16, 16), np.uint8),
        y=[10, 2, 10, 2],
        test_x=np.zeros((1, 16, 16), np.uint8),
        test_y=[1],
    )
    data = open_data(str(tmp_path / "a.npz"), holdout=0, **quiet)
    assert data.classes == ["1", "2", "10"]
    assert data.train.labels.tolist() == [2, 1, 2, 1]
    assert data.test.labels.tolist() == [0]


def test_gray_and_forced_channels(tmp_path, home):
    for i in range(12):
        file = tmp_path / "gray" / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        noise(i, 20, 20, channels=1).save(file)
    gray = open_data(str(tmp_path / "gray"), **quiet)
    assert gray.channels == 1
    assert gray.mean.shape == gray.std.shape == (1,)
    assert gray.image_size == 20
    rgb = open_data(str(tmp_path / "gray"), channels=3, **quiet)
    assert torch.equal(rgb.train.whole(), gray.train.whole().expand(-1, 3, -1, -1))
    bands = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 7), dtype=np.uint8)
    np.save(tmp_path / "bands.npy", bands)
    assert open_data(str(tmp_path / "bands.npy"), **quiet).mean.shape == (7,)
    with pytest.raises(WrongUse, match="7 channels"):
        open_data(str(tmp_path / "bands.npy"), channels=3, **quiet)
    np.save(tmp_path / "rgb.npy", bands[..., :3])
    one = open_data(str(tmp_path / "rgb.npy"), channels=1, **quiet).train.whole()[:, 0]
    assert np.abs(one.numpy() - bands[..., :3] @ np.array([0.299, 0.587, 0.114])).max() <= 0.51


def test_statistics_come_from_the_training_part(tmp_path, home):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    data = open_data(str(tmp_path / "a.npy"), holdout=30, **quiet)
    kept = torch.from_numpy(pixels)[data.train.index].double() / 255
    assert len(data.train) == 10
    assert torch.allclose(data.mean.double(), kept.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(data.std.double(), kept.std((0, 2, 3), correction=0), atol=1e-6)


def test_a_list_of_files(folder):
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    (folder / "list.csv").write_text("path,label\n" + "\n".join(f"{n},{i % 2}" for i, n in enumerate(names[:8])))
    data = open_data(str(folder / "list.csv"), holdout=0, **quiet)
    assert data.train.paths == names[:8]
    assert data.classes == ["0", "1"]
    other = folder / "other.csv"
    other.write_text("path,label\n" + "\n".join(f"{n},{i // 4}" for i, n in enumerate(names[:8])))
    assert open_data(str(other), **quiet).fingerprint != data.fingerprint  # other labels, other set
    (folder / "list.txt").write_text("class 0/00.png\nabsent.png\n")
    data = open_data(str(folder / "list.txt"), **quiet)
    assert data.skipped == [("absent.png", "no such file")]
    assert data.train.paths == ["class 0/00.png"]


@pytest.mark.parametrize(
    "sizes, device, wanted",
    [
        ([(480, 640)] * 5, "cpu", 96),
        ([(480, 640)] * 5, "cuda", 224),
        ([(100, 120), (110, 130), (105, 300)], "cpu", 96),
        ([(130, 150)] * 3, "cuda", 128),
        ([(28, 28)] * 4, "cpu", 28),
        ([(8, 8)] * 4, "cpu", 32),
        ([(64, 64)] * 4, "cuda", 64),
        ([(64, 64), (64, 65)], "cuda", 64),
        ([(40, 41)] * 4, "cuda", 32),
    ],
)
def test_the_image_size_follows_the_pictures(sizes, device, wanted):
    choices: list[str] = []
    assert _auto_size(Look(sizes, False), device, choices) == wanted
    assert len(choices) == 1
    assert ("at most 96 on a CPU" in choices[0]) == (device == "cpu" and min(sizes[0]) > 96)


# ---- named sets


def test_shapes_open_at_once(home):
    data = open_data("shapes:16:100", **quiet)
    assert data.classes == list(DATASETS["shapes"].classes)
    assert (len(data.train), len(data.holdout), len(data.test)) == (90, 10, 20)
    assert data.holdout.labels.bincount().tolist() == [1] * 10
    assert data.image_size == 16
    assert data.fingerprint == open_data("shapes:16:100", seed=5, **quiet).fingerprint
    assert data.fingerprint != open_data("shapes:16:110", **quiet).fingerprint
    assert not (home / "store").exists()
    large = open_data("shapes:16:1000", **quiet)
    assert [p.name for p in (home / "store").glob("shapes-*-0")] == [f"shapes-{synthetic.VERSION}-16-1000-0"]
    again = open_data("shapes:16:1000", cache="memory", **quiet)
    assert torch.equal(large.train.whole(), again.train.whole())
    assert torch.equal(large.train.gather(torch.tensor([3])).pixels, again.train.gather(torch.tensor([3])).pixels)
    for wrong in ("shapes:big", "shapes:4", "shapes:32:3", "shapes:32:100:1"):
        with pytest.raises(WrongUse, match="size"):
            open_data(wrong, **quiet)


@pytest.fixture
def cifar(home, monkeypatch):
    """Both sets in the published layout, filled with noise. The checksums are of the real files: not looked at."""
    import pickle

    from torchvision.datasets import cifar as module

    rng = np.random.default_rng(0)

    def write(file, key, count, classes):
        labels = [int(i) for i in rng.permutation(count) % classes]
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), key: labels}
        file.write_bytes(pickle.dumps(content))

    ten, hundred = home / "cifar-10-batches-py", home / "cifar-100-python"
    for i in range(1, 6):
        write(ten / f"data_batch_{i}", "labels", 20, 10)
    write(ten / "test_batch", "labels", 30, 10)
    (ten / "batches.meta").write_bytes(pickle.dumps({"label_names": list(DATASETS["cifar10"].classes)}))
    write(hundred / "train", "fine_labels", 200, 100)
    write(hundred / "test", "fine_labels", 100, 100)
    (hundred / "meta").write_bytes(pickle.dumps({"fine_label_names": list(DATASETS["cifar100"].classes)}))
    monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: True)
    return home


@pytest.mark.parametrize("name, train, test, classes", [("cifar10", 100, 30, 10), ("cifar100", 200, 100, 100)])
def test_cifar_in_its_published_layout(cifar, name, train, test, classes):
    data = open_data(name, holdout=0, **quiet)
    assert (len(data.train), len(data.test), len(data.classes)) == (train, test, classes)
    assert data.classes == list(DATASETS[name].classes)
    assert data.train.labels.bincount().tolist() == [train // classes] * classes
    assert torch.allclose(data.mean, torch.tensor(DATASETS[name].mean))
    assert data.train.whole().shape == (train, 3, 32, 32)
    assert data.train.whole().is_contiguous()
    assert data.image_size == 32
    assert open_data(name, channels=1, **quiet).mean.shape == (1,)
    assert any("hold-out: " in line for line in open_data(name, **quiet).choices)


def test_cifar_pixels_are_where_they_belong(cifar):
    import pickle

    raw = pickle.loads((cifar / "cifar-10-batches-py" / "data_batch_2").read_bytes())
    data = open_data("cifar10", holdout=0, **quiet)
    assert torch.equal(data.train.gather(torch.tensor([23])).pixels[0].reshape(-1), torch.from_numpy(raw["data"][3]))
    assert data.train.labels[23] == raw["labels"][3]


def test_a_missing_set_says_what_to_do(home):
    with pytest.raises(WrongUse, match=r"CIFAR10 is not there: .*add --download, or put https://.*cifar-10-python"):
        open_data("cifar10", **quiet)
    (home / "cifar-100-python").mkdir(parents=True)
    with pytest.raises(WrongUse, match="CIFAR100 is damaged"):
        open_data("cifar100", **quiet)
    assert not (home / "cifar-10-python.tar.gz").exists()


def test_entries_are_complete():
    for name, known in DATASETS.items():
        assert known.about
        assert known.licence
        assert len(set(known.classes)) == len(known.classes)
        assert (known.mean is None) == (known.std is None), name
    assert len(DATASETS["cifar100"].classes) == 100
    assert len(DATASETS["cifar10"].classes) == 10


# ---- mistakes


@pytest.mark.parametrize(
    "name, message",
    [
        ("cifar11", "no data set and no folder is called 'cifar11'. Perhaps you meant 'cifar10'."),
        ("xyz", "Known: cars196, celeba, cifar10, cifar100, cub200, imagenet, .* shapes, "),
        ("{}/photo", "there is no .*Perhaps you meant 'photos'"),
        ("{}/nowhere/at all", "there is no .*Check the path"),
        ("{}/photos/class 0/00.png", "is one picture; give the folder"),
        ("{}/a.pdf", "is no set of pictures"),
        ("{}/void", "no pictures in"),
        ("{}/rotten", "no readable picture in .*x.jpg .not a picture"),
        ("cifar10:3", "has no options"),
    ],
)
def test_wrong_names_say_what_to_do(folder, tmp_path, name, message):
    (tmp_path / "a.pdf").write_text("x")
    (tmp_path / "void").mkdir()
    (tmp_path / "rotten").mkdir()
    (tmp_path / "rotten" / "x.jpg").write_text("x")
    with pytest.raises(WrongUse, match=message) as caught:
        open_data(name.format(tmp_path), **quiet)
    assert "\n" not in str(caught.value)


def test_a_folder_of_nothing_but_truncated_pictures(tmp_path, home):
    noise(0, 64, 64).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:900])
    with pytest.raises(WrongUse, match=r"no readable picture in .*a\.jpg: image file is truncated"):
        open_data(str(tmp_path), **quiet)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"holdout": 30}, "leaves none of 30"),
        ({"holdout": 1000}, "leaves none of 30"),
        ({"holdout": -1}, "makes no sense"),
        ({"holdout": 1.5}, "makes no sense"),
        ({"fraction": 0}, "give a fraction above 0"),
        ({"fraction": 1.5}, "give a fraction above 0"),
        ({"fraction": 28}, "asks for 28 of 27"),
        ({"per_class": -1}, "number per class"),
        ({"per_class": 10}, "class 'class 0' has 9 pictures, not 10"),
        ({"image_size": 3}, "too small"),
        ({"channels": 2}, "channels are 0"),
        ({"workers": -1}, "workers >= 0"),
    ],
)
def test_wrong_numbers_say_what_to_do(folder, wrong, message):
    with pytest.raises(WrongUse, match=message):
        open_data(str(folder), **wrong, **quiet)


# ---- splits


def test_the_hold_out_is_seeded_and_stratified():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    kept, held = hold_out(100, labels, None, 3)
    assert labels[held].bincount().tolist() == [6, 3, 1]
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(100))
    assert torch.equal(hold_out(100, labels, 0.1, 3)[1], held)
    assert torch.equal(hold_out(100, labels, 10, 3)[1], held)
    assert not torch.equal(hold_out(100, labels, None, 4)[1], held)
    assert len(hold_out(100, None, None, 3)[1]) == 0


def test_the_hold_out_is_the_same_everywhere():
    """Recorded: runs of other versions and machines hold out the same pictures."""
    assert hold_out(20, None, 5, 0)[1].tolist() == [6, 13, 15, 16, 19]
    assert hold_out(20, torch.arange(20) % 4, 4, 7)[1].tolist() == [0, 2, 5, 15]


def test_fractions_are_nested_and_in_proportion():
    labels = torch.arange(200) % 4
    small, large = (set(subset(labels, 200, f, 0, None, 0).tolist()) for f in (0.1, 0.5))
    assert small < large
    assert labels[sorted(small)].bincount().tolist() == [5] * 4
    assert len(subset(labels, 200, 50, 0, None, 0)) == 50  # above 1: a number of pictures
    few = subset(labels, 200, 1.0, 3, None, 0)
    assert labels[few].bincount().tolist() == [3] * 4
    assert set(few.tolist()) < set(subset(labels, 200, 1.0, 7, None, 0).tolist())
    with pytest.raises(WrongUse, match="has none"):
        subset(None, 200, 1.0, 3, None, 0)


def test_every_prefix_of_the_ranking_is_in_proportion():
    labels = torch.tensor([0] * 50 + [1] * 25 + [2] * 25)
    order = ranking(100, labels, 0, 0)
    assert sorted(order.tolist()) == list(range(100))
    for size in range(1, 101):
        counts = labels[order[:size]].bincount(minlength=3)
        assert (counts - size * torch.tensor([0.5, 0.25, 0.25])).abs().max() <= 1


def test_subsets_of_a_data_set_keep_their_index(folder):
    whole = open_data(str(folder), **quiet)
    half = open_data(str(folder), fraction=0.5, **quiet)
    assert set(half.train.index.tolist()) < set(whole.train.index.tolist())
    assert torch.equal(half.holdout.index, whole.holdout.index)
    assert half.train.labels.bincount().max() - half.train.labels.bincount().min() <= 1
    five = open_data(str(folder), per_class=5, **quiet)
    assert five.train.labels.bincount().tolist() == [5, 5, 5]


# ---- pictures that a program holds


def test_arrays_and_pil_pictures():
    array = np.random.default_rng(0).integers(0, 256, (4, 10, 12, 3), dtype=np.uint8)
    wanted = torch.from_numpy(array.transpose(0, 3, 1, 2).copy())
    for objects in (
        array,
        torch.from_numpy(array),
        wanted,
        list(array),
        list(wanted),
        [Image.fromarray(a) for a in array],
    ):
        assert torch.equal(from_objects(objects).gather(torch.arange(4)).pixels, wanted)
    gray = from_objects([array[0, :, :, 0]])
    assert torch.equal(gray.gather(torch.tensor([0])).pixels[0, 2], wanted[0, 0])
    assert from_objects([array[0]], channels=1).gather(torch.tensor([0])).pixels.shape == (1, 1, 10, 12)
    clear = np.zeros((1, 4, 5, 4), np.uint8)
    assert (from_objects(clear).whole() == 255).all()  # transparent shows white
    picture = Image.fromarray(array[0])
    small = from_objects([picture, np.zeros((200, 300, 3), np.uint8)], image_size=4)
    assert small.gather(torch.arange(1)).pixels.shape == (1, 3, 8, 10)


def test_the_callers_picture_is_left_alone(tmp_path):
    noise(0, 300, 400).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as picture:
        assert from_objects([picture], image_size=8).gather(torch.tensor([0])).pixels.shape == (1, 3, 16, 21)
        assert picture.size == (400, 300)
        picture.load()
        assert picture.size == (400, 300)


def test_lists_of_paths(folder):
    paths = sorted(folder.rglob("*.png"))[:4]
    part = from_objects(paths)
    assert part.paths == [str(p) for p in paths]
    assert torch.equal(
        part.gather(torch.tensor([2])).pixels[0].permute(1, 2, 0), torch.from_numpy(np.array(Image.open(paths[2])))
    )
    noise(0, 64, 64).save(folder / "t.jpg")
    (folder / "t.jpg").write_bytes((folder / "t.jpg").read_bytes()[:900])
    (folder / "x.png").write_text("x")
    broken = [paths[0], folder / "t.jpg", str(folder / "x.png"), paths[1]]
    with pytest.raises(WrongUse, match=r"x\.png \(not a picture\)"):
        from_objects(broken)
    kept = from_objects(broken, bad_files="skip", **quiet)
    assert kept.index.tolist() == [0, 3]
    with pytest.raises(WrongUse, match="no readable picture"):
        from_objects([folder / "x.png"], bad_files="skip", **quiet)
    with pytest.raises(WrongUse, match="no pictures in the list"):
        from_objects([])
    with pytest.raises(WrongUse, match="picture 0 is int"):
        from_objects([3])
