"""The eigenspace of a predictor: Understanding Self-Supervised Learning Dynamics without Contrastive Pairs (arXiv 2102.06810).

F is the correlation of the projections, W_p the matrix of the predictor. Section 3: as training goes, W_p becomes symmetric
and the eigenvectors of F become those of W_p. A run of the siamese family keeps both in its folder, study/STEP.npz.

Legend: D features of the projection. Spectra are sorted, largest first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from selfsight.errors import WrongUse

Array = NDArray[np.float64]
ALIGNED = 0.95  #: cosine above which a direction counts as aligned
KNEE = 0.01  #: part of the largest eigenvalue of F above which a direction counts as used
ZERO = 0.01  #: eigenvalues of W_p below it count as zero


class Eigenspace(NamedTuple):
    """F and W_p, decomposed; float64."""

    spectrum: Array  #: (D,) eigenvalues of F
    predictor: Array  #: (D,) real parts of the eigenvalues of W_p
    alignment: Array  #: (D,) in the order of `spectrum`: cosine of each eigenvector v of F with W_p v
    asymmetry: float  #: sum |W_p - W_p'| / sum |W_p|: 0 symmetric, about 1.4 of random entries, at most 2

    @property
    def used(self) -> int:
        """Directions up to the knee of F's spectrum: eigenvalues above 1 % of the largest."""
        return int((self.spectrum > KNEE * self.spectrum[0]).sum())

    @property
    def aligned(self) -> int:
        """Eigenvectors of F that W_p keeps: cosine above 0.95."""
        return int((self.alignment > ALIGNED).sum())

    @property
    def passed(self) -> int:
        """Directions that W_p lets through: eigenvalues above 0.01."""
        return int((self.predictor > ZERO).sum())


def decompose(correlation: NDArray[np.floating], predictor: NDArray[np.floating]) -> Eigenspace:
    """Decompose F (D, D), symmetric up to rounding, and W_p (D, D), z -> W_p z."""
    f, w = np.asarray(correlation, np.float64), np.asarray(predictor, np.float64)
    values, vectors = np.linalg.eigh((f + f.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    return Eigenspace(values, np.sort(np.linalg.eigvals(w).real)[::-1], alignment(vectors, w), asymmetry(w))


def alignment(vectors: Array, predictor: Array) -> Array:
    """Cosine of each column v of `vectors` (D, n) with W_p v: (n,), 1 where W_p only stretches v, 0 where it removes v."""
    image = predictor @ vectors
    lengths = np.linalg.norm(image, axis=0) * np.linalg.norm(vectors, axis=0)
    return (vectors * image).sum(0) / np.maximum(lengths, np.finfo(np.float64).tiny)


def asymmetry(predictor: Array) -> float:
    """sum |W - W'| / sum |W| of (D, D); 0 if all entries are 0."""
    return float(np.abs(predictor - predictor.T).sum() / max(np.abs(predictor).sum(), np.finfo(np.float64).tiny))


class Record(NamedTuple):
    """A time at which a run kept its matrices."""

    step: int  #: optimizer steps done
    epoch: float  #: passes over the data done
    space: Eigenspace


class Studied(NamedTuple):
    """A run of the siamese family, read from its folder."""

    name: str
    records: list[Record]  #: from the untrained network on
    target: str  #: "EMA" or "no EMA"
    predictor: str  #: what makes the predictor, in words
    settings: Mapping[str, Any]  #: run.yaml
    accuracy: float | None  #: k-NN top-1 at the end of the run, of the test part if there is one; None: not measured

    @property
    def numbers(self) -> list[dict[str, float]]:
        """A row for each record: step, epoch, asymmetry, largest eigenvalue of F, and how many directions."""
        return [
            {
                "step": step, "epoch": epoch, "asymmetry": space.asymmetry, "top": float(space.spectrum[0]),
                "used": space.used, "passed": space.passed, "aligned": space.aligned,
            }
            for step, epoch, space in self.records
        ]  # fmt: skip


def read_run(folder: str | Path, name: str = "") -> Studied:
    """The eigenspace of a run at every time that it kept.

    Args:
        folder: the run folder, finished or not.
        name: what to call it; default: the folder's name.

    Raises:
        WrongUse: no run folder, or one without the matrices of the siamese family.
    """
    folder = Path(folder)
    if not (folder / "run.yaml").is_file():
        raise WrongUse(f"{str(folder)!r} is no run folder (no run.yaml): give a folder that `selfsight pretrain` wrote")
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    per_epoch = int(settings["provenance"]["data"]["train"]) // int(settings["batch_size"])
    records = []
    for path in sorted((folder / "study").glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            if {"correlation", "predictor"} <= set(arrays.files):
                space = decompose(arrays["correlation"], arrays["predictor"])
                records.append(Record(int(path.stem), int(path.stem) / per_epoch, space))
    if not records:
        raise WrongUse(
            f"{str(folder)!r} keeps no eigenspace: train byol, simsiam, directpred or directcopy, and set "
            "--probe.study-every to the epochs between two records"
        )
    results = folder / "results.json"
    knn = json.loads(results.read_text())["summary"].get("knn") if results.is_file() else None
    method = settings["method"]
    target = "EMA" if method["target"] == "ema" else "no EMA"
    accuracy = knn["top1"] if knn else None
    return Studied(name or folder.resolve().name, records, target, _maker(method), settings, accuracy)


def _maker(method: Mapping[str, Any]) -> str:
    if method["predictor"] == "closed-form":
        return {0.5: "DirectPred", 1.0: "DirectCopy"}.get(method["power"], f"DirectSet({method['power']:g})")
    layers = "SGD, one layer" if method["predictor"] == "linear" else "SGD, two layers"
    return layers + ", symmetric" * method["symmetric"]
