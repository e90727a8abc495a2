"""Features of pictures, and files of them."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np

from selfsight import checkpoint as checkpoints
from selfsight.data import from_objects, open_data
from selfsight.errors import WrongUse
from selfsight.evaluate import columns, layers, stored
from selfsight.evaluate.features import Mirrored, chunks, extract
from selfsight.machine import pick_device


def say(line: str) -> None:
    """Lines about the data go to stderr: stdout is for results."""
    print(line, file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Features of pictures."""

    features: np.ndarray  #: (N, D) float32
    labels: np.ndarray | None  #: (N,) int64
    paths: list[str] | None
    index: np.ndarray  #: (N,) int64 place in the data
    classes: list[str] | None


def embed(
    target: str | Path | checkpoints.Encoder, data: Any, out: str | Path | None = None, *, features: str = "encoder",
    image_size: int = 0, device: str = "auto", batch_size: int = 256, data_root: str | None = None,
    exclude: str | None = None, flip: bool = False, checkpoint: str | None = None,
) -> Embedded:  # fmt: skip
    """Features of pictures, and a file of them.

    Args:
        target: run folder, checkpoint, encoder.safetensors, or what `load` returned.
        data: a data name, folder or file; or a list of paths, PIL images, or uint8 arrays.
        out: .npz (arrays features, labels, paths, index, classes), .npy (features; labels in NAME_labels.npy), .csv or
            .parquet (one row a picture); None: no file.
        features: which layer's, see `evaluate`.
        image_size: side in pixels; 0: the run's.
        device: where.
        batch_size: pictures at a time.
        data_root: where named sets live.
        exclude: a list of pictures to leave out, as `check` writes it; the others keep their `index`.
        flip: features are the mean of a picture's and of its mirror image's.
        checkpoint: which state of a run folder, as in `evaluate`.
    """
    path = Path(out) if out is not None else None
    if path is not None:
        if path.suffix not in stored.ENDINGS:
            raise WrongUse(f"--out {str(path)!r}: the ending says the format, one of {', '.join(stored.ENDINGS)}")
        columns.check(path)
    if isinstance(target, checkpoints.Encoder):
        if features != "encoder" or checkpoint is not None:
            flag = "--features" if features != "encoder" else "--checkpoint"
            raise WrongUse(
                f"an encoder that is loaded has no other layers and states: leave out {flag}, or give the run folder"
            )
        net = target
    else:
        net = layers.load(checkpoints.chosen(Path(target), checkpoint), features)
    if path is not None:
        checkpoints.check_out(path)
        if path.suffix == ".npy":
            checkpoints.check_out(stored.labels_beside(path)[0])
    size, channels = image_size or int(net.header["image_size"]), net.mean.shape[1]
    classes = None
    if isinstance(data, str | Path):
        root = Path(data_root).expanduser() if data_root else None
        opened = open_data(
            str(data), root=root, image_size=size, holdout=0, channels=channels, exclude=exclude, log=say
        )
        part, classes = opened.train, opened.classes
    else:
        if exclude:
            raise WrongUse("--exclude names pictures of a data set: of a list, leave out those that are not wanted")
        part = from_objects(data, image_size=size, channels=channels)
    where = pick_device(device)
    if batch_size < 1:
        raise WrongUse(f"batch_size {batch_size}: give at least 1 picture at a time")
    seen = (Mirrored(net) if flip else net).to(where)
    rows = extract(seen, chunks(part, size, channels, where, at_once=batch_size), where).numpy()
    labels = None if part.labels is None else part.labels.numpy()
    names = None if part.paths is None else list(part.paths)
    found = Embedded(rows, labels, names, part.index.numpy(), classes)
    if path is not None:
        write_features(path, found)
    return found


def write_features(path: Path, found: Embedded) -> None:
    """Write features; the ending says the format."""
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {"features": found.features, "index": found.index}
        if found.labels is not None:
            arrays["labels"] = found.labels
        if found.paths is not None:
            arrays["paths"] = np.array(found.paths)
        if found.classes:
            arrays["classes"] = np.array(found.classes)

        def write(part: Path) -> None:
            with part.open("wb") as file:
                np.savez(file, **arrays)

        checkpoints.atomic(path, write)
        return
    if path.suffix == ".npy":
        files = [(path, found.features)]
        if found.labels is not None:
            files.append((stored.labels_beside(path)[0], found.labels))
        for place, array in files:
            checkpoints.atomic(place, functools.partial(_save, array))
        return
    columns.write(path, found.features, found.index, found.paths, found.labels, found.classes)


def _save(array: np.ndarray, part: Path) -> None:
    with part.open("wb") as file:
        np.save(file, array)
