"""Jigsaw puzzles and DeepCluster on faces, birds, cars and products: `jigsaw --dataset D ...`, `deepcluster ...`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfsight.errors import WrongUse
from selfsight.recipes import RECIPES
from selfsight.references.translation import Command, Option, Translation, free, merge, options, pretrain
from selfsight.run import Run

ABOUT = """Jigsaw and DeepCluster on CelebA, CUB-200, Cars-196, Stanford Online Products:
  python main.py jigsaw [--dataset celeba] [--num_perms 200] [--lr 0.001] [--n_epochs 70] [--bs 32] ...
  python main.py deepcluster [--num_clusters 200] [--pca_dim 128] [--no_sobel] [--make_umap_plots] ..."""

DATASETS = {"celeba": "celeba", "cub200": "cub200:disjoint", "cars196": "cars196:disjoint", "online_products": "sop"}
"""Name there -> data here; parts of other classes, as there."""
_SIDES = {"celeba": 216, "cub200": 256, "cars196": 256, "online_products": 256}
ARCHITECTURES = {
    "alexnet": ("alexnet-tile", "alexnet"),
    "mininet": ("mininet", "mininet"),
    "resnet50": ("resnet50", "resnet50"),
}
"""Name there -> encoder here: of tiles, of whole pictures."""

_BOTH = (
    Option(("dataset", "data"), choices=tuple(DATASETS)),
    Option(("source_path", "data_path", "path")),
    Option(("save_path", "out")),
    Option(("savename", "name")),
    Option(("arch",), choices=tuple(ARCHITECTURES)),
    Option(("lr",), float),
    Option(("weight_decay", "l2", "decay"), float),
    Option(("n_epochs", "epochs"), int),
    Option(("bs", "batch_size"), int),
    Option(("num_workers", "kernels", "workers"), int),
    Option(("seed",), int),
    Option(("log_every", "log_freq", "print_freq"), int),
    Option(("data_fraction", "fraction"), float),
    Option(("val_fraction", "train_val_split"), float),
    Option(("batch_norm", "bn"), bool),
    Option(("no_batch_norm", "no_bn"), bool),
)
JIGSAW = (
    *_BOTH,
    Option(("num_perms", "num_permutations", "num_classes", "classes"), int),
    Option(("perm_path", "permutations")),
    Option(("num_tiles", "tiles"), int),
    Option(("all_to_ram",), bool),
    Option(("step_size",), int),
    Option(("gamma",), float),
    Option(("use_sobel", "sobel"), bool),
    Option(("distractors",), int),
)
DEEPCLUSTER = (
    *_BOTH,
    Option(("num_clusters", "clusters", "k"), int),
    Option(("cluster_iterations", "kmeans_iterations"), int),
    Option(("recluster_interval", "cluster_interval", "reassign"), int),
    Option(("lr_classifier", "lr_tl"), float),
    Option(("no_sobel",), bool),
    Option(("no_dim_reduction",), bool),
    Option(("pca_dim",), int),
    Option(("make_umap_plots",), bool),
    Option(("dont_preload_images",), bool),
)


def asked(argv: Sequence[str]) -> bool:
    """Whether a command line is this project's."""
    return bool(argv) and argv[0].replace("_", "").lower() in ("jigsaw", "deepcluster")


def translate(argv: Sequence[str]) -> Translation:
    """A training of one of the two; WrongUse for an unknown option."""
    if argv[0].replace("_", "").lower() == "jigsaw":
        return _jigsaw(options(argv[1:], JIGSAW, "jigsaw"))
    return _deepcluster(options(argv[1:], DEEPCLUSTER, "deepcluster"))


def _common(base: Run[Any], given: dict[str, Any], tiles: bool) -> Run[Any]:
    """Options that both parts of the project have."""
    name = given.get("dataset", "celeba")
    encoder = ARCHITECTURES[given.get("arch", "alexnet")][0 if tiles else 1]
    run = merge(base, data=DATASETS[name], encoder=encoder)
    if tiles:
        run = merge(run, image_size=_SIDES[name])
        if _SIDES[name] != 216:  # cells of a third of the picture
            run = merge(run, views={"tiles": replace(run.views.tiles, cell=85)})
    fields = {
        "source_path": "data_root", "n_epochs": "epochs", "bs": "batch_size", "num_workers": "workers", "seed": "seed",
        "log_every": "log_every", "data_fraction": "fraction", "val_fraction": "holdout",
    }  # fmt: skip
    changes = {field: given[key] for key, field in fields.items() if key in given}
    if "epochs" in changes:
        changes["epochs"] = float(changes["epochs"])
    inner = {"lr": "lr", "weight_decay": "weight_decay"}
    run = merge(run, **changes, optimizer={field: given[key] for key, field in inner.items() if key in given})
    if given.get("no_batch_norm"):
        if not encoder.startswith("alexnet"):
            raise WrongUse(f"--no_batch_norm is for --arch alexnet, not {given['arch']}: leave it out")
        run = merge(run, net={"norm": "none"})
    return run


def _out(given: dict[str, Any], what: str) -> str:
    """The run folder: save_path/savename; without a name the dataset's, with a number where it is taken."""
    place = given.get("save_path", "runs").rstrip("/")
    return (
        f"{place}/{given['savename']}"
        if "savename" in given
        else free(f"{place}/{what}-{given.get('dataset', 'celeba')}")
    )


def _jigsaw(given: dict[str, Any]) -> Translation:
    base = RECIPES["jigsaw-celeba-70"]()
    run, notes = _permuted(_common(base, given, tiles=True), given)
    if given.get("all_to_ram"):
        run = merge(run, cache="memory")
    if "step_size" in given:
        run = merge(run, schedule={"step_epochs": float(given["step_size"])})
    if "gamma" in given:
        run = merge(run, schedule={"gamma": given["gamma"]})
    if given.get("use_sobel"):
        run = merge(run, net={"sobel": "concat"})
    if "distractors" in given:
        run = merge(run, method={"distractors": given["distractors"]})
    return Translation((pretrain(run, base, "--out", _out(given, "jigsaw")),), (*notes, *_batch_norm(given)))


def _permuted(run: Run[Any], given: dict[str, Any]) -> tuple[Run[Any], list[str]]:
    """Tiles and permutations."""
    grid = math.isqrt(given.get("num_tiles", 9))
    if grid < 2 or grid * grid != given.get("num_tiles", 9):
        raise WrongUse(f"--num_tiles {given['num_tiles']}: give a square number, such as 9")
    notes = ["cells and tiles are squares (72 and 64 px on faces; 72 x 56 and 64 x 48 there)"]
    if grid != 3:
        run = merge(run, views={"tiles": replace(run.views.tiles, grid=grid, cell=int(run.image_size) // grid, size=0)})
    if "perm_path" in given:
        if "num_perms" in given:
            notes.append("--num_perms: the file of --perm_path says how many there are")
        return merge(run, method={"file": given["perm_path"]}), notes
    count, most = given.get("num_perms", 200), math.factorial(grid * grid)
    if count > most:
        notes.append(f"{grid * grid} tiles have {most} permutations: all of them, not {count}")
    kind = "algebraic" if grid == 3 else "greedy-min"
    run = merge(run, method={"permutations": min(count, most), "kind": kind})
    if grid == 3:
        notes.append(
            "permutations: at least 7 of 9 tiles apart; the project's lay 2 apart (--perm_path reads its files)"
        )
    return run, notes


def _deepcluster(given: dict[str, Any]) -> Translation:
    base = RECIPES["deepcluster-celeba-100"]()
    run = _common(base, given, tiles=False)
    notes = ["edges replace the colours, as in the paper (--net.sobel concat after -- puts them beside the colours)"]
    if given.get("no_sobel"):
        notes.clear()
        run = merge(run, net={"sobel": "none"})
    if "bs" not in given:
        notes.append("batch 256; 2, the project's, is too small for batch normalisation (--bs 2 insists)")
    if given.get("no_dim_reduction") and "pca_dim" in given:
        raise WrongUse("--no_dim_reduction and --pca_dim contradict each other: leave out one of the two")
    method = {
        field: given[key] for key, field in (
            ("num_clusters", "clusters"), ("cluster_iterations", "iterations"), ("recluster_interval", "every"),
            ("pca_dim", "pca"),
        ) if key in given
    }  # fmt: skip
    if given.get("no_dim_reduction"):
        method["pca"] = 0
    run = merge(run, method=method)
    if "lr_classifier" in given:
        notes.append("--lr_classifier: the head learns at the encoder's rate, without momentum (--lr sets both)")
    if given.get("dont_preload_images"):
        run = merge(run, cache="off")
    out = _out(given, "deepcluster")
    commands = [pretrain(run, base, "--out", out)]
    if given.get("make_umap_plots"):
        commands.append(_map(out, given))
        notes.append(
            "--make_umap_plots: once, of the trained encoder, with clusters of its features; umap-learn draws it"
        )
    return Translation(tuple(commands), (*notes, *_batch_norm(given)))


def _map(out: str, given: dict[str, Any]) -> Command:
    """UMAP of the features, coloured by an attribute of the faces (15 of 40: eyeglasses) or the labels, and by cluster."""
    words = ("figures", out, "--out", f"{out}/figures", "--which", "map", "--kind", "umap", "--colour")
    if given.get("dataset", "celeba") != "celeba":
        return (*words, "label,cluster")
    root = Path(given.get("source_path", os.environ.get("SELFSIGHT_HOME", "~/.cache/selfsight"))).expanduser()
    table = next(root.glob("celeba/**/list_attr_celeba.txt"), root / "celeba" / "list_attr_celeba.txt")
    return (*words, "Eyeglasses,cluster", "--attributes", str(table))


def _batch_norm(given: dict[str, Any]) -> tuple[str, ...]:
    return ("--batch_norm: AlexNet has it unless --no_batch_norm is given",) if given.get("batch_norm") else ()
