"""Evaluation of encoders on pictures: which data, which layer, then the protocols of `evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsight import augment, checkpoint, encoders
from selfsight import run as runs
from selfsight.data import DataSet, Part, open_data
from selfsight.embedding import chunks, say
from selfsight.errors import WrongUse
from selfsight.evaluate import layers, measuring, moons, stored
from selfsight.evaluate.features import extract, extract_views, pixels
from selfsight.rng import Stream, generator, seed_of
from selfsight.session import open_for, pick_device


def _data_of(
    target: str,
    train: str | None,
    test: str | None,
    image_size: int,
    seed: int,
    root: str | None,
    exclude: str | None,
    alone: bool,
) -> tuple[Any, ...]:
    """Bank and queries: (DataSet of the bank, Part, name, DataSet of the queries, Part, name). `alone`: no bank is asked."""
    place = Path(root).expanduser() if root else None
    if train is None:
        path = Path(target) / "run.yaml"
        if not path.is_file():
            raise WrongUse(f"say what to evaluate {target!r} on: --train DATA --test DATA")
        run = runs.load(path)
        run = dataclasses.replace(run, data_root=root or run.data_root, exclude=exclude or run.exclude)
        bank = open_for(run, torch.device("cpu"), say)
    else:
        bank = open_data(
            train, root=place, image_size=image_size, holdout=0 if test else None, exclude=exclude, seed=seed, log=say
        )
    if test is not None:
        asked = open_data(
            test, root=place, image_size=image_size, holdout=0, seed=seed, channels=bank.channels, log=say
        )
        return bank, bank.train, "train", asked, asked.train, "test"
    if bank.test is not None and (alone or not bank.disjoint):
        return bank, bank.train, "train", bank, bank.test, "test"
    if bank.holdout is not None:
        return bank, bank.train, "train", bank, bank.holdout, "holdout"
    raise WrongUse(f"{bank.name} has no test and no hold-out part with its classes: give --test DATA")


def _labels(bank: DataSet, known: Part, asked: DataSet, part: Part, which: str) -> tuple[Tensor, Tensor, list[str]]:
    """Labels of the parts `known` and `part` in the numbering of the bank's classes."""
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
    target: str | Path, *, train: str | None = None, test: str | None = None, protocols: Sequence[str] = ("knn", "linear"),
    features: str = "encoder", standardise: bool = False, settings: dict[str, Any] | None = None,
    out: str | Path | None = None, encoder: str = "resnet18", image_size: int = 0, data_root: str | None = None,
    device: str = "auto", seed: int = 0, exclude: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Numbers on frozen features; each comes with its protocol.

    Args:
        target: run folder, checkpoint, encoder.safetensors, the baselines "random" (an untrained `encoder`) and
            "pixels", or features: a file (see `evaluate.stored.read`) or "two-moons".
        train: labelled pictures that the classifiers learn from; default: those of the run.
        test: labelled pictures that are asked; default: the test part of `train`, else a hold-out part. Of a file of
            features: another one.
        protocols: names of PROTOCOLS.
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
    """
    wanted = measuring.check(protocols, settings or {})
    if seed < 0 or image_size < 0:
        raise WrongUse(f"--seed {seed}, --image-size {image_size}: neither may be negative")
    if out is not None:
        stored.check_features_out(Path(out))
    target = str(target)
    if target.endswith(".npz") or target.split(":")[0] == moons.NAME:
        if train or features != "encoder" or image_size or exclude:
            raise WrongUse(f"{target} holds features: leave out --train, --exclude, --features and --image-size")
        sets, facts = measuring.of_features(target, test)
    else:
        alone = not (measuring.needs_train(protocols) or standardise)
        sets, facts = _sets(
            target,
            train,
            test,
            protocols,
            features,
            encoder,
            image_size,
            data_root,
            pick_device(device),
            seed,
            exclude,
            alone,
        )
    if out is not None:
        stored.write(Path(out), sets, facts)
    if standardise:
        sets = stored.standardised(sets)
    return measuring.measure(sets, wanted, seed, {**facts, "standardised": standardise})


def _sets(
    target: str, train: str | None, test: str | None, protocols: Sequence[str], features: str, encoder: str,
    image_size: int, data_root: str | None, where: torch.device, seed: int, exclude: str | None,
    alone: bool,
) -> tuple[stored.Sets, dict[str, Any]]:  # fmt: skip
    """Features and labels of pictures, and what they are. `alone`: of the test part only."""
    net: checkpoint.Encoder | None = None
    if target not in ("random", "pixels"):
        net = layers.load(Path(target), features)
        image_size = image_size or int(net.header["image_size"])
    elif features != "encoder":
        raise WrongUse(f"{target!r} has no {features}: leave out --features")
    elif train is None:
        train = "shapes"
    bank, bank_part, bank_name, asked, part, which = _data_of(
        target, train, test, image_size, seed, data_root, exclude, alone
    )
    size = image_size or bank.image_size
    if target == "random":
        torch.manual_seed(seed_of(seed, Stream.INIT))
        built = encoders.build(encoder, bank.channels, size)
        net = checkpoint.Encoder(built, bank.mean, bank.std, {"encoder": encoder}).eval()
    if net is not None and net.mean.shape[1] != bank.channels:
        raise WrongUse(
            f"{target!r} was trained on {net.mean.shape[1]}-channel pictures, {bank.name} has {bank.channels}"
        )
    bank_part, part = (found.subset(found.labelled()) for found in (bank_part, part))
    labels: tuple[Any, ...] = (None, part.labels, asked.classes)
    if not alone:
        labels = _labels(bank, bank_part, asked, part, which)

    def of(pictures: Part) -> Tensor:
        parts = chunks(pictures, min(size, 32) if net is None else size, bank.channels, where)
        return pixels(parts) if net is None else extract(net.to(where), parts, where)

    known, queries = None if alone else of(bank_part), of(part)
    views, config = None, layers.augmentation(Path(target)) if "geometry" in protocols else None
    if net is not None and config is not None:
        config = dataclasses.replace(config, views=10)
        maker = augment.build(config, size, bank.channels, net.mean.flatten().cpu(), net.std.flatten().cpu()).to(where)
        rows = torch.randperm(len(part), generator=generator(seed, Stream.PROBE, 8))[:1000].sort().values
        views = extract_views(net.net, maker, part, rows, where, seed)
    facts: dict[str, Any] = {} if known is None else {"train": f"{bank.name} ({bank_name}, {len(known)})"}
    facts |= {
        "test": f"{asked.name} ({which}, {len(queries)})", "features": "pixels" if net is None else features,
        "dim": queries.shape[1], "image_size": size,
    }  # fmt: skip
    return stored.Sets(known, labels[0], queries, labels[1], labels[2], views), facts
