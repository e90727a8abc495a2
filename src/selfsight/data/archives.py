"""Sets as their archives unpack: CelebA, CUB-200-2011, Cars-196, Stanford Online Products. Lists and labels only.

A class-disjoint split has training and test pictures of different classes, as retrieval is measured.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from selfsight.data.files import Pictures, Request, Source, from_folder
from selfsight.errors import WrongUse, perhaps


class Archive(NamedTuple):
    """A set that its owners hand out."""

    title: str
    folder: str  #: in the folder of all data sets
    holds: str  #: what selfsight needs of it
    page: str  #: where it comes from
    why: str = " (--download does not)"  #: why it has to be fetched by hand

    def find(self, request: Request, name: str) -> Path:
        """A file or folder of the set, which may lie one folder deeper. WrongUse if there is none."""
        folder = request.root / self.folder
        found = [path for path in (folder / name, *sorted(folder.glob(f"*/{name}"))) if path.exists()]
        if not found:
            raise WrongUse(
                f"{self.title} is not there: no {folder / name}; fetch it from {self.page}{self.why} and put "
                f"into {folder}: {self.holds}"
            )
        return found[0]


def fetch(title: str, url: str, file: Path, download: Callable[[], object]) -> None:
    """Download a set. `file`: where its archive would be put by hand. WrongUse if it fails."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            download()
    except Exception as error:  # no network, a wrong checksum: torchvision raises a different thing for each
        raise not_fetched(title, url, file, error) from None


def not_fetched(title: str, url: str, file: Path, error: Exception) -> WrongUse:
    """What to say where a download failed."""
    why = " ".join(str(error).split())[:120]
    return WrongUse(f"{title} could not be downloaded ({why}); fetch {url} yourself and put it at {file}")


class Row(NamedTuple):
    """A picture in a list."""

    name: str  #: relative to the folder of the pictures
    label: int  #: class number
    train: bool


def celeba(request: Request) -> Source:
    """`celeba`: no labels; `celeba:ATTRIBUTE`: whether a face has it. The official training and test parts."""
    if len(request.options) > 1:
        raise WrongUse(f"{request.name!r}: write celeba, or celeba:ATTRIBUTE such as celeba:Smiling")
    faces = Archive(
        "CelebA",
        "celeba",
        "img_align_celeba/, list_eval_partition.txt and, for labels, list_attr_celeba.txt",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    )
    images = faces.find(request, "img_align_celeba")
    part_of = dict(_table(faces.find(request, "list_eval_partition.txt"), 2))
    names = {part: [name for name, found in part_of.items() if found == part] for part in "012"}
    notices = [f"left out beside them: the validation part ({len(names['1'])})"]
    if not request.options:
        notices.append("no labels: celeba:ATTRIBUTE has them, such as celeba:Smiling")
        train, test = (Pictures([images / n for n in names[part]], names[part]) for part in "02")
        return Source(train, test, notices=notices)
    wanted, file = request.options[0], faces.find(request, "list_attr_celeba.txt")
    with file.open() as lines:
        known = "".join(islice(lines, 1, 2)).split()  # below a line with the number of pictures
    if wanted not in known:
        raise WrongUse(f"{request.name!r}: CelebA has no attribute {wanted!r}.{perhaps(wanted, known)}")
    column = known.index(wanted) + 1
    has = {row[0]: row[column] == "1" for row in _table(file, len(known) + 1, skip=2)}
    _fit(part_of.keys() <= has.keys(), faces, request)
    rows = [Row(name, has[name], part == "0") for part in "02" for name in names[part]]
    return _source(images, rows, [f"not {wanted}", wanted], notices)


def cub200(request: Request) -> Source:
    """`cub200`: the official parts; `cub200:disjoint`: the first half of the classes to train on."""
    disjoint = _disjoint(request)
    birds = Archive(
        "CUB-200-2011",
        "CUB_200_2011",
        "images/, images.txt, image_class_labels.txt, train_test_split.txt, classes.txt",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
    )
    files = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    name, label, train, classes = (dict(_table(birds.find(request, file), 2)) for file in files)
    numbers = {number: i for i, number in enumerate(classes)}
    _fit(name.keys() == label.keys() == train.keys() and set(label.values()) <= numbers.keys(), birds, request)
    rows = [Row(name[i], numbers[label[i]], train[i] == "1") for i in name]
    if disjoint:
        rows = _by_class(rows, range(len(classes) // 2))
    plain = [text.split(".", 1)[-1] for text in classes.values()]  # 001.Black_footed_Albatross
    return _source(birds.find(request, "images"), rows, plain)


def cars196(request: Request) -> Source:
    """`cars196`: the official parts; `cars196:disjoint`: half of the classes, shuffled with seed 1, to train on.

    Either the lists of the development kit, or folders train/CLASS and test/CLASS.
    """
    disjoint = _disjoint(request)
    cars = Archive(
        "Cars-196",
        "stanford_cars",
        "cars_train/, cars_test/, devkit/cars_train_annos.mat, devkit/cars_meta.mat, cars_test_annos_withlabels.mat; or "
        "folders train/CLASS/ and test/CLASS/",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    )
    folder = request.root / cars.folder
    if any(path.is_dir() for path in (folder / "train", *folder.glob("*/train"))):
        root = cars.find(request, "train").parent
        found = from_folder(root)
        parts = [part for part in (found.train, found.test) if part is not None]
        if len(parts) < 2 or any(not isinstance(part.labels, list) for part in parts):
            raise WrongUse(f"{root} has no train/CLASS and test/CLASS folders of Cars-196; put pictures there by class")
        classes = sorted({str(label) for part in parts for label in part.labels or ()})
        rows = [
            Row(name, classes.index(str(label)), part is found.train)
            for part in parts
            for name, label in zip(part.names or (), part.labels or ())
        ]
    else:
        lists = ("cars_train_annos.mat", "cars_test_annos_withlabels.mat")
        train, test = (read_mat(cars.find(request, file), "annotations") for file in lists)
        classes = [str(name) for name in read_mat(cars.find(request, "cars_meta.mat"), "class_names")]
        root = cars.find(request, "cars_train").parent
        cars.find(request, "cars_test")
        rows = [
            Row(f"{place}/{entry['fname']}", int(entry["class"]) - 1, place == "cars_train")
            for place, entries in (("cars_train", train), ("cars_test", test))
            for entry in entries
        ]
    if disjoint:
        order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(1)).tolist()
        rows = _by_class(rows, order[: len(classes) // 2])
    return _source(root, rows, classes)


def sop(request: Request) -> Source:
    """`sop`: the official lists, which are class-disjoint; a class is a product."""
    if request.options:
        raise WrongUse(f"{request.name!r}: sop has no options; write sop")
    products = Archive(
        "Stanford Online Products",
        "Stanford_Online_Products",
        "Ebay_train.txt, Ebay_test.txt and the twelve folders of pictures (bicycle_final/, ...)",
        "https://cvgl.stanford.edu/projects/lifted_struct/",
    )
    rows: list[Row] = []
    classes: dict[str, int] = {}
    for file, train in (("Ebay_train.txt", True), ("Ebay_test.txt", False)):
        lists = products.find(request, file)
        for _, product, _, name in _table(lists, 4, skip=1):  # image_id class_id super_class_id path
            kind = name.split("/")[0].removesuffix("_final")
            rows.append(Row(name, classes.setdefault(f"{kind} {product}", len(classes)), train))
    return _source(lists.parent, rows, list(classes))


def _disjoint(request: Request) -> bool:
    if request.options not in ([], ["disjoint"]):
        name = request.name.split(":")[0]
        raise WrongUse(
            f"{request.name!r}: write {name} (the official parts) or {name}:disjoint (parts of other classes)"
        )
    return bool(request.options)


def _fit(right: bool, archive: Archive, request: Request) -> None:
    if not right:
        raise WrongUse(f"the lists in {request.root / archive.folder} are not of one set; unpack {archive.title} again")


def _by_class(rows: list[Row], train: Iterable[int]) -> list[Row]:
    """The same pictures; those of the classes `train` are the training part."""
    chosen = set(train)
    return [row._replace(train=row.label in chosen) for row in rows]


def _source(root: Path, rows: list[Row], classes: list[str], notices: list[str] | None = None) -> Source:
    def part(some: list[Row]) -> Pictures:
        labels = torch.tensor([row.label for row in some], dtype=torch.int64)
        return Pictures([root / row.name for row in some], [row.name for row in some], labels=labels)

    train, test = ([row for row in rows if row.train is side] for side in (True, False))
    return Source(part(train), part(test), classes, notices or [])


def _table(file: Path, columns: int, skip: int = 0) -> list[list[str]]:
    """Rows of a text file, split at blanks. WrongUse if one has another number of columns."""
    rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines()[skip:] if line.strip()]
    odd = next((i for i, row in enumerate(rows) if len(row) != columns), None)
    if odd is not None or not rows:
        line = f"line {odd + skip + 1} has {len(rows[odd])} columns" if odd is not None else "it is empty"
        raise WrongUse(f"{file} is damaged: {line}, {columns} are expected; unpack the archive again")
    return rows


def read_mat(file: Path, key: str) -> Any:
    """An array of a MATLAB file: records, or text."""
    from scipy.io import loadmat  # slow to import

    try:
        return np.atleast_1d(loadmat(file, squeeze_me=True, variable_names=[key])[key])
    except Exception as error:  # scipy raises a different thing for each kind of damage
        raise WrongUse(f"{file} is damaged ({' '.join(str(error).split())[:80]}); unpack the archive again") from None
