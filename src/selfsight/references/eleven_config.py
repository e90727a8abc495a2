"""YAML files of the project of eleven methods: their keys become settings of a run here.

Keys may stand alone or in groups; the name of a group only tells apart what is called alike (`lr` of the optimizer and of
`linear_eval`). Nothing is passed over in silence: a key is a setting, or a remark says why it is none, or it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from selfsight import run as runs
from selfsight.errors import WrongUse, perhaps
from selfsight.recipes import RECIPES
from selfsight.recipes.eleven import name_for
from selfsight.references.eleven_transforms import views_from
from selfsight.run import Run

ALGORITHMS = {
    **{name: name for name in ("simclr", "moco", "byol", "dino", "pirl", "simsiam", "relic", "swav", "sela")},
    "barlow": "barlowtwins",
    "deep_cluster": "deepcluster",
}
"""Name there -> name here."""

# Kind of a group by its name; all other groups are the method's own, such as `loss_fn`, `memory_bank` or its name.
_KINDS = {
    "data": "data", "dataset": "data", "dataloader": "data", "data_loader": "data",
    "transforms": "transforms", "transform": "transforms", "train_transforms": "transforms", "train_transform": "transforms",
    "augmentations": "transforms", "augs": "transforms",
    "test_transforms": "test", "test_transform": "test", "val_transforms": "test", "std_transforms": "test", "test": "test",
    "encoder": "encoder", "backbone": "encoder", "network": "encoder",
    "proj_head": "projector", "projection_head": "projector", "projector": "projector", "projection": "projector",
    "head": "projector", "pred_head": "predictor", "prediction_head": "predictor", "predictor": "predictor",
    "optimizer": "optimizer", "optim": "optimizer", "scheduler": "schedule", "lr_scheduler": "schedule",
    "schedule": "schedule", "linear_eval": "linear", "linear_evaluation": "linear",
}  # fmt: skip

# Leaf as written -> leaf as the tables below call it, in every kind of group.
_SAME = {
    "learning_rate": "lr", "wd": "weight_decay", "decay": "weight_decay", "bs": "batch_size", "n_epochs": "epochs",
    "num_epochs": "epochs", "warmup": "warmup_epochs", "warmup_epoch": "warmup_epochs", "workers": "num_workers",
    "n_workers": "num_workers", "temp": "temperature", "normalise": "normalize", "img_size": "image_size",
    "input_size": "image_size", "path": "root", "data_dir": "root", "type": "name", "dataset": "name",
    "hidden": "hidden_dim", "proj_dim": "output_dim", "out_dim": "output_dim", "projection_dim": "output_dim",
    "in_dim": "input_dim", "queue": "queue_size", "lambd": "lambda", "lmbda": "lambda", "lambda_param": "lambda",
    "n_prototypes": "prototypes", "num_prototypes": "prototypes", "bank_size": "queue_size", "feature_bank": "queue_size",
    "feature_bank_size": "queue_size", "sinkhorn_eps": "epsilon", "eps_sinkhorn": "epsilon",
    "sinkhorn_iters": "iterations", "sinkhorn_iterations": "iterations", "n_iters": "iterations", "n_iter": "iterations",
    "num_iters": "iterations", "max_iter": "iterations", "base_tau": "tau", "tau_start": "tau", "tau_base": "tau",
    "final_tau": "tau_end", "memory_momentum": "momentum", "num_negatives": "negatives", "n_negatives": "negatives",
    "n_patches": "num_patches", "loss_weight": "weight", "student_temp": "student_temperature",
    "teacher_temp": "teacher_temperature_end", "teacher_temp_start": "teacher_temperature",
    "warmup_teacher_temp": "teacher_temperature", "teacher_temp_end": "teacher_temperature_end",
    "final_teacher_temp": "teacher_temperature_end", "teacher_temp_epochs": "temperature_epochs",
    "warmup_teacher_temp_epochs": "temperature_epochs", "center_momentum": "centre_momentum",
    "momentum_teacher": "tau", "teacher_momentum": "tau", "teacher_momentum_end": "tau_end", "clip_grad": "clip",
    "grad_clip": "clip", "n_global": "global_crops", "n_local": "local_crops", "num_global": "global_crops",
    "num_local": "local_crops", "global_views": "global_crops", "local_views": "local_crops",
    "n_clusters": "clusters", "num_clusters": "clusters", "k": "clusters", "n_heads": "heads", "num_heads": "heads",
    "n_init": "restarts", "weight_decay_start": "weight_decay", "final_weight_decay": "weight_decay_end",
}  # fmt: skip

# kind -> leaf -> setting here; "" where a remark is all (see _REMARKS).
_GENERAL: dict[str, dict[str, str]] = {
    "run": {
        "epochs": "epochs", "eval_every": "probe.every", "batch_size": "batch_size", "num_workers": "workers",
        "seed": "seed", "name": "data", "device": "device", "arch": "", "algo": "", "algorithm": "", "task": "", "output": "",
    },
    "data": {
        "name": "data", "root": "data_root", "download": "download", "batch_size": "batch_size",
        "num_workers": "workers", "image_size": "image_size", "shuffle": "", "drop_last": "", "pin_memory": "",
    },
    "encoder": {
        "name": "", "arch": "", "reduce_bottom_conv": "net.stem", "zero_init_residual": "net.zero_init_residual",
        "norm_layer": "net.norm", "patch_size": "net.patch", "pretrained": "",
    },
    "optimizer": {
        "name": "optimizer.name", "lr": "optimizer.lr", "weight_decay": "optimizer.weight_decay",
        "weight_decay_end": "optimizer.weight_decay_end", "momentum": "optimizer.momentum",
        "nesterov": "optimizer.nesterov", "eps": "optimizer.eps", "betas": "optimizer.betas", "amsgrad": "",
        "clip": "optimizer.clip_norm",
    },
    "schedule": {
        "name": "schedule.name", "warmup_epochs": "schedule.warmup_epochs", "milestones": "schedule.milestones",
        "gamma": "schedule.gamma", "final": "schedule.final",
    },
    "linear": {
        "epochs": "epochs", "batch_size": "batch_size", "lr": "lr", "weight_decay": "weight_decay",
        "momentum": "momentum", "input_dim": "", "num_classes": "", "name": "",
    },
}  # fmt: skip
_HEADS = {"input_dim": "", "hidden_dim": "method.hidden", "output_dim": "method.dim", "num_layers": "method.layers"}
_TARGET = {"tau": "method.momentum", "tau_end": "method.momentum_end"}
# algorithm -> leaf -> setting here, of its own groups and of the top
_METHODS: dict[str, dict[str, str]] = {
    "simclr": {"temperature": "method.temperature", "normalize": ""},
    "moco": {
        "temperature": "method.temperature", "momentum": "method.momentum", "queue_size": "method.queue",
        "size": "method.queue",
    },
    "byol": _TARGET,
    "simsiam": {},
    "barlow": {"lambda": "method.weight"},
    "swav": {
        "prototypes": "method.prototypes", "queue_size": "method.queue", "size": "method.queue",
        "temperature": "method.temperature", "epsilon": "method.epsilon", "iterations": "method.iterations",
    },
    "relic": {"tau": "method.momentum", "tau_end": "", "temperature": "method.temperature", "alpha": "method.alpha"},
    "pirl": {
        "momentum": "method.momentum", "negatives": "method.negatives", "temperature": "method.temperature",
        "weight": "method.weight", "patch_size": "views.tiles.cell", "num_patches": "views.tiles.grid",
    },
    "dino": {
        **_TARGET, "momentum": "method.momentum", "student_temperature": "method.student_temperature",
        "teacher_temperature": "method.teacher_temperature", "clip": "optimizer.clip_norm",
        "teacher_temperature_end": "method.teacher_temperature_end",
        "temperature_epochs": "method.temperature_epochs", "centre_momentum": "method.centre_momentum",
        "global_crops": "views.views", "local_crops": "views.locals", "global_size": "views.size",
        "local_size": "views.local_size", "outputs": "method.outputs",
    },
    "sela": {
        "clusters": "method.clusters", "lambda": "method.sharpness", "iterations": "method.iterations",
        "heads": "method.heads",
    },
    "deep_cluster": {
        "clusters": "method.clusters", "iterations": "method.iterations", "restarts": "", "hungarian": "method.head",
    },
}  # fmt: skip
_PREDICTED = ("byol", "simsiam")
_PROJECTED: dict[str, dict[str, str]] = {
    **{name: _HEADS for name in ("simclr", "byol", "simsiam", "barlow", "swav")},
    "moco": {"input_dim": "", "output_dim": "method.dim"},
    "relic": {"input_dim": "", "hidden_dim": "method.hidden", "output_dim": "method.dim"},
    "pirl": {"input_dim": "", "output_dim": "method.dim"},
    "dino": {
        "input_dim": "", "hidden_dim": "method.hidden", "bottleneck_dim": "method.bottleneck", "output_dim": "method.outputs",
        "num_layers": "method.layers",
    },
}  # fmt: skip

# What becomes a remark and nothing else, and when it is worth one.
_REMARKS = {
    "linear.input_dim": "input_dim: the width of the features is known here, a wrong one cannot stop the evaluation",
    "linear.num_classes": "num_classes: follows the data set",
    "deep_cluster.restarts": "restarts of k-means: one start, by k-means++; an empty cluster is filled",
    "relic.tau_end": "tau_end: the teacher's momentum always rises to 1",
    "projector.input_dim": "input_dim of the head: follows the encoder",
    "optimizer.amsgrad": "amsgrad: is not there; Adam as published",
    **dict.fromkeys(("encoder.name", "encoder.arch", "run.arch"), "the encoder in the file: --arch chooses it"),
    "data.shuffle": "shuffle: training pictures are always shuffled",
    "data.drop_last": "drop_last: the last batch is left out if it is not full",
    "data.pin_memory": "pin_memory: chosen by the device",
    "run.algo": "algorithm in the file: --algo chooses it",
    "run.algorithm": "algorithm in the file: --algo chooses it",
    "run.task": "task in the file: --task chooses it",
    "run.output": "output in the file: --output chooses it",
}


@dataclass
class Found:
    """What a file says: settings here by dotted name, settings of the linear evaluation, remarks."""

    settings: dict[str, Any] = field(default_factory=dict)
    linear: dict[str, Any] = field(default_factory=dict)
    transforms: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_ours(plain: Mapping[str, Any]) -> bool:
    """Whether a YAML file is one of this system's: those name their method or recipe."""
    return "method" in plain or "recipe" in plain


def read(plain: Mapping[str, Any], algorithm: str, where: str) -> tuple[Run[Any], Run[Any], dict[str, Any], list[str]]:
    """A run from a file of the project: (recipe it starts from, run, settings of its linear protocol, remarks).

    Raises:
        WrongUse: an unknown key (with a suggestion), or a value that makes no sense.
    """
    found = Found()
    for path, value in _leaves(plain):
        _take(found, path, value, algorithm, where)
    base = RECIPES[name_for(ALGORITHMS[algorithm])]()
    settings = _finished(found, base, algorithm)
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        inner = nested
        *groups, last = name.split(".")
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return base, runs.from_dict(nested, base), _linear(found.linear), list(dict.fromkeys(found.notes))


def _leaves(plain: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(names from the top to it, value) of every key that is no group; a set of transforms counts as one."""
    for key, value in plain.items():
        here = (*path, str(key).lower().replace("-", "_"))
        if isinstance(value, Mapping) and _kind(here) not in ("transforms", "test"):
            yield from _leaves(value, here)
        else:
            yield here, value


def _kind(path: tuple[str, ...]) -> str:
    """Kind of the group that a key lies in, or is: the linear evaluation's optimizer is the linear evaluation's."""
    kinds = [_KINDS[name] for name in path if name in _KINDS]
    for first in ("linear", "test", "transforms"):
        if first in kinds:
            return first
    return kinds[-1] if kinds else "run"


def _take(found: Found, path: tuple[str, ...], value: Any, algorithm: str, where: str) -> None:
    kind, leaf = _kind(path), _SAME.get(path[-1], path[-1])
    if kind == "test":
        found.notes.append("transforms of test pictures: features are made of whole pictures, resized and normalised")
        return
    if kind == "transforms":
        found.transforms |= value if isinstance(value, Mapping) else _listed(value, where)
        return
    if kind == "schedule" and leaf == "eta_min":
        leaf = "final"
    tables = _tables(kind, algorithm)
    table = next((t for t in tables if leaf in t), None)
    if table is None:
        known = {name for t in tables for name in t}
        raise WrongUse(f"{where}: unknown key {'.'.join(path)}.{perhaps(leaf, known)}")
    if kind == "linear" and table[leaf]:
        found.linear[table[leaf]] = value
    elif table[leaf]:
        found.settings[table[leaf]] = value
    _remark(found, kind, leaf, value, algorithm)


def _tables(kind: str, algorithm: str) -> list[dict[str, str]]:
    own = _METHODS[algorithm]
    if kind == "projector":
        return [_PROJECTED.get(algorithm, {}), own]
    if kind == "predictor":
        heads = {"input_dim": "", "hidden_dim": "method.predictor_hidden", "output_dim": ""}
        return [heads if algorithm in _PREDICTED else {"hidden_dim": "", "output_dim": "", "input_dim": ""}]
    if kind == "run":  # also groups of the method's own
        return [own, _GENERAL["run"], {k: v for k, v in _GENERAL["optimizer"].items() if k not in ("name", "momentum")}]
    return [_GENERAL[kind], own] if kind == "encoder" else [_GENERAL[kind]]


def _remark(found: Found, kind: str, leaf: str, value: Any, algorithm: str) -> None:
    if kind == "predictor" and algorithm not in _PREDICTED:
        found.notes.append(f"{leaf} of the predictor: {algorithm}'s is as wide as its projector")
    text = _REMARKS.get(f"{kind}.{leaf}") or _REMARKS.get(f"{algorithm}.{leaf}")
    if text:
        found.notes.append(text)
    if leaf == "normalize" and algorithm == "simclr" and not value:
        raise WrongUse("normalize: False is not there: SimCLR compares directions; leave it out")
    if (kind, leaf) == ("encoder", "pretrained") and value:
        raise WrongUse("pretrained: True contradicts the point: encoders start untrained here; leave it out")
    if (kind, leaf) == ("linear", "name") and str(value).lower() not in ("sgd", "cosine"):
        raise WrongUse(f"linear_eval: {value} is not there: it is SGD with a cosine (see `selfsight list protocols`)")


def _listed(value: Any, where: str) -> dict[str, Any]:
    """Transforms as a list: names, or mappings of one name."""
    if not isinstance(value, list):
        raise WrongUse(f"{where}: transforms are {value!r}: give a list or a mapping of them")
    found: dict[str, Any] = {}
    for entry in value:
        found |= entry if isinstance(entry, Mapping) else {str(entry): {}}
    return found


def _finished(found: Found, base: Run[Any], algorithm: str) -> dict[str, Any]:
    """Settings with the values that they have here."""
    settings = dict(found.settings)
    if "data" in settings:
        settings["data"] = str(settings["data"]).lower().replace("-", "")
    if "net.stem" in settings:
        settings["net.stem"] = "small" if settings["net.stem"] else "imagenet"
        if settings["net.stem"] == "small":
            found.notes.append(
                "reduce_bottom_conv: also without the max-pool that stayed there, small pictures need none "
                "(--net.stem legacy keeps it)"
            )
            settings["net.stem"] = "auto"
    if algorithm == "moco" and "method.momentum" in settings:
        settings["method.momentum_end"] = settings["method.momentum"]
    if "method.head" in settings:
        settings["method.head"] = "matched" if settings["method.head"] else "new"
    if "views.tiles.cell" in settings:
        settings["views.tiles.size"] = settings["views.tiles.cell"]
    if "views.tiles.grid" in settings:
        settings["views.tiles.grid"] = math.isqrt(int(settings["views.tiles.grid"]))
    epochs, batch = settings.get("epochs", base.epochs), int(settings.get("batch_size", base.batch_size))
    decay = settings.get("optimizer.weight_decay")
    if isinstance(decay, list | tuple):  # from, to
        settings["optimizer.weight_decay"], settings["optimizer.weight_decay_end"] = decay
    if str(settings.get("optimizer.name", base.optimizer.name)).lower() != "sgd":
        if settings.pop("optimizer.nesterov", False):
            found.notes.append("nesterov: belongs to SGD")
        settings |= {"optimizer.nesterov": False} if base.optimizer.nesterov else {}
    if "schedule.milestones" in settings:
        settings["schedule.milestones"] = [float(m) / float(epochs) for m in settings["schedule.milestones"]]
    if "schedule.name" in settings:
        settings["schedule.name"] = str(settings["schedule.name"]).lower().replace("_", "")
    if "schedule.final" in settings:
        settings["schedule.final"] = float(settings["schedule.final"]) / float(settings.get("optimizer.lr", base.optimizer.lr))
    rows = settings.get("method.queue")
    if rows and int(rows) % batch:
        settings["method.queue"] = -(-int(rows) // batch) * batch
        found.notes.append(f"queue of {rows}: {settings['method.queue']}, a multiple of the batch of {batch}")
    if found.transforms:
        settings |= views_from(found.transforms, found.notes)
    return settings


def _linear(given: dict[str, Any]) -> dict[str, Any]:
    """Settings of the protocol that differ from the project's; its rate is for 256 rows."""
    found: dict[str, Any] = {k: int(v) if k in ("epochs", "batch_size") else float(v) for k, v in given.items()}
    if "lr" in found or "batch_size" in found:
        found["base_lr"] = found.pop("lr", 0.1) * 256 / found.get("batch_size", 256)
    usual = {"epochs": 100, "batch_size": 256, "base_lr": 0.1, "weight_decay": 1e-6, "momentum": 0.9}
    return {name: value for name, value in found.items() if value != usual[name]}
