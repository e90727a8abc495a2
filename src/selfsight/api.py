"""The library's front door: what `selfsight.NAME` and the command line call."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfsight import augment, checkpoint, encoders, pretraining, recipes
from selfsight import run as runs
from selfsight.data import DataSet, Part, from_objects, open_data
from selfsight.errors import WrongUse
from selfsight.evaluate import layers, measuring, moons, stored
from selfsight.evaluate.features import extract, extract_views, pixels
from selfsight.pretraining import Result
from selfsight.rng import Stream, generator, seed_of
from selfsight.run import Run
from selfsight.session import open_for, pick_device, prepare


def _say(line: str) -> None:
    """Lines about the data go to stderr: stdout is for results."""
    print(line, file=sys.stderr)


load = checkpoint.load_encoder
resume = pretraining.go_on


def has_cuda(device: str | None) -> bool:
    """A GPU will do the work if the device is named so."""
    return (device or "auto").startswith("cuda") or (device in (None, "auto") and torch.cuda.is_available())


def settings(method: str | None = None, recipe: str | None = None, **given: Any) -> Run[Any]:
    """A Run from a recipe and changes to it, as `pretrain` takes them. Groups are dicts: `method={"temperature": 0.2}`."""
    name = recipe or recipes.default_recipe(str(given.get("data", "shapes")), has_cuda(given.get("device")))
    base = (
        recipes.RECIPES[name]()
        if method is None and name in recipes.RECIPES
        else recipes.recipe(method or "simclr", name)
    )
    plain = {
        k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) and not isinstance(v, type) else v
        for k, v in given.items()
    }
    inner = dict(plain.pop("method_settings", {}))
    return runs.from_dict({**plain, "method": {"name": base.method_name, **inner}}, base)


def pretrain(
    method: str = "simclr", *, recipe: str | None = None, encoder: str | nn.Module | None = None,
    method_settings: dict[str, Any] | None = None, **given: Any,
) -> Result:  # fmt: skip
    """Train an encoder; the run folder, exit code and summary of it.

    Args:
        method: a name of METHODS.
        recipe: defaults of a named run; without one, they follow the data.
        encoder: a name of ENCODERS, or any module with `.dim` that maps (B, C, S, S) to (B, dim).
        method_settings: changes of the method's own settings, such as `{"temperature": 0.2}`.
        **given: any field of Run: data, epochs, batch_size, out, seed, views={"locals": 6}, optimizer={"lr": 0.3}, ...

    Raises:
        WrongUse: the settings or the data are wrong; nothing is written then.
    """
    module = encoder if isinstance(encoder, nn.Module) else None
    if module is not None and not isinstance(getattr(module, "dim", None), int):
        raise WrongUse("encoder has no attribute `dim` (int): set it to the width of the features")
    if isinstance(encoder, str):
        given["encoder"] = encoder
    given = {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}
    return pretraining.start(settings(method, recipe, method_settings=method_settings or {}, **given), module)


def plan(run: Run[Any]) -> dict[str, Any]:
    """The resolved settings of a run, effective learning rate and length, without training."""
    from selfsight import optim

    device = pick_device(run.device)
    data = open_for(run, device)
    run, choices = prepare(run, data, device)
    assert isinstance(run.batch_size, int)
    return {
        "settings": runs.to_dict(run), "choices": choices, "device": str(device), "pictures": len(data.train),
        "steps": run.steps, "steps_per_epoch": len(data.train) // run.batch_size,
        "peak_learning_rate": optim.peak_rate(run.optimizer, run.batch_size),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- evaluation


def _chunks(part: Part, size: int, channels: int, device: torch.device) -> Iterator[Tensor]:
    """(b, C, S, S) float in [0, 1], whole pictures, in order."""
    zero, one = torch.zeros(channels), torch.ones(channels)
    views = augment.build(augment.ViewsConfig(policy="none", normalise=False), size, channels, zero, one).to(device)
    for _, images in part.chunks(256):
        moved = type(images)(images.pixels.to(device, non_blocking=True), images.sizes)
        yield views.plain(moved, size)


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
        bank = open_for(run, torch.device("cpu"), _say)
    else:
        bank = open_data(
            train, root=place, image_size=image_size, holdout=0 if test else None, exclude=exclude, seed=seed, log=_say
        )
    if test is not None:
        asked = open_data(
            test, root=place, image_size=image_size, holdout=0, seed=seed, channels=bank.channels, log=_say
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
        if train or features != "encoder" or image_size:
            raise WrongUse(f"{target} holds features: leave out --train, --features and --image-size")
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
        chunks = _chunks(pictures, min(size, 32) if net is None else size, bank.channels, where)
        return pixels(chunks) if net is None else extract(net.to(where), chunks, where)

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


# ---------------------------------------------------------------------------------------------- features


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
        opened = open_data(str(data), root=root, image_size=size, holdout=0, channels=channels, log=_say)
        part, classes = opened.train, opened.classes
    else:
        part = from_objects(data, image_size=size, channels=channels)
    where = pick_device(device)
    rows = extract(net.to(where), _chunks(part, size, channels, where), where).numpy()
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


def describe(facts: dict[str, Any]) -> str:
    """Text of `plan`: choices, effective numbers, all settings as YAML."""
    import yaml

    lines = [f"# {line}" for line in facts["choices"]]
    lines += [f"# {name.replace('_', ' ')}: {facts[name]}" for name in facts if name not in ("settings", "choices")]
    return "\n".join([*lines, yaml.safe_dump(facts["settings"], sort_keys=False, allow_unicode=True)])


def describe_result(result: Result) -> str:
    """A few lines on how a pre-training ended."""
    s = result.summary
    lines = [f"run folder    {result.folder}"]
    if "steps" in s:
        lines.append(f"steps         {s['steps']} in {s['seconds']:.0f} s, {s['views_per_second']:.0f} views/s")
    if s.get("knn"):
        k = s["knn"]
        base = ", ".join(f"{n} {s[n]:.1%}" for n in ("untrained", "pixels") if s.get(n) is not None)
        lines.append(
            f"k-NN          {k['top1']:.1%} on the {k['part']} part ({base or 'no baselines'}; k {k['k']}, bank {k['bank']})"
        )
    if s.get("health"):
        lines.append(f"health        {s['health']}: {s['why']}")
    if s.get("note"):
        lines.append(f"note          {s['note']}")
    if result.code == 0:
        lines.append(f"report        {result.folder / 'report.html'}")
    return "\n".join(lines)
