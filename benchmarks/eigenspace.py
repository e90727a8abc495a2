"""Studies of predictors: benchmarks/eigenspace.py [PICTURES] [--study NAME ...] [--seeds 0,1] [--size cpu|whole] [--out DIR].

- spaces: F and the predictor over training: BYOL and SimSiam, plain and with a symmetric predictor, and DirectPred.
- rates: symmetric or not, BYOL or SimSiam, decay of the predictor or of nothing, with a rate of its own for the predictor: eight
  runs; and, without any of it, the symmetric SimSiam that collapses. Small runs also have a third of the rates.
- targets: a teacher or none, and the predictor by DirectPred, DirectCopy or SGD (one layer): six cells.
- deeper: DirectPred with three layers of projector, evaluated by the encoder alone and with the projector's first layer, too.

PICTURES is a folder, one folder a class, or a data name. `cpu`: a small network on pictures of 16 pixels, a minute a run, on the
built-in `shapes` unless told otherwise; `whole`: the recipes as they are, ResNet-18 and 101 epochs, for a GPU. What is done is
not done again, and what was interrupted goes on. Figures and eigenspace.json are written to DIR; tables are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from selfsight import api, pretraining
from selfsight.analysis.eigenfigures import bars, save, save_figures
from selfsight.analysis.eigenspace import read_run
from selfsight.optim import ScheduleConfig
from selfsight.recipes import RECIPES
from selfsight.run import ProbeConfig, Run

PROBES = 8  #: measurements in a run; the matrices are kept twice as often
SPACES = {
    "BYOL": "byol-cifar10-101",
    "BYOL symmetric": "byol-cifar10-101-symmetric",
    "SimSiam": "simsiam-cifar10-101",
    "SimSiam symmetric": "simsiam-cifar10-101-symmetric",
    "DirectPred": "directpred-cifar10-101",
}
RATES = {
    f"{title}{' symmetric' * symmetric}, {'decay of the predictor' if decay else 'no decay'}": (
        f"{title.lower()}-cifar10-101-fast{'-symmetric' * symmetric}{'-decay' * decay}"
    )
    for title in ("BYOL", "SimSiam")
    for symmetric in (False, True)
    for decay in (True, False)
}
TARGETS = {
    ("EMA", "DirectPred"): "directpred-cifar10-101",
    ("EMA", "DirectCopy"): "directcopy-cifar10-101",
    ("EMA", "SGD, one layer"): "byol-cifar10-101-linear",
    ("no EMA", "DirectPred"): "directpred-cifar10-101-shared",
    ("no EMA", "DirectCopy"): "directcopy-cifar10-101-shared",
    ("no EMA", "SGD, one layer"): "simsiam-cifar10-101-linear",
}
DEEPER = {"two layers": "directpred-cifar10-101", "three layers": "directpred-cifar10-101-deep"}
# How the small runs differ from their recipes, and from each other. Small networks do not bear the rates 0.2 and 2.
STUDIES = ("spaces", "rates", "targets", "deeper")
EPOCHS = {"spaces": 24.0, "rates": 6.0, "lower": 6.0, "targets": 6.0, "deeper": 6.0}
LR = {"spaces": 0.1, "rates": 0.03, "lower": 0.01, "targets": 0.03, "deeper": 0.03}
SCALE = {"spaces": (0.5, 1.0)}  #: of the crops; of the others (0.2, 1.0)


def small(run: Run[Any], study: str, data: str) -> Run[Any]:
    """A minute on one core in place of hours on a GPU."""
    method = replace(run.method, dim=64, hidden=128, predictor_hidden=128)
    optimizer, schedule = replace(run.optimizer, lr=LR[study]), run.schedule
    views = replace(run.views, size=16, scale=SCALE.get(study, (0.2, 1.0)))
    if study == "spaces":  # decay is what turns the predictor, and few steps want more of it; less noise at the end
        optimizer, schedule = replace(optimizer, weight_decay=1.5e-3), ScheduleConfig(name="cosine")
    if data.startswith("shapes"):  # colours mean nothing there
        views = replace(views, policy="sym", gray=1.0, blur=0.0)
    return replace(
        run, method=method, encoder="fastnet-tiny", image_size=16, batch_size=64, epochs=EPOCHS[study], optimizer=optimizer,
        schedule=schedule, views=views, precision="fp32", threads=1,
    )  # fmt: skip


def train(name: str, study: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The folder of a run that is done: now, before, or from where it was interrupted."""
    folder = Path(arguments.out) / study / f"{name}-{seed}"
    if not (folder / "run.yaml").is_file():
        run = RECIPES[name]()
        if arguments.size == "cpu":
            run = small(run, study, arguments.pictures)
        every = 5.0 if arguments.size == "whole" else float(run.epochs) / (2 * PROBES)
        probe = ProbeConfig(every=2 * every, study_every=every)
        run = replace(
            run, data=arguments.pictures, fraction=arguments.fraction, seed=seed, probe=probe, quiet=True, log_every=50,
            out=str(folder),
        )  # fmt: skip
        result = pretraining.start(run)
    else:
        result = pretraining.go_on(folder)
    if result.code:
        raise SystemExit(f"{folder} ended with {result.code}: see its log.txt")
    return folder


def measured(folder: Path, features: str = "encoder") -> dict[str, Any]:
    """Linear accuracy, k-NN, verdict, and the eigenspace before and after training; kept beside the run's files."""
    kept = folder / f"study-{features}.json"
    if not kept.is_file():
        linear = api.evaluate(str(folder), protocols=["linear"], features=features)["linear"]
        summary = json.loads((folder / "results.json").read_text())["summary"]
        first, *_, last = read_run(folder).numbers
        found = {
            "linear": linear["top1"], "test": linear["test"], "knn": summary["knn"]["top1"], "untrained": summary["untrained"],
            "health": summary["health"], "why": summary["why"], "steps": summary["steps"], "seconds": summary["seconds"],
            "first": first, "last": last,
        }  # fmt: skip
        kept.write_text(json.dumps(found, indent=1) + "\n")
    done: dict[str, Any] = json.loads(kept.read_text())
    return done


def table(title: str, rows: dict[str, Sequence[dict[str, Any]]]) -> None:
    """Print a row for each cell: means over its seeds."""
    print(
        f"\n{title}\n\n| run | linear | k-NN | asymmetry | top of F | used | passed | aligned | verdict |\n|---|"
        + "---|" * 8
    )
    for name, found in rows.items():
        accuracies = [f"{fmean(f[key] for f in found):.1%}" for key in ("linear", "knn")]
        turned = " to ".join(f"{fmean(f[when]['asymmetry'] for f in found):.2f}" for when in ("first", "last"))
        last = [f"{fmean(f['last'][key] for f in found):.3g}" for key in ("top", "used", "passed", "aligned")]
        health = ", ".join(dict.fromkeys(f["health"] for f in found))
        print(f"| {' | '.join([name, *accuracies, turned, *last, health])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="?", help="default: shapes:16:8000, or cifar10 at whole size")
    parser.add_argument("--study", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--size", choices=("cpu", "whole"), default="cpu")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the pictures that is used")
    parser.add_argument("--out", default="runs/eigenspace")
    arguments = parser.parse_args()
    arguments.pictures = arguments.pictures or ("cifar10" if arguments.size == "whole" else "shapes:16:8000")
    seeds, out = [int(seed) for seed in arguments.seeds.split(",")], Path(arguments.out)

    def cell(name: str, study: str) -> list[Path]:
        return [train(name, study, seed, arguments) for seed in seeds]

    results: dict[str, Any] = {
        "pictures": arguments.pictures, "fraction": arguments.fraction, "size": arguments.size, "seeds": seeds,
        "torch": torch.__version__, "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    if "spaces" in arguments.study:
        folders = {title: cell(name, "spaces") for title, name in SPACES.items()}
        runs = {title: read_run(paths[0], title) for title, paths in folders.items()}
        save_figures(list(runs.values()), out / "figures")
        for title in ("BYOL", "SimSiam"):
            save_figures([runs[title], runs[f"{title} symmetric"]], out / "figures" / title.lower())
        results["spaces"] = {title: [measured(path) for path in paths] for title, paths in folders.items()}
        table("F and the predictor", results["spaces"])
    if "rates" in arguments.study:
        one, two = "simsiam-cifar10-101-symmetric", "simsiam-cifar10-101-fast-symmetric-decay"
        cells = {title: (name, "rates") for title, name in RATES.items()} | {
            "SimSiam symmetric, one rate": (one, "rates")
        }
        if arguments.size == "cpu":
            cells |= {
                "SimSiam symmetric, decay of the predictor, a third of the rates": (two, "lower"),
                "SimSiam symmetric, one rate, a third of it": (one, "lower"),
            }
        results["rates"] = {title: [measured(path) for path in cell(*which)] for title, which in cells.items()}
        table("Symmetric predictors, with a rate and a decay of their own", results["rates"])
    if "targets" in arguments.study:
        done = {key: [measured(path) for path in cell(name, "targets")] for key, name in TARGETS.items()}
        accuracies = {key: [found["linear"] for found in values] for key, values in done.items()}
        save(bars(accuracies, "linear top-1"), out / "figures" / "targets.png")
        results["targets"] = {", ".join(key): found for key, found in done.items()}
        table("A teacher or none, and what makes the predictor", results["targets"])
    if "deeper" in arguments.study:
        results["deeper"] = {
            f"{title} of projector, {features}": [measured(path, features) for path in cell(name, "deeper")]
            for title, name in DEEPER.items()
            for features in ("encoder", "projector-1")
        }
        table("What is evaluated: the encoder, or with the projector's first layer", results["deeper"])
    (out / "eigenspace.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
