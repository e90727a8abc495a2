"""open_data: from a name to pictures that are at hand, with every decision told. Legend: N pictures, C channels."""

import hashlib
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from selfsight.data import containers, decode, exclusion, files, split
from selfsight.data.catalogue import DATASETS, class_names, numbered
from selfsight.data.content import content_of_pixels
from selfsight.data.feed import BadFiles, Decoded, default_workers, printable
from selfsight.data.files import Pictures, Request, Source
from selfsight.data.objects import with_channels
from selfsight.data.part import DataSet, Part, moments
from selfsight.data.reading import Cache, Look, Settings, look_at, some, store_of
from selfsight.data.spans import Spans, Strings
from selfsight.data.store import CACHE_LIMIT, Resident, home
from selfsight.errors import WrongUse, perhaps

SIZES = (32, 64, 96, 128, 160, 224)
CPU_SIZE = 96  # the largest size that is chosen by itself for training on a CPU
_EXACT = range(16, 65)  # square pictures of these sides keep them
_SAMPLE = 20_000, 2_000  # pictures that the statistics come from: at hand, decoded


def open_data(
    name: str,
    *,
    root: Path | None = None,
    download: bool = False,
    image_size: int = 0,
    holdout: float | int | None = None,
    fraction: float = 1.0,
    per_class: int = 0,
    bad_files: BadFiles = "skip",
    exclude: str | Path | None = None,
    workers: int | None = None,
    cache: Cache = "auto",
    channels: int = 0,
    seed: int = 0,
    device_type: str = "cpu",
    log: Callable[[str], None] = print,
) -> DataSet:
    """Open a data set by name, folder, list or array file.

    Args:
        root: where named sets and caches lie; None: $SELFSIGHT_HOME or ~/.cache/selfsight.
        image_size: side of a whole view; 0: from the pictures.
        holdout: held out of the training part: a fraction below 1 or a count; None: 0.1 if labelled, else nothing.
        fraction: of what is left: a share up to 1, or a number of pictures; in proportion to the classes.
        per_class: this many pictures of each class; 0: all.
        bad_files: skip (counted, listed) or error.
        exclude: a list of pictures to leave out (see exclusion.py); the others keep their numbers.
        workers: processes that decode; None: none where pictures are at hand, else by the cores.
        cache: auto, memory, disk (also beyond the limit), off (decode each time).
        channels: 1 gray, 3 RGB; 0: as the files say.
        device_type: where training will run: on a CPU smaller pictures are chosen.
        log: gets lines for the user.

    Raises:
        WrongUse: what is wrong with the name, the files or the numbers, and what to do.
    """
    root = home() if root is None else Path(root).expanduser()
    if image_size and image_size < 8:
        raise WrongUse(f"image size {image_size} is too small; give at least 8, or 0 to follow the pictures")
    if channels not in (0, 1, 3) or (workers is not None and workers < 0):
        raise WrongUse(
            f"channels {channels}, workers {workers}: channels are 0 (as the files say), 1 or 3, workers >= 0"
        )
    unwanted = exclusion.read(Path(exclude).expanduser()) if exclude else frozenset()
    source = find(name, root, download, cache in ("auto", "disk"), log)
    choices = list(source.notices)
    kept, kept_test = _left_in(source, unwanted, name, exclude, choices)
    if source.damaged and bad_files == "error":
        raise WrongUse(
            f"not all pictures can be read: {some(source.damaged)}; copy them again, or use --bad-files skip"
        )
    classes = class_names(source)
    look = look_at(source.train, name)
    image_size = image_size or _auto_size(look, device_type, choices)
    if source.train.pixels is None and not channels:
        channels = 1 if look.gray else 3
        choices.append(f"channels {channels}: the pictures are {'gray' if look.gray else 'in colour'}")
    workers = default_workers(device_type) if workers is None else workers
    settings = Settings(channels, image_size, bad_files, workers, cache, root, log)

    whole, skipped, print_of = _open_part(source.train, kept, classes, settings, look, choices)
    if not len(whole):
        raise WrongUse(f"no readable picture in {name} ({'; '.join(f'{f}: {why}' for f, why in skipped[:2])})")
    test, prints = None, [print_of]
    if source.test is not None and len(kept_test):
        test, bad, print_of = _open_part(source.test, kept_test, classes, settings, look, choices)
        skipped, prints = skipped + bad, [*prints, print_of]
    skipped = source.damaged + skipped
    if skipped:
        choices.append(f"{len(skipped)} unreadable files are skipped: {some(skipped)}")

    stay, held = split.hold_out(len(whole), whole.labels, holdout, seed)
    holdout_part = whole.subset(held) if len(held) else None
    if holdout_part is not None:
        choices.append(f"hold-out: {len(held)} of {len(whole)} pictures, seed {seed}")
    train = whole.subset(stay) if len(held) else whole
    if fraction != 1 or per_class:
        rows = split.subset(train.labels, len(train), fraction, per_class, classes, seed)
        choices.append(f"training on {len(rows)} of {len(train)} pictures, seed {seed}")
        train = train.subset(rows)
    mean, std = _statistics(source, train, seed, choices)
    data = DataSet(
        name=name,
        classes=classes,
        channels=len(mean),
        image_size=image_size,
        mean=mean,
        std=std,
        train=train,
        holdout=holdout_part,
        test=test,
        skipped=skipped,
        fingerprint=hashlib.blake2b("/".join(prints).encode(), digest_size=16).hexdigest(),
        choices=choices,
        policy=source.policy,
    )
    if data.disjoint:
        choices.append("the test part has classes of its own: k-NN is measured on the hold-out part alone")
    return data


def find(name: str, root: Path, download: bool, on_disk: bool, log: Callable[[str], None]) -> Source:
    """What a name stands for: lists and arrays, nothing is decoded yet. Raises WrongUse if it stands for nothing."""
    head, *options = name.split(":")
    if head in DATASETS:
        known = DATASETS[head]
        source = known.open(Request(name, options, root, download, on_disk, log))
        source = replace(source, policy=known.policy)
        return source if options else replace(source, mean=known.mean, std=known.std)
    stored = containers.find(Request(name, [], root, download, on_disk, log))
    if stored is not None:
        return stored
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        return files.from_folder(path)
    if path.is_file():
        if suffix in (".npy", ".npz"):
            return files.from_arrays(path)
        if suffix in (".txt", ".lst", ".csv", ".tsv"):
            return files.from_list(path)
        if suffix in decode.SUFFIXES:
            raise WrongUse(f"{name} is one picture; give the folder it lies in")
        raise WrongUse(
            f"{name} is no set of pictures; give a folder, .tar shards, a .npz, .npy, .h5, .parquet, or a .txt or .csv list"
        )
    if "/" in name or "\\" in name or suffix:
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = perhaps(path.name, beside)
        raise WrongUse(f"there is no {name}.{near if near.startswith(' Perhaps') else ' Check the path.'}")
    raise WrongUse(f"no data set and no folder is called {name!r}.{perhaps(head, set(DATASETS))}")


def _auto_size(look: Look, device_type: str, choices: list[str]) -> int:
    height, width = look.sizes[0]
    if height == width and height in _EXACT and len(set(look.sizes)) == 1:
        choices.append(f"image size {height}: every picture has it")
        return height
    middle = statistics.median(min(size) for size in look.sizes)
    known = [size for size in SIZES if device_type != "cpu" or size <= CPU_SIZE]
    size = min(known, key=lambda s: abs(s - middle))
    typical = min(look.sizes, key=lambda s: abs(min(s) - middle))
    limit = f", at most {CPU_SIZE} on a CPU" if device_type == "cpu" and middle > CPU_SIZE else ""
    choices.append(f"image size {size}: the median picture is {typical[1]}x{typical[0]}{limit}")
    return size


def _left_in(
    source: Source, unwanted: frozenset[str], name: str, exclude: str | Path | None, choices: list[str]
) -> tuple[Tensor, Tensor]:
    """Positions of the training part and of the test part that a list does not leave out."""
    test = source.test or Pictures([], [])
    kept, kept_test = exclusion.kept(source.train, "train", unwanted), exclusion.kept(test, "test", unwanted)
    left_out = len(source.train) + len(test) - len(kept) - len(kept_test)
    if unwanted and not left_out:
        raise WrongUse(
            f"--exclude {str(exclude)!r} names no picture of {name}; write a list with `selfsight check {name} --exclude "
            "FILE`, or leave it out"
        )
    if left_out:
        gone = f"; {len(unwanted) - left_out} other names are not there" if left_out < len(unwanted) else ""
        choices.append(f"{left_out} pictures are left out, as {exclude} says{gone}")
    return kept, kept_test


def _open_part(
    pictures: Pictures, kept: Tensor, classes: list[str] | None, settings: Settings, look: Look, choices: list[str]
) -> tuple[Part, list[tuple[str, str]], str]:
    """The part, what was skipped, and the hash of its content. `kept`: (n,) positions that a list leaves in."""
    labels = numbered(pictures.labels, classes or [])
    if pictures.pixels is not None:
        content = content_of_pixels(pictures.pixels)
        pixels = with_channels(pictures.pixels, settings.channels or pictures.pixels.shape[1])
        if pixels.numel() <= CACHE_LIMIT // 4:  # a larger one may be mapped from its file: no copy
            pixels = pixels.contiguous()
        part = Part(Resident.of(pixels), labels=labels)
        if len(kept) < len(pictures):
            part, content = part.subset(kept), f"{content} {kept.tolist()}"
        return part, [], _with_labels(content, pictures)
    spans = Spans.of(pictures.paths or []).select(kept)
    names = Strings.of(pictures.names or []).select(kept)
    store, bad, content = store_of(spans, names, settings, look, choices)
    keep = torch.ones(len(spans), dtype=torch.bool)
    keep[[position for position, _ in bad]] = False
    index = kept[keep]
    part = Part(
        store,
        labels=None if labels is None else labels[index],
        index=index,
        names=names.select(keep.nonzero()[:, 0]),
    )
    return part, [(printable(names[i]), why) for i, why in bad], _with_labels(content, pictures)


def _with_labels(content: str, pictures: Pictures) -> str:
    labels = pictures.labels.tolist() if isinstance(pictures.labels, Tensor) else pictures.labels
    return hashlib.blake2b(f"{content} {labels}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _statistics(source: Source, train: Part, seed: int, choices: list[str]) -> tuple[Tensor, Tensor]:
    channels = train.store.channels
    if source.mean is not None and source.std is not None and len(source.mean) == channels:
        choices.append("mean and deviation: as published for this set")
        return torch.tensor(source.mean), torch.tensor(source.std)
    most = _SAMPLE[isinstance(train.store, Decoded)]
    rows = split.ranking(len(train), None, seed, split.STATISTICS)[:most].sort().values
    choices.append(f"mean and deviation: from {len(rows):,} training pictures")
    return moments(train, rows)
