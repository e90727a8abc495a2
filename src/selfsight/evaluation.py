"""Evaluation of encoders on pictures: which data, which layer, then the protocols of `evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from selfsight import augment, encoders
from selfsight import checkpoint as checkpoints
from selfsight import run as runs
from selfsight.data import DataSet, Part, open_data
from selfsight.embedding import say
from selfsight.errors import WrongUse
from selfsight.evaluate import PICTURES, layers, measuring, moons, stored
from selfsight.evaluate.features import extract_views
from selfsight.evaluate.subject import Subject
from selfsight.machine import pick_device
from selfsight.rng import Stream, generator, seed_of
from selfsight.session import open_for


@dataclasses.dataclass(frozen=True)
class _Question:
    """What the user asks about; see `evaluate`."""

    target: str
    train: str | None
    test: str | None
    features: str
    encoder: str
    image_size: int
    data_root: str | None
    exclude: str | None
    seed: int
    device: torch.device
    flip: bool
    alone: bool  #: no protocol learns from a training part
    held_out: bool  #: ask the hold-out part, also where there is a test part
    source: Path  #: of the target's weights
    net: checkpoints.Encoder | None  #: the target, if it is loaded already


class _Data(NamedTuple):
    """The bank, which classifiers learn from, and the pictures that are asked; with the names of their parts."""

    bank: DataSet
    known: Part
    known_name: str
    queries: DataSet
    asked: Part
    asked_name: str


def _data_of(question: _Question) -> _Data:
    q, place = question, Path(question.data_root).expanduser() if question.data_root else None
    path = Path(q.train or q.target) / "run.yaml"
    if path.is_file():
        run = runs.load(path)
        run = dataclasses.replace(run, data_root=q.data_root or run.data_root, exclude=q.exclude or run.exclude)
        bank = open_for(run, torch.device("cpu"), say)
    elif q.train is None:
        raise WrongUse(f"say what to evaluate {q.target!r} on: --train DATA --test DATA")
    else:
        bank = open_data(
            q.train, root=place, image_size=q.image_size, holdout=0 if q.test else None, exclude=q.exclude, seed=q.seed,
            log=say,
        )  # fmt: skip
    if q.test is not None:
        asked = open_data(
            q.test, root=place, image_size=q.image_size, holdout=0, seed=q.seed, channels=bank.channels, log=say
        )
        return _Data(bank, bank.train, "train", asked, asked.train, "test")
    if bank.test is not None and (q.alone or not bank.disjoint) and not q.held_out:
        return _Data(bank, bank.train, "train", bank, bank.test, "test")
    if bank.holdout is not None:
        return _Data(bank, bank.train, "train", bank, bank.holdout, "holdout")
    lacks = "hold-out" if q.held_out else "test and no hold-out"
    raise WrongUse(f"{bank.name} has no {lacks} part with its classes: give --test DATA")


def _labels(data: _Data) -> tuple[Tensor, Tensor, list[str]]:
    """Labels of both parts in the numbering of the bank's classes."""
    bank, known, _, asked, part, which = data
    if known.labels is None or not bank.classes:
        raise WrongUse(f"{bank.name} has no labels: evaluation needs one folder per class (or labels in the file)")
    if part.labels is None:
        raise WrongUse(f"the {which} pictures of {asked.name} have no labels: evaluation needs one folder per class")
    if asked is bank or asked.classes is None or asked.classes == bank.classes:
        return known.labels, part.labels, bank.classes
    strange = sorted(set(asked.classes) - set(bank.classes))
    if strange:
        raise WrongUse(
            f"{asked.name} has classes that {bank.name} has not ({', '.join(strange[:5])}): use the same folders"
        )
    numbers = torch.tensor([bank.classes.index(name) for name in asked.classes])
    return known.labels, numbers[part.labels], bank.classes


def evaluate(
    target: str | Path | checkpoints.Encoder, *, train: str | None = None, test: str | None = None,
    protocols: Sequence[str] = ("knn", "linear"),
    features: str = "encoder", standardise: bool = False, settings: dict[str, Any] | None = None,
    out: str | Path | None = None, encoder: str = "resnet18", image_size: int = 0, data_root: str | None = None,
    device: str = "auto", seed: int = 0, exclude: str | None = None, flip: bool = False, held_out: bool = False,
    checkpoint: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Numbers on an encoder: of its frozen features, or of protocols that train on it; each comes with its protocol.

    Args:
        target: run folder, checkpoint, encoder.safetensors, the baselines "random" (an untrained `encoder`) and
            "pixels", or features: a file (see `evaluate.stored.read`) or "two-moons"; or what `load` returned.
        train: labelled pictures that the classifiers learn from, or a run folder: its pictures; default: those of the run.
        test: labelled pictures that are asked; default: the test part of `train`, else a hold-out part. Of a file of
            features: another one.
        protocols: names of PROTOCOLS, which share the features of one pass, and of PICTURES.
        features: which layer's: "encoder", "projector", "predictor", "projector-1", ... (see `evaluate.layers.load`).
        standardise: mean 0, deviation 1 of each feature over the training part, before any protocol.
        settings: protocol -> settings of its function, such as `{"sgd": {"epochs": 100}}`.
        out: also write the features and labels of both parts, .npz.
        encoder: the network of "random".
        image_size: side in pixels; 0: the run's, or as the data suggests.
        data_root: where named sets live.
        device: where features are computed.
        seed: of "random", of hold-out parts, and of what protocols draw.
        exclude: a list of pictures of `train` to leave out, as `check` writes it; default: that of the run.
        flip: features are the mean of a picture's and of its mirror image's.
        held_out: ask the hold-out part of `train`, also where there is a test part; to choose settings by.
        checkpoint: which state of a run: "best", "last" or the number of a step, see `checkpoint.chosen`; None: the
            finished encoder.
    """
    wanted = measuring.check(protocols, settings or {})
    if held_out and test is not None:
        raise WrongUse("--held-out and --test contradict each other: leave out one of them")
    if seed < 0 or image_size < 0:
        raise WrongUse(f"--seed {seed}, --image-size {image_size}: neither may be negative")
    if out is not None:
        stored.check_features_out(Path(out))
    net = target if isinstance(target, checkpoints.Encoder) else None
    target = str(target.header["encoder"] if isinstance(target, checkpoints.Encoder) else target)
    source = checkpoints.chosen(Path(target), checkpoint)
    seen = sorted({*protocols} & PICTURES.keys())
    sets: stored.Sets | None
    subject: Subject | None
    if standardise and seen:
        raise WrongUse(f"--standardise is for features, and {seen[0]} sees pictures: ask for it without")
    if net is None and (stored.is_features(target) or target.split(":")[0] == moons.NAME):
        if train or features != "encoder" or image_size or flip or held_out or exclude:
            flags = "--train, --exclude, --held-out, --features, --image-size and --flip"
            raise WrongUse(f"{target} holds features: leave out {flags}")
        sets, facts = measuring.of_features(target, test)
        subject = None
    else:
        alone = not (measuring.needs_train(protocols) or standardise)
        question = _Question(
            target,
            train,
            test,
            features,
            encoder,
            image_size,
            data_root,
            exclude,
            seed,
            pick_device(device),
            flip,
            alone,
            held_out,
            source,
            net,
        )
        subject, facts = _subject(question)
        sets = subject.sets if measuring.needs_features(protocols) or out is not None else None
        if "geometry" in protocols and sets is not None:
            sets = sets._replace(views=_views(subject, Path(target), seed))
    if out is not None and sets is not None:
        stored.write(Path(out), sets, facts)
    if standardise and sets is not None:
        sets = stored.standardised(sets)
    return measuring.measure(sets, wanted, seed, {**facts, "standardised": standardise}, subject)


def _subject(question: _Question) -> tuple[Subject, dict[str, Any]]:
    """What is evaluated on what, and that in words."""
    q = question
    net = q.net
    if net is not None and q.features != "encoder":
        raise WrongUse(f"{q.target} is an encoder alone and has no {q.features}: leave out --features")
    if net is None and q.target not in ("random", "pixels"):
        net = layers.load(q.source, q.features)
    if net is not None:
        q = dataclasses.replace(q, image_size=q.image_size or int(net.header["image_size"]))
    elif q.features != "encoder":
        raise WrongUse(f"{q.target!r} has no {q.features}: leave out --features")
    elif q.train is None:
        q = dataclasses.replace(q, train="shapes")
    data = _data_of(q)
    size, channels = q.image_size or data.bank.image_size, data.bank.channels
    if net is None and q.target == "random":
        torch.manual_seed(seed_of(q.seed, Stream.INIT))
        built = encoders.build(q.encoder, channels, size)
        net = checkpoints.Encoder(built, data.bank.mean, data.bank.std, {"encoder": q.encoder}).eval()
    if net is not None and net.mean.shape[1] != channels:
        raise WrongUse(
            f"{q.target!r} was trained on {net.mean.shape[1]}-channel pictures, {data.bank.name} has {channels}"
        )
    data = data._replace(known=data.known.subset(data.known.labelled()), asked=data.asked.subset(data.asked.labelled()))
    labels: tuple[Any, ...] = (None, data.asked.labels, data.queries.classes)
    if not q.alone:
        labels = _labels(data)
    side = min(size, 32) if net is None else size
    subject = Subject(
        None if net is None else net.to(q.device), None if q.alone else data.known, labels[0], data.asked, labels[1],
        labels[2], side, channels, q.device, q.flip, say,
    )  # fmt: skip
    facts: dict[str, Any] = {}
    if not q.alone:
        facts["train"] = f"{data.bank.name} ({data.known_name}, {len(data.known)})"
    facts |= {
        "test": f"{data.queries.name} ({data.asked_name}, {len(data.asked)})",
        "features": "pixels" if net is None else q.features, "dim": subject.dim, "image_size": size, "flip": q.flip,
    }  # fmt: skip
    if net is not None and "weights" in net.header:  # of another program: which network, and what was found in its file
        facts |= {"encoder": net.header["encoder"], "weights": net.header["weights"]}
    if net is not None and "steps" in net.header:
        facts["steps"] = net.header["steps"]
    return subject, facts


def _views(subject: Subject, target: Path, seed: int) -> Tensor | None:
    """Features (n, 10, D) of augmented views of up to 1000 test pictures, made as the run made its; None: it is not known."""
    config, encoder = layers.augmentation(target), subject.encoder
    if encoder is None or config is None:
        return None
    mean, std = encoder.mean.flatten().cpu(), encoder.std.flatten().cpu()
    config = dataclasses.replace(config, views=10)
    maker = augment.build(config, subject.side, subject.channels, mean, std).to(subject.device)
    rows = torch.randperm(len(subject.test), generator=generator(seed, Stream.PROBE, 8))[:1000].sort().values
    return extract_views(subject.seen_by(encoder.net), maker, subject.test, rows, subject.device, seed)
