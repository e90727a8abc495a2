"""What a run measures of its encoder: accuracies, health monitors, neighbours of sample pictures. Labels serve this alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from selfsight import distributed, health
from selfsight.augment import preview
from selfsight.checkpoint import atomic
from selfsight.core import Method, Step
from selfsight.evaluate.knn import knn_accuracy, neighbours
from selfsight.evaluate.linear import logistic, ridge
from selfsight.passes import Batch, forward, to_device
from selfsight.rng import Stream, generator
from selfsight.run import ProbeConfig, Run
from selfsight.train import Pictures


def sample(count: int, limit: int, seed: int, key: int) -> Tensor:
    """Sorted rows: all of them, or a seeded choice of `limit`: (n,) int64."""
    if not limit or count <= limit:
        return torch.arange(count)
    return torch.randperm(count, generator=generator(seed, Stream.PROBE, key))[:limit].sort().values


class Asked(NamedTuple):
    """Rows of a measurement of accuracy: the same at every time of a run, so that its curve compares."""

    bank: Tensor
    queries: Tensor


def rows_of(train: Pictures, held: Pictures, probe: ProbeConfig, seed: int, everything: bool) -> Asked:
    """The rows of the bank and of the queries, which have labels; `everything`: all of them."""

    def some(pictures: Pictures, limit: int, key: int) -> Tensor:
        rows = pictures.part.labelled()
        return rows[sample(len(rows), 0 if everything else limit, seed, key)]

    return Asked(some(train, probe.bank, 0), some(held, probe.queries, 1))


def _labels(pictures: Pictures, rows: Tensor) -> Tensor:
    assert pictures.part.labels is not None
    return pictures.part.labels[rows]


def accuracies(
    encoder: Any, train: Pictures, held: Pictures, classes: int, probe: ProbeConfig, asked: Asked, part: str
) -> dict[str, dict[str, Any]]:
    """Accuracy of each of `probe.protocols` on `held`, learnt from the bank `train`, with its protocol.

    Features are computed once, by every process; the first one does the rest.

    Args:
        encoder: (b, C, S, S) normalised -> (b, D).
        train, held: labelled pictures.
        classes: number of classes.
        probe: protocols, k and temperature.
        asked: rows of both.
        part: name of the part that is asked, to be stored with the number.
    """
    if not probe.protocols:
        return {}
    bank, queries = train.sweep(encoder, asked.bank), held.sweep(encoder, asked.queries)
    sets = bank, _labels(train, asked.bank), queries, _labels(held, asked.queries)
    finite = bool(torch.isfinite(bank).all() and torch.isfinite(queries).all())

    def ask(name: str) -> dict[str, Any]:
        if name == "knn":
            return knn_accuracy(*sets, k=probe.k, temperature=probe.temperature, classes=classes)
        return (ridge if name == "ridge" else logistic)(*sets, classes)

    def work() -> dict[str, dict[str, Any]]:
        names = [name for name in probe.protocols if finite or name == "knn"]  # nothing can be fitted to a diverged one
        return {
            name: {**ask(name), "part": part, "bank": len(bank), "queries": len(queries)}
            for name in dict.fromkeys(names)
        }

    return distributed.from_first(work)


def pixel_knn(
    train: Pictures, held: Pictures, classes: int, probe: ProbeConfig, asked: Asked, part: str
) -> dict[str, Any]:
    """The same on raw pixels (at most 32 x 32): what any encoder must beat."""
    side = min(32, train.image_size)

    def raw(pictures: Pictures, rows: Tensor) -> Tensor:
        return torch.cat([pictures.plain(r, side).flatten(1).float().cpu() for r in rows.split(1024)])

    found = knn_accuracy(
        raw(train, asked.bank), _labels(train, asked.bank), raw(held, asked.queries), _labels(held, asked.queries),
        k=probe.k, temperature=probe.temperature, classes=classes,
    )  # fmt: skip
    return {**found, "part": part, "bank": len(asked.bank), "queries": len(asked.queries)}


def monitors(method: Method, pictures: Pictures, probe: ProbeConfig, seed: int) -> dict[str, float]:
    """Collapse monitors on some pictures; label-free."""
    rows = sample(len(pictures), probe.samples, seed, 2)
    found = health.monitors(pictures.sweep(method.encoder, rows), pictures.sweep(method.embed, rows))
    return {name: float(value) for name, value in found.items()}


def study(method: Method, train: Pictures, probe: ProbeConfig, seed: int) -> dict[str, Any]:
    """What the method lets be studied (`Method.study`), as arrays: of as many training pictures as the monitors look at.

    The same pictures and views at every time of a run. No random number generator moves, and no state of the method.
    """
    rows = sample(len(train), probe.samples, seed, 9)
    some = Pictures(train.part.subset(rows), train.image_size, train.channels, train.device, train.classes)
    some.views, some.tiles = train.views, train.tiles
    with torch.random.fork_rng([train.device] if train.device.type == "cuda" else []):  # dropout in train mode
        found = method.study(some, generator(seed, Stream.PROBE, 10))
    return {name: x.detach().cpu().numpy() for name, x in found.items()}


def held_out(method: Method, held: Pictures, run: Run[Any], step: Step) -> dict[str, float]:
    """Loss and logs of a batch of held-out pictures, augmented, the same ones at every time of a run; label-free.

    As training computes them: in train mode, and with as many pictures as a training loss sees, which it may depend on.
    Empty if there are fewer, or if the loss needs what the method knows of each training picture.
    """
    assert isinstance(run.batch_size, int)
    size = run.batch_size // run.accumulate
    if len(held) < size or method.indexed:
        return {}
    rows = distributed.own(sample(len(held), size, run.seed, 7))
    draws = method.views.draw(size, generator(run.seed, Stream.PROBE, 8))
    images = to_device(held.part.gather(rows), held.device)
    labels = held.part.labels[rows] if method.labelled and held.part.labels is not None else None
    batch = Batch(method, images, {name: distributed.own(d) for name, d in draws.items()}, rows, labels, held.device)
    out = forward(batch, step, run)
    mean = distributed.all_sum(torch.stack([out.loss, *out.logs.values()]).float()) / distributed.world()
    return dict(zip(("loss", *out.logs), mean.tolist(), strict=True))


def nmi_labels(method: Method, pictures: Pictures) -> dict[str, float]:
    """How far the method's clusters agree with the classes: normalised mutual information, the mean over heads.

    Empty for a method without clusters, or pictures without labels. Pictures in no cluster or without a label, below 0,
    are left out.
    """
    found, labels = method.assignment(), pictures.part.labels
    if found is None or labels is None:
        return {}
    heads = []
    for head in found.cpu().view(-1, len(labels)):
        both = (head >= 0) & (labels >= 0)
        heads.append(normalized_mutual_info_score(labels[both], head[both]))
    return {"nmi_labels": sum(heads) / len(heads)}


def nearest_pictures(
    encoder: Any, train: Pictures, held: Pictures, seed: int, count: int = 8, k: int = 8
) -> dict[str, Any]:
    """Nearest neighbours of sample pictures, for the report: arrays of uint8 pictures (q, H, W, C), (q, k, H, W, C)."""
    asked = sample(len(held), count, seed, 3)
    bank_rows = sample(len(train), 20000, seed, 4)
    more = k + (held is train)  # a picture is its own nearest neighbour
    _, found = neighbours(train.sweep(encoder, bank_rows), held.sweep(encoder, asked), more)
    rows = bank_rows[found[:, more - k :]]  # (q, k)

    def pixels(pictures: Pictures, which: Tensor) -> Any:
        views = pictures.views
        picture = pictures.plain(which) * views.std[:, None, None] + views.mean[:, None, None]
        picture = picture.clamp(0, 1).mul(255).round().byte()
        return picture.permute(0, 2, 3, 1).cpu().numpy()

    arrays = {"query": pixels(held, asked), "neighbours": pixels(train, rows.flatten())}
    arrays["neighbours"] = arrays["neighbours"].reshape(*rows.shape, *arrays["neighbours"].shape[1:])
    if held.part.labels is not None and train.part.labels is not None:
        arrays["query_labels"] = held.part.labels[asked].numpy()
        arrays["neighbour_labels"] = train.part.labels[rows].numpy()
    return arrays


def save_preview(train: Pictures, seed: int, path: Path, count: int = 8) -> None:
    """A PNG of sample pictures and their views."""
    rows = sample(len(train), count, seed, 5)
    grid = preview(train.views, to_device(train.part.gather(rows), train.device), generator(seed, Stream.PROBE, 6))  # type: ignore[arg-type]
    zoom = max(1, 96 // train.image_size)  # small views are shown larger, pixel by pixel
    array = grid.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2).permute(1, 2, 0).numpy()
    shown = array[..., 0] if array.shape[2] != 3 else array
    atomic(path, lambda part: Image.fromarray(shown).save(part, "PNG"))
