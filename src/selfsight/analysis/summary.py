"""What the report shows of a representation, as one file of arrays: `RUN/figures/analysis.npz`.

Legend: N pictures that are asked, n of them on the map, K classes, C clusters, D features.

Arrays, those that there are: `points` (n, 2), `rows` (n,), `labels` (N,), `clusters` (N,), `predicted_knn` (N,), `names` (n,),
`class_names` (K,), `confusion_knn`, `confusion_linear` (K, K), `spectrum` (R,), `sheet` (JPEG bytes of small pictures of the
map, `across` of them in a row), `cluster_pictures` (C, m, s, s, c) with `cluster_sizes`, `cluster_class`,
`cluster_purity`, and those of `neighbour_gallery`. `header` is JSON: what was computed on what, scores, and what is missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from selfsight._version import __version__
from selfsight.analysis.clusters import agreement, cluster_gallery, clusters_of, default_count, neighbour_gallery
from selfsight.analysis.confusion import PROBES, confusion, to_arrays
from selfsight.analysis.gather import Gathered, gather
from selfsight.analysis.maps import Kind, project, silhouette
from selfsight.analysis.spectrum import spectrum
from selfsight.checkpoint import atomic
from selfsight.embedding import say
from selfsight.errors import WrongUse
from selfsight.report import read_run, report
from selfsight.report.page import shown_of

TILE, QUALITY, ACROSS = 32, 78, 50  #: of the sheet of small pictures: pixels, JPEG quality, pictures in a row


def analyse(
    run: str | Path, *, data: str | None = None, train: str | None = None, test: str | None = None, kind: Kind = "tsne",
    pictures: int = 2000, bank: int = 5000, seed: int = 0, data_root: str | None = None, device: str = "auto",
    out: str | Path | None = None,
) -> Path:  # fmt: skip
    """Compute what the report shows of a run's encoder, once: the same question finds the file that is there.

    Args:
        run: the run folder.
        data, train, test, pictures, bank, seed, data_root, device: see `gather`.
        kind: of the map.
        out: the file; default: RUN/figures/analysis.npz for the run's own data, else a temporary one.

    Returns:
        Where the file lies.

    Raises:
        WrongUse: there is no encoder, or the data are not there any more.
    """
    run = Path(run).expanduser()
    asked = {
        "data": data, "train": train, "test": test, "kind": kind, "pictures": pictures, "bank": bank, "seed": seed,
        "encoder": _print_of(run), "selfsight": __version__,
    }  # fmt: skip
    own = run / "figures" / "analysis.npz"
    if out is None and data is None and train is None and test is None:
        out = own
        if header_of(own).get("asked") == asked:
            return own
    began = time.monotonic()
    say(f"{run}: features of at most {pictures or 'all'} pictures and a bank of {bank or 'all'}")
    found = gather(
        run,
        data=data,
        train=train,
        test=test,
        pictures=pictures,
        bank=bank,
        seed=seed,
        data_root=data_root,
        device=device,
    )
    arrays = arrays_of(found, kind)
    header = json.loads(str(arrays["header"]))
    header |= {"asked": asked, "seconds": round(time.monotonic() - began, 1)}
    arrays["header"] = np.array(json.dumps(header))
    path = Path(tempfile.mkdtemp(prefix="selfsight-")) / "analysis.npz" if out is None else Path(out)
    write(path, arrays)
    return path


def full_report(
    runs: Sequence[str | Path], out: str | Path, *, data: str | None = None, train: str | None = None,
    test: str | None = None, kind: Kind = "tsne", pictures: int = 2000, bank: int = 5000, seed: int = 0,
    data_root: str | None = None, device: str = "auto",
) -> Path:  # fmt: skip
    """The report of run folders with what `analyse` finds of each; where that cannot be, the page says why.

    Of many runs, those are looked at whose maps the page shows.

    Arguments: see `selfsight.report.report` and `analyse`.

    Raises:
        WrongUse: one is no run folder; or pictures that were named cannot be shown.
    """
    folders = [Path(run).expanduser() for run in runs]
    found = [read_run(folder) for folder in folders]  # a wrong name is told before anything is computed
    files: dict[Path, Path] = {}
    missing: dict[Path, str] = {}
    for folder in [folders[i] for i in shown_of(found)]:
        try:
            files[folder] = analyse(
                folder, data=data, train=train, test=test, kind=kind, pictures=pictures, bank=bank, seed=seed,
                data_root=data_root, device=device,
            )  # fmt: skip
        except WrongUse as error:
            if data or train or test:
                raise
            missing[folder] = str(error)
            say(f"{folder}: {error}")
    return report(folders, Path(out).expanduser(), files, missing)


def arrays_of(found: Gathered, kind: Kind = "tsne", clusters: int | None = None) -> dict[str, Any]:
    """The arrays of the file (see above) from features."""
    asked = found.asked
    if not bool(asked.features.isfinite().all()):
        raise WrongUse(f"features of {found.name} are not finite: the encoder diverged, there is nothing to show")
    header: dict[str, Any] = {
        "name": found.name, "data": found.data, "part": asked.part, "pictures": len(asked.features), "total": asked.total,
        "bank": None if found.bank is None else len(found.bank.features), "seed": found.seed, **found.about,
    }  # fmt: skip
    arrays: dict[str, Any] = {}
    if len(asked.features) >= 4:
        made = project(asked.features, kind, found.seed)
        arrays |= {"points": made.points, "rows": made.rows}
        header["map"] = {"kind": made.kind, "about": made.about}
        if asked.pictures is not None:
            content, across = sheet_of(asked.pictures[made.rows])
            arrays |= {"sheet": np.frombuffer(content, np.uint8), "across": np.array(across)}
        if asked.names is not None:
            arrays["names"] = np.array([asked.names[i] for i in made.rows])
    groups = clusters_of(asked.features, clusters or default_count(found), found.seed)
    arrays |= {"clusters": groups.labels}
    header["clusters"] = {
        "count": groups.number, "silhouette": silhouette(asked.features, groups.labels, found.seed),
        "nmi": None if found.labels is None else agreement(groups.labels, found.labels),
    }  # fmt: skip
    if found.labels is not None:
        arrays |= {"labels": found.labels, "class_names": np.array(found.class_names())}
        header["silhouette"] = silhouette(asked.features, found.labels, found.seed)
    if found.labelled:
        for probe in PROBES:
            table = confusion(found, probe)
            arrays |= to_arrays(table)
            header[probe] = {"top1": table.accuracy, "queries": int(table.counts.sum()), "protocol": PROBES[probe]}
    if len(asked.features) >= 2:
        values = spectrum(asked.features)
        arrays["spectrum"] = values.values.numpy().astype(np.float32)
        header["spectrum"] = {k: v for k, v in values._asdict().items() if k != "values"}
    gallery = cluster_gallery(found, groups)
    if asked.pictures is not None:
        rows = gallery.pop("cluster_rows")
        arrays |= {**gallery, "cluster_pictures": asked.pictures[rows], "cluster_there": rows >= 0}
    arrays |= neighbour_gallery(found)
    arrays["header"] = np.array(json.dumps(header))
    return arrays


def header_of(path: Path) -> dict[str, Any]:
    """The header of a file of arrays; empty if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = json.loads(str(file["header"]))
    except (OSError, ValueError, KeyError, EOFError):
        return {}
    return found if isinstance(found, dict) else {}


def write(path: Path, arrays: dict[str, Any]) -> None:
    """Write the file, at once."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def save(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)

    atomic(path, save)


def sheet_of(pictures: np.ndarray) -> tuple[bytes, int]:
    """Small pictures (n, s, s, C) uint8 as one JPEG, and how many of them are in a row."""
    rows = -(-len(pictures) // ACROSS)
    sheet = Image.new("RGB", (min(len(pictures), ACROSS) * TILE, rows * TILE))
    for i, picture in enumerate(pictures):
        shown = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).convert("RGB")
        sheet.paste(shown.resize((TILE, TILE), Image.Resampling.BOX), (i % ACROSS * TILE, i // ACROSS * TILE))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=QUALITY, optimize=True)
    return content.getvalue(), min(len(pictures), ACROSS)


def _print_of(run: Path) -> str | None:
    """Hash of the encoder's file."""
    for path in (run / "encoder.safetensors", run / "checkpoints" / "last.pt"):
        if path.is_file():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    return None
