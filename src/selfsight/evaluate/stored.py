"""Features that are there already: of another program's encoder, of `embed`, or a toy. Legend: N rows, D features.

`selfsight evaluate features --train FILE.npz --test FILE.npz`. A set of features is no set of pictures: it can be
evaluated, not augmented, so training does not take it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsight.data import split
from selfsight.errors import WrongUse
from selfsight.rng import Stream, generator

MOONS = "two-moons"


@dataclass(frozen=True)
class Features:
    """A set of features with labels."""

    name: str
    features: Tensor  #: (N, D) float32
    labels: list[str]  #: N class names
    test: "Features | None" = None

    @property
    def classes(self) -> list[str]:
        """The names of the classes: as numbers where they are numbers, else alphabetically."""
        names = set(self.labels)
        return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)

    def rows(self, rows: Tensor) -> "Features":
        """Some of the rows (n,)."""
        return Features(self.name, self.features[rows], [self.labels[row] for row in rows.tolist()])


def from_arrays(features: Any, labels: Any, name: str = "arrays", classes: Sequence[str] | None = None) -> Features:
    """Arrays (N, D) of numbers and (N,) of class numbers or names. A number below 0 is no label: such rows are left out.

    `classes`: names of the numbers.

    Raises:
        WrongUse: other shapes, nothing labelled, or numbers that are not finite.
    """
    x, y = np.asarray(features), np.asarray(labels)
    if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "fiu" or y.shape != x.shape[:1]:
        raise WrongUse(
            f"{name}: features are {x.dtype} {x.shape}, labels {y.shape}; give N x D numbers and one label for each row"
        )
    bad = int((~np.isfinite(x.astype(np.float64)).all(1)).sum())
    if bad:
        raise WrongUse(f"{name}: {bad} of {len(x)} rows of features are not finite; leave them out")
    if y.dtype.kind in "iu":
        x, y = x[y >= 0], y[y >= 0]
        if classes is not None and len(y) and y.max() >= len(classes):
            raise WrongUse(f"{name}: label {y.max()} is none of the {len(classes)} classes")
    elif y.dtype.kind not in "US":
        raise WrongUse(f"{name}: labels are {y.dtype}; give class numbers or names")
    if not len(y):
        raise WrongUse(f"{name}: no row has a label; evaluation needs some")
    names = [value.decode() if isinstance(value, bytes) else str(value) for value in y.tolist()]
    if classes is not None and y.dtype.kind in "iu":
        names = [str(classes[value]) for value in y.tolist()]
    return Features(name, torch.from_numpy(x.astype(np.float32)), names)


def load(name: str) -> Features:
    """A .npz with `features` and `labels` (and `classes`, names of the numbers), as `embed` writes it; the same with `test_`
    before them is a test part. Or `two-moons`, `two-moons:COUNT`, `two-moons:COUNT:NOISE`.

    Raises:
        WrongUse: no such file, or something else in it.
    """
    if name.split(":")[0] == MOONS:
        return two_moons(name)
    path = Path(name).expanduser()
    if not path.is_file() or path.suffix.lower() != ".npz":
        raise WrongUse(
            f"{name} is no file of features; give a .npz with features and labels (`embed` makes one), or {MOONS}"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # a broken zip, pickled objects: numpy raises a different thing for each
        raise WrongUse(f"{path} cannot be read as arrays ({' '.join(str(error).split())[:100]})") from None
    for needed in ("features", "labels"):
        if needed not in arrays:
            raise WrongUse(
                f"{path} holds {', '.join(arrays) or 'nothing'}, no {needed}; evaluation needs features and labels"
            )
    classes = [str(c) for c in arrays["classes"].tolist()] if "classes" in arrays else None
    found = from_arrays(arrays["features"], arrays["labels"], name, classes)
    if "test_features" not in arrays or "test_labels" not in arrays:
        return found
    test = from_arrays(arrays["test_features"], arrays["test_labels"], name, classes)
    return Features(found.name, found.features, found.labels, test)


def two_moons(name: str = MOONS) -> Features:
    """Points of the plane on two half circles that reach into each other, which no line divides; a fifth more to test.

    COUNT points to train on, in the same order each time, with normal NOISE (0.1) on both coordinates.
    """
    try:
        count, noise = [float(option) for option in name.split(":")[1:]] + [1000, 0.1][len(name.split(":")) - 1 :]
    except ValueError:
        raise WrongUse(f"{name!r}: write {MOONS}, {MOONS}:COUNT or {MOONS}:COUNT:NOISE") from None
    if not (10 <= count <= 1_000_000 and count == int(count) and 0 <= noise < math.inf):
        raise WrongUse(f"{name!r}: COUNT is a number of points from 10 to 1000000, NOISE is not negative")

    def part(number: int, count: int) -> Features:
        rng = generator(0, Stream.DATA, number, count)
        labels = torch.arange(count) % 2
        angle = math.pi * torch.rand(count, generator=rng)
        upper, lower = (angle.cos(), angle.sin()), (1 - angle.cos(), 0.5 - angle.sin())
        points = torch.where(labels[:, None] == 0, torch.stack(upper, 1), torch.stack(lower, 1))
        points = points + noise * torch.randn(count, 2, generator=rng)
        return Features(name, points, ["upper" if label == 0 else "lower" for label in labels.tolist()])

    train = part(0, int(count))
    return Features(name, train.features, train.labels, part(1, max(10, int(count) // 5)))


def parts(train: Features, test: Features | None, seed: int) -> tuple[Features, Features, str]:
    """What is learnt from, what is asked, and the name of that part: `test`, else the test part of `train`, else a tenth of it.

    Raises:
        WrongUse: the two do not fit together.
    """
    asked = test or train.test
    if asked is None:
        number = {name: i for i, name in enumerate(train.classes)}
        labels = torch.tensor([number[name] for name in train.labels])
        kept, held = split.hold_out(len(labels), labels, None, seed)
        if not len(held):
            raise WrongUse(f"{train.name} has {len(labels)} rows, too few to hold some out: give --test")
        return train.rows(kept), train.rows(held), "holdout"
    if asked.features.shape[1] != train.features.shape[1]:
        raise WrongUse(
            f"{asked.name} has {asked.features.shape[1]} features, {train.name} {train.features.shape[1]}: "
            "take both from one encoder"
        )
    strange = sorted(set(asked.labels) - set(train.labels))
    if strange:
        raise WrongUse(f"{asked.name} has classes that {train.name} has not ({', '.join(strange[:5])})")
    return train, asked, "test"


def evaluate(
    train: "str | Features | None", test: "str | Features | None", protocols: Sequence[str], seed: int
) -> dict[str, Any]:
    """Accuracy of stored features by each protocol, with what it was measured on; as `selfsight.evaluate` gives it."""
    from selfsight.evaluate import PROTOCOLS

    if train is None:
        raise WrongUse(f"say which features: evaluate features --train FILE.npz [--test FILE.npz], or --train {MOONS}")
    known, asked, which = parts(
        load(train) if isinstance(train, str) else train, load(test) if isinstance(test, str) else test, seed
    )
    classes = known.classes
    labels, asked_labels = (torch.tensor([classes.index(name) for name in part.labels]) for part in (known, asked))
    facts = {
        "train": f"{known.name} (train, {len(known.labels)})",
        "test": f"{asked.name} ({which}, {len(asked.labels)})",
        "features": "stored",
        "dim": known.features.shape[1],
        "classes": len(classes),
    }
    return {
        name: {**PROTOCOLS[name](known.features, labels, asked.features, asked_labels, len(classes)), **facts}
        for name in protocols
    }
