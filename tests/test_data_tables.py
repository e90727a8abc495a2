# mypy: disable-error-code="union-attr,index,arg-type,call-overload,misc"
# (an optional field that is None fails the test by itself)
"""HDF5, Parquet, Arrow and the Hub: the same pictures and labels as the folder or arrays that they were made of."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selfsight.data import DataSet, files, hdf5, open_data
from selfsight.data.feed import Decoded
from selfsight.errors import WrongUse

h5py: Any = pytest.importorskip("h5py")
pa: Any = pytest.importorskip("pyarrow")
pq: Any = pytest.importorskip("pyarrow.parquet")

NAMES = ["wolf", "ape", "owl"]  # in the order of the file, not of the alphabet
COUNT = 24


def opened(name: Any, root: Path, **settings: Any) -> DataSet:
    return open_data(str(name), root=root, **{"image_size": 16, "holdout": 0, "log": lambda line: None, **settings})


def noise(seed: int, height: int = 20, width: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()


def pictures(part: Any) -> torch.Tensor:
    return part.gather(torch.arange(len(part))).pixels


@pytest.fixture
def arrays() -> np.ndarray:
    return np.stack([noise(i) for i in range(COUNT)])


@pytest.fixture
def folder(tmp_path: Path, arrays: np.ndarray) -> Path:
    (tmp_path / "folder").mkdir()
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / "folder" / f"{i:02}.png")
    return tmp_path / "folder"


# ---- HDF5


@pytest.mark.parametrize("layout", ["plain", "chunked", "compressed", "channels first", "uint16", "float"])
def test_hdf5_gives_what_arrays_give(tmp_path: Path, arrays: np.ndarray, layout: str) -> None:
    stored = {
        "channels first": arrays.transpose(0, 3, 1, 2),
        "uint16": arrays.astype(np.uint16) * 257,
        "float": arrays / np.float32(255),
    }.get(layout, arrays)
    options = {"chunked": {"chunks": (4, 20, 20, 3)}, "compressed": {"compression": "gzip"}}.get(layout, {})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", data=stored, **options)
        file["labels"] = np.arange(COUNT) % 3
        file.create_dataset("test_images", data=stored[:6], **options)
        file["test_labels"] = np.arange(6) % 2
    np.savez(tmp_path / "a.npz", x=arrays, y=np.arange(COUNT) % 3, test_x=arrays[:6], test_y=np.arange(6) % 2)
    data, wanted = (opened(tmp_path / name, tmp_path / "home") for name in ("a.h5", "a.npz"))
    assert data.classes == wanted.classes == ["0", "1", "2"]
    assert torch.equal(pictures(data.train), pictures(wanted.train))
    assert torch.equal(pictures(data.test), pictures(wanted.test))
    assert torch.equal(data.train.labels, wanted.train.labels)
    assert torch.equal(data.test.labels, wanted.test.labels)
    assert data.fingerprint == wanted.fingerprint
    told = any("16 bit scaled to 8 bit" in line for line in data.choices)
    assert told == (layout == "uint16")


def test_hdf5_without_labels_of_text_and_gray(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["x"] = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8)
        file["y"] = [b"dog", b"cat", b"cat", b"dog"]
        file.create_group("notes")
    data = opened(tmp_path / "a.hdf5", tmp_path / "home")
    assert data.classes == ["cat", "dog"]
    assert data.train.labels.tolist() == [1, 0, 0, 1]
    assert pictures(data.train).shape == (4, 1, 8, 8)
    assert opened(tmp_path / "a.hdf5", tmp_path / "home", channels=3).channels == 3
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data"] = np.zeros((4, 8, 8), np.uint8)
    assert opened(tmp_path / "b.h5", tmp_path / "home").classes is None


def test_a_plain_array_is_mapped_and_the_file_not_changed(
    tmp_path: Path, arrays: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = arrays
    before = (tmp_path / "a.h5").read_bytes()
    request = files.Request("", [], tmp_path / "home", False, True, print)
    mapped: list[Any] = []
    real = np.memmap
    monkeypatch.setattr(hdf5.np, "memmap", lambda *a, **k: mapped.append(k) or real(*a, **k))  # type: ignore[func-returns-value]
    pixels = hdf5.from_hdf5(tmp_path / "a.h5", request).train.pixels
    assert [found["shape"] for found in mapped] == [(COUNT, 20, 20, 3)]
    assert torch.equal(pixels.permute(0, 2, 3, 1), torch.from_numpy(arrays))
    pixels.zero_()
    assert (tmp_path / "a.h5").read_bytes() == before


def test_a_large_compressed_array_is_unpacked_once_by_rows(
    tmp_path: Path, arrays: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", data=arrays, compression="gzip")
    small = opened(tmp_path / "a.h5", tmp_path / "home")
    monkeypatch.setattr(hdf5, "CACHE_LIMIT", 1000)
    monkeypatch.setattr(hdf5, "_ROWS", 5)
    lines: list[str] = []
    for _ in range(2):
        large = opened(tmp_path / "a.h5", tmp_path / "home", log=lines.append)
        assert torch.equal(pictures(large.train), pictures(small.train))
        assert large.fingerprint == small.fingerprint
    assert len([line for line in lines if line.startswith("unpacking")]) == 1
    monkeypatch.setattr(hdf5, "fits_on_disk", lambda root, size: False)
    with pytest.raises(WrongUse, match=r"must be unpacked once, .* has no room"):
        opened(tmp_path / "a.h5", tmp_path / "other")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["images"] = arrays / np.float32(255)
    with pytest.raises(WrongUse, match=r"larger than .*store it as uint8"):
        opened(tmp_path / "b.h5", tmp_path / "home")


def test_wrong_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.h5").write_bytes(b"no HDF5")
    with pytest.raises(WrongUse, match=r"a\.h5 cannot be read as HDF5"):
        opened(tmp_path / "a.h5", tmp_path / "home")
    for name, content, message in (
        ("b", {"pictures": np.zeros((2, 4, 4), np.uint8)}, "holds pictures; the pictures must be called images"),
        ("c", {"x": np.zeros((2, 4, 4), np.uint8), "y": [1, 2, 3]}, "3 y for 2 x"),
        ("d", {"x": [b"jpeg", b"jpeg"]}, "pictures are arrays of uint8"),
        ("e", {"x": np.zeros((2, 4), np.uint8)}, "has shape"),
        ("f", {"x": np.zeros((0, 4, 4), np.uint8)}, "has shape"),
    ):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for key, value in content.items():
                file[key] = value
        with pytest.raises(WrongUse, match=message):
            opened(tmp_path / f"{name}.h5", tmp_path / "home")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WrongUse, match=r"pip install 'selfsight\[hdf5\]'"):
        opened(tmp_path / "b.h5", tmp_path / "home")


# ---- Parquet and Arrow


def table(start: int, stop: int, struct: bool = True, label: Any = lambda i: i % 3, classes: bool = True) -> Any:
    """Rows of a table as `datasets` writes them."""
    content = [encoded(noise(i)) for i in range(start, stop)]
    column = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(content)] if struct else content
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if struct else pa.binary()
    columns = {
        "id": list(range(start, stop)),
        "image": pa.array(column, kind),
        "label": [label(i) for i in range(start, stop)],
    }
    found = pa.table(columns)
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return found.replace_schema_metadata(metadata) if classes else found


def save_arrow(file: Path, rows: Any, size: int = 5, options: Any = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, rows.schema, options=options) as writer:
        writer.write_table(rows, max_chunksize=size)


def save_to_disk(folder: Path, first: int, last: int) -> None:
    """What `datasets.Dataset.save_to_disk` leaves, in two files."""
    middle = (first + last) // 2
    names = [f"data-{i:05}-of-00002.arrow" for i in range(2)]
    for name, rows in zip(names, (table(first, middle), table(middle, last))):
        save_arrow(folder / name, rows)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


def test_parquet_of_several_layouts(tmp_path: Path, folder: Path, arrays: np.ndarray) -> None:
    wanted = opened(folder, tmp_path / "home")
    pq.write_table(table(0, COUNT), tmp_path / "a.parquet", row_group_size=7)
    pq.write_table(table(0, COUNT, struct=False), tmp_path / "b.parquet", compression="zstd")
    plain = table(0, COUNT, struct=False, label=lambda i: NAMES[i % 3], classes=False)
    pq.write_table(plain, tmp_path / "c.parquet")
    for name, classes in (("a", NAMES), ("b", NAMES), ("c", sorted(NAMES))):
        lines: list[str] = []
        for cache in ("memory", "off"):
            data = opened(tmp_path / f"{name}.parquet", tmp_path / "home", cache=cache, workers=0, log=lines.append)
            assert isinstance(data.train.store, Decoded) == (cache == "off")
            assert torch.equal(pictures(data.train), pictures(wanted.train))
            assert data.classes == classes
            assert [data.classes[k] for k in data.train.labels] == [NAMES[i % 3] for i in range(COUNT)]
            assert data.train.paths == [str(i) for i in range(COUNT)]
            assert any(line == "pictures: column image; labels: label" for line in data.choices)
        assert len([line for line in lines if line.startswith("copying")]) == 1


def test_parquet_files_of_parts(tmp_path: Path) -> None:
    for name, first, last in (("train-00000-of-00002", 0, 8), ("train-00001-of-00002", 8, 14), ("test-00000", 14, 20)):
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        label = (lambda i: -1) if name == "test" else (lambda i: i % 3)
        pq.write_table(table(first, last, label=label), tmp_path / "set" / "data" / f"{name}.parquet")
    data = opened(tmp_path / "set", tmp_path / "home")
    assert (len(data.train), len(data.test)) == (14, 6)
    assert data.train.paths[7:9] == ["data/train-00000-of-00002.parquet/7", "data/train-00001-of-00002.parquet/0"]
    assert torch.equal(pictures(data.train)[9].permute(1, 2, 0), torch.from_numpy(noise(9)))
    assert torch.equal(pictures(data.test)[5].permute(1, 2, 0), torch.from_numpy(noise(19)))
    assert data.test.labels.tolist() == [i % 3 for i in range(14, 20)]
    pq.write_table(table(14, 20, label=lambda i: -1), tmp_path / "set" / "data" / "test-00000.parquet")
    data = opened(tmp_path / "set", tmp_path / "home")
    assert data.test.labels is None  # -1: the Hub's way to say that a test part has none
    assert data.train.labels.tolist() == [i % 3 for i in range(14)]


def test_the_copy_is_made_again_where_it_is_damaged(tmp_path: Path) -> None:
    pq.write_table(table(0, 9), tmp_path / "a.parquet")
    data = opened(tmp_path / "a.parquet", tmp_path / "home")
    (pack,) = (tmp_path / "home" / "store").glob("pack-*/0")
    pack.write_bytes(pack.read_bytes()[:-1])
    again = opened(tmp_path / "a.parquet", tmp_path / "home", cache="off")
    assert again.fingerprint == data.fingerprint
    assert torch.equal(pictures(again.train), pictures(data.train))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WrongUse, match=r"must be copied once, .* give another --data-root"):
        opened(tmp_path / "a.parquet", tmp_path / "file" / "home")


def test_a_folder_that_datasets_saved(tmp_path: Path, folder: Path) -> None:
    save_to_disk(tmp_path / "saved", 0, COUNT)
    wanted = opened(folder, tmp_path / "home")
    data = opened(tmp_path / "saved", tmp_path / "home", cache="off", workers=0)
    assert data.classes == NAMES
    assert torch.equal(pictures(data.train), pictures(wanted.train))
    assert data.train.labels.tolist() == [i % 3 for i in range(COUNT)]
    span = data.train.store.spans[13]
    assert span.path.endswith("data-00001-of-00002.arrow")  # nothing was copied
    assert span.read() == encoded(noise(13))
    alone = opened(tmp_path / "saved" / "data-00001-of-00002.arrow", tmp_path / "home")
    assert torch.equal(pictures(alone.train), pictures(wanted.train)[12:])


def test_a_saved_set_of_parts(tmp_path: Path) -> None:
    root = tmp_path / "saved"
    save_to_disk(root / "train", 0, 12)
    save_to_disk(root / "validation", 12, 18)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    data = opened(root, tmp_path / "home")
    assert (len(data.train), len(data.test)) == (12, 6)
    assert torch.equal(pictures(data.test)[0].permute(1, 2, 0), torch.from_numpy(noise(12)))
    (root / "train" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(WrongUse, match=r"data-00001-of-00002\.arrow is not there, which .*state\.json names"):
        opened(root, tmp_path / "home")
    (root / "train" / "state.json").write_text("{")
    with pytest.raises(WrongUse, match="was not saved in full"):
        opened(root, tmp_path / "home")


def test_arrow_files_of_other_kinds(tmp_path: Path) -> None:
    rows = table(0, 9, struct=False)
    rows = rows.set_column(1, "image", rows["image"].cast(pa.large_binary()))
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as out, pa.ipc.new_file(out, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=4)
    data = opened(tmp_path / "a.arrow", tmp_path / "home")
    assert torch.equal(pictures(data.train)[7].permute(1, 2, 0), torch.from_numpy(noise(7)))
    save_arrow(tmp_path / "b.arrow", rows, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    with pytest.raises(WrongUse, match="is compressed; save it without compression, or as"):
        opened(tmp_path / "b.arrow", tmp_path / "home")


def test_bad_rows_leave_the_others_in_place(tmp_path: Path) -> None:
    content = [encoded(noise(i)) for i in range(8)]
    content[2], content[5] = b"no picture", None
    rows = pa.table({"image": pa.array(content, pa.binary()), "label": [i % 2 for i in range(8)]})
    pq.write_table(rows, tmp_path / "a.parquet")
    save_arrow(tmp_path / "a.arrow", rows)
    for name in ("a.parquet", "a.arrow"):
        data = opened(tmp_path / name, tmp_path / "home")
        assert data.train.index.tolist() == [0, 1, 3, 4, 6, 7]
        assert data.train.labels.tolist() == [0, 1, 1, 0, 0, 1]
        assert [file for file, _ in data.skipped] == ["2", "5"]
        assert torch.equal(pictures(data.train)[3].permute(1, 2, 0), torch.from_numpy(noise(4)))
        with pytest.raises(WrongUse, match="2 pictures cannot be read"):
            opened(tmp_path / name, tmp_path / "home", bad_files="error")


def test_wrong_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(WrongUse, match=r"no column of encoded pictures called image \(text string, n int64\)"):
        opened(tmp_path / "a.parquet", tmp_path / "home")
    pq.write_table(pa.table({"image": [[1, 2], [3]]}), tmp_path / "b.parquet")
    with pytest.raises(WrongUse, match="store JPEG or PNG as bytes"):
        opened(tmp_path / "b.parquet", tmp_path / "home")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array([{"path": "x/1.png"}], kind)}), tmp_path / "c.parquet")
    with pytest.raises(WrongUse, match=r"names picture files \(x/1\.png\) and does not hold them"):
        opened(tmp_path / "c.parquet", tmp_path / "home")
    for name in ("d.parquet", "d.arrow"):
        (tmp_path / name).write_bytes(b"neither")
        with pytest.raises(WrongUse, match=rf"{name} cannot be read"):
            opened(tmp_path / name, tmp_path / "home")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("a.parquet", "d.arrow"):
        with pytest.raises(WrongUse, match=r"pip install 'selfsight\[parquet\]'"):
            opened(tmp_path / name, tmp_path / "home")


# ---- the Hub


class Hub:
    """Stands in for huggingface_hub: sets as folders below `root`, by revision."""

    def __init__(self, root: Path, here: bool = True) -> None:
        self.root, self.here, self.asked = root, here, []  # type: ignore[var-annotated]

    def _folder(self, repository: str, revision: str | None) -> Path:
        folder = self.root / repository / (revision or "main").replace("/", "-")
        if not folder.is_dir():
            raise FileNotFoundError(f"404: {repository}")
        return folder

    def list_repo_files(self, repository: str, repo_type: str, revision: str | None) -> list[str]:
        folder = self._folder(repository, revision)
        return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]

    def snapshot_download(self, repository: str, **asked: Any) -> str:
        self.asked.append(asked)
        if asked["local_files_only"] and not self.here:
            raise OSError("LocalEntryNotFound")
        return str(self._folder(repository, asked["revision"]))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    for folder in ("main/data", "main/other"):
        (tmp_path / "hub" / "owner/two" / folder).mkdir(parents=True)
        pq.write_table(table(0, 6), tmp_path / "hub" / "owner/two" / folder / "train-0.parquet")
    (tmp_path / "hub" / "owner/one" / "main").mkdir(parents=True)
    (tmp_path / "hub" / "owner/one" / "main" / "README.md").write_text("x")
    for part, (first, last) in {"train": (0, 6), "test": (6, 9)}.items():
        file = tmp_path / "hub" / "owner/one" / "refs-convert-parquet" / "default" / part / "0000.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(table(first, last), file)
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


def test_sets_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    data = opened("hf:owner/one", tmp_path / "home")
    assert (len(data.train), len(data.test), data.classes) == (6, 3, NAMES)
    assert torch.equal(pictures(data.test)[1].permute(1, 2, 0), torch.from_numpy(noise(7)))
    assert all(asked["local_files_only"] for asked in hub.asked)  # nothing is fetched unasked
    assert len(opened("hf:owner/two:other", tmp_path / "home").train) == 6
    for download in (False, True):
        with pytest.raises(WrongUse, match="several configurations: choose one of data, other, as hf:owner/two:FOLDER"):
            opened("hf:owner/two", tmp_path / "home", download=download)
        with pytest.raises(WrongUse, match=r"no folder 'othr'\. Perhaps you meant 'other'"):
            opened("hf:owner/two:othr", tmp_path / "home", download=download)
    opened("hf:owner/two:other", tmp_path / "home", download=True)
    assert hub.asked[-1]["allow_patterns"] == ["other/train-0.parquet"]


def test_a_set_of_the_hub_that_is_not_there(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.here = False
    with pytest.raises(WrongUse, match="is not on this machine, and nothing is fetched unasked: add --download, or"):
        opened("hf:owner/one", tmp_path / "home")
    with pytest.raises(WrongUse, match=r"could not be fetched \(404: owner/none\)"):
        opened("hf:owner/none", tmp_path / "home", download=True)
    with pytest.raises(WrongUse, match="write hf:OWNER/NAME"):
        opened("hf:", tmp_path / "home")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WrongUse, match=r"pip install 'selfsight\[huggingface\]'"):
        opened("hf:owner/one", tmp_path / "home")


# ---- decoding is the same for all sources


def odd() -> list[tuple[str, bytes]]:
    """Gray, 16 bit, transparent, turned, CMYK and large pictures as files."""
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = (np.arange(30 * 40).reshape(30, 40) * 50).astype(np.uint16)
    alpha = np.dstack([noise(1, 30, 40), np.full((30, 40), 99, np.uint8)])
    cmyk = io.BytesIO()
    Image.fromarray(noise(2, 30, 40)).convert("CMYK").save(cmyk, "JPEG")
    large = Image.fromarray(noise(5, 24, 36)).resize((720, 480), Image.Resampling.BICUBIC)
    return [
        ("0gray.png", encoded(noise(0, 30, 40)[..., 0])),
        ("1deep.png", encoded(deep)),
        ("2alpha.png", encoded(alpha)),
        ("3turned.jpg", encoded(noise(3, 30, 40), "JPEG", exif=turned)),
        ("4cmyk.jpg", cmyk.getvalue()),
        ("5large.jpg", encoded(np.asarray(large), "JPEG")),
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_every_source_decodes_alike(tmp_path: Path, channels: int) -> None:
    import tarfile

    found = odd()
    (tmp_path / "folder").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in found:
            (tmp_path / "folder" / name).write_bytes(data)
            tar.add(tmp_path / "folder" / name, name)
    rows = pa.table({"image": pa.array([data for _, data in found], pa.binary())})
    pq.write_table(rows, tmp_path / "a.parquet")
    save_arrow(tmp_path / "a.arrow", rows)
    wanted = opened(tmp_path / "folder", tmp_path / "home", channels=channels, cache="memory")
    sizes = wanted.train.gather(torch.arange(6)).sizes.tolist()
    assert sizes == [[30, 40], [30, 40], [30, 40], [40, 30], [30, 40], [32, 48]]  # turned upright; at most twice 16
    for name in ("a.tar", "a.parquet", "a.arrow"):
        for cache in ("memory", "off"):
            shown = opened(tmp_path / name, tmp_path / "home", channels=channels, cache=cache, workers=0)
            assert torch.equal(pictures(shown.train), pictures(wanted.train)), name


def test_large_jpegs_are_decoded_small_from_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder itself reduces: of 720 x 480 px it hands on a quarter where 48 x 32 are wanted, not the whole picture."""
    from PIL import JpegImagePlugin

    loaded: list[tuple[int, int]] = []
    real = JpegImagePlugin.JpegImageFile.load

    def load(self: Any) -> Any:
        loaded.append(self.size)
        return real(self)

    rows = pa.table({"image": pa.array([odd()[5][1]], pa.binary())})
    save_arrow(tmp_path / "a.arrow", rows)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jpg").write_bytes(odd()[5][1])
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", load)
    for name in ("a.arrow", "folder"):
        loaded.clear()
        pictures(opened(tmp_path / name, tmp_path / "home", cache="off", workers=0).train)
        assert loaded
        assert set(loaded) == {(180, 120)}
