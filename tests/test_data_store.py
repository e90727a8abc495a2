# mypy: disable-error-code="union-attr,index,arg-type,call-overload,misc"
# (an optional field that is None fails the test by itself)
import json
import multiprocessing as mp
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from selfsight.data import store
from selfsight.data.content import content_of_files, content_of_pixels
from selfsight.data.store import Resident, cached, in_memory, padded


def pictures(count=9, uniform=False, channels=3):
    rng = np.random.default_rng(0)
    sizes = [(8, 6) if uniform else (4 + i, 9 - i % 4) for i in range(count)]
    return [torch.from_numpy(rng.integers(1, 256, (channels, *size), dtype=np.uint8)) for size in sizes]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_ragged_pictures_come_back_padded(channels):
    wanted = pictures(channels=channels)
    kept, bad = in_memory(channels, wanted)
    assert bad == []
    rows = torch.tensor([7, 0, 7, 3])
    pixels, sizes = kept.take(rows)
    assert pixels.shape == (4, channels, max(wanted[r].shape[1] for r in rows), max(wanted[r].shape[2] for r in rows))
    for got, size, row in zip(pixels, sizes.tolist(), rows.tolist()):
        assert size == list(wanted[row].shape[1:])
        assert torch.equal(got[:, : size[0], : size[1]], wanted[row])
        assert got.sum() == wanted[row].sum()  # nothing but zeros around it
        assert torch.equal(kept.one(row), wanted[row])
    assert kept.uniform is None


def test_uniform_pictures_are_not_copied():
    wanted = pictures(uniform=True)
    kept, _ = in_memory(3, wanted)
    assert kept.uniform.shape == (9, 3, 8, 6)
    assert kept.uniform.data_ptr() == kept.flat.data_ptr()
    pixels, sizes = kept.take(torch.tensor([8, 2]))
    assert sizes is None
    assert torch.equal(pixels, torch.stack([wanted[8], wanted[2]]))
    given = torch.stack(wanted)
    assert Resident.of(given).uniform is given
    assert torch.equal(Resident.of(given).one(4), wanted[4])
    assert len(Resident.of(given)) == 9


def test_pictures_of_one_size_need_no_sizes():
    assert padded(pictures(uniform=True)).sizes is None


def test_a_cache_is_built_once_and_mapped(tmp_path):
    wanted, built = pictures(), []

    def build():
        built.append(1)
        return [*wanted[:2], "broken", *wanted[2:]]

    for _ in range(3):
        kept, bad = cached(tmp_path / "deep" / "cache", 3, build)
        assert bad == [(2, "broken")]
        assert all(torch.equal(kept.one(i), p) for i, p in enumerate(wanted))
    assert built == [1]
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["cache", "cache.lock"]


def test_a_mapped_cache_is_not_changed_by_writing(tmp_path):
    kept, _ = cached(tmp_path / "c", 3, lambda: pictures(uniform=True))
    before = (tmp_path / "c").read_bytes()
    kept.uniform.zero_()
    assert (tmp_path / "c").read_bytes() == before


def _harm_cut(content):
    return content[:-100]


def _harm_empty(content):
    return b""


def _harm_pixel(content):
    return content[:50] + bytes([content[50] ^ 1]) + content[51:]


def _harm_footer(content):
    return content[:-30] + bytes([content[-30] ^ 1]) + content[-29:]


def _harm_other(content):
    return b"x" * len(content)


@pytest.mark.parametrize("harm", [_harm_cut, _harm_empty, _harm_pixel, _harm_footer, _harm_other])
def test_a_damaged_cache_is_built_again(tmp_path, harm):
    file, wanted = tmp_path / "cache", pictures()
    cached(file, 3, lambda: wanted)
    good = file.read_bytes()
    file.write_bytes(harm(good))
    kept, _ = cached(file, 3, lambda: wanted)
    assert all(torch.equal(kept.one(i), p) for i, p in enumerate(wanted))
    assert file.read_bytes() == good


def test_an_interrupted_build_leaves_nothing(tmp_path):
    def build():
        yield pictures()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "cache", 3, build)
    assert [p.name for p in tmp_path.iterdir()] == ["cache.lock"]
    (tmp_path / "cache.123.tmp").write_bytes(b"of a killed process")
    cached(tmp_path / "cache", 3, pictures)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "cache.lock"]


def test_a_cache_of_nothing(tmp_path):
    for _ in range(2):
        kept, bad = cached(tmp_path / "c", 3, lambda: ["broken"])
        assert len(kept) == 0
        assert bad == [(0, "broken")]


def test_large_caches_are_checked_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_CHECKED", 4096 * 4)
    wanted = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))] * 9
    cached(tmp_path / "c", 3, lambda: wanted)
    kept, _ = cached(tmp_path / "c", 3, lambda: pytest.fail("built twice"))
    assert torch.equal(kept.one(8), wanted[8])
    content = bytearray((tmp_path / "c").read_bytes())
    content[3 * 64 * 64 * 9 - 2] ^= 1  # the last piece is always looked at
    (tmp_path / "c").write_bytes(content)
    kept, _ = cached(tmp_path / "c", 3, lambda: [*wanted, "built again"])
    assert cached(tmp_path / "c", 3, lambda: pytest.fail("built twice"))[1] == [(9, "built again")]


def _slow_build(folder):
    (Path(folder) / f"built-{os.getpid()}").touch()
    time.sleep(0.3)
    return pictures()


def _ask(folder, queue):
    kept, _ = cached(Path(folder) / "cache", 3, lambda: _slow_build(folder))
    queue.put(content_of_pixels(torch.cat([kept.one(i).reshape(-1) for i in range(9)]).view(-1, 1, 1, 1)))


def test_two_processes_share_one_cache(tmp_path):
    context = mp.get_context("fork")
    queue = context.Queue()
    others = [context.Process(target=_ask, args=(str(tmp_path), queue)) for _ in range(2)]
    for process in others:
        process.start()
    answers = [queue.get(timeout=60) for _ in others]
    for process in others:
        process.join(60)
    wanted = torch.cat([p.reshape(-1) for p in pictures()]).view(-1, 1, 1, 1)
    assert answers == [content_of_pixels(wanted)] * 2
    assert len(list(tmp_path.glob("built-*"))) == 1


def test_the_key_follows_the_content(tmp_path):
    def tree(name, large=b"a" * 200_000):
        for file, content in (("x/1.png", b"one"), ("x/2.png", large)):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        return content_of_files(["x/1.png", "x/2.png"], [tmp_path / name / "x/1.png", tmp_path / name / "x/2.png"])

    key = tree("a")
    assert tree("elsewhere") == key
    assert tree("tail", b"a" * 199_999 + b"b") != key
    assert tree("head", b"b" + b"a" * 199_999) != key
    assert tree("size", b"a" * 200_001) != key
    (tmp_path / "a" / "x/1.png").write_bytes(b"two")
    paths = [tmp_path / "a" / "x/1.png", tmp_path / "a" / "x/2.png"]
    assert content_of_files(["x/1.png", "x/2.png"], paths) != key
    assert content_of_files(["y/1.png", "x/2.png"], paths) != content_of_files(["x/1.png", "x/2.png"], paths)


def test_the_hash_of_pixels_sees_shape_and_values():
    pixels = torch.arange(96, dtype=torch.uint8).view(2, 3, 4, 4)
    assert content_of_pixels(pixels) == content_of_pixels(pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))
    assert content_of_pixels(pixels) != content_of_pixels(pixels.view(2, 3, 2, 8))
    changed = pixels.clone()
    changed[1, 2, 3, 3] += 1
    assert content_of_pixels(changed) != content_of_pixels(pixels)


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SELFSIGHT_HOME", str(tmp_path))
    assert store.home() == tmp_path
    monkeypatch.delenv("SELFSIGHT_HOME")
    assert store.home() == Path.home() / ".cache" / "selfsight"


def test_the_footer_is_readable(tmp_path):
    """The format is told in store.py; this holds it to that."""
    cached(tmp_path / "c", 3, lambda: pictures(uniform=True))
    content = (tmp_path / "c").read_bytes()
    magic, length, *_ = store._CLOSING.unpack(content[-store._CLOSING.size :])
    facts = json.loads(content[-store._CLOSING.size - length : -store._CLOSING.size])
    assert magic == b"selfsig2"
    assert facts == {"channels": 3, "sizes": [[9, 8, 6]], "bad": [], "bytes": 9 * 3 * 48}
