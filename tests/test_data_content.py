"""What is remembered of files, and work that is shared out to processes."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfsight.data import content, open_data, processes, reading
from selfsight.data.processes import spread
from selfsight.data.spans import Span, Spans, Strings, read_file

OLD = 1_000_000_000  # seconds since 1970


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty pictures, one of them broken, that have been there for long."""
    for i in range(30):
        file = tmp_path / "pictures" / f"class {i % 3}" / f"{i:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (20 + i % 4, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
    (tmp_path / "pictures" / "class 1" / "07.jpg").write_bytes(b"no picture")
    return tmp_path / "pictures"


def spans_of(folder: Path) -> tuple[list[str], Spans]:
    files = sorted(folder.glob("*/*"))
    return [str(file.relative_to(folder)) for file in files], Spans.of(files)


@pytest.mark.parametrize("change", ["size", "time", "name", "gone", "place"])
def test_content_is_remembered_until_something_changes(
    folder: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_YOUNG", -(10**12))  # ctime cannot be set
    names, spans = spans_of(folder)
    memory = content.Memory(tmp_path, names, spans)
    assert memory.recall() == ""
    memory.keep("0" * 32)
    assert content.Memory(tmp_path, names, spans).recall() == "0" * 32
    victim = folder / names[3]
    if change == "size":
        victim.write_bytes(victim.read_bytes() + b"\0")
        os.utime(victim, (OLD, OLD))
    elif change == "time":
        os.utime(victim, (OLD, OLD))
    elif change == "name":
        names[3] = "another"
    elif change == "gone":
        victim.unlink()
    else:
        victim.rename(folder / "moved.jpg")
        spans = Spans.of(
            [*(folder / name for name in names[:3]), folder / "moved.jpg", *(folder / n for n in names[4:])]
        )
    assert content.Memory(tmp_path, names, spans).recall() == ""


def test_what_changed_just_now_is_not_remembered(folder: Path, tmp_path: Path) -> None:
    """It may change again with the same size within one tick of the clock."""
    memory = content.Memory(tmp_path, *spans_of(folder))
    memory.keep("0" * 32)
    assert memory.recall() == ""
    assert not (tmp_path / "store").exists()


def test_a_memory_that_is_damaged_or_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_YOUNG", -(10**12))
    memory = content.Memory(tmp_path, *spans_of(folder))
    memory.keep("0" * 32)
    assert memory.file is not None
    memory.file.write_text("half a l")
    assert memory.recall() == ""
    (tmp_path / "in the way").write_text("")
    content.Memory(tmp_path / "in the way", *spans_of(folder)).keep("0" * 32)
    parts = Spans(Strings.of(["a.tar"]), torch.tensor([0]), torch.tensor([0]), torch.tensor([5]))
    assert content.Memory(tmp_path, ["x"], parts).file is None  # shards have an index of their own


def test_the_second_start_reads_no_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_YOUNG", -(10**12))
    first = open_data(str(folder), root=tmp_path / "home", log=lambda _: None)

    def never(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(Span, "ends", never)
    monkeypatch.setattr(reading, "read_file", never)
    again = open_data(str(folder), root=tmp_path / "home", log=lambda _: None)
    assert again.fingerprint == first.fingerprint
    assert again.skipped == first.skipped == [("class 1/07.jpg", "not a picture")]
    assert torch.equal(again.train.gather(torch.arange(5)).pixels, first.train.gather(torch.arange(5)).pixels)


@pytest.mark.parametrize("cache", ["auto", "memory", "off"])
def test_one_reading_or_two_give_the_same(folder: Path, tmp_path: Path, cache: reading.Cache) -> None:
    """A first cache is hashed while it is decoded, a second one before: same fingerprint, same place."""
    lines: list[str] = []
    first = open_data(str(folder), root=tmp_path / "home", image_size=32, log=lines.append)
    names, spans = spans_of(folder)
    assert list((tmp_path / "home" / "store").glob(f"{content.content_of_files(names, spans)}-64-3-*"))
    again = open_data(str(folder), root=tmp_path / "home", image_size=32, cache=cache, log=lines.append)
    assert again.fingerprint == first.fingerprint
    assert len([line for line in lines if line.startswith("reading")]) == (2 if cache == "memory" else 1)


@pytest.mark.skipif(not processes.may_fork(), reason="needs fork")
def test_processes_read_like_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_data(str(folder), root=tmp_path / "a", log=lambda _: None)
    monkeypatch.setattr(content, "_MANY", 0)
    monkeypatch.setattr(content, "cores", lambda: 2)
    monkeypatch.setattr(reading, "_BLOCK", 5 * 3 * 24 * 20)
    two = open_data(str(folder), root=tmp_path / "b", log=lambda _: None)
    assert (two.fingerprint, two.skipped) == (one.fingerprint, one.skipped)
    for row in range(len(one.train)):
        assert torch.equal(one.train.gather(torch.tensor([row])).pixels, two.train.gather(torch.tensor([row])).pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order_and_nothing_is_left(workers: int) -> None:
    asked: list[int] = []

    def jobs() -> object:
        for i in range(1000):
            asked.append(i)
            yield i

    def work(i: int) -> tuple[int, int]:
        time.sleep(0.01 if i == 0 else 0)
        return i * i, os.getpid()

    done = spread(work, jobs(), workers, 2)  # type: ignore[arg-type]
    found = [next(done) for _ in range(5)]
    assert [square for square, _ in found] == [0, 1, 4, 9, 16]
    assert len({process for _, process in found}) == max(1, workers)
    assert len(asked) <= 5 + 2 * workers  # no further ahead than that
    done.close()
    for _, process in found:
        assert process == os.getpid() or not Path(f"/proc/{process}").exists()


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 70_000)
    found, facts = read_file(str(tmp_path / "a"))
    assert found == b"x" * 70_000
    assert facts.st_size == 70_000
    with pytest.raises(OSError):
        read_file(str(tmp_path))
