"""Eleven methods on CIFAR-10: `--config configs/M.yaml --algo M --arch A --task train|linear_eval|get_features`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfsight import run as runs
from selfsight.encoders import EncoderConfig
from selfsight.errors import WrongUse
from selfsight.recipes import recipe
from selfsight.references.eleven_config import is_ours, read
from selfsight.references.eleven_keys import ALGORITHMS
from selfsight.references.translation import (
    Command,
    Option,
    Translation,
    evaluate,
    flag,
    free,
    merge,
    options,
    pretrain,
)
from selfsight.run import Run

ABOUT = """Eleven methods on CIFAR-10 (simclr moco byol dino pirl barlow simsiam relic deep_cluster swav sela):
  python main.py --config configs/byol.yaml --algo byol [--arch resnet18] --task train|linear_eval|get_features
                 [--output DIR] [--load DIR]      (or -c -a -m -t -o -l)"""

ARCHITECTURES = {
    **{
        name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50", "resnext101")
    },
    "wide_resnet50": "wide_resnet50_2",
    "wide_resnet101": "wide_resnet101_2",
    "vit": "vit-small",
}
"""Name there -> name here; three of the ResNets could not be chosen there."""
PROTOCOL = "linear-seed001"  #: 100 epochs, batch 256, rate 0.1, decay 1e-6
TASKS = ("train", "linear_eval", "get_features")
OPTIONS = (
    Option(("config", "c")),
    Option(("algo", "a"), choices=tuple(ALGORITHMS)),
    Option(("arch", "m"), choices=tuple(ARCHITECTURES)),
    Option(("task", "t"), choices=TASKS),
    Option(("output", "o")),
    Option(("load", "l")),
)
_HEADLESS = ("deepcluster", "sela")  #: methods without a layer called projector
_D = {"resnet18": 512, "resnet34": 512, "vit": 384}  #: width of the features; 2048 of the others


def asked(argv: Sequence[str]) -> bool:
    """Whether a command line is this project's."""
    names = {token.split("=", 1)[0] for token in argv}
    return bool({"--config", "-c", "--algo", "-a", "--task", "-t"} & names)


def translate(argv: Sequence[str]) -> Translation:
    """A task; WrongUse for what the project's program refuses."""
    given = options(argv, OPTIONS, "main.py")
    for needed in ("config", "algo", "task"):
        if needed not in given:
            raise WrongUse(f"--{needed} is missing: {ABOUT.splitlines()[1].strip()}")
    if given["task"] != "train" and "load" not in given:
        raise WrongUse(f"--load is missing: --task {given['task']} works on the run folder of a training")
    if given["task"] == "train" and "load" in given:
        note = f"--load with --task train: {given['load']} goes on where it stopped; its own settings hold, not the other options"
        return Translation((("resume", given["load"]),), (note,))
    path, notes = _find(given["config"], given["algo"])
    plain = runs.read_file(path)
    if is_ours(plain):
        command, method, linear = _own(path, plain, given)
    else:
        base, run, linear, more = read(plain, given["algo"], path)
        run, told = _with_arch(run, given)
        notes += [*more, *told]
        command, method = pretrain(run, base), base.method_name
    if given["task"] == "train":
        out = given.get("output") or free(f"runs/{time.strftime('%d-%m-%Y_%H-%M')}")
        return Translation(((*command, "--out", out), *_measured(out, method, linear)), (*notes, *_WHY))
    target = given["load"]
    if given["task"] == "linear_eval":
        return Translation((_linear(target, linear),), (*notes, _WHY[1]))
    out = given.get("output") or target
    written = evaluate(target, ["knn"], None, "--out", str(Path(out) / "features.npz"))
    said = "features and labels of both parts go into one .npz, which `selfsight evaluate` reads again, not into four .npy files"
    return Translation((written,), (*notes, said))


_WHY = (
    'the "KNN accuracy" there is the share of equal labels among the 20 nearest test pictures: here `purity`, on the '
    "projector and in evaluation mode; `knn` is the usual accuracy",
    "linear evaluation sees the encoder's features, not those of the projector (--features projector does)",
)


def _find(path: str, algorithm: str) -> tuple[str, list[str]]:
    """The file, or for a name of the project (configs/barlow.yaml) that of its method here."""
    ours = str(Path(path).with_name(f"{ALGORITHMS[algorithm]}.yaml"))
    if Path(path).is_file() or Path(path).stem != algorithm or not Path(ours).is_file():
        return path, []
    return ours, [f"{path}: {ALGORITHMS[algorithm]} is its name here"]


def _own(path: str, plain: dict[str, Any], given: dict[str, Any]) -> tuple[Command, str, dict[str, Any]]:
    """A file of this system, with the encoder that was asked for."""
    method = ALGORITHMS[given["algo"]]
    told = runs.method_in(plain) or method
    if told != method:
        raise WrongUse(f"{path} is for {told}, not {method}: --algo and --config contradict each other")
    base = runs.from_dict(plain, recipe(method, str(plain.get("recipe") or "cifar10-1000")))
    run, _ = _with_arch(base, given)
    flags = [word for name in ("encoder", "net") for word in _differences(base, run, name)]
    return ("pretrain", method, "--config", path, *flags), method, {}


def _differences(base: Run[Any], run: Run[Any], name: str) -> list[str]:
    was, now = getattr(base, name), getattr(run, name)
    if isinstance(now, str):
        return [] if was == now else flag(name, now)
    changed = {key: value for key, value in vars(now).items() if value != getattr(was, key)}
    return [word for key, value in changed.items() for word in flag(f"{name}.{key.replace('_', '-')}", value)]


def _with_arch(run: Run[Any], given: dict[str, Any]) -> tuple[Run[Any], list[str]]:
    """The encoder of --arch; a head whose hidden layer was as wide as the features stays so."""
    arch = given.get("arch", "resnet18")
    changed = merge(run, encoder=ARCHITECTURES[arch])
    notes = []
    if arch == "vit":
        changed = merge(changed, net=EncoderConfig(sobel=run.net.sobel, patch=run.net.patch))
        notes.append(
            "vit: 12 standard blocks of width 384, six heads; the project's own had 6 blocks of a form of its own"
        )
    if run.recipe.endswith("-eleven") and run.method_name in ("simclr", "byol", "relic") and run.method.hidden == 512:
        changed = merge(changed, method={"hidden": _D.get(arch, 2048)})
    return changed, notes


def _linear(target: str, settings: dict[str, Any], *others: str) -> Command:
    return evaluate(target, [*others, PROTOCOL], {PROTOCOL: settings} if settings else None)


def _measured(target: str, method: str, linear: dict[str, Any]) -> list[Command]:
    """What the project measures of a training: the linear evaluation and the legacy score."""
    layer = () if method in _HEADLESS else ("--features", "projector")
    return [_linear(target, linear, "knn"), evaluate(target, ["purity"], None, *layer)]
