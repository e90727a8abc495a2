# mypy: disable-error-code="union-attr,index,arg-type,call-overload,misc"
# (an optional field that is None fails the test by itself)
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from PIL import Image

from selfsight.augment import ViewsConfig, build
from selfsight.data import feed
from selfsight.data.feed import Decoded
from selfsight.data.part import Part, moments
from selfsight.data.store import in_memory
from selfsight.errors import WrongUse


class Cutter:
    """A stand-in for the augmentation: a window of 4 x 4 at the place the draws say, one or two views."""

    def cut(self, picture, draws):
        out = {}
        for name, u in draws.items():
            tops = (u[:, 0] * (picture.shape[1] - 4)).long().tolist()
            lefts = (u[:, 1] * (picture.shape[2] - 4)).long().tolist()
            out[name] = torch.stack([picture[:, t : t + 4, x : x + 4] for t, x in zip(tops, lefts)])
        return out


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(50):
        file = tmp_path / f"{i:02}.png"
        Image.fromarray(rng.integers(0, 256, (10 + i % 3, 14 - i % 4, 3), dtype=np.uint8)).save(file)
        paths.append(file)
    return paths


def steps(count, batch, size=50, seed=0):
    for step in range(count):
        rng = torch.Generator().manual_seed(seed + step)
        draws = {"global": torch.rand(batch, 2, 2, generator=rng), "local": torch.rand(batch, 1, 2, generator=rng)}
        yield torch.randint(size, (batch,), generator=rng), draws


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_crops_come_in_the_order_of_the_steps(photos, workers):
    store = Decoded(photos, 3, 0, workers=workers)
    wanted = []
    for rows, draws in steps(5, 70):  # 70 rows: three jobs, the last one smaller
        cut = [Cutter().cut(store.one(r)[0], {k: v[i] for k, v in draws.items()}) for i, r in enumerate(rows.tolist())]
        wanted.append({name: torch.stack([c[name] for c in cut], 1) for name in draws})
    found = list(Part(store).feed(steps(5, 70), Cutter()))
    assert len(found) == 5
    assert found[0]["global"].shape == (2, 70, 3, 4, 4)
    assert found[0]["local"].shape == (1, 70, 3, 4, 4)
    assert all(same(a, b) for a, b in zip(found, wanted))


def test_starting_in_the_middle_gives_the_same(photos):
    """Resume: what a step gets does not depend on where the loop began."""
    part = Part(Decoded(photos, 3, 0, workers=2), rows=torch.arange(10, 50))
    whole = list(part.feed(steps(6, 40, 40), Cutter()))
    rest = list(part.feed(list(steps(6, 40, 40))[4:], Cutter()))
    assert len(rest) == 2
    assert all(same(a, b) for a, b in zip(rest, whole[4:]))


def test_files_and_memory_show_the_same_pictures(photos):
    """One canonical picture: the cache is not a setting of the experiment."""
    files = Decoded(photos, 3, 6)
    memory, _ = in_memory(3, [files.one(i)[0] for i in range(50)])
    rows = torch.tensor([4, 49, 0, 4])
    a, b = files.take(rows), memory.take(rows)
    assert torch.equal(a.pixels, b.pixels)
    assert torch.equal(a.sizes, b.sizes)


def test_the_real_augmentation_in_workers(photos):
    views = build(ViewsConfig(policy="simclr", locals=1, local_size=6), 8, 3, torch.full((3,), 0.5), torch.ones(3))
    part = Part(Decoded(photos, 3, 16, workers=1))
    todo = [(torch.arange(s, s + 40), views.draw(40, torch.Generator().manual_seed(s))) for s in range(2)]
    for (rows, draws), crops in zip(todo, part.feed(todo, views)):
        assert crops["global"].shape == (2, 40, 3, 8, 8)
        ahead, now = views(crops, draws), views(part.gather(rows), draws)
        assert ahead["local"].shape == now["local"].shape == (1, 40, 3, 6, 6)
        assert (ahead["global"] - now["global"]).abs().mean() < 0.02  # crops are rounded to 8 bit on the way


def test_pictures_at_hand_are_given_whole(photos):
    files = Decoded(photos, 3, 0)
    memory, _ = in_memory(3, [files.one(i)[0] for i in range(50)])
    part = Part(memory, rows=torch.arange(49, -1, -1))
    (rows, _), *_ = todo = list(steps(3, 5))
    first = next(iter(part.feed(todo, Cutter())))
    assert torch.equal(first.pixels, memory.take(49 - rows).pixels)


def test_the_global_generator_is_left_alone(photos):
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    list(Decoded(photos, 3, 0, workers=1).feed(steps(1, 8), Cutter()))
    assert torch.equal(torch.rand(4), wanted)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_late_is_stood_in_for(photos, workers):
    photos[7].write_bytes(b"gone")
    photos[8].write_bytes(b"gone too")
    lines: list[str] = []
    store = Decoded(photos, 3, 0, log=lines.append, workers=workers)
    draws = {"global": torch.zeros(3, 1, 2)}
    todo = [(torch.tensor([6, 7, 9]), draws)] * 2
    found = list(store.feed(todo, Cutter()))
    assert torch.equal(found[0]["global"][0, 1], found[0]["global"][0, 2])  # the next readable one
    assert store.failed.keys() == {7, 8}
    assert len(lines) == 2  # once each
    assert "07.png: not a picture" in lines[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_late_is_an_error_where_asked(photos, workers):
    photos[7].write_bytes(b"gone")
    store = Decoded(photos, 3, 0, "error", workers=workers)
    with pytest.raises(WrongUse, match=r"07\.png cannot be read \(not a picture\)") as caught:
        list(store.feed([(torch.tensor([6, 7]), {"global": torch.zeros(2, 1, 2)})], Cutter()))
    assert "\n" not in str(caught.value)
    with pytest.raises(WrongUse, match=r"07\.png"):
        store.take(torch.tensor([7]))


def test_no_steps_no_pictures(photos):
    assert list(Decoded(photos, 3, 0, workers=2).feed([], Cutter())) == []


def test_chunks_cover_the_part_in_order(photos):
    labels = torch.arange(50) % 3
    files = Part(Decoded(photos, 3, 0), labels=labels).subset(torch.tensor([3, 1, 40, 2]))
    memory, _ = in_memory(3, [files.store.one(i)[0] for i in range(50)])
    for part in (files, Part(memory, labels=labels).subset(torch.tensor([3, 1, 40, 2]))):
        assert part.labels.tolist() == [0, 1, 1, 2]
        assert part.index.tolist() == [3, 1, 40, 2]
        chunks = list(part.chunks(3))
        assert [rows.tolist() for rows, _ in chunks] == [[0, 1, 2], [3]]
        assert torch.equal(chunks[1][1].pixels[0], files.store.one(2)[0])
    assert files.whole() is None


def test_the_whole_part_without_a_copy():
    store, _ = in_memory(1, [torch.full((1, 2, 2), i, dtype=torch.uint8) for i in range(5)])
    assert Part(store).whole() is store.uniform
    assert Part(store, rows=torch.tensor([4, 0])).whole()[:, 0, 0, 0].tolist() == [4, 0]


def test_moments_do_not_see_the_padding():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 9), (3, 7, 5), (3, 6, 6)]
    pictures = [torch.randint(0, 256, s, dtype=torch.uint8, generator=generator) for s in shapes]
    store, _ = in_memory(3, pictures)
    mean, std = moments(Part(store), torch.arange(3))
    means = torch.stack([p.double().div(255).mean((1, 2)) for p in pictures])
    squares = torch.stack([p.double().div(255).square().mean((1, 2)) for p in pictures])
    assert torch.allclose(mean.double(), means.mean(0), atol=1e-6)
    assert torch.allclose(std.double(), (squares.mean(0) - means.mean(0) ** 2).sqrt(), atol=1e-6)
    flat, _ = in_memory(1, [torch.full((1, 4, 4), 51, dtype=torch.uint8)])
    mean, std = moments(Part(flat), torch.arange(1))
    assert mean.item() == pytest.approx(0.2)
    assert std.item() == pytest.approx(1 / 255)


def test_default_workers(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(32), raising=False)
    assert feed.default_workers("cuda") == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert feed.default_workers("cuda") == 4
    assert feed.default_workers("cpu") == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert feed.default_workers("cpu") == 1


def test_ctrl_c_ends_at_once(photos, tmp_path):
    """The group gets the signal, as from a terminal; the workers leave it to the main process."""
    script = tmp_path / "endless.py"
    script.write_text(
        textwrap.dedent(
            """
            import itertools, signal, sys, torch
            from selfsight.data.feed import Decoded

            class Cutter:
                def cut(self, picture, draws):
                    return {"global": picture[None, :, :4, :4]}

            steps = ((torch.arange(40), {"global": torch.zeros(40, 1, 2)}) for _ in itertools.count())
            # noted, as a run does it: Python loses a KeyboardInterrupt that falls into the end of some object
            caught = []
            signal.signal(signal.SIGINT, lambda *_: caught.append(1))
            for i, _ in enumerate(Decoded(sys.argv[1:], 3, 0, workers=2).feed(steps, Cutter())):
                if i == 3:
                    print("running", flush=True)
                if caught:
                    break
            print("ended", flush=True)
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, photos)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "running\n"
        start = time.time()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=180)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert out == "ended\n"
    assert process.returncode == 0
    assert "Traceback" not in err, err
    assert time.time() - start < 30
