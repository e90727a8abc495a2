"""Features in files: training and test part with labels, computed by selfsight or by any other program.

Legend: N training rows, M test rows, D features.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfsight.checkpoint import atomic, check_out
from selfsight.errors import WrongUse
from selfsight.evaluate import columns


class Sets(NamedTuple):
    """What protocols work on. Labels of both parts count the same classes."""

    train: Tensor | None  #: (N, D) float32; None where no protocol asks for it
    labels: Tensor | None  #: (N,) int64
    test: Tensor  #: (M, D) float32
    test_labels: Tensor | None  #: (M,) int64
    classes: list[str] | None
    views: Tensor | None = None  #: (n, V, D) of augmented views of some test pictures, for `geometry`


def read(path: Path, test: Path | None = None) -> tuple[Sets, dict[str, Any]]:
    """Training and test features, and the header of the first file.

    Args:
        path: .npz with `train_features`, `train_labels`, `test_features`, `test_labels` (and perhaps `classes`), as
            `evaluate --out` writes it; or, with `test`, the training part as `embed` writes it: an .npz with `features` and
            `labels`, an .npy with the labels in a second file (see `labels_beside`), a .csv or .parquet.
        test: the test part, in any of these.

    Raises:
        WrongUse: no such file, not a file of arrays, arrays that are missing or do not fit each other.
    """
    arrays = arrays_of(path)
    if test is None:
        parts = [part_of(arrays, path, "train_"), part_of(arrays, path, "test_")]
        names = [names_of(arrays)] * 2
    else:
        asked = arrays_of(test)
        parts, names = [part_of(arrays, path, ""), part_of(asked, test, "")], [names_of(arrays), names_of(asked)]
    (train, labels), (rows, wanted) = parts
    if train.shape[1] != rows.shape[1]:
        raise WrongUse(
            f"{train.shape[1]} training features but {rows.shape[1]} test features; take both from one encoder"
        )
    classes = names[0]
    if classes and names[1] and names[1] != classes and wanted is not None:
        used = {names[1][label] for label in wanted.unique().tolist()}
        if strange := sorted(used - set(classes)):
            raise WrongUse(f"{str(test)!r} has classes that {str(path)!r} has not ({', '.join(strange[:5])})")
        wanted = torch.tensor([classes.index(name) if name in used else -1 for name in names[1]])[wanted]
    try:
        header = json.loads(str(arrays["header"])) if "header" in arrays else {}
    except json.JSONDecodeError:
        header = {}
    return Sets(train, labels, rows, wanted, classes), header


def write(path: Path, sets: Sets, header: dict[str, Any]) -> None:
    """Write what `read` reads: arrays without pickled objects, and a header as JSON text."""
    named = {"train_features": sets.train, "train_labels": sets.labels} if sets.train is not None else {}
    named |= {"test_features": sets.test, "test_labels": sets.test_labels}
    arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in named.items() if value is not None}
    if sets.classes:
        arrays["classes"] = np.array(sets.classes)
    arrays["header"] = np.array(json.dumps(header))

    def save(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **arrays)

    atomic(path, save)


def check_features_out(path: Path) -> None:
    """Refuse a file for features that exists, cannot be written or is not .npz, before any work is done."""
    if path.suffix != ".npz":
        raise WrongUse(f"--out {str(path)!r}: features of both parts are written as .npz; choose that ending")
    check_out(path)


def standardised(sets: Sets) -> Sets:
    """Mean 0 and deviation 1 of each feature over the training rows, both parts alike; constant ones become 0.

    Raises:
        WrongUse: there are no training features.
    """
    if sets.train is None:
        raise WrongUse("standardising needs training features: give --train DATA")
    x = sets.train.double()
    mean, std = x.mean(0), x.std(0, correction=0)
    varies = std > 1e-7 * mean.abs().clamp(min=1e-20)
    scale = torch.where(varies, std, torch.ones_like(std))

    def apply(features: Tensor) -> Tensor:
        return ((features.double() - mean) / scale * varies).float()

    views = None if sets.views is None else apply(sets.views)
    return sets._replace(train=apply(sets.train), test=apply(sets.test), views=views)


ENDINGS = (".npz", ".npy", ".csv", ".parquet")


def is_features(target: str) -> bool:
    """Whether the name is that of a file of features."""
    return target.endswith(ENDINGS)


def labels_beside(path: Path) -> list[Path]:
    """Where the labels of the features in an .npy may be: x_labels.npy, x.labels.npy, or `labels` in place of `features`."""
    found = [path.with_name(f"{path.stem}{mark}labels.npy") for mark in "_.-"]
    if "features" in path.stem:
        found.append(path.with_name(path.name.replace("features", "labels")))
    return found


def arrays_of(path: Path) -> dict[str, Any]:
    """Name -> array: of an .npz its own; of the other files `features`, and perhaps `labels` and `classes`."""
    if not path.is_file():
        raise WrongUse(
            f"no file of features at {str(path)!r}: give an .npz, .npy, .csv or .parquet that `embed` or `evaluate --out` wrote"
        )
    if path.suffix in (".csv", ".parquet"):
        return columns.read(path)
    try:
        if path.suffix == ".npy":
            beside = next((file for file in labels_beside(path) if file.is_file()), None)
            labels = {} if beside is None else {"labels": np.load(beside, allow_pickle=False)}
            return {"features": np.load(path, allow_pickle=False), **labels}
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise WrongUse(
            f"{str(path)!r} is not a readable {path.suffix} of plain arrays ({type(error).__name__}): write features with "
            f"np.{'savez' if path.suffix == '.npz' else 'save'}"
        ) from None


def part_of(arrays: dict[str, Any], path: Path, prefix: str) -> tuple[Tensor, Tensor | None]:
    """Features (n, D) and labels (n,) or None."""
    name = prefix + "features"
    if name not in arrays:
        more = ", or give --test FILE with the test part" if prefix and "features" in arrays else ""
        raise WrongUse(f"{str(path)!r} has no array {name!r} (it has {', '.join(sorted(arrays))}): name it so{more}")
    features, labels = arrays[name], arrays.get(prefix + "labels")
    if features.ndim != 2 or not len(features) or features.dtype.kind not in "fiu":
        raise WrongUse(f"{name} in {str(path)!r} is {features.dtype} {features.shape}: give numbers (rows, features)")
    x = torch.from_numpy(features.astype(np.float32))
    if labels is None:
        return x, None
    if labels.shape != (len(features),) or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise WrongUse(
            f"{prefix}labels in {str(path)!r} are {labels.dtype} {labels.shape}: give {len(features)} whole numbers from 0 on"
        )
    return x, torch.from_numpy(labels.astype(np.int64))


def names_of(arrays: dict[str, Any]) -> list[str] | None:
    """Class names, if the file has them."""
    return [str(name) for name in arrays["classes"]] if "classes" in arrays else None
