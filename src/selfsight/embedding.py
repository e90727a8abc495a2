"""Features of pictures, and files of them."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsight import augment, checkpoint
from selfsight.data import Part, from_objects, open_data
from selfsight.errors import WrongUse
from selfsight.evaluate import layers
from selfsight.evaluate.features import extract
from selfsight.session import pick_device


def say(line: str) -> None:
    """Lines about the data go to stderr: stdout is for results."""
    print(line, file=sys.stderr)


def chunks(part: Part, size: int, channels: int, device: torch.device) -> Iterator[Tensor]:
    """(b, C, S, S) float in [0, 1], whole pictures, in order."""
    zero, one = torch.zeros(channels), torch.ones(channels)
    views = augment.build(augment.ViewsConfig(policy="none", normalise=False), size, channels, zero, one).to(device)
    for _, images in part.chunks(256):
        moved = type(images)(images.pixels.to(device, non_blocking=True), images.sizes)
        yield views.plain(moved, size)


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Features of pictures."""

    features: np.ndarray  #: (N, D) float32
    labels: np.ndarray | None  #: (N,) int64
    paths: list[str] | None
    index: np.ndarray  #: (N,) int64 place in the data
    classes: list[str] | None


def embed(
    target: str | Path | checkpoint.Encoder, data: Any, out: str | Path | None = None, *, features: str = "encoder",
    image_size: int = 0, device: str = "auto", batch_size: int = 256, data_root: str | None = None,
    exclude: str | None = None,
) -> Embedded:  # fmt: skip
    """Features of pictures, and a file of them.

    Args:
        target: run folder, checkpoint, encoder.safetensors, or what `load` returned.
        data: a data name, folder or file; or a list of paths, PIL images, or uint8 arrays.
        out: .npz (arrays features, labels, paths, index), .csv or .parquet (one row a picture); None: no file.
        features: which layer's, see `evaluate`.
        image_size: side in pixels; 0: the run's.
        device: where.
        batch_size: pictures at a time.
        data_root: where named sets live.
        exclude: a list of pictures to leave out, as `check` writes it; the others keep their `index`.
    """
    path = Path(out) if out is not None else None
    if path is not None:
        if path.suffix not in (".npz", ".csv", ".parquet"):
            raise WrongUse(f"--out {str(path)!r}: the ending says the format, one of .npz, .csv, .parquet")
        if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
            raise WrongUse(".parquet needs the package pyarrow: pip install pyarrow, or write .npz or .csv")
    if isinstance(target, checkpoint.Encoder) and features != "encoder":
        raise WrongUse("an encoder that is loaded has no other layers: give the run folder")
    net = target if isinstance(target, checkpoint.Encoder) else layers.load(Path(target), features)
    if path is not None:
        checkpoint.check_out(path)
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
    rows = extract(net.to(where), chunks(part, size, channels, where), where).numpy()
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

        checkpoint.atomic(path, write)
        return
    columns: dict[str, Any] = {"index": found.index.tolist()}
    if found.paths is not None:
        columns["path"] = found.paths
    if found.labels is not None:
        columns["label"] = found.labels.tolist()
    columns |= {f"f{i}": found.features[:, i].tolist() for i in range(found.features.shape[1])}
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        checkpoint.atomic(path, lambda part: pyarrow.parquet.write_table(pyarrow.table(columns), part))
        return

    def write_csv(part: Path) -> None:
        with part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values()))

    checkpoint.atomic(path, write_csv)
