# mypy: disable-error-code="union-attr,index,arg-type"
"""Commands of the four reference projects: what they become, that every option counts, and that they run."""

import copy
import dataclasses
import json
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from selfsight import references
from selfsight.arguments import parse
from selfsight.errors import WrongUse
from selfsight.evaluate import measuring
from selfsight.recipes import RECIPES
from selfsight.recipes.eleven import ELEVEN
from selfsight.references import eleven, eleven_config, eleven_keys, jigsaw_deepcluster, siamese
from selfsight.references.translation import Option, Translation, changes, with_flags
from selfsight.run import Run, read_yaml
from selfsight.verbs import VERBS
from selfsight.verbs.evaluate import EvaluateFlags
from selfsight.verbs.pretrain import settings
from test_data_archives import make_celeba

ROOT = Path(__file__).parent.parent


def translated(line: str) -> Translation:
    return references.translate(shlex.split(line))


def run_of(line: str) -> Run[Any]:
    """The run that the training of a command has, as the command line of this system reads it."""
    (command,) = [c for c in translated(line).commands if c[0] == "pretrain"]
    return settings(list(command[1:]))


def check(found: Translation) -> None:
    """Every command is one that this system takes."""
    for verb, *rest in found.commands:
        assert verb in VERBS
        if verb == "pretrain":
            settings(rest)
        if verb == "evaluate":
            flags = parse(EvaluateFlags, rest[1:], EvaluateFlags(), "evaluate", "RUN", "")
            measuring.check(flags.protocols.split(","), read_yaml(flags.settings, "--settings"))


# ---- BYOL, SimSiam, DirectPred, DirectCopy


@pytest.mark.parametrize("model", siamese.MODELS)
@pytest.mark.parametrize(
    "words", ["", "--symmetry", "--eigenspace", "--one_layer_predictor", "--symmetry --one_layer_predictor"]
)
def test_siamese_flags(model: str, words: str) -> None:
    line = f"--model {model} --name DIR --epochs_pretraining 7 --epochs_finetuning 3 {words}"
    found = translated(line)
    check(found)
    run = run_of(line)
    closed = model.startswith("direct")
    assert (run.method_name, run.epochs, run.out, run.data) == (model, 7, "DIR", "cifar10")
    one = "one_layer" in words
    assert run.method.predictor == ("closed-form" if closed else "linear" if one else "mlp")
    assert run.method.symmetric == ("symmetry" in words and not closed)
    assert (run.optimizer.lr, run.batch_size, run.method.rho) == (0.03, 128, 0.5 if model == "directcopy" else 0.3)
    for word in ("--symmetry", "--one_layer_predictor"):  # what cannot change anything says why
        assert any(note.startswith(word) for note in found.notes) == (closed and word in words)
    verb, target, *rest = found.commands[1]
    assert (verb, target) == ("evaluate", "DIR")
    assert "linear-seed004: {epochs: 3}" in " ".join(rest)
    assert found.commands[2:] == ((("eigenspace", "DIR"),) if "eigenspace" in words else ())
    assert run.probe.study_every == (5 if "eigenspace" in words else -1)


def test_the_presets_of_the_siamese_project() -> None:
    """All thirteen, and the eight at other rates, by what makes them."""
    byol, directpred = RECIPES["byol-cifar10-101"](), RECIPES["directpred-cifar10-101"]()
    shared = {
        "hidden": 512, "dim": 128, "layers": 2, "norm": "batch-plain", "bias": True, "last_bias": False,
        "predictor_hidden": 512, "momentum": 0.996, "momentum_end": 0.996,
    }  # fmt: skip
    different: dict[str, dict[str, Any]] = {
        "byol-cifar10-101": {"target": "ema", "predictor": "mlp", "symmetric": False},
        "byol-cifar10-101-symmetric": {"target": "ema", "predictor": "mlp", "symmetric": True},
        "simsiam-cifar10-101": {"target": "shared", "predictor": "mlp", "symmetric": False},
        "directpred-cifar10-101-shared": {"target": "shared", "predictor": "closed-form", "rho": 0.3, "epsilon": 0.1},
        "simsiam-cifar10-101-symmetric": {"target": "shared", "symmetric": True},
        "simsiam-cifar10-101-symmetric-decay": {"symmetric": True, "encoder_decay": 0.0, "projector_decay": 0.0},
        "simsiam-cifar10-101-linear": {"target": "shared", "predictor": "linear"},
        "byol-cifar10-101-linear": {"target": "ema", "predictor": "linear"},
        "directpred-cifar10-101": {"target": "ema", "predictor": "closed-form", "every": 1, "normalise": "spectral"},
        "directpred-cifar10-101-every5": {"every": 5},
        "directcopy-cifar10-101": {"power": 1.0, "rho": 0.5, "epsilon": 0.3, "normalise": "frobenius"},
        "directpred-cifar10-101-deep": {"layers": 3},
    }
    for name, wanted in different.items():
        method = RECIPES[name]().method
        for field, value in ({**shared, **wanted}).items():
            assert getattr(method, field) == value, (name, field)
    assert (byol.optimizer.weight_decay, byol.epochs, byol.batch_size) == (4e-4, 101, 128)
    assert directpred.method.rho == 0.3
    for model in ("byol", "simsiam"):
        for symmetric in (False, True):
            for decay in (False, True):
                name = f"{model}-cifar10-101-fast{'-symmetric' * symmetric}{'-decay' * decay}"
                run = RECIPES[name]()
                assert run.optimizer.lr * run.method.predictor_lr == 2.0
                assert (run.method.symmetric, run.method.predictor_decay) == (symmetric, 4e-4 * decay)


def test_a_test_wants_a_run(tmp_path: Path) -> None:
    for line in ("test --name {}", "--only_vis --name {}"):
        with pytest.raises(WrongUse, match="no run folder: train it first"):
            translated(line.format(tmp_path))
    (tmp_path / "run.yaml").write_text("method: byol\n")
    lines = f"test --name {tmp_path}", f"--only_vis --name {tmp_path}", f"test --only_vis --name {tmp_path}"
    assert [[c[0] for c in translated(line).commands] for line in lines] == [["evaluate"], [], []]
    assert "no figures" in translated(lines[1]).notes[0]
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "0000000.npz").touch()
    assert [[c[0] for c in translated(line).commands] for line in lines] == [
        ["evaluate", "eigenspace"],
        *[["eigenspace"]] * 2,
    ]
    check(translated(lines[0]))


# ---- SimCLR

# Every row of the table of options, by the name in the text and the real one, with a value that is not the default.
ROWS = [
    ("ssl_model=simclr", None), ("dataset=SVHN", "data"), ("dataset=ImageNet50", "data"), ("dataset=CIFAR100", "data"),
    ("le_model.num_epochs=9", "epochs: 9"), ("le_model.train_batch_size=512", "batch_size: 512"),
    ("le_model.val_batch_size=64", None), ("le_model.optimizer.base_lr=0.3", "base_lr: 0.3"),
    ("le_model.optimizer.weight_decay=1e-6", "weight_decay: 1.0e-06"), ("le_model.optimizer.momentum=0.8", "momentum: 0.8"),
    ("le_model.callback.enabled=False", "probe.protocols"), ("le_model.callback.interval=25", "probe.every"),
    ("n_cpus=3", "workers"),
    ("random_seed=7", "seed"), ("ssl_val_interval=25", "probe.every"), ("dataset_path=/data", "data_root"),
    ("output_dir=./there/", "out"), ("model.name=simclr", None), ("ssl_model.name=simclr", None),
    *[(f"{group}.{key}={value}", field) for group in ("model", "ssl_model") for key, value, field in (
        ("encoder", "resnet50_deterministic", "encoder"), ("encoder", "wide_resnet_28_10", "net.dropout"),
        ("projector", "mlp", None), ("projector_dim", 128, "method.dim"), ("temperature", 0.5, "method.temperature"),
        ("n_epochs", 801, "epochs"), ("train_batch_size", 512, "batch_size"), ("accumulate_batches", 4, "accumulate"),
        ("optimizer.base_lr", 0.175, "optimizer.lr"), ("optimizer.weight_decay", 1e-5, "optimizer.weight_decay"),
        ("optimizer.momentum", 0.8, "optimizer.momentum"),
    )],
    ("model.predict_batch_size=64", None), ("ssl_model.val_batch_size=64", None),
    ("color_distortion_strength=0.25", "views.strength"), ("dataset.color_distortion_strength=0.25", "views.strength"),
    ("dataset.rotation_probability=0.7", "views.rotate"), ("dataset.preload=True", "cache"),
]  # fmt: skip


@pytest.mark.parametrize("word, does", ROWS)
def test_simclr_rows(word: str, does: str | None) -> None:
    """Each is taken, and changes a setting of the training or of the evaluation, or says why it does not."""
    plain, found = translated("ssl_model=simclr"), translated(word)
    check(found)
    same = {"ssl_model", "model.name", "ssl_model.name", "model.projector", "ssl_model.projector"}  # one value there is
    if word.partition("=")[0] in same:
        assert found.commands == plain.commands
    elif does is None:
        assert found.notes != plain.notes
    elif ": " in does:
        assert does in " ".join(found.commands[-1])
        assert found.commands[0] == plain.commands[0]
    else:
        assert f"--{does.replace('_', '-')}" in found.commands[0]
        assert found.commands[0] != plain.commands[0]


def test_simclr_numbers() -> None:
    run = run_of("dataset=SVHN model.accumulate_batches=4 model.train_batch_size=512 color_distortion_strength=0.25")
    assert (run.batch_size, run.accumulate, run.seed) == (2048, 4, 42)
    assert (run.views.strength, run.views.rotate, run.views.policy) == (0.5, 0.33, "svhn")  # of a half-strong policy
    from selfsight.optim import peak_rate

    base = RECIPES["simclr-cifar10-100-sqrt"]()
    assert peak_rate(base.optimizer, 1024) == pytest.approx(2.4)
    assert peak_rate(run.optimizer, 2048) == pytest.approx(0.075 * 2048**0.5)
    large = run_of("dataset=ImageNet100 color_distortion_strength=0.5")
    assert (large.data, large.image_size, large.views.strength) == ("imagenet100", 224, 0.5)
    assert not large.views.normalise


@pytest.mark.parametrize("word, message", [
    ("modle.temperature=1", "Perhaps you meant 'ssl_model.temperature'"),
    ("ssl_model=byol", "simclr alone"),
    ("dataset=MNIST", "dataset=MNIST is not there"),
    ("n_cpus=many", "give a whole number"),
    ("le_model.callback.enabled=maybe", "True or False"),
    ("n_cpus=", "needs a value"),
    ("n_cpus=1 n_cpus=2", "given twice"),
    ("finetuning_lr=1e-5", "is for finetuning=True only"),
    ("precomputed_features=True", "needs precomputed_features_dir"),
    ("precomputed_features=True precomputed_features_dir=a.pth", "not opened here"),
    ("precomputed_features=True precomputed_features_dir=a.npz model.name=resnet", "linear or parzen_window"),
])  # fmt: skip
def test_simclr_mistakes(word: str, message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        translated(word)


def test_features_of_others() -> None:
    line = "precomputed_features=True precomputed_features_dir=a.npz standardize_precomputed_features=True"
    linear, parzen = (
        translated(f"{line} model.name=linear"),
        translated(f"{line} model.name=parzen_window model.gamma=0.3"),
    )
    assert linear.commands[0][:2] == ("evaluate", "a.npz")
    assert "--standardise" in linear.commands[0]
    assert "parzen: {gamma: 0.3}" in " ".join(parzen.commands[0])
    check(linear)
    check(parzen)


# ---- Jigsaw and DeepCluster, and every option of all command lines

SAMPLES = {int: "5", float: "0.5"}
OF_OPTION = {
    "dataset": "cub200", "arch": "mininet", "num_tiles": "16", "config": "configs/simclr.yaml", "algo": "simclr",
    "model": "simsiam", "task": "linear_eval", "recluster_interval": "3",
}  # fmt: skip
BASES: list[tuple[str, tuple[Option, ...], tuple[str, ...]]] = [
    ("jigsaw", jigsaw_deepcluster.JIGSAW, ()),
    ("deepcluster", jigsaw_deepcluster.DEEPCLUSTER, ()),
    ("--model byol --name DIR", siamese.TRAIN, ("model", "name")),
    (
        "--config configs/byol.yaml --algo byol --task train --output DIR",
        eleven.OPTIONS,
        ("config", "algo", "task", "output"),
    ),
]


def words_for(option: Option, name: str) -> list[str]:
    dashes = "-" if len(name) == 1 else "--"
    if option.kind is bool:
        return [dashes + name]
    first = option.names[0]
    return [dashes + name, OF_OPTION.get(first, "resnet50" if first == "arch" else SAMPLES.get(option.kind, "there"))]


@pytest.mark.parametrize("line, known, needed", BASES, ids=["jigsaw", "deepcluster", "siamese", "eleven"])
def test_every_option_counts(line: str, known: tuple[Option, ...], needed: tuple[str, ...], monkeypatch: Any) -> None:
    """Each option alone, by each of its names, changes a command or says why not."""
    monkeypatch.chdir(ROOT)
    plain = translated(line)
    check(plain)
    for option in known:
        for name in option.names:
            words = words_for(option, name)
            if option.names[0] == "arch" and known is eleven.OPTIONS:
                words[1] = "resnet50"
            if option.names[0] in needed:  # replaces what the line has
                continue
            found = references.translate([*shlex.split(line), *words])
            check(found)
            assert found != plain, words


def test_jigsaw_numbers() -> None:
    run = run_of("jigsaw")
    assert (run.method.permutations, run.method.hidden, run.method.joint, run.encoder) == (
        200,
        1024,
        4096,
        "alexnet-tile",
    )
    assert (run.optimizer.name, run.optimizer.lr, run.optimizer.weight_decay) == ("adam", 1e-3, 1e-4)
    assert (run.schedule.name, run.schedule.step_epochs, run.schedule.gamma) == ("step", 35, 0.2)
    assert (run.epochs, run.batch_size, run.seed, run.data) == (70, 32, 1, "celeba")
    few = translated("jigsaw --num_tiles 4 --num_perms 500")
    assert settings(list(few.commands[0][1:])).method.permutations == 24
    assert any("24 permutations" in note for note in few.notes)
    birds = run_of("jigsaw --dataset cub200 --data_fraction 0.1 --no_bn")
    assert (birds.data, birds.image_size, birds.fraction, birds.net.norm) == ("cub200:disjoint", 256, 0.1, "none")


def test_deepcluster_numbers() -> None:
    run = run_of("deepcluster --no_dim_reduction --bs 2")
    assert (run.method.pca, run.batch_size, run.net.sobel) == (0, 2, "only")
    assert run_of("deepcluster --no_sobel --pca_dim 64").net.sobel == "none"
    assert [c[0] for c in translated("deepcluster --make_umap_plots").commands] == ["pretrain", "figures"]
    with pytest.raises(WrongUse, match="contradict each other"):
        translated("deepcluster --no_dim_reduction --pca_dim 64")
    with pytest.raises(WrongUse, match=r"Perhaps you meant '--num_clusters'"):
        translated("deepcluster --num_cluster 3")


# ---- Eleven methods

STANDARD = {
    "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "apply_prob": 0.8},
    "random_gray": {"apply_prob": 0.2},
    "random_resized_crop": {"size": 32, "scale": [0.2, 1.0]},
    "random_flip": None,
    "to_tensor": None,
    "normalize": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]},
}  # fmt: skip


def shipped(
    lr: float, wd: Any = 1e-4, batch: int = 512, every: int = 10, warmup: int = 10, width: int = 128, epochs: int = 1000,
    optimizer: dict[str, Any] | None = None, schedule: dict[str, Any] | None = None, **own: Any,
) -> dict[str, Any]:  # fmt: skip
    """A file of the project: what is common, and the method's own groups."""
    return {
        "epochs": epochs, "eval_every": every,
        "data": {"name": "cifar10", "root": "data", "batch_size": batch, "transforms": {"train": copy.deepcopy(STANDARD)},
                 "test_transforms": {"center_crop": {"size": 32}, "to_tensor": None}},
        "encoder": {"reduce_bottom_conv": True},
        "optimizer": {"name": "sgd", "lr": lr, "weight_decay": wd, **(optimizer or {})},
        "scheduler": {"name": "cosine", "warmup_epochs": warmup, **(schedule or {})},
        "linear_eval": {"epochs": 100, "batch_size": 256, "lr": 0.1, "weight_decay": 1e-6, "input_dim": width},
        **own,
    }  # fmt: skip


def heads(dim: int, hidden: int | None = None, **more: Any) -> dict[str, Any]:
    return {"proj_head": {**({"hidden_dim": hidden} if hidden else {}), "proj_dim": dim, **more}}


# Table 2.2 as files.
SHIPPED: dict[str, dict[str, Any]] = {
    "simclr": shipped(2.0, **heads(128, 512), simclr={"temperature": 0.5, "normalize": True}),
    "moco": shipped(0.03, batch=256, **heads(128), momentum=0.999, queue_size=1000, temperature=0.07),
    "byol": shipped(0.2, **heads(128, 512), pred_head={"hidden_dim": 128, "out_dim": 128}, tau_start=0.996, tau_end=1.0),
    "simsiam": shipped(0.05, warmup=0, width=512, **heads(1024, 1024, num_layers=3), pred_head={"hidden_dim": 128}),
    "barlow": shipped(0.2, 1.5e-6, **heads(4096, 4096, num_layers=3), loss_fn={"lambda": 0.005}),
    "swav": shipped(2.0, 1e-6, **heads(128, 512), n_prototypes=3000, feature_bank_size=3000, temperature=0.1,
                    sinkhorn={"epsilon": 0.05, "iterations": 3}),
    "relic": shipped(0.2, **heads(128, 512), loss_fn={"temperature": 1.0, "alpha": 0.5}, tau=0.996, tau_end=1.0),
    "pirl": shipped(0.01, batch=256, every=5, warmup=0, **heads(128), memory_bank={"momentum": 0.5, "n_negatives": 1000},
                    patch_size=16, num_patches=4, temperature=0.07, loss_weight=0.5),
    "dino": shipped(1e-4, [0.04, 0.4], batch=64, every=5, optimizer={"name": "adamw", "eps": 1e-6},
                    **heads(1024, 512, bottleneck_dim=512), student_temp=0.1, teacher_temp_start=0.04, teacher_temp_end=0.07,
                    teacher_temp_epochs=30, center_momentum=0.9, teacher_momentum=0.996, teacher_momentum_end=1.0,
                    clip_grad=3.0),
    "sela": shipped(0.05, 1e-6, batch=500, epochs=500, width=512, warmup=0, n_clusters=128, n_heads=10,
                    sinkhorn={"lambda": 25, "n_iters": 80},
                    schedule={"name": "multistep", "milestones": [100, 250, 400], "gamma": 0.1}),
    "deep_cluster": shipped(2.0, n_clusters=10, kmeans={"max_iter": 300, "n_init": 10}, hungarian=True),
}  # fmt: skip
SHIPPED["pirl"]["data"]["transforms"]["train"]["random_resized_crop"]["scale"] = [0.6, 1.0]
SHIPPED["dino"]["data"]["transforms"]["train"]["multi_crop"] = {
    "global_size": 32,
    "n_global": 2,
    "n_local": 6,
    "local_size": 8,
    "threshold": 0.3,
}


def of_file(algorithm: str, **changes: Any) -> Any:
    plain = yaml.safe_load(yaml.safe_dump({**SHIPPED[algorithm], **changes}, sort_keys=False))
    before = copy.deepcopy(plain)
    found = eleven_config.read(plain, algorithm, "their.yaml")
    assert plain == before  # nothing is taken out of the settings that were read
    return found


@pytest.mark.parametrize("algorithm", SHIPPED)
def test_the_files_of_the_eleven_are_the_presets(algorithm: str) -> None:
    base, run, linear, notes = of_file(algorithm)
    wanted: dict[str, Any] = {"data_root": "data"}
    if algorithm == "dino":  # resized as everything else there
        wanted["views"] = dataclasses.replace(base.views, interpolation=run.views.interpolation)
    assert changes(dataclasses.replace(base, **wanted), run) == []
    assert base.recipe in ELEVEN
    assert linear == {}  # the protocol's own
    assert any("input_dim" in note for note in notes)


def test_every_key_of_the_eleven_counts() -> None:
    """Each number of each file, changed, changes a setting; the others are remarks."""
    for algorithm, plain in SHIPPED.items():
        _, run, linear, _notes = of_file(algorithm)
        for path, value in eleven_config._leaves(plain):
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            changed = copy.deepcopy(plain)
            inner = changed
            for name in path[:-1]:
                inner = inner[name]
            inner[path[-1]] = value * 4 or 3 if isinstance(value, int) else value / 2
            if path[-1] == "teacher_momentum_end":
                inner[path[-1]] = 0.999
            if path[-1] == "tau_end":
                inner[path[-1]] = 0.999
            _, other, also, _told = eleven_config.read(changed, algorithm, "their.yaml")
            remarked = path[-1] in ("input_dim", "n_init", "out_dim") or (algorithm, path[-1]) == ("relic", "tau_end")
            assert (other, also) != (run, linear) or remarked, (algorithm, path)


@pytest.mark.parametrize("change, message", [
    ({"optimizer": {"lrr": 0.1}}, r"their.yaml: unknown key optimizer.lrr. Perhaps you meant 'lr'"),
    ({"temprature": 0.1}, r"unknown key temprature. Perhaps you meant 'temperature'"),
    ({"queue_size": 100}, "unknown key queue_size"),
    ({"data": {"transforms": {"color_jiter": {}}}}, "Perhaps you meant 'color_jitter'"),
    ({"data": {"transforms": {"color_jitter": {"strength": 1}}}}, "no argument 'strength'"),
    ({"simclr": {"normalize": False}}, "SimCLR compares directions"),
    ({"encoder": {"pretrained": True}}, "encoders start untrained"),
    ({"linear_eval": {"optimizer": "adam"}}, "unknown key linear_eval.optimizer"),
    ({"linear_eval": {"optimizer": {"name": "adam"}}}, "adam is not there"),
    ({"optimizer": {"name": "lion"}}, "optimizer.name"),
])  # fmt: skip
def test_wrong_files_of_the_eleven(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        of_file("simclr", **change)


def test_transforms_keep_their_order() -> None:
    steps = {
        "random_resized_crop": {"size": 32, "scale": [0.5, 1.0]}, "gaussian_blur": {"apply_prob": 0.3},
        "rand_aug": {"n": 3}, "cutout": {"length": 8}, "color_jitter": {"brightness": 0.2}, "random_crop": {"size": 32},
    }  # fmt: skip
    _, run, _, notes = of_file("simclr", data={"transforms": steps})
    assert run.views.pipeline.names == ["crop", "blur", "randaugment", "cutout", "jitter", "shift"]
    plain = run.views.pipeline.plain()
    assert plain[1]["blur"]["apply_prob"] == 0.3
    assert plain[3]["cutout"]["side"] == 0.25
    assert plain[5]["shift"]["share"] == 0.125
    assert {note.split(":")[0] for note in notes} >= {"rand_aug", "random_crop"}


def test_eleven_on_the_command_line(tmp_path: Path, monkeypatch: Any) -> None:
    theirs = tmp_path / "byol.yaml"
    theirs.write_text(yaml.safe_dump(SHIPPED["byol"], sort_keys=False))
    line = f"--config {theirs} --algo byol --task train --output DIR"
    found = translated(line)
    check(found)
    assert [c[0] for c in found.commands] == ["pretrain", "evaluate", "evaluate"]
    assert run_of(line) == dataclasses.replace(RECIPES["byol-cifar10-1000-eleven"](), out="DIR", data_root="data")
    wide = run_of(f"{line} --arch wide_resnet50")
    assert (wide.encoder, wide.method.hidden) == (
        "wide_resnet50_2",
        2048,
    )  # the hidden layer is as wide as the features
    monkeypatch.chdir(ROOT)
    for arch, encoder in eleven.ARCHITECTURES.items():
        assert run_of(f"-c configs/moco.yaml -a moco -m {arch} -t train -o DIR").encoder == encoder
    for algorithm, method in eleven_keys.ALGORITHMS.items():
        ours = run_of(f"-c configs/{algorithm}.yaml -a {algorithm} -t train -o DIR")
        assert dataclasses.replace(ours, out=None) == RECIPES[f"{method}-cifar10-1000"]()
        for task in ("linear_eval", "get_features"):
            check(translated(f"-c configs/{algorithm}.yaml -a {algorithm} -t {task} -l RUN"))
    assert translated("-c configs/byol.yaml -a byol -t train -l RUN").commands == (("resume", "RUN"),)
    with pytest.raises(WrongUse, match="--load is missing"):
        translated("-c configs/byol.yaml -a byol -t get_features")
    with pytest.raises(WrongUse, match="contradict each other"):
        translated("-c configs/byol.yaml -a swav -t train")


# ---- what all have in common


def test_flags_of_the_user_win() -> None:
    command = ("pretrain", "byol", "--epochs", "5", "--views.scale", "0.2", "1.0", "--views.clean", "--seed=3")
    assert with_flags(command, ["--views.no-clean", "--seed", "4", "--views.scale", "0.5", "1.0"]) == (
        "pretrain", "byol", "--epochs", "5", "--views.no-clean", "--seed", "4", "--views.scale", "0.5", "1.0",
    )  # fmt: skip
    run = run_of("--model byol --name DIR -- --epochs 3 --device cpu")
    assert (run.epochs, run.device) == (3, "cpu")
    with pytest.raises(WrongUse, match="before --"):
        translated("--model byol --name DIR -- --out OTHER")
    with pytest.raises(WrongUse, match="this command has none"):
        translated("-c configs/byol.yaml -a byol -t linear_eval -l RUN -- --epochs 3")


def test_strange_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert references.main(["--help"]) == 0
    assert "python main.py --config" in capsys.readouterr().out
    assert references.main(["--modle", "byol"]) == 2
    assert "no command of the four projects" in capsys.readouterr().err
    assert references.main(["--model", "byol", "--name", "DIR", "--print-only"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("selfsight pretrain byol --recipe byol-cifar10-101")
    assert not Path("DIR").exists()


@pytest.mark.parametrize(
    "recipe", [n for n in RECIPES if n.endswith(("-eleven", "-sqrt", "-celeba-70", "-celeba-100"))]
)
def test_a_run_and_its_flags(recipe: str) -> None:
    """Words made of the difference of two runs read back as the second."""
    run = RECIPES[recipe]()
    plain = RECIPES[f"{run.method_name}-tiny"]()
    words = changes(plain, dataclasses.replace(run, recipe=plain.recipe))
    assert dataclasses.replace(settings(["--recipe", plain.recipe, *words]), recipe=recipe) == run


# ---- the commands of the four projects' own pages, from the first to the last


def make_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 40) -> None:
    """CIFAR-10 as it is published, with few pictures; the checksums are of the real files, and not looked at."""
    from torchvision.datasets import cifar

    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: True)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = [i % 10 for i in range(count)]
        data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels, "batch_label": name}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("0123456789")}))


SMALL = "--device cpu --encoder fastnet-tiny --batch-size 16 --steps 2 --precision fp32 --quiet --no-download"


def ran(line: str, where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(where)
    assert references.main(shlex.split(line)) == 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "configs").mkdir()
    for name in ("byol", "deepcluster"):
        (tmp_path / "configs" / f"{name}.yaml").write_text((ROOT / "configs" / f"{name}.yaml").read_text())
    return tmp_path


def test_the_eleven_run(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    make_cifar(home / "data", monkeypatch)
    small = f"{SMALL} --data-root {home / 'data'} --method.hidden 16 --method.dim 16"
    line = "--config configs/byol.yaml --algo byol --arch resnet18"
    ran(f"{line} --task train --output runs/byol -- {small}", home, monkeypatch)
    out = capfd.readouterr().out
    assert "purity" in out
    ran(f"{line} --task linear_eval --load runs/byol", home, monkeypatch)
    ran(f"{line} --task get_features --load runs/byol", home, monkeypatch)
    with np.load(home / "runs" / "byol" / "features.npz") as found:
        assert found["train_features"].shape[0] == 180
        assert found["test_labels"].shape == (40,)
    ran(f"{line} --task train --load runs/byol", home, monkeypatch)
    assert "had finished already" in capfd.readouterr().out


def test_simclr_runs(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    make_cifar(home / "data", monkeypatch)
    line = "ssl_model=simclr dataset=CIFAR10 le_model.num_epochs=2 dataset_path=./data/ output_dir=./output/"
    ran(f"{line} -- {SMALL} --net.zero-init-residual", home, monkeypatch)
    assert (home / "output" / "results.json").is_file()
    ran(
        "precomputed_features=True precomputed_features_dir=output/features.npz model.name=parzen_window",
        home,
        monkeypatch,
    )
    assert "parzen" in capfd.readouterr().out


def test_the_siamese_run(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """By the file at the root, in a process of its own; then the test command."""
    small = f"{SMALL} --data shapes:32:200 --method.hidden 16 --method.predictor-hidden 16 --method.dim 16"
    words = "--model simsiam --name runs/s --symmetry --eigenspace --epochs_pretraining 2 --epochs_finetuning 1"
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *shlex.split(f"{words} -- {small}")], cwd=home, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "SELFSIGHT_HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "selfsight pretrain simsiam --recipe simsiam-cifar10-101-symmetric" in done.stdout
    assert json.loads((home / "runs" / "s" / "results.json").read_text())["finished"]
    assert list((home / "runs" / "s" / "figures" / "eigenspace").iterdir())
    ran("test --name runs/s --epochs_finetuning 1", home, monkeypatch)
    again = capfd.readouterr().out
    number = lambda text: next(line.split()[1] for line in text.splitlines() if line.startswith(siamese.PROTOCOL))
    assert number(again) == number(done.stdout)
    assert "figures/eigenspace" in again


@pytest.mark.parametrize("what, more", [
    ("jigsaw", "--encoder mininet --views.tiles.cell 16 --views.tiles.size 12 --method.hidden 16 --method.joint 16"),
    ("deepcluster", "--encoder fastnet-tiny"),
])  # fmt: skip
def test_faces_run(what: str, more: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_celeba(home / "data", count=120)
    options = "--num_perms 20" if what == "jigsaw" else "--num_clusters 8 --pca_dim 4 --make_umap_plots"
    size = "--image-size 48 --device cpu --batch-size 16 --steps 2 --precision fp32 --quiet --probe.every -1"
    ran(f"{what} --dataset celeba --source_path data --savename faces {options} -- {size} {more}", home, monkeypatch)
    assert (home / "runs" / "faces" / "encoder.safetensors").is_file()
    assert what == "jigsaw" or list((home / "runs" / "faces" / "figures").glob("map*.png"))
