"""Sets that are arrays: shapes, CIFAR, SVHN, STL-10. Legend: N pictures, C channels, H, W height and width."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsight.data import synthetic
from selfsight.data.archives import fetch, not_fetched, read_mat
from selfsight.data.content import content_of_files
from selfsight.data.files import Pictures, Request, Source, to_pixels
from selfsight.data.store import cached, fits_on_disk
from selfsight.errors import WrongUse

NO_LABEL = -1  #: the class number of a picture without a label in a part where others have one
_STL_SIDE = 96
_LARGE = 1 << 28  # bytes whose writing takes a while, so the user is told


def shapes(request: Request) -> Source:
    """`shapes`, `shapes:SIZE`, `shapes:SIZE:COUNT`, `shapes:SIZE:COUNT:upright`; the test part has a fifth of COUNT."""
    upright = request.options[2:] == ["upright"]
    options = request.options[:2] if upright else request.options
    try:
        size, count = [int(option) for option in options] + [32, 10_000][len(options) :]
    except ValueError:
        raise WrongUse(
            f"{request.name!r} is no size and count; write shapes, shapes:64, shapes:64:20000 or shapes:64:20000:upright"
        ) from None
    if not (16 <= size <= 512 and 10 <= count <= 1_000_000):
        raise WrongUse(f"{request.name!r}: the size goes from 16 to 512, the number of pictures from 10 to 1000000")

    def part(number: int, count: int) -> Pictures:
        def build() -> Iterator[Tensor]:
            for first in range(0, count, 1000):
                yield synthetic.shapes(min(1000, count - first), size, part=number, first=first, upright=upright)

        key = f"shapes-{synthetic.VERSION}-{size}-{count}-{number}{'-upright' * upright}" if count >= 1000 else ""
        return Pictures(pixels=_kept(request, key, 3 * size * size * count, build), labels=synthetic.labels(count))

    return Source(part(0, count), part(1, max(10, count // 5)), list(synthetic.CLASSES))


def cifar(kind: str) -> Callable[[Request], Source]:
    """The opener of CIFAR10 or CIFAR100."""

    def open_it(request: Request) -> Source:
        from torchvision import datasets
        from torchvision.datasets.utils import check_integrity

        if request.options:
            raise WrongUse(f"{request.name!r}: {kind.lower()} has no options; write {kind.lower()}")
        maker: Any = getattr(datasets, kind)
        archive = request.root / maker.filename
        # an archive that is there already is unpacked; with the right checksum nothing is fetched
        unpack = request.download or check_integrity(str(archive), maker.tgz_md5)
        if unpack:
            request.root.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                train, test = (maker(str(request.root), train=t, download=unpack) for t in (True, False))
        except Exception as error:  # missing, damaged, no network: torchvision raises a different thing for each
            if request.download:
                raise not_fetched(kind, maker.url, archive, error) from None
            raise _absent(kind, request.root / maker.base_folder, maker.url, archive) from None

        def part(found: Any) -> Pictures:
            return Pictures(pixels=to_pixels(found.data, kind), labels=torch.tensor(found.targets))

        return Source(part(train), part(test), list(train.classes))

    return open_it


def svhn(request: Request) -> Source:
    """`svhn`: the training and the test part; `svhn:extra`: the extra part too, easier pictures, to train on."""
    from torchvision.datasets import SVHN

    if request.options not in ([], ["extra"]):
        raise WrongUse(f"{request.name!r}: write svhn, or svhn:extra to train on the extra part, too")

    def find(split: str) -> Path:
        url, name, _ = SVHN.split_list[split]
        file = request.root / "svhn" / name
        if not file.is_file() and (request.root / name).is_file():  # where torchvision puts it
            file = request.root / name
        if not file.is_file() and request.download:
            fetch("SVHN", url, file, lambda: SVHN(str(file.parent), split=split, download=True))
        if not file.is_file():
            raise _absent("SVHN", file, url, file)
        return file

    def digits(file: Path) -> Tensor:
        """(N,) int64: the label 10 means the digit 0."""
        return torch.from_numpy(read_mat(file, "y").astype(np.int64)) % 10

    def pixels(file: Path) -> Tensor:
        """(N, 3, 32, 32) uint8 from (32, 32, 3, N)."""
        array = read_mat(file, "X")
        if array.ndim != 4 or array.shape[:3] != (32, 32, 3):
            raise WrongUse(f"{file} is damaged: X is {array.shape}, not (32, 32, 3, pictures); fetch it again")
        return to_pixels(array.transpose(3, 2, 0, 1), str(file))

    def part(files: list[Path], key: str = "") -> Pictures:
        labels = torch.cat([digits(file) for file in files])
        found = _kept(request, key, 3 * 32 * 32 * len(labels), lambda: (pixels(file) for file in files))
        if len(found) != len(labels):
            raise WrongUse(f"{files[0].parent} is damaged: not one label for each picture; fetch SVHN again")
        return Pictures(pixels=found, labels=labels)

    splits = ["train", *request.options]
    files, test = [find(split) for split in splits], find("test")
    key = f"svhn-{content_of_files(splits, files)}" if len(files) > 1 else ""  # the extra part is slow to unpack
    return Source(part(files, key), part([test]), [str(digit) for digit in range(10)])


def stl10(request: Request) -> Source:
    """`stl10`: train on the labelled and the unlabelled pictures; `stl10:train`, `stl10:unlabeled`: on one of them."""
    from torchvision.datasets import STL10
    from torchvision.datasets.utils import check_integrity

    if request.options not in ([], ["train"], ["unlabeled"]):
        raise WrongUse(f"{request.name!r}: write stl10 (all pictures to train on), stl10:train or stl10:unlabeled")
    folder, archive = request.root / STL10.base_folder, request.root / STL10.filename
    files = [name for name, _ in STL10.train_list + STL10.test_list]
    whole = all((folder / name).is_file() for name in files)
    if not whole and (request.download or check_integrity(str(archive), STL10.tgz_md5)):
        fetch("STL-10", STL10.url, archive, lambda: STL10(str(request.root), split="test", download=True))

    def find(name: str) -> Path:
        if not (folder / name).is_file():
            raise _absent("STL-10", folder / name, STL10.url, archive)
        return folder / name

    def pixels(name: str) -> Tensor:
        """(N, 3, 96, 96) uint8, mapped: the file has each channel column by column."""
        file = find(name)
        size = 3 * _STL_SIDE**2
        if not file.stat().st_size or file.stat().st_size % size:
            raise WrongUse(f"{file} is damaged: {file.stat().st_size} bytes are no pictures of {size}; unpack it again")
        array = np.memmap(file, np.uint8, "c").reshape(-1, 3, _STL_SIDE, _STL_SIDE)
        return torch.from_numpy(array).transpose(2, 3)

    def labelled(name: str) -> Pictures:
        found = pixels(f"{name}_X.bin")
        labels = torch.from_numpy(np.fromfile(find(f"{name}_y.bin"), np.uint8)).long() - 1
        if len(labels) != len(found) or not bool(((labels >= 0) & (labels < len(classes))).all()):
            raise WrongUse(f"{folder} is damaged: {name}_y.bin does not have a class for each picture; unpack it again")
        return Pictures(pixels=found, labels=labels)

    classes = find("class_names.txt").read_text().split()
    test = labelled("test")
    if request.options == ["unlabeled"]:
        notices = ["no labels to train on; stl10:train has some, to evaluate with"]
        return Source(Pictures(pixels=pixels("unlabeled_X.bin")), test, classes, notices)
    train = labelled("train")
    if request.options == ["train"]:
        return Source(train, test, classes)
    assert train.pixels is not None
    assert isinstance(train.labels, Tensor)
    both = [train.pixels, pixels("unlabeled_X.bin")]
    names = ["train_X.bin", "unlabeled_X.bin"]
    count = sum(map(len, both))
    key = f"stl10-{content_of_files(names, [folder / name for name in names])}"
    joined = _kept(request, key, 3 * _STL_SIDE**2 * count, lambda: iter(both))
    labels = torch.cat([train.labels, torch.full((len(both[1]),), NO_LABEL)])
    return Source(Pictures(pixels=joined, labels=labels), test, classes)


def _kept(request: Request, key: str, size: int, build: Callable[[], Iterator[Tensor]]) -> Tensor:
    """Pictures (N, C, H, W) that are made in pieces: from a file of the cache that processes share, else in memory.

    `key`: its name, "" for none; `size`: bytes.
    """
    if key and request.on_disk and fits_on_disk(request.root, size):
        with contextlib.suppress(OSError):

            def pictures() -> Iterator[Tensor]:
                if size >= _LARGE:
                    request.log(f"writing {size / 2**20:,.0f} MiB of pictures to {request.root / 'store'}, once")
                return (picture for piece in build() for picture in piece)

            store = cached(request.root / "store" / key, 3, pictures)[0]
            assert store.uniform is not None
            return store.uniform
    pieces = list(build())
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def _absent(title: str, missing: Path, url: str, place: Path) -> WrongUse:
    state = "is damaged" if missing.is_dir() else "is not there"
    return WrongUse(f"{title} {state}: {missing}; add --download, or put {url} at {place}")
