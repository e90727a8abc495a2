"""SimCLR with linear evaluation on CIFAR, SVHN and subsets of ImageNet: `ssl_model=simclr dataset=CIFAR10 KEY=VALUE ...`.

Keys of the project's configuration (`ssl_model.*`), those of its text (`model.*`), and those of the sibling script that
works on stored features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from selfsight.augment import ViewsConfig
from selfsight.encoders import EncoderConfig
from selfsight.errors import WrongUse, perhaps
from selfsight.recipes import RECIPES
from selfsight.recipes.lars_sqrt import DIGITS, LARGE, SMALL
from selfsight.references.translation import Command, Translation, evaluate, free, merge, number, pretrain
from selfsight.run import Run

ABOUT = """SimCLR with linear evaluation on CIFAR-10, CIFAR-100, SVHN, ImageNet and its subsets:
  python main.py ssl_model=simclr dataset=CIFAR10 le_model.num_epochs=90 [KEY=VALUE ...]
  python main.py precomputed_features=True precomputed_features_dir=FILE.npz model.name=linear"""

ENCODERS = {
    "resnet18_deterministic": ("resnet18", EncoderConfig(zero_init_residual=False)),
    "resnet50_deterministic": ("resnet50", EncoderConfig(zero_init_residual=False)),
    "wide_resnet_28_10": ("wrn-28-10", EncoderConfig(dropout=0.3)),
    "wide_resnet_28_2": ("wrn-28-2", EncoderConfig()),
}
"""Name there -> encoder and its settings here."""
DATASETS = {
    **{name: (name.lower(), SMALL, 32) for name in ("CIFAR10", "CIFAR100")},
    "SVHN": ("svhn", DIGITS, 32),
    **{name: (name.lower(), LARGE, 224) for name in ("ImageNet", "ImageNet50", "ImageNet100", "ImageNet200")},
}
"""Name there -> data, views and image size here."""
_STRENGTHS = {"seed002": 0.5, "svhn": 0.5, "simclr": 1.0}  #: colour distortion that a policy has at strength 1

PROTOCOL = "linear-seed002"  #: 90 epochs, batch 4096, rate 0.1 per 256 rows, a tenth of train for validation
_LINEAR = {
    "le_model.num_epochs": "epochs", "le_model.train_batch_size": "batch_size", "le_model.optimizer.base_lr": "base_lr",
    "le_model.optimizer.weight_decay": "weight_decay", "le_model.optimizer.momentum": "momentum",
}  # fmt: skip

# Key -> kind of its value. `model.X` is `ssl_model.X`, but for these:
KEYS: dict[str, type] = {
    "ssl_model": str, "dataset": str, "dataset_path": str, "output_dir": str, "n_cpus": int, "random_seed": int,
    "ssl_val_interval": int,
    "le_model.num_epochs": int, "le_model.train_batch_size": int, "le_model.val_batch_size": int,
    "le_model.optimizer.base_lr": float, "le_model.optimizer.weight_decay": float,
    "le_model.optimizer.momentum": float, "le_model.callback.enabled": bool, "le_model.callback.interval": int,
    "ssl_model.name": str, "ssl_model.encoder": str, "ssl_model.projector": str, "ssl_model.projector_dim": int,
    "ssl_model.temperature": float, "ssl_model.n_epochs": int, "ssl_model.train_batch_size": int,
    "ssl_model.accumulate_batches": int, "ssl_model.val_batch_size": int, "ssl_model.optimizer.base_lr": float,
    "ssl_model.optimizer.weight_decay": float, "ssl_model.optimizer.momentum": float,
    "dataset.color_distortion_strength": float, "dataset.rotation_probability": float, "dataset.preload": bool,
    "precomputed_features": bool, "precomputed_features_dir": str, "standardize_precomputed_features": bool,
    "finetuning": bool, "finetuning_dir": str, "finetuning_lr": float, "model.gamma": float,
}  # fmt: skip
_OTHER_NAMES = {
    "model": "ssl_model", "model.predict_batch_size": "ssl_model.val_batch_size",
    "color_distortion_strength": "dataset.color_distortion_strength",
    "rotation_probability": "dataset.rotation_probability", "preload": "dataset.preload", "dataset.name": "dataset",
    "le_model.callback.interval_epochs": "le_model.callback.interval",
}  # fmt: skip


def asked(argv: Sequence[str]) -> bool:
    """Whether a command line is this project's: overrides without dashes."""
    return bool(argv) and all("=" in token and not token.startswith("-") for token in argv)


def translate(argv: Sequence[str]) -> Translation:
    """A pre-training and its linear evaluation; or an evaluation of stored features. WrongUse for an unknown key."""
    given = _read(argv)
    if given.get("precomputed_features"):
        return _stored(given)
    if given.get("finetuning"):
        return _finetuned(given)
    for key in (
        "precomputed_features_dir",
        "standardize_precomputed_features",
        "finetuning_dir",
        "finetuning_lr",
        "model.gamma",
    ):
        if key in given:
            raise WrongUse(
                f"{key} is for {'finetuning=True' if key.startswith('fine') else 'precomputed_features=True'} only"
            )
    return _pretrained(given)


def _read(argv: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    stored = any(token.lower() in ("precomputed_features=true", "finetuning=true") for token in argv)
    for token in argv:
        typed, _, text = token.lstrip("+").partition("=")
        name = _OTHER_NAMES.get(typed, typed)
        if name not in KEYS and name.startswith("model."):
            name = "ssl_" + name
        if name == "ssl_model.name" and stored:
            name = "model.name"  # the classifier on the features
        kind = KEYS.get(name, str if name == "model.name" else None)
        if kind is None:
            raise WrongUse(f"unknown key {typed!r}.{perhaps(typed, list(KEYS))}")
        if name in given:
            raise WrongUse(f"{typed} is given twice: give it once")
        if not text:
            raise WrongUse(f"{typed} needs a value: write {typed}=VALUE")
        given[name] = number(typed, kind, text)
    return given


def _pick(name: str, given: str, known: dict[str, Any]) -> Any:
    found = {key.lower(): value for key, value in known.items()}
    if given.lower() not in found:
        raise WrongUse(f"{name}={given} is not there.{perhaps(given, list(known))}")
    return found[given.lower()]


def _pretrained(given: dict[str, Any]) -> Translation:
    notes: list[str] = []
    for key in ("ssl_model", "ssl_model.name"):
        if given.get(key, "simclr").lower() != "simclr":
            raise WrongUse(
                f"{key}={given[key]}: the project had simclr alone; for others: selfsight pretrain {given[key]}"
            )
    if given.get("ssl_model.projector", "mlp") != "mlp":
        raise WrongUse(f"ssl_model.projector={given['ssl_model.projector']}: there is mlp alone")
    base = RECIPES["simclr-cifar10-100-sqrt"]()
    run = _with(base, given, notes)
    if "ssl_model.val_batch_size" in given:
        notes.append(
            "ssl_model.val_batch_size: the loss of held-out pictures is that of a batch as large as in training"
        )
    if "le_model.val_batch_size" in given:
        notes.append("le_model.val_batch_size: features are computed in parts that fit; no number depends on them")
    if run.accumulate > 1:
        notes.append(
            f"accumulate_batches: {run.accumulate} batches make a step, and each is contrasted by itself, as there. "
            f"--micro-batch {run.batch_size // run.accumulate} contrasts all of them instead"  # type: ignore[operator]
        )
    out = given.get("output_dir") or free(f"output/{base.method_name}-{run.data}")
    settings = {field: given[key] for key, field in _LINEAR.items() if key in given}
    notes.append(
        "the last evaluation is of the best encoder by k-NN on held-out pictures; contrastive accuracy is a poor guide"
    )
    first = pretrain(run, base, "--out", out)
    told = {PROTOCOL: settings} if settings else None
    ("--checkpoint", "best", "--out", f"{out.rstrip('/')}/features.npz", "--seed", str(run.seed))
    last = evaluate(
        out,
        ["knn", PROTOCOL],
        told,
        "--checkpoint",
        "best",
        "--out",
        f"{out.rstrip('/')}/features.npz",
        "--seed",
        str(run.seed),
    )
    return Translation((first, last), tuple(notes))


def _measured(given: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """What is measured while training, and when: a linear accuracy among it, unless the callback is off."""
    probe: dict[str, Any] = {}
    interval = given.get("ssl_val_interval", given.get("le_model.callback.interval"))
    if interval is not None:
        probe["every"] = float(interval)
    if "ssl_val_interval" in given and "le_model.callback.interval" in given:
        notes.append("le_model.callback.interval: all is measured at one time, every ssl_val_interval epochs")
    if given.get("le_model.callback.enabled", True):
        probe["protocols"] = ("knn", "linear")
        notes.append("le_model.callback: logistic regression on held-out pictures, which leaves the training as it is")
    else:
        probe["protocols"] = ("knn",)
    return probe


def _with(base: Run[Any], given: dict[str, Any], notes: list[str]) -> Run[Any]:
    """The run with every override that is about training."""
    data, views, size = _pick("dataset", given.get("dataset", "CIFAR10"), DATASETS)
    encoder, net = _pick("ssl_model.encoder", given.get("ssl_model.encoder", "resnet18_deterministic"), ENCODERS)
    run = merge(base, data=data, views=_colours(views, given), image_size=size, encoder=encoder, net=net)
    accumulate = given.get("ssl_model.accumulate_batches", 1)
    changes: dict[str, Any] = {
        "batch_size": given.get("ssl_model.train_batch_size", 1024) * accumulate,
        "accumulate": accumulate,
    }
    for key, field, make in _FIELDS:
        if key in given:
            changes[field] = make(given[key])
    run = merge(run, **changes)
    inner: dict[str, dict[str, Any]] = {"method": {}, "optimizer": {}}
    if "ssl_model.projector_dim" in given:
        inner["method"] |= dict.fromkeys(("hidden", "dim"), given["ssl_model.projector_dim"])
    for key, group, field in _INNER:
        if key in given:
            inner[group][field] = given[key]
    inner["probe"] = _measured(given, notes)
    if "dataset.preload" in given:
        run = replace(run, cache="memory" if given["dataset.preload"] else "off")
    if "n_cpus" in given:
        notes.append("n_cpus: processes that decode; pictures that lie in memory need none")
    return merge(run, **inner)


_FIELDS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("dataset_path", "data_root", str),
    ("n_cpus", "workers", int),
    ("random_seed", "seed", int),
    ("ssl_model.n_epochs", "epochs", float),
)
_INNER = (
    ("ssl_model.temperature", "method", "temperature"),
    ("ssl_model.optimizer.base_lr", "optimizer", "lr"),
    ("ssl_model.optimizer.weight_decay", "optimizer", "weight_decay"),
    ("ssl_model.optimizer.momentum", "optimizer", "momentum"),
)


def _colours(views: ViewsConfig, given: dict[str, Any]) -> ViewsConfig:
    if "dataset.color_distortion_strength" in given:
        views = replace(views, strength=given["dataset.color_distortion_strength"] / _STRENGTHS[views.policy])
    if "dataset.rotation_probability" in given:
        views = replace(views, rotate=given["dataset.rotation_probability"])
    return views


def _stored(given: dict[str, Any]) -> Translation:
    """Features that are there already: a linear layer or Parzen windows on them."""
    file = given.get("precomputed_features_dir")
    if not file:
        raise WrongUse("precomputed_features=True needs precomputed_features_dir=FILE.npz")
    if given.get("finetuning"):
        raise WrongUse("precomputed_features and finetuning contradict each other: leave out one of the two")
    notes = []
    if not file.endswith(".npz"):
        raise WrongUse(
            f"{file}: pickled files are not opened here; write one with `selfsight evaluate RUN --out features.npz`"
        )
    classifier = given.get("model.name", "linear")
    if classifier not in ("linear", "parzen_window"):
        raise WrongUse(f"model.name={classifier} does not work on features: use linear or parzen_window")
    if "dataset" in given:
        notes.append("dataset: the file of features says what it holds")
    protocol = PROTOCOL if classifier == "linear" else "parzen"
    settings = {"parzen": {"gamma": given["model.gamma"]}} if "model.gamma" in given else {}
    standard = ("--standardise",) if given.get("standardize_precomputed_features") else ()
    seed = ("--seed", str(given["random_seed"])) if "random_seed" in given else ()
    return Translation((evaluate(file, [protocol], settings, *standard, *seed),), tuple(notes))


def _finetuned(given: dict[str, Any]) -> Translation:
    """A run whose encoder is trained on with labels."""
    folder = given.get("finetuning_dir")
    if not folder:
        raise WrongUse("finetuning=True needs finetuning_dir=RUN, the folder of a pre-training")
    settings = {"finetune": {"lr": given.get("finetuning_lr", 1e-5)}}
    command: Command = evaluate(folder, ["finetune"], settings)
    return Translation((command,))
