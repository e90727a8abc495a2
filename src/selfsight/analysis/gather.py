"""Features, labels and small pictures of some pictures: what every figure of a representation is made of.

Legend: N pictures that are asked, B pictures of the bank (training pictures that name the others), D features, s side of
a small picture in pixels, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from selfsight import run as runs
from selfsight.data import DataSet, Part, open_data
from selfsight.embedding import chunks, say
from selfsight.errors import WrongUse
from selfsight.evaluate import layers, stored
from selfsight.evaluate.features import extract
from selfsight.machine import pick_device
from selfsight.measure import sample
from selfsight.session import open_for

SIDE = 64  #: of the small pictures, at most


@dataclasses.dataclass(frozen=True)
class Rows:
    """Features of some pictures of a part."""

    features: Tensor  #: (n, D) float32
    labels: Tensor | None  #: (n,) int64, -1: this one has none
    pictures: np.ndarray | None  #: (n, s, s, C) uint8
    names: list[str] | None  #: n file names
    part: str  #: train, holdout, test
    total: int  #: pictures of the part, of which these are a seeded choice
    index: np.ndarray  #: (n,) place in the source


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What figures are made of."""

    asked: Rows
    bank: Rows | None  #: None: there are no other pictures
    classes: list[str] | None
    name: str  #: of the run or file
    data: str
    seed: int
    about: dict[str, Any]  #: encoder, step, fingerprint of the data, layer

    @property
    def labelled(self) -> bool:
        """Asked pictures and those of the bank have labels of the same classes."""
        return self.bank is not None and self.bank.labels is not None and self.asked.labels is not None

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) int64 labels of the asked pictures."""
        return None if self.asked.labels is None else self.asked.labels.numpy()

    def class_names(self) -> list[str]:
        """Names of the classes; their numbers where they have none."""
        found = [x.labels for x in (self.asked, self.bank) if x is not None and x.labels is not None]
        most = max((int(labels.max()) + 1 for labels in found), default=0)
        names = self.classes or []
        return [*names, *(str(i) for i in range(len(names), most))]


def gather(
    target: str | Path, *, data: str | None = None, train: str | None = None, test: str | None = None,
    features: str = "encoder", pictures: int = 2000, bank: int = 5000, image_size: int = 0, seed: int = 0,
    data_root: str | None = None, device: str = "auto",
) -> Gathered:  # fmt: skip
    """Features of a seeded choice of pictures, and of a bank of training pictures.

    Args:
        target: run folder, checkpoint, encoder.safetensors, or an .npz that `embed` or `evaluate --out` wrote.
        data: pictures in place of the run's; their hold-out part is asked, or (without one) some of them. For an .npz, the
            pictures that its features are of.
        train: pictures of the bank, with `test`.
        test: pictures that are asked.
        features: which layer's, see `evaluate`.
        pictures: how many are asked at most; 0: all.
        bank: how many pictures of the bank at most; 0: all.
        image_size: side in pixels; 0: the run's.
        seed: of the choice.
        data_root: where named sets live.
        device: where features are computed.

    Raises:
        WrongUse: there is no such run, or its data are not there any more.
    """
    if pictures < 0 or bank < 0 or image_size < 0 or seed < 0:
        raise WrongUse("pictures, bank, image size and seed: none may be negative; 0 pictures means all of them")
    if data and (train or test):
        raise WrongUse("--data stands for both parts: give it alone, or --train with --test")
    if str(target).endswith(".npz"):
        return _of_file(Path(target), data, test, pictures, bank, seed, data_root)
    net = layers.load(Path(target), features)
    size, channels = image_size or int(net.header["image_size"]), net.mean.shape[1]
    opened, asked, part, others = parts_of(Path(target), data, train, test, size, channels, seed, data_root)
    where = pick_device(device)
    net = net.to(where)

    def rows_of(found: Part, name: str, rows: Tensor) -> Rows:
        small: list[np.ndarray] = []
        some = found.subset(rows)
        made = extract(net, _watched(chunks(some, size, channels, where), small), where)
        names = None if some.paths is None else list(some.paths)
        return Rows(made, some.labels, np.concatenate(small), names, name, len(found), some.index.numpy())

    chosen = sample(len(asked), pictures, seed, 10)
    if others is None:  # one unlabelled heap: the bank is what was not asked
        left = torch.ones(len(asked), dtype=torch.bool)
        left[chosen] = False
        rest = left.nonzero()[:, 0]
        others = asked.subset(rest) if len(rest) else None
    known = None
    if others is not None:
        usable = others.labelled()
        known = rows_of(others, "train", usable[sample(len(usable), bank, seed, 11)])
    about = {
        "encoder": net.header["encoder"], "step": net.header.get("steps"), "dim": net.dim, "layer": features,
        "fingerprint": opened.fingerprint, "image_size": size,
    }  # fmt: skip
    name = Path(target).resolve().name
    return Gathered(rows_of(asked, part, chosen), known, opened.classes, name, opened.name, seed, about)


def parts_of(
    target: Path, data: str | None, train: str | None, test: str | None, size: int, channels: int, seed: int,
    data_root: str | None,
) -> tuple[DataSet, Part, str, Part | None]:  # fmt: skip
    """The data set, the part that is asked, its name, and the bank; None: the rest of the part that is asked."""
    root = Path(data_root).expanduser() if data_root else None
    if data is None and train is None and test is None:
        path = target / "run.yaml"
        if not path.is_file():
            raise WrongUse(f"say what pictures to show {str(target)!r}: --data DATA")
        run = runs.load(path)
        opened = open_for(dataclasses.replace(run, data_root=data_root or run.data_root), torch.device("cpu"), say)
    else:
        opened = open_data(
            str(data or train or test), root=root, image_size=size, channels=channels, seed=seed,
            holdout=0 if test else None, log=say,
        )  # fmt: skip
    if test is not None:
        other = (
            opened
            if train is None
            else open_data(test, root=root, image_size=size, channels=channels, holdout=0, log=say)
        )
        if train is not None and other.classes != opened.classes:
            raise WrongUse(f"{test} has other classes than {train}: use the same class folders")
        return opened, other.train, "test", None if train is None else opened.train
    if opened.holdout is not None:
        return opened, opened.holdout, "holdout", opened.train
    if opened.test is not None:
        return opened, opened.test, "test", opened.train
    return opened, opened.train, "train", None


def _watched(parts: Iterator[Tensor], small: list[np.ndarray]) -> Iterator[Tensor]:
    """The same pictures (b, C, S, S) in [0, 1], of which `small` keeps small copies."""
    for x in parts:
        side = min(SIDE, x.shape[-1])
        shown = x if side == x.shape[-1] else F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        small.append(shown.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        yield x


def _of_file(
    path: Path, data: str | None, test: str | None, pictures: int, bank: int, seed: int, data_root: str | None
) -> Gathered:
    """Features of a file: both parts of it, or one part and (`test`) another file; or one part alone."""
    arrays = stored.arrays_of(path)
    alone = "features" in arrays and test is None
    if alone:
        features, labels = stored.part_of(arrays, path, "")
        sets = stored.Sets(None, None, features, labels, stored.names_of(arrays))
    else:
        sets, _ = stored.read(path, Path(test) if test else None)
    small, names = None, [str(n) for n in arrays["paths"]] if alone and "paths" in arrays else None
    index = arrays["index"] if alone and "index" in arrays else np.arange(len(sets.test))
    fingerprint = None
    chosen = sample(len(sets.test), pictures, seed, 10)
    if data is not None:
        if not alone:
            raise WrongUse(f"{str(path)!r} holds two parts: --data shows the pictures of a file that `embed` wrote")
        root = Path(data_root).expanduser() if data_root else None
        opened = open_data(data, root=root, holdout=0, image_size=SIDE, log=say)
        part, fingerprint = opened.train, opened.fingerprint
        if len(part) != len(sets.test) or not np.array_equal(part.index.numpy(), index):
            raise WrongUse(
                f"{data} has {len(part)} pictures, {str(path)!r} features of {len(sets.test)}: give its own data"
            )
        kept: list[np.ndarray] = []
        for _ in _watched(chunks(part.subset(chosen), SIDE, opened.channels, torch.device("cpu")), kept):
            pass
        small = np.concatenate(kept)

    def rows_of(x: Tensor, labels: Tensor | None, rows: Tensor, name: str, shown: Any = None) -> Rows:
        picked = None if labels is None else labels[rows]
        told = [names[int(i)] for i in rows] if names and name == "file" else None
        places = index[rows.numpy()] if name == "file" else rows.numpy()
        return Rows(x[rows], picked, shown, told, name, len(x), places)

    known = None
    if sets.train is not None:
        known = rows_of(sets.train, sets.labels, sample(len(sets.train), bank, seed, 11), "train")
    asked = rows_of(sets.test, sets.test_labels, chosen, "file" if alone else "test", small)
    about = {"encoder": None, "step": None, "dim": sets.test.shape[1], "layer": "stored", "fingerprint": fingerprint}
    return Gathered(asked, known, sets.classes, path.name, data or path.name, seed, about)
