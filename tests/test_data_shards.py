# mypy: disable-error-code="union-attr,index,arg-type,call-overload,misc"
# (an optional field that is None fails the test by itself)
"""Tar shards: the same pictures and labels as the folder they were made of, wherever, however and by whomever read."""

import copy
import dataclasses
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selfsight import api, cli
from selfsight.augment import ViewsConfig, build
from selfsight.data import DataSet, open_data, shards, spans
from selfsight.data import content as contents
from selfsight.data.feed import Decoded
from selfsight.data.part import Part
from selfsight.data.shards import expand
from selfsight.data.spans import Span, Spans, Strings
from selfsight.errors import WrongUse
from selfsight.rng import Stream, generator
from selfsight.train import order
from tiny import losses, make, same, state, tiny

CLASSES = ("ant", "bee", "cat")
COUNT, PER_SHARD = 36, 10


def opened(name: Any, root: Path, **settings: Any) -> DataSet:
    return open_data(str(name), root=root, **{"image_size": 16, "holdout": 0, "log": lambda line: None, **settings})


def content(seed: int, suffix: str = "jpg", size: tuple[int, int] | None = None) -> bytes:
    """A picture of noise as a file."""
    rng = np.random.default_rng(seed)
    height, width = size or (20 + seed % 5, 30 - seed % 7)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
        out, {"jpg": "JPEG"}.get(suffix, suffix.upper())
    )
    return out.getvalue()


def write_tar(file: Path, members: list[tuple[str, bytes]], **options: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def samples(count: int = COUNT, label: str = "cls") -> list[list[tuple[str, bytes]]]:
    """Members of each picture: itself and its label."""
    kinds = ("jpg", "png", "webp")
    sides = {
        "cls": lambda k: str(k).encode(),
        "json": lambda k: json.dumps({"label": CLASSES[k], "width": 9}).encode(),
        "txt": lambda k: f"{CLASSES[k]}\n".encode(),
    }
    return [
        [(f"{i:04}.{kinds[i % 3]}", content(i, kinds[i % 3])), (f"{i:04}.{label}", sides[label](i * 7 % 3))]
        for i in range(count)
    ]


def write_shards(folder: Path, found: list[list[tuple[str, bytes]]], stem: str = "train") -> str:
    """Shards of ten pictures; the pattern of their names."""
    for start in range(0, len(found), PER_SHARD):
        members = [member for sample in found[start : start + PER_SHARD] for member in sample]
        write_tar(folder / f"{stem}-{start // PER_SHARD:06}.tar", members)
    last = (len(found) - 1) // PER_SHARD
    return str(folder / f"{stem}-{{000000..{last:06}}}.tar")


@pytest.fixture
def both(tmp_path: Path) -> tuple[str, Path]:
    """A pattern of shards, and a folder of the same files."""
    found = samples()
    for sample in found:
        (name, data), _ = sample
        (tmp_path / "folder" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    return write_shards(tmp_path / "shards", found), tmp_path / "folder"


def pictures(data: DataSet) -> dict[str, torch.Tensor]:
    part = data.train
    return {name: part.gather(torch.tensor([i])).pixels[0] for i, name in enumerate(part.paths)}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- the same as a folder


@pytest.mark.parametrize("cache", ["auto", "memory", "off"])
def test_shards_give_what_their_folder_gives(both: Any, tmp_path: Path, cache: Any) -> None:
    pattern, folder = both
    wanted = opened(folder, tmp_path / "home", cache="memory")
    for name in (pattern, Path(pattern).parent, str(Path(pattern).parent / "*.tar")):
        data = opened(name, tmp_path / "home", cache=cache, workers=0)
        assert isinstance(data.train.store, Decoded) == (cache == "off")
        assert data.train.paths == [f"{i:04}.{('jpg', 'png', 'webp')[i % 3]}" for i in range(COUNT)]
        assert data.train.labels.tolist() == [i * 7 % 3 for i in range(COUNT)]
        assert data.classes == ["0", "1", "2"]
        assert data.train.index.tolist() == list(range(COUNT))
        assert equal(pictures(data), pictures(wanted))
        assert torch.equal(data.mean, wanted.mean)


def test_the_cache_of_the_folder_serves_its_shards(both: Any, tmp_path: Path) -> None:
    """Contents are hashed, not places: the decoded pictures are stored once."""
    pattern, folder = both
    lines: list[str] = []
    opened(folder, tmp_path / "home", log=lines.append)
    opened(pattern, tmp_path / "home", log=lines.append)
    assert [line.split(" ")[0] for line in lines] == ["reading", "listing"]


def test_one_shard_of_many(both: Any, tmp_path: Path) -> None:
    pattern, _ = both
    data = opened(expand(pattern)[1], tmp_path / "home")
    assert data.train.paths[0] == "0010.png"
    assert len(data.train) == 10


@pytest.mark.parametrize("label", ["json", "txt"])
def test_labels_of_other_kinds(tmp_path: Path, label: str) -> None:
    data = opened(write_shards(tmp_path / "s", samples(label=label)), tmp_path / "home")
    assert data.classes == list(CLASSES)
    assert data.train.labels.tolist() == [i * 7 % 3 for i in range(COUNT)]


def test_labels_in_any_order_and_json_of_several_kinds(tmp_path: Path) -> None:
    kinds = [b'{"cls": 10}', b'"2"', b"3", b'{"label": null, "target": "2"}', b'{"y": 10}', b"3"]
    members = [(f"{i}.json", kind) for i, kind in enumerate(kinds)]
    members += [(f"./{i}.png", content(i, "png")) for i in reversed(range(6))]
    write_tar(tmp_path / "a.tar", members)
    data = opened(tmp_path / "a.tar", tmp_path / "home")
    assert data.classes == ["2", "3", "10"]
    assert dict(zip(data.train.paths, data.train.labels.tolist())) == {
        "0.png": 2, "1.png": 0, "2.png": 1, "3.png": 0, "4.png": 2, "5.png": 1
    }  # fmt: skip


def test_texts_that_describe_are_no_labels(tmp_path: Path) -> None:
    found = [[(f"{i}.jpg", content(i)), (f"{i}.txt", f"picture number {i}".encode())] for i in range(30)]
    data = opened(write_shards(tmp_path / "s", found), tmp_path / "home")
    assert data.classes is None
    assert data.train.labels is None
    assert any("30 different ones, so descriptions" in line for line in data.choices)


def test_no_label_for_some(tmp_path: Path) -> None:
    found = samples()
    found[17] = found[17][:1]
    data = opened(write_shards(tmp_path / "s", found), tmp_path / "home")
    assert data.train.labels.tolist() == [-1 if i == 17 else i * 7 % 3 for i in range(COUNT)]
    assert data.train.labelled().tolist() == [i for i in range(COUNT) if i != 17]
    assert any("no label for 1 of 36 pictures, such as 0017.webp" in line for line in data.choices)
    held = open_data(str(tmp_path / "s"), root=tmp_path / "home", holdout=0.3, log=lambda _: None)
    assert int(held.holdout.labels.min()) >= 0  # what is asked about has a label
    assert -1 in held.train.labels.tolist()
    none = write_shards(tmp_path / "n", [sample[:1] for sample in samples()])
    assert opened(none, tmp_path / "home").train.labels is None


def test_what_is_beside_the_pictures_is_left_alone(tmp_path: Path) -> None:
    members = [
        ("a/1.jpg", content(1)), ("a/1.mask.png", content(2, "png")), ("a/2020.01.02.jpg", content(3)),
        ("a/2020.01.02.cls", b"7"), ("a/1.cls", b"8"), ("a/1.npy", b"x"), ("__MACOSX/a/1.jpg", b"x"),
        ("a/._1.jpg", b"x"), ("a/long" + "g" * 200 + ".jpg", content(4)), ("a/long" + "g" * 200 + ".cls", b"8"),
    ]  # fmt: skip
    write_tar(tmp_path / "a.tar", members, format=tarfile.PAX_FORMAT)
    write_tar(tmp_path / "b.tar", members, format=tarfile.GNU_FORMAT)
    for name in ("a.tar", "b.tar"):
        data = opened(tmp_path / name, tmp_path / "home")
        assert data.train.paths == ["a/1.jpg", "a/2020.01.02.jpg", "a/long" + "g" * 200 + ".jpg"]
        assert [data.classes[k] for k in data.train.labels] == ["8", "7", "8"]
        told = next(line for line in data.choices if "members that are no pictures" in line)
        assert told.startswith("2 members")
        assert ".mask.png 1" in told


def test_a_folder_as_a_tar(tmp_path: Path) -> None:
    names = ("train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "val/dog/4.png", "val/cat/5.png")
    write_tar(tmp_path / "all.tar", [(name, content(i, "png")) for i, name in enumerate(names)])
    data = opened(tmp_path / "all.tar", tmp_path / "home")
    assert data.classes == ["cat", "dog"]
    assert data.train.labels.tolist() == [0, 0, 1]
    assert data.test.labels.tolist() == [1, 0]
    assert data.test.paths == ["val/dog/4.png", "val/cat/5.png"]


@pytest.mark.parametrize("names", [("train-{}", "val-{}"), ("train/{}", "test/{}"), ("im_train_{}", "im_val_{}")])
def test_shards_of_parts(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, first in zip(names, (0, 10)):
        for number in range(2):
            rows = range(first + 5 * number, first + 5 * number + 5)
            members = [member for i in rows for member in samples(20)[i]]
            write_tar(tmp_path / "s" / f"{name.format(f'{number:03}')}.tar", members)
    data = opened(tmp_path / "s", tmp_path / "home")
    assert [int(name[:4]) for name in data.train.paths] == list(range(10))
    assert [int(name[:4]) for name in data.test.paths] == list(range(10, 20))
    assert data.test.labels.tolist() == [i * 7 % 3 for i in range(10, 20)]
    alone = opened(tmp_path / "s" / f"{names[1].format('{000..001}')}.tar", tmp_path / "home")
    assert len(alone.train) == 10  # one part by itself is the set
    assert alone.test is None


def test_equal_names_in_several_shards(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        write_tar(tmp_path / "s" / f"{name}.tar", [("1.png", content(number, "png")), ("1.cls", name.encode())])
    data = opened(tmp_path / "s", tmp_path / "home")
    assert data.train.paths == ["cat.tar/1.png", "dog.tar/1.png"]
    assert not torch.equal(*pictures(data).values())


# ---- the index


def test_the_index_is_made_once_and_follows_the_shards(both: Any, tmp_path: Path, monkeypatch: Any) -> None:
    pattern, _ = both
    scanned: list[str] = []
    real = shards.scan

    def counted(path: str) -> Any:
        scanned.append(path)
        return real(path)

    monkeypatch.setattr(shards, "scan", counted)
    home = tmp_path / "home"
    first = opened(pattern, home)
    assert scanned == expand(pattern)
    again = opened(pattern, home)
    assert len(scanned) == 4
    assert again.train.paths == first.train.paths
    assert again.fingerprint == first.fingerprint
    moved = tmp_path / "moved"
    Path(pattern).parent.rename(moved)
    assert opened(moved, home).fingerprint == first.fingerprint
    assert len(scanned) == 4  # found again elsewhere
    write_tar(moved / "train-000002.tar", [m for s in samples(40)[36:] for m in s])
    changed = opened(moved, home)
    assert len(scanned) == 8
    assert changed.train.paths[20:24] == ["0036.jpg", "0037.png", "0038.webp", "0039.jpg"]
    assert changed.fingerprint != first.fingerprint
    (kept,) = [file for file in (home / "store").glob("index-*") if file.suffix != ".lock"][:1]
    for file in (home / "store").glob("index-*"):
        file.write_bytes(kept.read_bytes()[:-5])
    assert opened(moved, home).fingerprint == changed.fingerprint  # a damaged index is made anew
    assert len(scanned) == 12


def test_where_nothing_can_be_written(both: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert len(opened(both[0], tmp_path / "file" / "home").train) == COUNT


def test_processes_scan_like_one(both: Any, tmp_path: Path, monkeypatch: Any) -> None:
    one = opened(both[0], tmp_path / "home")
    monkeypatch.setattr(shards, "_PARALLEL", 0)
    monkeypatch.setattr(shards, "cores", lambda: 2)
    several = opened(both[0], tmp_path / "home2")
    assert several.fingerprint == one.fingerprint
    assert several.train.paths == one.train.paths


def test_large_sets_are_hashed_by_samples(both: Any, tmp_path: Path, monkeypatch: Any) -> None:
    pattern, _ = both
    whole = opened(pattern, tmp_path / "home").fingerprint
    monkeypatch.setattr(contents, "_SAMPLED", 100)
    some = opened(pattern, tmp_path / "home").fingerprint
    assert some != whole
    assert opened(pattern, tmp_path / "home").fingerprint == some
    found = samples()
    found[4][0] = ("0004.png", content(99, "png", (20 + 4 % 5, 30 - 4 % 7)))
    write_shards(tmp_path / "other", found)
    assert opened(tmp_path / "other", tmp_path / "home").fingerprint != some


def test_bad_members_leave_the_others_in_place(tmp_path: Path) -> None:
    found = samples()
    found[3][0] = ("0003.jpg", b"no picture")
    found[12][0] = ("0012.jpg", found[12][0][1][:200])
    found[30][0] = ("0030.jpg", b"")
    pattern = write_shards(tmp_path / "s", found)
    good = [i for i in range(COUNT) if i not in (3, 12, 30)]
    data = opened(pattern, tmp_path / "home")
    assert data.train.index.tolist() == good
    assert [int(name[:4]) for name in data.train.paths] == good
    assert data.train.labels.tolist() == [i * 7 % 3 for i in good]
    assert [name for name, _ in data.skipped] == ["0003.jpg", "0012.jpg", "0030.jpg"]
    whole = opened(write_shards(tmp_path / "whole", samples()), tmp_path / "home")
    mine, wanted = pictures(data), pictures(whole)
    assert all(torch.equal(mine[name], wanted[name]) for name in mine)
    with pytest.raises(WrongUse, match=r"3 pictures cannot be read: 0003\.jpg \(not a picture\), 0012\.jpg"):
        opened(pattern, tmp_path / "home", bad_files="error")
    lines: list[str] = []
    later = opened(pattern, tmp_path / "home2", cache="off", workers=0, log=lines.append)
    assert later.train.index.tolist() == [i for i in range(COUNT) if i != 30]
    assert any("0003.jpg in " in line and "stands in for it" in line for line in lines)


# ---- reading


def draws_of(views: Any, step: int, batch: int) -> Any:
    rng = generator(0, Stream.VIEWS, step)
    return torch.randint(COUNT, (batch,), generator=rng), views.draw(batch, rng)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_workers_and_processes(both: Any, tmp_path: Path, workers: int) -> None:
    """Crops are those of the folder; two processes that ask for their own rows get what one gets."""
    pattern, folder = both
    views = build(ViewsConfig(policy="simclr"), 8, 3, torch.full((3,), 0.5), torch.ones(3))
    todo = [draws_of(views, step, 12) for step in range(4)]
    wanted = list(opened(folder, tmp_path / "h", cache="off", workers=0).train.feed(todo, views))
    part = opened(pattern, tmp_path / "h", cache="off", workers=workers).train
    found = list(part.feed(todo, views))
    halves = []
    for rank in range(2):
        mine = slice(6 * rank, 6 * rank + 6)
        own = [(rows[mine], {k: v[mine] for k, v in draws.items()}) for rows, draws in todo]
        halves.append(list(part.feed(own, views)))
    rest = list(part.feed(todo[2:], views))
    for step, (a, b) in enumerate(zip(wanted, found)):
        assert torch.equal(a["global"], b["global"])
        assert torch.equal(torch.cat([half[step]["global"] for half in halves], 1), a["global"])
    assert all(torch.equal(a["global"], b["global"]) for a, b in zip(rest, wanted[2:]))


def test_a_run_on_shards_resumes_in_the_middle_of_one(both: Any, tmp_path: Path) -> None:
    """36 pictures in shards of ten, batches of 8: step 2 ends inside a shard and inside the epoch."""
    changes: dict[str, Any] = {"data": both[0], "data_root": str(tmp_path / "home"), "cache": "off", "workers": 1}
    changes |= {"batch_size": 8, "steps": 5, "holdout": 0}
    run, data = tiny("pirl", **changes)
    assert isinstance(data.train.store, Decoded)
    assert data.train.store.spans[0].length > 0
    whole = make(run, data)
    wanted = losses(run, whole)
    first = make(run, data)
    assert losses(run, first, 0, 2) == wanted[:2]
    saved = state(first)
    second = make(*tiny("pirl", **changes))
    second[0].load_state_dict(copy.deepcopy(saved["method"]))
    second[1].load_state_dict(copy.deepcopy(saved["optimizer"]))
    assert losses(run, second, 2) == wanted[2:]
    assert same(state(second), state(whole))


def test_an_order_by_windows_of_shards() -> None:
    """Each window holds all pictures of its shards, mixed; which shards meet changes with the epoch."""
    shard = torch.arange(6).repeat_interleave(6)
    seen, mixed = set(), 0
    for epoch in range(20):
        rows = order(3, epoch, 36, shard, 2)
        assert rows.sort().values.tolist() == list(range(36))
        assert torch.equal(rows, order(3, epoch, 36, shard, 2))
        windows = [part.unique().tolist() for part in shard[rows].split(12)]
        assert [len(window) for window in windows] == [2, 2, 2]
        seen.add(str(windows))
        mixed += int(shard[rows].diff().ne(0).sum())
    assert len(seen) > 15
    assert mixed / 20 > 15  # of 35 neighbours: half of those inside a window, and 2 of 3 windows' ends
    uneven = torch.tensor([0, 3, 3, 1, 0, 3, 1])  # shard 2 is empty
    for epoch in range(20):  # one at a time: none is come back to
        assert len(torch.unique_consecutive(uneven[order(3, epoch, 7, uneven, 1)])) == 3
    assert torch.equal(order(3, 1, 36, shard, 0), order(3, 1, 36))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_by_windows_of_shards(both: Any, tmp_path: Path, workers: int) -> None:
    """The same with any number of workers, and when it goes on in the middle of a window; 2 shards at a time are read."""
    changes: dict[str, Any] = {"data": both[0], "data_root": str(tmp_path / "home"), "cache": "off", "batch_size": 8}
    changes |= {"steps": 6, "holdout": 0, "shuffle_window": 2}
    run, data = tiny("pirl", **changes, workers=1)
    whole = make(run, data)
    wanted = losses(run, whole)
    run, data = tiny("pirl", **changes, workers=workers)
    first = make(run, data)
    assert losses(run, first, 0, 3) == wanted[:3]
    saved = copy.deepcopy(state(first))
    second = make(*tiny("pirl", **changes, workers=workers))
    second[0].load_state_dict(saved["method"])
    second[1].load_state_dict(saved["optimizer"])
    assert losses(run, second, 3) == wanted[3:]
    assert same(state(second), state(whole))
    assert wanted != losses(*_with(run, data, shuffle_window=0))
    shard = data.train.shards()
    assert shard.tolist() == [i // PER_SHARD for i in range(COUNT)]
    assert len(shard[order(run.seed, 0, COUNT, shard, 2)[:16]].unique()) == 2


def _with(run: Any, data: Any, **changes: Any) -> tuple[Any, Any]:
    run = dataclasses.replace(run, **changes)
    return run, make(run, data)


def test_windows_where_there_are_none(both: Any, tmp_path: Path) -> None:
    """Pictures at hand are not read from shards, nor do single files lie in any; a method may choose the order itself."""
    for changes in ({"data": both[0]}, {"data": str(both[1]), "cache": "off"}):
        with pytest.raises(
            WrongUse, match="not read from shards while training: leave out --shuffle-window, or, of shards"
        ):
            make(
                *tiny("simclr", data_root=str(tmp_path / "home"), holdout=0, batch_size=8, shuffle_window=2, **changes)
            )
    run, data = tiny(
        "deepcluster",
        data=both[0],
        data_root=str(tmp_path / "home"),
        cache="off",
        shuffle_window=2,
        holdout=0,
        batch_size=8,
    )
    run = dataclasses.replace(run, method=dataclasses.replace(run.method, balanced="sample", clusters=2))
    with pytest.raises(WrongUse, match="deepcluster chooses the order of the pictures itself"):
        make(run, data)
    with pytest.raises(WrongUse, match="--shuffle-window is -1"):
        tiny("simclr", shuffle_window=-1)


def test_a_run_on_shards_is_the_run_on_their_folder(both: Any, tmp_path: Path, capfd: Any) -> None:
    pattern, folder = both
    found = []
    for number, name in enumerate((pattern, str(folder))):
        words = [
            "simclr",
            "--recipe",
            "tiny",
            "--data",
            name,
            "--data-root",
            str(tmp_path / "home"),
            "--image-size",
            "16",
        ]
        words += [
            "--batch-size",
            "8",
            "--steps",
            "3",
            "--holdout",
            "0",
            "--quiet",
            "--json",
            "--out",
            str(tmp_path / f"{number}"),
        ]
        words += ["--cache", "off"]
        assert cli.run(["pretrain", *words]) == 0
        found.append(json.loads(capfd.readouterr().out)["final_loss"])
    assert found[0] == found[1]
    embedded = api.embed(tmp_path / "0", pattern, data_root=str(tmp_path / "home"))
    other = api.embed(tmp_path / "0", str(folder), data_root=str(tmp_path / "home"))
    assert embedded.paths == other.paths
    assert np.array_equal(embedded.features, other.features)


def test_remote_shards(both: Any, tmp_path: Path) -> None:
    """Any protocol that fsspec knows: here its own memory."""
    import fsspec

    pattern, _ = both
    system = fsspec.filesystem("memory")
    for file in expand(pattern):
        system.pipe_file(f"/bucket/deep/{Path(file).name}", Path(file).read_bytes())
    try:
        local = opened(pattern, tmp_path / "home")
        for name in (
            "memory://bucket/deep",
            "memory://bucket/deep/train-{000000..000003}.tar",
            "memory://bucket/deep/*.tar",
        ):
            data = opened(name, tmp_path / "far", cache="off", workers=1)
            assert data.train.paths == local.train.paths
            assert torch.equal(data.train.labels, local.train.labels)
            assert data.fingerprint == local.fingerprint
            assert data.train.store.spans[0].path.startswith("memory://")
            assert equal(pictures(data), pictures(local))
        with pytest.raises(WrongUse, match=r"1 of 5 shards are not there: memory://bucket/deep/train-000004\.tar"):
            opened("memory://bucket/deep/train-{000000..000004}.tar", tmp_path / "far")
        with pytest.raises(WrongUse, match=r"no \.tar in memory://nowhere"):
            opened("memory://nowhere", tmp_path / "far")
    finally:
        system.store.clear()


def test_only_ranges_are_read_from_afar(monkeypatch: Any) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe_file("/b/x.tar", bytes(range(100)))
    asked: list[tuple[int, int]] = []
    real = type(system).cat_file

    def counted(self: Any, path: str, start: int, end: int) -> Any:
        asked.append((start, end))
        return real(self, path, start, end)

    monkeypatch.setattr(type(system), "cat_file", counted)
    try:
        assert Span("memory://b/x.tar", 10, 5).read() == bytes(range(10, 15))
        assert Span("memory://b/x.tar", 10, 50).ends(8) == (50, bytes([10, 11, 12, 13, 56, 57, 58, 59]))
        assert asked == [(10, 15), (10, 14), (56, 60)]
        assert Span("memory://b/x.tar").read() == bytes(range(100))
    finally:
        system.store.clear()


def test_a_network_that_fails_is_asked_again(monkeypatch: Any) -> None:
    class Flaky:
        calls = 0

        def cat_file(self, path: str, start: int, end: int) -> bytes:
            self.calls += 1
            if self.calls % 3:
                raise RuntimeError("connection reset")
            return b"12345"[start:end]

    flaky = Flaky()
    monkeypatch.setattr(spans, "filesystem", lambda url: (flaky, url))
    monkeypatch.setattr(spans.time, "sleep", lambda seconds: None)
    assert Span("s3://b/x.tar", 1, 3).read() == b"234"
    monkeypatch.setattr(Flaky, "cat_file", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("down")))
    with pytest.raises(OSError, match="down"):
        Span("s3://b/x.tar", 1, 3).read()


# ---- mistakes


def test_a_missing_shard(both: Any, tmp_path: Path) -> None:
    Path(expand(both[0])[2]).unlink()
    with pytest.raises(WrongUse, match=r"1 of 4 shards are not there: .*train-000002\.tar; fetch them, or change"):
        opened(both[0], tmp_path / "home")
    with pytest.raises(WrongUse, match="first number in braces"):
        opened(str(tmp_path / "a-{009..000}.tar"), tmp_path / "home")
    with pytest.raises(WrongUse, match=r"no \.tar in"):
        opened(str(tmp_path / "*.tar"), tmp_path / "home")
    with pytest.raises(WrongUse, match=r"is no \.tar; of other files give the folder"):
        opened(str(both[1] / "*.jpg"), tmp_path / "home")
    with pytest.raises(WrongUse, match="shards are not there"):
        opened(str(tmp_path / "absent.tar"), tmp_path / "home")


@pytest.mark.parametrize("cut", ["member", "header", "end"])
def test_a_truncated_shard(both: Any, tmp_path: Path, cut: str) -> None:
    """What is whole in it is used, with its place; how many are lost nobody knows, so it is said loudly."""
    pattern, _ = both
    whole = opened(pattern, tmp_path / "home")
    victim = Path(expand(pattern)[3])
    with tarfile.open(victim) as tar:
        member = tar.getmember("0033.jpg")
        last = tar.getmembers()[-1]
    end = {"member": member.offset_data + 50, "header": member.offset + 100, "end": last.offset_data + 512}[cut]
    victim.write_bytes(victim.read_bytes()[:end])
    data = opened(pattern, tmp_path / "home")
    wanted = COUNT if cut == "end" else 33
    assert data.train.index.tolist() == list(range(wanted))
    assert equal(pictures(data), dict(list(pictures(whole).items())[:wanted]))
    assert data.skipped[0][0] == "train-000003.tar"
    assert "cut short or damaged" in data.skipped[0][1]
    assert any("unreadable files are skipped: train-000003.tar (cut short" in line for line in data.choices)
    with pytest.raises(WrongUse, match=r"not all pictures can be read: train-000003\.tar \(cut short"):
        opened(pattern, tmp_path / "home", bad_files="error")


def test_no_shard_at_all(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.tar").write_bytes(b"this is no tar file, but it is called one" * 50)
    with pytest.raises(WrongUse, match=r"no pictures in a\.tar \(nothing at all; a\.tar: cut short or damaged"):
        opened(tmp_path / "s", tmp_path / "home")
    write_tar(tmp_path / "b.tar", [("1.npy", b"x"), ("2.npy", b"x")])
    with pytest.raises(WrongUse, match=r"no pictures in b\.tar \(\.npy 2\)"):
        opened(tmp_path / "b.tar", tmp_path / "home")
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(WrongUse, match="no pictures in empty"):
        opened(tmp_path / "empty.tar", tmp_path / "home")


def test_compressed_shards_are_refused(both: Any, tmp_path: Path) -> None:
    tar = Path(expand(both[0])[0])
    for name in ("a.tar.gz", "a.tgz"):
        (tmp_path / name).write_bytes(gzip.compress(tar.read_bytes()))
        with pytest.raises(WrongUse, match="is compressed, so that no picture in it can be read by itself; unpack it"):
            opened(tmp_path / name, tmp_path / "home")
    tar.write_bytes(gzip.compress(tar.read_bytes()))  # under the name of a plain one
    with pytest.raises(WrongUse, match=r"is compressed \(gzip\).*unpack it once: gunzip"):
        opened(both[0], tmp_path / "home")


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: Any) -> None:
    spans._system.cache_clear()
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(WrongUse, match=r"pip install 'selfsight\[remote\]'"):
        opened("memory://bucket/a.tar", tmp_path / "home")
    monkeypatch.undo()
    with pytest.raises(WrongUse, match="no kind of URL that fsspec knows"):
        opened("nosuch://bucket/a.tar", tmp_path / "home")


def test_pictures_in_a_folder_go_before_a_stray_tar(both: Any, tmp_path: Path) -> None:
    _, folder = both
    write_tar(folder / "backup.tar", [("z.jpg", content(1))])
    assert len(opened(folder, tmp_path / "home").train) == COUNT


# ---- the small parts


def test_braces() -> None:
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{a,b}-{0..1}.tar") == ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]
    assert expand("plain.tar") == ["plain.tar"]


def test_packed_strings() -> None:
    wanted = ["", "a", "日本/ü.jpg", os.fsdecode(b"\xff\xfe.png"), "a"]
    packed = Strings.of(wanted)
    assert packed == wanted
    assert wanted == list(packed)
    assert packed != wanted[:-1]
    assert packed != [*wanted[:-1], "b"]
    assert packed[2] == "日本/ü.jpg"
    assert packed[-1] == "a"
    assert packed[1:3] == wanted[1:3]
    assert packed.select(torch.tensor([3, 0])) == [wanted[3], wanted[0]]
    assert packed.index("日本/ü.jpg") == 2
    assert Strings.of(packed) is packed
    assert Strings.of([]) == []
    with pytest.raises(IndexError):
        packed[9]
    many = [f"{i}" for i in range(10_000)]
    assert Strings.of(iter(many)) == many


def test_spans_of_files_and_of_parts(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(bytes(range(100)))
    (tmp_path / "void").write_bytes(b"")
    whole = Spans.of([file, tmp_path / "absent", tmp_path / "void"])
    assert whole[0] == (str(file), 0, -1)
    assert whole[0].source() == str(file)
    assert whole.void() == [1, 2]
    assert whole.total() is None
    assert whole.title(1).endswith("absent")
    parts = Spans(
        Strings.of([str(file)]), torch.zeros(3, dtype=torch.int64), torch.tensor([5, 90, 98]), torch.tensor([3, 0, 4])
    )
    assert parts[0].source().read() == b"\5\6\7"
    assert parts.void() == [1]
    assert parts.total() == 7
    assert list(parts) == [parts[0], parts[1], parts[2]]
    assert list(parts[1:]) == [parts[1], parts[2]]
    with pytest.raises(OSError, match="cut short"):
        parts[2].read()


def test_a_million_pictures_are_a_few_tensors() -> None:
    """What travels to a worker that is not forked: no object a picture."""
    count = 1_000_000
    names = Strings(torch.zeros(count, dtype=torch.uint8), torch.arange(count), torch.ones(count, dtype=torch.int64))
    many = Spans(
        Strings.of(["a.tar"]), torch.zeros(count, dtype=torch.int64), torch.arange(count), torch.arange(count), names
    )
    part = Part(Decoded(many, 3, 32))
    objects = pickle.dumps(part.store)
    assert len(objects) < 60 * count
    assert pickle.loads(objects).spans[count - 1] == many[count - 1]
    assert len(part.subset(torch.arange(0, count, 2))) == count // 2


def test_the_index_keeps_little(tmp_path: Path) -> None:
    """An index of 200,000 members, made, stored and opened: less than 200 bytes of memory a member stay."""
    code = """
    import resource, sys
    from pathlib import Path
    import torch
    from selfsight.data import index
    from selfsight.data.index import Scan
    def now():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    def scans():
        for shard in range(20):
            n = range(10_000)
            yield Scan([f"{shard:04}-{i:06}.jpg" for i in n], [512 * i for i in n], [500 for i in n], [str(i % 1000) for i in n])
    before = now()
    made = index.kept("key", Path(sys.argv[1]), lambda: index.merged(scans()))
    again = index.kept("key", Path(sys.argv[1]), lambda: 1 / 0)
    del made
    assert again.names[199_999] == "0019-009999.jpg" and len(again.classes) == 1000
    print((now() - before) / 200_000)
    """
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is read from /proc")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 200
