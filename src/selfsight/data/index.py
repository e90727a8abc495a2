"""What files that hold many pictures hold: made once, kept on disk, turned into parts of a data set.

Legend: N pictures, F files.
"""

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from selfsight.data.files import TEST, TRAIN, Pictures, Source, class_order, split_of, top_of
from selfsight.data.spans import Spans, Strings, filesystem, is_remote
from selfsight.data.store import locked
from selfsight.errors import WrongUse

VERSION = 1  #: raise when scanning finds other things in the same files


@dataclass
class Scan:
    """What one file holds."""

    names: list[str] = field(default_factory=list)  #: n pictures
    starts: list[int] = field(default_factory=list)  #: first byte of each
    lengths: list[int] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    captions: bool = False  #: labels are texts, which may be descriptions of the pictures
    damage: str = ""  #: why not all came out of it
    ignored: Counter[str] = field(default_factory=Counter)  #: kind -> members that are no pictures


@dataclass(frozen=True)
class Index:
    """What a set of files holds, file after file."""

    names: Strings  #: N, as the files call the pictures
    places: Tensor  #: (4, N) int64: file, first byte, bytes, class or -1
    classes: list[str]
    damaged: list[tuple[int, str]]  #: (file, reason)
    ignored: dict[str, int]
    unique: bool  #: no name stands for two pictures
    notices: list[str]

    def spans(self, files: Sequence[str]) -> Spans:
        """Where the pictures lie. `files`: F paths or URLs."""
        file, start, length, _ = self.places
        return Spans(Strings.of(files), file, start, length, self.names)


def merged(scans: Iterable[Scan], classes: Sequence[str] = ()) -> Index:
    """One index of the scans of F files. `classes`: their order where it is known."""
    numbers = {name: i for i, name in enumerate(classes)}
    places: list[Tensor] = []
    damaged: list[tuple[int, str]] = []
    ignored: Counter[str] = Counter()
    hashes: set[int] = set()
    captions = False

    def names() -> Iterator[str]:
        nonlocal captions
        for number, scan in enumerate(scans):
            labels = [-1 if label is None else numbers.setdefault(label, len(numbers)) for label in scan.labels]
            places.append(torch.tensor([[number] * len(labels), scan.starts, scan.lengths, labels], dtype=torch.int64))
            if scan.damage:
                damaged.append((number, scan.damage))
            ignored.update(scan.ignored)
            captions |= scan.captions
            hashes.update(map(hash, scan.names))
            yield from scan.names

    packed = Strings.of(names())
    columns = torch.cat(places, 1) if places else torch.empty(4, 0, dtype=torch.int64)
    order, notices = list(numbers), []
    if captions and len(order) > max(10, len(packed) // 2):
        notices.append(f"no labels: the texts beside the pictures are {len(order):,} different ones, so descriptions")
        order, columns[3] = [], -1
    elif not classes and order:
        order = class_order(numbers)
        rank = torch.empty(len(order) + 1, dtype=torch.int64)
        rank[[numbers[name] for name in order]] = torch.arange(len(order))
        rank[-1] = -1  # what -1 picks: no label
        columns[3] = rank[columns[3]]
    return Index(packed, columns, order, damaged, dict(ignored), len(hashes) == len(packed), notices)


def key_of(kind: str, files: Sequence[str], names: Sequence[str]) -> str:
    """What tells these files from others and from their next versions, without reading them: names, sizes, times.

    Raises:
        WrongUse: one cannot be looked at.
    """
    try:
        stamps = [(name, *_stamp(path)) for name, path in zip(names, files)]
    except OSError as error:
        raise WrongUse(f"{names[0]} or a file beside it cannot be read ({error}); check the files") from None
    return hashlib.blake2b(repr([VERSION, kind, stamps]).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def kept(
    key: str, root: Path, build: Callable[[], Index], sound: Callable[[Index], bool] = lambda index: True
) -> Index:
    """The index of this key, built once and kept under `root`; it costs tens of bytes a picture.

    Where nothing can be written it is built each time. Several processes may ask at once: one builds. `sound`: whether
    what an old index speaks of is still there.
    """
    file = root / "store" / f"index-{key}"
    found = _load(file)
    if found is not None and sound(found):
        return found
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(file.with_suffix(".lock")))
            found = _load(file)  # another process may have been faster
            if found is not None and sound(found):
                return found
        made = build()
        with contextlib.suppress(OSError):
            _save(file, made)
    return made


def _stamp(path: str) -> tuple[Any, ...]:
    if not is_remote(path):
        info = os.stat(path)
        return info.st_size, info.st_mtime_ns
    system, inside = filesystem(path)
    told = system.info(inside)
    times = (told.get(k) for k in ("ETag", "etag", "LastModified", "mtime", "updated", "created"))
    return told.get("size"), str(next((t for t in times if t), ""))


def _save(file: Path, index: Index) -> None:
    draft = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    facts = [index.classes, index.damaged, index.ignored, index.unique, index.notices]
    tensors = {"text": index.names.text, "length": index.names.length, "places": index.places}
    try:
        save_file(tensors, draft, {"facts": json.dumps(facts)})
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def _load(file: Path) -> Index | None:
    """An index, or None where it is missing or damaged."""
    try:
        with safe_open(file, "pt") as stored:
            text, length, places = (stored.get_tensor(name) for name in ("text", "length", "places"))
            classes, damaged, ignored, unique, notices = json.loads(stored.metadata()["facts"])
    except Exception:  # safetensors raises a different thing for each kind of damage
        return None
    names = Strings(text, length.cumsum(0) - length, length)
    return Index(names, places, classes, [(i, why) for i, why in damaged], ignored, unique, notices)


def source_of(index: Index, files: Sequence[str], names: Sequence[str], notices: list[str]) -> Source:
    """Parts of a data set. `files`: F paths or URLs; `names`: what the user calls them, relative to what was given.

    Files whose names say train and test (val, ...) are parts; else folders of these names inside them are.

    Raises:
        WrongUse: no picture in them.
    """
    if not len(index.names):
        kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(index.ignored).most_common(4))
        broken = "".join(f"; {names[i]}: {why}" for i, why in index.damaged[:2])
        raise WrongUse(
            f"no pictures in {names[0]}{f' and {len(names) - 1} more files' if names[1:] else ''} "
            f"({kinds or 'nothing at all'}{broken}); pictures end in .jpg, .png, .webp, ..."
        )
    notices = [f"{len(index.names):,} pictures in {len(files):,} files", *notices, *index.notices]
    if index.ignored:
        kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(index.ignored).most_common(4))
        notices.append(f"{sum(index.ignored.values())} members that are no pictures are left alone ({kinds})")
    groups, inside = _by_file(index, names), False
    if len(groups) == 1:
        groups, inside = _by_folder(index), True
    train = next((name for name in groups if name.lower() in TRAIN), next(iter(groups)))
    tests = [name for name in groups if name != train and name.lower() in TEST]
    parts = {name: _part(index, files, names, groups[name], name, notices, inside) for name in (train, *tests)}
    # as of folders: a labelled test part before one without labels
    tests.sort(key=lambda name: (parts[name].labels is None, TEST.index(name.lower())))
    for name in tests[:1]:
        notices.append(f"test part: {name} ({len(parts[name])} pictures)")
    rest = [f"{name or 'others'} ({len(groups[name])})" for name in groups if name not in (train, *tests[:1])]
    if rest:
        notices.append(f"left out beside them: {', '.join(rest)}")
    damaged = [(names[i], why) for i, why in index.damaged]
    test = parts[tests[0]] if tests else None
    return Source(parts[train], test, index.classes or None, notices, damaged=damaged)


def _by_file(index: Index, names: Sequence[str]) -> dict[str, Tensor]:
    """Part -> rows, by the word in the names of the files; one part where they do not tell a train and a test part."""
    known = {*TRAIN, *TEST}
    words = [next((word for word in re.split(r"[^a-z]+", name.lower()) if word in known), "") for name in names]
    if not (set(words) & set(TRAIN) and set(words) & set(TEST)):
        return {"": torch.arange(len(index.names))}
    found = list(dict.fromkeys(words))
    number = torch.tensor([found.index(word) for word in words])[index.places[0]]
    return {word: (number == i).nonzero()[:, 0] for i, word in enumerate(found)}


def _by_folder(index: Index) -> dict[str, Tensor]:
    """The same by the first folders inside the files."""
    names = list(index.names)
    split = split_of(names)
    if split is None:
        return {"": torch.arange(len(names))}
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(top_of(name), []).append(row)
    return {name: torch.tensor(chosen) for name, chosen in rows.items()}


def _part(
    index: Index, files: Sequence[str], shown: Sequence[str], rows: Tensor, name: str, notices: list[str], inside: bool
) -> Pictures:
    spans = index.spans(files).select(rows)
    names = index.names.select(rows)
    labels: Tensor | list[str] | None = index.places[3][rows]
    what = f" of {name}" if name else ""
    if index.classes:
        lost = (index.places[3][rows] < 0).nonzero()[:, 0].tolist()
        if len(lost) == len(rows):
            labels = None
        elif lost:
            notices.append(f"no label{what} for {len(lost)} of {len(rows)} pictures, such as {names[lost[0]]}")
    else:
        tops = [top_of(member.split("/", 1)[1] if inside and name else member) for member in names]
        labels = tops if "" not in tops and len(set(tops)) > 1 else None
        if labels is not None:
            notices.append(f"labels{what}: the {len(set(tops))} first-level folders inside")
    if not index.unique:  # lists of pictures to leave out need one name for one picture
        names = Strings.of(f"{shown[i]}/{member}" for i, member in zip(spans.file.tolist(), names))
    return Pictures(spans, names, labels=labels)
