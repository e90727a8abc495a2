"""Features as tables, .csv and .parquet: a row for each picture, the features in columns f0, f1, ...

Beside them there may be `index`, `path`, `label` (whole numbers; -1: none) and `class` (the label's name).
"""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np

from selfsight.checkpoint import atomic
from selfsight.errors import WrongUse


def check(path: Path) -> None:
    """WrongUse if the package is missing that this ending needs."""
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise WrongUse(".parquet needs the package pyarrow: pip install 'selfsight[parquet]', or take .npz or .csv")


def write(
    path: Path, features: np.ndarray, index: np.ndarray, paths: list[str] | None, labels: np.ndarray | None,
    classes: list[str] | None,
) -> None:  # fmt: skip
    """Write (N, D) features; the ending says the format."""
    columns: dict[str, Any] = {"index": index.tolist()}
    if paths is not None:
        columns["path"] = paths
    if labels is not None:
        columns["label"] = labels.tolist()
        if classes:
            columns["class"] = [classes[label] if label >= 0 else "" for label in labels.tolist()]
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({**columns, **{f"f{i}": features[:, i] for i in range(features.shape[1])}})
        atomic(path, lambda part: pyarrow.parquet.write_table(table, part))
        return

    def save(part: Path) -> None:
        with part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, *(f"f{i}" for i in range(features.shape[1]))])
            for row in zip(*columns.values(), features.tolist()):
                writer.writerow([*row[:-1], *row[-1]])

    atomic(path, save)


def read(path: Path) -> dict[str, Any]:
    """`features` (N, D) float32, and where the table has them `labels` (N,) int64 and `classes` (names).

    Raises:
        WrongUse: not a table like this.
    """
    check(path)
    try:
        names, columns, features = (_parquet if path.suffix == ".parquet" else _csv)(path)
        labels = np.array(columns["label"], dtype=np.int64) if "label" in columns else None
    except (OSError, ValueError, IndexError, csv.Error) as error:  # pyarrow's own errors are ValueErrors
        raise WrongUse(
            f"{str(path)!r} is not a readable table of features ({' '.join(str(error).split())[:120]})"
        ) from None
    if not features.shape[1]:
        raise WrongUse(
            f"{str(path)!r} has no columns f0, f1, ... (it has {', '.join(names[:8])}): name the features so"
        )
    found: dict[str, Any] = {"features": features}
    if labels is not None:
        found["labels"] = labels
        if "class" in columns and len(labels):
            known = dict(zip(labels.tolist(), columns["class"]))
            # a class of which this part has no picture is nobody's label here
            found["classes"] = np.array([known.get(i, f"(class {i})") for i in range(int(labels.max()) + 1)])
    return found


def _order(names: list[str], path: Path) -> list[int]:
    """Places of the columns f0, f1, ... in a table."""
    found = {int(name[1:]): place for place, name in enumerate(names) if re.fullmatch(r"f\d+", name)}
    if sorted(found) != list(range(len(found))):
        missing = next(i for i in range(len(found)) if i not in found)
        raise WrongUse(f"{str(path)!r} has no column f{missing}, although others follow: give all features")
    return [found[i] for i in range(len(found))]


def _csv(path: Path) -> tuple[list[str], dict[str, list[str]], np.ndarray]:
    with path.open(newline="") as file:
        reader = csv.reader(file)
        names = next(reader, [])
        places = _order(names, path)
        kept = [name for name in ("label", "class") if name in names]
        columns: dict[str, list[str]] = {name: [] for name in kept}
        rows: list[np.ndarray] = []
        for row in reader:
            rows.append(np.array([row[place] for place in places], dtype=np.float32))
            for name in kept:
                columns[name].append(row[names.index(name)])
    return names, columns, np.stack(rows) if rows else np.zeros((0, len(places)), np.float32)


def _parquet(path: Path) -> tuple[list[str], dict[str, list[Any]], np.ndarray]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    names = list(table.column_names)
    places = _order(names, path)
    columns = {name: table.column(name).to_pylist() for name in ("label", "class") if name in names}
    rows = [table.column(place).to_numpy().astype(np.float32) for place in places]
    return names, columns, np.stack(rows, 1) if rows else np.zeros((table.num_rows, 0), np.float32)
