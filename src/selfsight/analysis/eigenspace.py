"""The eigenspace of a predictor: Understanding Self-Supervised Learning Dynamics without Contrastive Pairs (arXiv 2102.06810).

F is the correlation of the projections, W_p the matrix of the predictor. Section 3: as training goes, W_p becomes symmetric
and the eigenvectors of F become those of W_p. A run of the siamese family keeps both in its folder, study/STEP.npz.

Legend: D features of the projection. Spectra are sorted, largest first.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

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


def eigenspace(correlation: NDArray[np.floating], predictor: NDArray[np.floating]) -> Eigenspace:
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


def read(folder: str | Path) -> list[Record]:
    """The eigenspace of a run at every time that it kept, from the untrained network on.

    Raises:
        WrongUse: no run folder, or one without the matrices of the siamese family.
    """
    folder = Path(folder)
    if not (folder / "run.yaml").is_file():
        raise WrongUse(f"{str(folder)!r} is no run folder (no run.yaml): give a folder that `selfsight pretrain` wrote")
    found = []
    per_epoch = _steps_per_epoch(folder)
    for path in sorted((folder / "study").glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            if {"correlation", "predictor"} <= set(arrays.files):
                space = eigenspace(arrays["correlation"], arrays["predictor"])
                found.append(Record(int(path.stem), int(path.stem) / per_epoch, space))
    if not found:
        raise WrongUse(
            f"{str(folder)!r} keeps no eigenspace: train byol, simsiam, directpred or directcopy, and set "
            "--probe.study-every to the epochs between two records"
        )
    return found


def _steps_per_epoch(folder: Path) -> int:
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    return int(settings["provenance"]["data"]["train"]) // int(settings["batch_size"])
