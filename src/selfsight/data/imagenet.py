"""ImageNet as its owners hand it out, its subsets by class, and the small sets made of it. Lists and labels only.

A class is called by its synset, then in words: "n01440764 tench"; its number is its place among the synsets of the set.
"""

import csv
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from selfsight.data import synsets
from selfsight.data.archives import Archive, fetch, read_mat
from selfsight.data.decode import SUFFIXES
from selfsight.data.files import Pictures, Request, Source
from selfsight.errors import WrongUse

_FOLDERS = ("imagenet", "ImageNet", "ILSVRC2012", "ILSVRC", "imagenet-object-localization-challenge", "")
_INSIDE = ("", "ILSVRC2012", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
_SYNSET = re.compile(r"n\d{8}")


class _Tree(NamedTuple):
    """Where ImageNet lies."""

    base: Path  #: the folder that the user knows
    parts: Path  #: the folder of train/ and val/


class _Row(NamedTuple):
    """A picture."""

    name: str  #: relative to the folder of the set
    synset: str


def imagenet(subset: str = "") -> Callable[[Request], Source]:
    """The opener of ILSVRC 2012, or of a subset of its classes by name, which reads the same files."""

    def open_it(request: Request) -> Source:
        _no_options(request)
        known = synsets.imagenet()
        wanted = synsets.SUBSETS[subset] if subset else tuple(known)
        tree = _find(request)
        train = _by_folder(tree.parts, "train", wanted)
        test, notices = _validation(tree, wanted)
        return _source(request.name, tree.parts, train, test, {synset: known[synset] for synset in wanted}, notices)

    return open_it


def fastai(name: str) -> Callable[[Request], Source]:
    """The opener of imagenette or imagewoof: `NAME`, or smaller files, `NAME:320` and `NAME:160` (shorter side)."""

    def open_it(request: Request) -> Source:
        if request.options not in ([], ["320"], ["160"]):
            raise WrongUse(f"{request.name!r}: write {name}, {name}:320 or {name}:160 (pixels of the shorter side)")
        folder = "-".join([f"{name}2", *request.options])
        archive = Archive(
            name.capitalize(),
            folder,
            "train/SYNSET/*.JPEG and val/SYNSET/*.JPEG",
            f"https://s3.amazonaws.com/fast-ai-imageclas/{folder}.tgz",
            *([", or add --download,"] if name == "imagenette" else []),
        )
        if request.download and name == "imagenette" and not (request.root / folder).exists():
            from torchvision.datasets import Imagenette  # it has no Imagewoof

            size = f"{request.options[0]}px" if request.options else "full"
            there = request.root / f"{folder}.tgz"
            fetch(archive.title, archive.page, there, lambda: Imagenette(str(request.root), size=size, download=True))
        root = archive.find(request, "train").parent
        archive.find(request, "val")
        wanted, known = synsets.SUBSETS[name], synsets.imagenet()
        train, test = (_by_folder(root, part, wanted) for part in ("train", "val"))
        return _source(request.name, root, train, test, {synset: known[synset] for synset in wanted})

    return open_it


def tiny_imagenet(request: Request) -> Source:
    """`tiny-imagenet`: the training and the validation part; the test part has no labels."""
    _no_options(request)
    archive = Archive(
        "Tiny ImageNet",
        "tiny-imagenet-200",
        "train/SYNSET/images/*.JPEG, val/images/*.JPEG, val/val_annotations.txt, wnids.txt, words.txt",
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    )
    listed = archive.find(request, "wnids.txt")
    root = listed.parent
    words = {cells[0]: cells[1] for cells in _cells(archive.find(request, "words.txt"), "\t", 2)}
    names = {synset: words.get(synset, "").split(",")[0] for synset, *_ in sorted(_cells(listed, None, 1))}
    archive.find(request, "train")
    if (root / "val" / "images").is_dir():
        annotations = _cells(archive.find(request, "val/val_annotations.txt"), "\t", 2)  # and a box
        test = [_Row(f"val/images/{file}", synset) for file, synset, *_ in annotations if synset in names]
    else:  # sorted into folders, as some do
        test = _by_folder(root, "val", names)
    return _source(request.name, root, _by_folder(root, "train", names), test, names)


def _no_options(request: Request) -> None:
    name = request.name.split(":")[0]
    if request.options:
        raise WrongUse(f"{request.name!r}: {name} has no options; write {name}")


def _find(request: Request) -> _Tree:
    """The folder of ImageNet in the data root, or the data root itself."""
    for base in (request.root / folder for folder in _FOLDERS):
        for parts in (base / inside for inside in _INSIDE):
            if (parts / "train").is_dir() and any(_SYNSET.fullmatch(name) for name in os.listdir(parts / "train")):
                return _Tree(base, parts)
    place = request.root / _FOLDERS[0]
    raise WrongUse(
        f"ImageNet is not there: no train/n01440764/ and so on in {place}, in ILSVRC/Data/CLS-LOC/ there, or in "
        f"{request.root}; fetch ILSVRC 2012 from https://image-net.org/download (--download does not), unpack it and put or "
        f"link there: train/SYNSET/*.JPEG, and val/SYNSET/*.JPEG or val/*.JPEG with LOC_val_solution.csv or the "
        f"folder ILSVRC2012_devkit_t12"
    )


def _by_folder(root: Path, part: str, wanted: Iterable[str]) -> list[_Row]:
    """PART/SYNSET/ or PART/SYNSET/images/ for each synset that has a folder."""
    rows = []
    for synset in wanted:
        name = f"{part}/{synset}"
        if (root / name / "images").is_dir():
            name += "/images"
        if (root / name).is_dir():
            rows += [_Row(f"{name}/{file}", synset) for file in _pictures(root / name)]
    return rows


def _pictures(folder: Path) -> list[str]:
    """Names of the pictures in a folder, sorted."""
    names = (entry.name for entry in os.scandir(folder))
    return sorted(n for n in names if os.path.splitext(n)[1].lower() in SUFFIXES and not n.startswith("."))


def _validation(tree: _Tree, wanted: Iterable[str]) -> tuple[list[_Row], list[str]]:
    """Pictures of val/, by folder or as a list beside it says; and what the user should know."""
    folder = tree.parts / "val"
    rows = _by_folder(tree.parts, "val", wanted)
    names = _pictures(folder) if folder.is_dir() and not rows else []
    if not names:
        return rows, [] if rows else [f"no test part: there are no pictures in {folder}"]
    found = _ground_truth(tree)
    if found is None:
        return [], [
            f"no test part: {folder} has no folders of classes, and {tree.base} neither LOC_val_solution.csv nor "
            "ILSVRC2012_devkit_t12/ nor val.txt, one of which says what the pictures show"
        ]
    file, truth = found
    classes = set(wanted)
    known = [(name, truth[stem]) for name in names if (stem := os.path.splitext(name)[0]) in truth]
    notices = [f"classes of val/: from {file}"]
    if len(known) < len(names):
        notices.append(f"{len(names) - len(known)} of {len(names)} pictures in val/ are not in {file.name}: left out")
    return [_Row(f"val/{name}", synset) for name, synset in known if synset in classes], notices


def _ground_truth(tree: _Tree) -> tuple[Path, dict[str, str]] | None:
    """A list of what the validation pictures show, and what it says: name without ending -> synset."""
    folders = [tree.parts]
    while folders[-1] != tree.base:
        folders.append(folders[-1].parent)
    for folder in folders:
        for pattern, read in _TRUTHS.items():
            for file in sorted(folder.glob(pattern)):
                return file, read(file)
    return None


def _solution(file: Path) -> dict[str, str]:
    """LOC_val_solution.csv: a name, then a synset and a box for each thing in the picture."""
    return {name: things.split()[0] for name, things, *_ in _cells(file, ",", 2)[1:] if things}


def _devkit(file: Path) -> dict[str, str]:
    """A number on each line, in the order of the names; meta.mat beside it says whose number it is."""
    entries = read_mat(file.with_name("meta.mat"), "synsets")
    try:
        synset = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in entries}
        numbers = [int(cells[0]) for cells in _cells(file, None, 1)]
        return {f"ILSVRC2012_val_{i:08}": synset[number] for i, number in enumerate(numbers, 1)}
    except (ValueError, KeyError, IndexError) as error:
        raise WrongUse(f"{file} and meta.mat beside it are not of one set ({error}); unpack the devkit again") from None


def _text(file: Path) -> dict[str, str]:
    """A name and a synset on each line, or the place of the synset among all 1000, from 0 on."""
    order = list(synsets.imagenet())
    found = {}
    for name, said, *_ in _cells(file, None, 2):
        known = order[int(said)] if said.isdecimal() and int(said) < len(order) else said
        if not _SYNSET.fullmatch(known):
            raise WrongUse(
                f"{file}: {name} shows {said!r}, which is no synset and no number from 0 to {len(order) - 1}"
            )
        found[os.path.splitext(name)[0]] = known
    return found


_TRUTHS: dict[str, Callable[[Path], dict[str, str]]] = {
    "LOC_val_solution.csv": _solution,
    "ILSVRC2012_validation_ground_truth.txt": _devkit,
    "*/data/ILSVRC2012_validation_ground_truth.txt": _devkit,
    "val.txt": _text,
}


def _cells(file: Path, delimiter: str | None, least: int) -> list[list[str]]:
    """The lines of a text file, split; None: at blanks. WrongUse if one has fewer cells than `least`."""
    lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    rows = list(csv.reader(lines)) if delimiter == "," else [line.split(delimiter) for line in lines]
    short = next((i for i, row in enumerate(rows) if len(row) < least), None)
    if short is not None or not rows:
        line = "it is empty" if short is None else f"line {short + 1} has {len(rows[short])} columns, not {least}"
        raise WrongUse(f"{file} is damaged: {line}; unpack it again")
    return rows


def _source(
    what: str,
    root: Path,
    train: list[_Row],
    test: list[_Row],
    names: Mapping[str, str],
    notices: list[str] | None = None,
) -> Source:
    """The set whose classes are `names` (synset -> word), of which some may be missing."""
    notices = list(notices or [])
    for part, rows in (("train", train), ("val", test)):
        there = {row.synset for row in rows}
        missing = [f"{synset} {word}" for synset, word in names.items() if synset not in there]
        if part == "train" and 2 * len(missing) > len(names):
            raise WrongUse(
                f"{root / part} has pictures of {len(there)} of the {len(names)} classes of {what}; missing are "
                f"{_some(missing, 5)}. Add them, or give the folder itself as data: --data {root}"
            )
        if missing and rows:
            notices.append(f"{len(missing)} of {len(names)} classes are missing in {part}/: {_some(missing, 20)}")
    number = {synset: i for i, synset in enumerate(names)}

    def pictures(rows: list[_Row]) -> Pictures:
        labels = torch.tensor([number[row.synset] for row in rows], dtype=torch.int64)
        return Pictures([root / row.name for row in rows], [row.name for row in rows], labels=labels)

    classes = [f"{synset} {word}".strip() for synset, word in names.items()]
    return Source(pictures(train), pictures(test) if test else None, classes, notices)


def _some(names: list[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
