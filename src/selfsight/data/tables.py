"""Tables with a column of encoded pictures: Parquet, and the Arrow files of Hugging Face's `save_to_disk`.

An Arrow file is used as it lies: each picture is a part of it. Parquet has its columns compressed, so its pictures are
copied once into files beside the cache, one after the other.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfsight.data.files import LABEL_COLUMNS, Request, Source
from selfsight.data.index import Index, Scan, kept, key_of, merged, source_of
from selfsight.data.store import fits_on_disk
from selfsight.errors import WrongUse

_PICTURES = ("image", "img", "images", "picture", "jpg", "jpeg", "png", "webp", "x", "data")
_LABELS = (*LABEL_COLUMNS, "labels", "fine_label", "cls")
_ROWS = 256  # of a table that are in memory at a time


class Columns(NamedTuple):
    """What a table calls its pictures and labels."""

    picture: str
    label: str | None
    classes: list[str]  #: names of label 0, 1, ...; empty: the labels are the names

    @property
    def names(self) -> list[str]:
        return [self.picture] if self.label is None else [self.picture, self.label]


def from_parquet(path: Path, request: Request) -> Source:
    """A .parquet file, or a folder of them, whose names may say train and test.

    Raises:
        WrongUse: pyarrow is missing, there is no column of encoded pictures, or no room for a copy.
    """
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    return from_parquet_files(found, path if path.is_dir() else path.parent, request)


def from_parquet_files(found: Sequence[Path], base: Path, request: Request) -> Source:
    """Some Parquet files of a folder `base`, in this order."""
    parquet = _pyarrow("parquet")
    files, names = [str(file) for file in found], [file.relative_to(base).as_posix() for file in found]
    columns = _columns(_opened(files[0], parquet.read_schema), files[0])
    key = key_of("parquet", files, names)
    folder = request.root / "store" / f"pack-{key}"
    packs = [str(folder / str(number)) for number in range(len(files))]

    def copy(number: int) -> Scan:
        table = _opened(files[number], parquet.ParquetFile)
        return _pack(table.iter_batches(_ROWS, columns=columns.names), columns, Path(packs[number]), files[number])

    def build() -> Index:
        size = sum(map(os.path.getsize, files))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            room = fits_on_disk(folder, size)
        except OSError:
            room = False
        if not room:
            raise WrongUse(
                f"the pictures of {base} must be copied once, {size / 2**20:,.0f} MiB, and {request.root} has no room for "
                "them; make some, or give another --data-root"
            )
        request.log(f"copying the pictures of {len(files)} Parquet files into {folder}, once")
        with ThreadPoolExecutor(min(4, len(files))) as pool:
            return merged(pool.map(copy, range(len(files))), columns.classes)

    def sound(index: Index) -> bool:
        sizes = np.bincount(index.places[0].numpy(), index.places[2].numpy(), len(packs))
        return all(os.path.isfile(p) and os.path.getsize(p) == size for p, size in zip(packs, sizes.tolist()))

    return source_of(kept(key, request.root, build, sound), packs, names, [_told(columns)])


def from_arrow(path: Path, request: Request) -> Source:
    """A folder that `datasets` saved by `save_to_disk` (one set, or one of several parts), or an .arrow file.

    Raises:
        WrongUse: pyarrow is missing, the files are compressed, or there is no column of encoded pictures.
    """
    found = [path] if path.is_file() else _saved(path)
    base = path.parent if path.is_file() else path
    files, names = [str(file) for file in found], [file.relative_to(base).as_posix() for file in found]
    columns = _columns(_opened(files[0], lambda file: _batches(file)[0]), files[0])

    def build() -> Index:
        request.log(f"listing the pictures in {len(files)} Arrow files, once")
        return merged((_opened(file, lambda file: _scan(file, columns)) for file in files), columns.classes)

    index = kept(key_of("arrow", files, names), request.root, build)
    return source_of(index, files, names, [_told(columns)])


def is_saved(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` made this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _saved(folder: Path) -> list[Path]:
    """The Arrow files of a saved folder, in order."""
    try:
        if (folder / "dataset_dict.json").is_file():
            parts = json.loads((folder / "dataset_dict.json").read_text())["splits"]
            return [file for part in parts for file in _saved(folder / part)]
        files = json.loads((folder / "state.json").read_text())["_data_files"]
        found = [folder / file["filename"] for file in files]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WrongUse(f"{folder} was not saved in full ({type(error).__name__}: {error}); save it again") from None
    lost = next((file for file in found if not file.is_file()), None)
    if lost is not None:
        raise WrongUse(f"{lost} is not there, which {folder / 'state.json'} names; save or copy the set again")
    return found


def _scan(file: str, columns: Columns) -> Scan:
    """Where the pictures lie in an Arrow file."""
    found, size = Scan(), os.path.getsize(file)
    _, first, batches = _batches(file)
    for batch in batches:
        column = _encoded(batch.column(columns.picture), file, columns.picture)
        wide = np.int64 if str(column.type).startswith("large") else np.int32
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, wide)[column.offset : column.offset + len(column) + 1].astype(np.int64)
        start = data.address - first if data is not None and data.size else 0
        if not 0 <= start <= size:  # what was compressed lies elsewhere in memory
            raise WrongUse(f"{file} is compressed; save it without compression, or as .parquet")
        found.names += [str(i) for i in range(len(found.names), len(found.names) + len(column))]
        found.starts += (start + ends[:-1]).tolist()
        found.lengths += np.diff(ends).tolist()
        found.labels += _labels(batch, columns)
    return found


def _batches(file: str) -> tuple[Any, int, Iterator[Any]]:
    """Schema, address of the first byte in memory, and batches of an Arrow file, which is mapped."""
    pyarrow = _pyarrow()
    mapped = pyarrow.memory_map(file)
    whole = mapped.read_buffer()
    mapped.seek(0)
    if whole[:6].to_pybytes() == b"ARROW1":
        reader = pyarrow.ipc.open_file(mapped)
        return reader.schema, whole.address, (reader.get_batch(i) for i in range(reader.num_record_batches))
    reader = pyarrow.ipc.open_stream(mapped)
    return reader.schema, whole.address, iter(reader)


def _pack(batches: Iterator[Any], columns: Columns, pack: Path, file: str) -> Scan:
    """Write the pictures of a table one after the other."""
    found, at = Scan(), 0
    draft = pack.with_name(f"{pack.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as out:
            for batch in batches:
                for content in _encoded(batch.column(columns.picture), file, columns.picture):
                    view = content.as_buffer() if content.is_valid else b""
                    out.write(view)
                    found.names.append(str(len(found.names)))
                    found.starts.append(at)
                    found.lengths.append(len(view))
                    at += len(view)
                found.labels += _labels(batch, columns)
        os.replace(draft, pack)
    except OSError as error:
        raise WrongUse(f"the pictures of {file} cannot be copied to {pack} ({error}); check file and disk") from None
    finally:
        draft.unlink(missing_ok=True)
    return found


def _encoded(column: Any, file: str, name: str) -> Any:
    """The bytes of a column, where {bytes, path} may be around them."""
    pyarrow = _pyarrow()
    if isinstance(column, pyarrow.StructArray):
        paths = column.field("path") if column.type.get_field_index("path") >= 0 else None
        column = column.field("bytes")
        if column.null_count == len(column) and len(column) and paths is not None and paths.null_count == 0:
            raise WrongUse(
                f"{file}: {name!r} names picture files ({paths[0]}) and does not hold them; give their folder or a list"
            )
    return column


def _labels(batch: Any, columns: Columns) -> list[str | None]:
    if columns.label is None:
        return [None] * len(batch)
    return [_label(value, columns.classes) for value in batch.column(columns.label).to_pylist()]


def _label(value: Any, classes: Sequence[str]) -> str | None:
    if value is None:
        return None
    if classes and isinstance(value, int):
        return classes[value] if 0 <= value < len(classes) else None  # -1: a test part without labels
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _columns(schema: Any, file: str) -> Columns:
    """Which columns hold pictures and labels, from names and types."""
    kinds = {field.name: str(field.type) for field in schema}
    encoded = [name for name, kind in kinds.items() if _holds_bytes(kind)]
    by_name = [name for known in _PICTURES for name in encoded if name.lower() == known]
    picture = next(iter(by_name or (encoded if len(encoded) == 1 else [])), None)
    if picture is None:
        told = ", ".join(f"{name} {kind[:40]}" for name, kind in list(kinds.items())[:8])
        raise WrongUse(
            f"{file} has no column of encoded pictures called image ({told}); store JPEG or PNG as bytes, or as "
            "{bytes, path}"
        )
    label = next((name for known in _LABELS for name in kinds if name.lower() == known and name != picture), None)
    return Columns(picture, label, [] if label is None else _classes(schema, label))


def _holds_bytes(kind: str) -> bool:
    return kind in ("binary", "large_binary") or kind.startswith(
        ("struct<bytes: binary", "struct<path: string, bytes:")
    )


def _classes(schema: Any, label: str) -> list[str]:
    """Names of a label's values, where `datasets` wrote them into the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _told(columns: Columns) -> str:
    return f"pictures: column {columns.picture}; labels: {columns.label or 'none'}"


def _opened(file: str, how: Callable[[str], Any]) -> Any:
    try:
        return how(file)
    except WrongUse:
        raise
    except Exception as error:  # pyarrow raises a different thing for each kind of damage
        raise WrongUse(f"{file} cannot be read ({' '.join(str(error).split())[:100]}); copy it again") from None


def _pyarrow(part: str = "ipc") -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise WrongUse("Parquet and Arrow files need the package pyarrow: pip install 'selfsight[parquet]'") from None
    return pyarrow.parquet if part == "parquet" else pyarrow
