"""What lies on disk: folders of pictures, lists of paths, arrays. Listing and labels only; decode.py reads pictures.

Legend: N pictures, H, W height and width, C channels.
"""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsight.data.decode import SUFFIXES
from selfsight.data.spans import Spans
from selfsight.errors import WrongUse

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation", "eval")
JUNK = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "target", "category", "y")


@dataclass(frozen=True)
class Pictures:
    """One part as it lies at its source: either files or one array."""

    paths: list[Path] | Spans | None = None  #: N files, or parts of files
    names: Sequence[str] | None = None  #: N names of them, relative to the source, "/" between folders
    pixels: Tensor | None = None  #: (N, C, H, W) uint8
    labels: list[str] | Tensor | None = None  #: N class names, or (N,) int64 numbers of `Source.classes`, -1: no label

    def __len__(self) -> int:
        return len(self.paths) if self.paths is not None else len(self.pixels if self.pixels is not None else ())


@dataclass(frozen=True)
class Source:
    """A data set as found."""

    train: Pictures
    test: Pictures | None = None
    classes: list[str] | None = None  #: None: from the labels
    notices: list[str] = field(default_factory=list)  #: what the user should know
    mean: tuple[float, ...] | None = None  #: published statistics, in 0..1 units
    std: tuple[float, ...] | None = None
    policy: str = ""  #: augmentation that the pictures ask for; "": the method's own
    damaged: list[tuple[str, str]] = field(default_factory=list)  #: (file, reason) that not all pictures came out of


@dataclass(frozen=True)
class Request:
    """What the user asked for, as far as an entry needs to know."""

    name: str
    options: list[str]  #: what follows the name, split at ":"
    root: Path  #: where downloaded sets and caches lie
    download: bool
    on_disk: bool  #: a cache may be written
    log: Callable[[str], None]


def from_folder(root: Path) -> Source:
    """A folder of any depth. Class folders become labels, train and test folders become parts.

    Raises:
        WrongUse: no picture in it.
    """
    ignored: Counter[str] = Counter()
    found = sorted(walk(root, ignored))
    notices = []
    if ignored:
        kinds = ", ".join(f"{kind} {count}" for kind, count in ignored.most_common(4))
        notices.append(f"{sum(ignored.values())} files that are no pictures are left alone ({kinds})")
    if not found:
        raise WrongUse(f"no pictures in {root}; pictures end in .jpg, .png, .webp, ...{_left(notices)}")
    split = split_of(found)
    if split is None:
        return Source(_labelled(root, found, notices, "folder"), notices=notices)
    train_name, test_names = split
    train = _labelled(root, [n for n in found if top_of(n) == train_name], notices, train_name, strip=True)
    tests = {name: [n for n in found if top_of(n) == name] for name in test_names}
    # a test part without labels (ImageNet's) is no use where there is a labelled one
    parts = {name: _labelled(root, names, [], name, strip=True) for name, names in tests.items()}
    ranked = sorted(parts, key=lambda name: (parts[name].labels is None, TEST.index(name.lower())))
    chosen = parts[ranked[0]] if ranked else None
    if ranked:
        notices.append(f"test part: {ranked[0]}/ ({len(tests[ranked[0]])} pictures)")
    used = {train_name, *ranked[:1]}
    rest = Counter(top_of(n) for n in found if top_of(n) not in used)
    if rest:
        notices.append("left out beside them: " + ", ".join(f"{name or 'the top'} ({n})" for name, n in rest.items()))
    return Source(train, chosen, notices=notices)


def from_list(file: Path) -> Source:
    """A text file with a path a line (a tab and a label may follow), or a .csv/.tsv with a path and a label column.

    Paths are relative to the folder of the list.

    Raises:
        WrongUse: no paths in it.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise WrongUse(f"{file} is not a text file; a list of pictures holds a path on each line") from None
    delimiter = "," if file.suffix.lower() == ".csv" else "\t"
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter)]
    rows = [row for row in rows if row and row[0] and not row[0].startswith("#")]
    if not rows:
        raise WrongUse(f"{file} holds no paths; write a path on each line")
    head = [cell.lower() for cell in rows[0]]
    path_at = next((head.index(c) for c in _PATH_COLUMNS if c in head), None)
    label_at: int | None = None
    if path_at is not None:
        label_at = next((head.index(c) for c in LABEL_COLUMNS if c in head), None)
        rows = rows[1:]
    else:
        path_at, label_at = 0, 1 if all(len(row) > 1 for row in rows) else None
    width = max(path_at, label_at or 0) + 1
    short = next((i for i, row in enumerate(rows) if len(row) < width), None)
    if short is not None:
        raise WrongUse(f"{file}: entry {short + 1} has {len(rows[short])} columns, {width} are needed")
    names = [row[path_at] for row in rows]
    paths = [file.parent / Path(name).expanduser() for name in names]
    if not any(path.suffix.lower() in SUFFIXES for path in paths):
        raise WrongUse(f"{file} lists no pictures (first entry: {names[0][:60]!r}); write a path on each line")
    return Source(Pictures(paths, names, labels=None if label_at is None else [row[label_at] for row in rows]))


def from_arrays(file: Path) -> Source:
    """`.npy` with pictures, or `.npz` with images|x|data, labels|y and the same with `test_` before them.

    Raises:
        WrongUse: not arrays of pictures.
    """
    notices: list[str] = []
    try:
        # copy-on-write: one copy in memory for all processes, and torch gets the writable array it wants
        loaded = np.load(file, mmap_mode="c")
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # a broken zip, a pickle, a text file: numpy raises a different thing for each
        raise WrongUse(f"{file} cannot be read as arrays ({' '.join(str(error).split())[:100]})") from None
    if "" in arrays:
        return Source(Pictures(pixels=to_pixels(arrays[""], str(file), notices)), notices=notices)

    return from_named(arrays, str(file), lambda array, what: to_pixels(array, what, notices), notices)


def from_named(arrays: Mapping[str, Any], file: str, read: Callable[[Any, str], Tensor], notices: list[str]) -> Source:
    """Arrays called images|x|data, labels|y and the same with `test_`. `read`: an array and what to call it -> pixels.

    Raises:
        WrongUse: no such names, or another number of labels than of pictures.
    """

    def part(prefix: str) -> Pictures | None:
        images = next((prefix + k for k in ("images", "x", "data") if prefix + k in arrays), None)
        if images is None:
            return None
        labels = next((prefix + k for k in ("labels", "y") if prefix + k in arrays), None)
        pixels = read(arrays[images], f"{file}[{images}]")
        values = None if labels is None else np.asarray(arrays[labels]).reshape(-1)
        if values is not None and len(values) != len(pixels):
            raise WrongUse(f"{file}: {len(values)} {labels} for {len(pixels)} {images}; give one label a picture")
        return Pictures(pixels=pixels, labels=None if values is None else [_label(v) for v in values.tolist()])

    train = part("")
    if train is None:
        stored = "; features are evaluated: `selfsight evaluate FILE --test FILE`" if "features" in arrays else ""
        names = ", ".join(arrays) or "nothing"
        raise WrongUse(f"{file} holds {names}; the pictures must be called images, x or data{stored}")
    return Source(train, part("test_"), notices=notices)


def to_pixels(array: np.ndarray[Any, Any], what: str, notices: list[str] | None = None) -> Tensor:
    """(N, H, W[, C]) or (N, C, H, W) of uint8, 16 bit, booleans or floats in 0..1 -> (N, C, H, W) uint8.

    uint8 is not copied. The channel axis is the shorter one of the second and the last.

    Raises:
        WrongUse: another shape or range; `what` names the array.
    """
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] <= array.shape[1]:
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or 0 in array.shape:
        raise WrongUse(f"{what} has shape {array.shape}; pictures are (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if array.dtype == np.uint8:
        return torch.from_numpy(array)
    if array.dtype.kind not in "buif":
        raise WrongUse(f"{what} holds {array.dtype}; pictures are uint8, uint16 or floats in 0..1")
    low, high = float(array.min()), float(array.max())
    limit = 1.0 if array.dtype.kind in "fb" else 255.0 if array.dtype.kind == "i" else 65535.0
    if array.dtype.kind == "i" and high > limit:
        limit = 65535.0
    if not (low >= 0 and high <= limit):
        raise WrongUse(f"{what} holds {array.dtype} from {low:g} to {high:g}; pictures are 0..255 or floats in 0..1")
    if notices is not None and limit == 65535.0:
        notices.append(f"{what}: 16 bit scaled to 8 bit (divided by 257)")
    out = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), 256):  # the float copy of a large array would not fit
        out[start : start + 256] = (array[start : start + 256].astype(np.float64) * (255 / limit)).round()
    return torch.from_numpy(out)


def walk(root: Path, ignored: Counter[str]) -> Iterator[str]:
    """Names of the pictures under `root`; counts the other files by suffix."""

    def visit(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        try:
            info = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except OSError:  # a folder that may not be read, a link to nowhere
            ignored["unreadable folders"] += 1
            return
        here = (info.st_dev, info.st_ino)
        if here in above:  # a link that leads back up
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name in JUNK:
                continue
            kind = _kind(entry)
            if kind == "folder":
                yield from visit(entry.path, f"{prefix}{entry.name}/", above | {here})
            elif kind == "other":
                ignored["no files"] += 1
            elif (suffix := entry.name[entry.name.rfind(".") :].lower() if "." in entry.name else "") in SUFFIXES:
                yield prefix + entry.name
            else:
                ignored[suffix or "no suffix"] += 1

    return visit(str(root), "", frozenset())


def _kind(entry: "os.DirEntry[str]") -> str:
    """Folder, file or other: a pipe or a device would stop whoever opens it. A link to nowhere counts as a file."""
    try:
        if entry.is_dir():
            return "folder"
        lost = entry.is_symlink() and not os.path.exists(entry.path)
        return "file" if entry.is_file() or lost else "other"
    except OSError:  # a link to itself: decoding will say what is wrong with it
        return "file"


def top_of(name: str) -> str:
    """The first folder of a name, "" if it lies in none."""
    return name.partition("/")[0] if "/" in name else ""


def split_of(names: list[str]) -> tuple[str, list[str]] | None:
    """The train folder and the test folders beside it, if that is the layout."""
    tops = {top_of(name) for name in names}
    train = next((top for top in sorted(tops) if top.lower() in TRAIN), None)
    tests = sorted(top for top in tops if top.lower() in TEST)
    if train is None or "" in tops or not (tests or len(tops) == 1):
        return None
    return train, tests


def _labelled(root: Path, names: list[str], notices: list[str], what: str, strip: bool = False) -> Pictures:
    """Pictures with their first folder as label, where that makes at least two classes and leaves none outside."""
    inner = [name.split("/", 1)[1] for name in names] if strip else names
    tops = [top_of(name) for name in inner]
    found = set(tops)
    labelled = "" not in found and len(found) >= 2
    if labelled:
        notices.append(f"labels: the {len(found)} first-level folders of the {what}")
    elif len(found) > 1:
        notices.append("no labels: pictures lie beside the folders")
    before = os.path.join(root, "")
    return Pictures(Spans.of(before + name for name in names), names, labels=tops if labelled else None)


def class_order(names: Iterable[str]) -> list[str]:
    """Classes in order: as numbers where they are numbers, else alphabetically."""
    names = list(names)
    try:
        return sorted(names, key=int)
    except ValueError:
        return sorted(names)


def _label(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _left(notices: list[str]) -> str:
    return f" ({notices[0]})" if notices else ""
