"""The data sets that have a name. An entry knows facts and how to find the pictures; opening.py does the rest."""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsight.data import archives, synthetic
from selfsight.data.files import Pictures, Request, Source, class_order, to_pixels
from selfsight.data.store import Built, cached, fits_on_disk
from selfsight.errors import WrongUse


@dataclass(frozen=True)
class Known:
    """A data set with a name."""

    about: str
    classes: tuple[str, ...]  #: empty where the files of the set tell them
    image_size: int
    train: int  #: pictures of the training part
    test: int
    licence: str
    open: Callable[[Request], Source] = field(repr=False)
    mean: tuple[float, ...] | None = None  #: published, of the whole training part, in 0..1 units; None: computed
    std: tuple[float, ...] | None = None


def _shapes(request: Request) -> Source:
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
        def build() -> Built:
            for first in range(0, count, 1000):
                yield from synthetic.shapes(min(1000, count - first), size, part=number, first=first, upright=upright)

        labels = synthetic.labels(count)
        bytes_needed = 3 * size * size * count
        if request.on_disk and count >= 1000 and fits_on_disk(request.root, bytes_needed):
            key = f"shapes-{synthetic.VERSION}-{size}-{count}-{number}{'-upright' * upright}"
            with contextlib.suppress(OSError):
                store = cached(request.root / "store" / key, 3, build)[0]
                return Pictures(pixels=store.uniform, labels=labels)
        return Pictures(pixels=synthetic.shapes(count, size, part=number, upright=upright), labels=labels)

    return Source(part(0, count), part(1, max(10, count // 5)), list(synthetic.CLASSES))


def _cifar(kind: str) -> Callable[[Request], Source]:
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
            raise WrongUse(_absent(request, kind, maker, archive, error)) from None

        def part(found: Any) -> Pictures:
            return Pictures(pixels=to_pixels(found.data, kind), labels=torch.tensor(found.targets))

        return Source(part(train), part(test), list(train.classes))

    return open_it


def _absent(request: Request, kind: str, maker: Any, archive: Path, error: Exception) -> str:
    folder = request.root / maker.base_folder
    if request.download:
        return (
            f"{kind} could not be downloaded ({' '.join(str(error).split())[:120]}); fetch {maker.url} yourself and "
            f"put it at {archive}"
        )
    state = "is damaged" if folder.exists() else "is not there"
    return f"{kind} {state}: {folder}; add --download, or put {maker.url} at {archive}"


def _cifar_classes(names: str) -> tuple[str, ...]:
    return tuple(names.split())


DATASETS: dict[str, Known] = {
    "shapes": Known(
        "built in: ten geometric figures in random places, sizes and colours; shapes:SIZE:COUNT for others",
        synthetic.CLASSES,
        32,
        10_000,
        2_000,
        "generated, free",
        _shapes,
    ),
    "cifar10": Known(
        "CIFAR-10: small photos of ten kinds of things",
        _cifar_classes("airplane automobile bird cat deer dog frog horse ship truck"),
        32,
        50_000,
        10_000,
        "no licence stated; by A. Krizhevsky (2009), from the 80 million tiny images; for research",
        _cifar("CIFAR10"),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    "cifar100": Known(
        "CIFAR-100: small photos of a hundred kinds of things",
        _cifar_classes(
            "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly "
            "camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup "
            "dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower "
            "leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid "
            "otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray "
            "road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
            "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle "
            "wardrobe whale willow_tree wolf woman worm"
        ),
        32,
        50_000,
        10_000,
        "no licence stated; by A. Krizhevsky (2009), from the 80 million tiny images; for research",
        _cifar("CIFAR100"),
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
    ),
    "celeba": Known(
        "CelebA: aligned faces, unlabelled; celeba:Smiling labels them by one of the 40 attributes",
        (),
        160,
        162_770,
        19_962,
        "non-commercial research only; by the Multimedia Laboratory, CUHK (2015)",
        archives.celeba,
    ),
    "cub200": Known(
        "CUB-200-2011: photos of 200 species of birds; cub200:disjoint trains on the first half of the classes",
        (),
        224,
        5_994,
        5_794,
        "non-commercial research and education; by Caltech and UCSD (2011)",
        archives.cub200,
    ),
    "cars196": Known(
        "Cars-196: photos of 196 models of cars; cars196:disjoint trains on a random half of the classes",
        (),
        224,
        8_144,
        8_041,
        "non-commercial research; by J. Krause et al., Stanford (2013)",
        archives.cars196,
    ),
    "sop": Known(
        "Stanford Online Products: photos of 22634 products, other ones in each part",
        (),
        224,
        59_551,
        60_502,
        "no licence stated; by H. O. Song et al., Stanford (2016), from eBay; for research",
        archives.sop,
    ),
}
"""Name -> entry. A new set is one entry here."""


def numbered(labels: list[str] | Tensor | None, classes: list[str]) -> Tensor | None:
    """(N,) int64 class numbers of a part's labels."""
    if labels is None or isinstance(labels, Tensor):
        return labels
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[name] for name in labels], dtype=torch.int64)


def class_names(source: Source) -> list[str] | None:
    """All classes of both parts: in the entry's order, as numbers where they are numbers, else alphabetically.

    A set whose test part alone has labels has classes too.
    """
    if source.classes is not None:
        return source.classes
    names = {name for part in (source.train, source.test) if part is not None for name in part.labels or ()}
    return class_order(names) if names else None
