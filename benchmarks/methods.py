"""Every method at one equal budget on a folder of pictures: python benchmarks/methods.py FOLDER [--minutes M] [--methods a,b].

Each runs its recipe `cifar10-cpu` in fp32 with one thread for M CPU minutes of training, clusterings and relabellings included
(as many at a time as there are cores), with the same hold-out part. A method whose result is stored already is not run again.
Writes results/cifar10-methods.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import torch

from selfsight.methods import METHODS

SHORT = 16  #: steps of the run that finds the time of a step
BANK = 10_000  #: training pictures that both the untrained and the trained encoder are asked with
OVER = (
    1.15  #: times the budget; what took longer, because of what happens between epochs, is run again with fewer steps
)
RESULTS = Path(__file__).parent / "results" / "cifar10-methods.json"


def train(method: str, arguments: argparse.Namespace, out: Path, *settings: str) -> dict[str, Any]:
    """One run in its own process: its summary, and the CPU seconds that it took in all."""
    command = [
        sys.executable, "-m", "selfsight", "pretrain", method, "--recipe", arguments.recipe, "--data", arguments.folder,
        "--threads", "1", "--precision", "fp32", "--epochs", "1000", "--max-minutes", "0", "--holdout", str(arguments.holdout),
        "--probe.bank", str(BANK), "--probe.queries", str(arguments.holdout), "--json", "--quiet", "--out", str(out), *settings,
    ]  # fmt: skip
    printed = out.with_suffix(".json")
    with printed.open("w") as file:
        child = subprocess.Popen(command, stdout=file)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{method} ended with {os.waitstatus_to_exitcode(status)}")
    return {**json.loads(printed.read_text()), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1)}


def logged(folder: Path, name: str) -> dict[int, Any]:
    """Step -> what a run logged there."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[name] for line in lines if name in line}


def run(method: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """As many steps as fit into the budget, which a short run finds; and what came of them."""
    short = folder / f"{method}-short"
    train(method, arguments, short, "--steps", str(SHORT), "--probe.every", "-1", "--log-every", "4")
    at, wall, budget = logged(short, "cpu_seconds"), logged(short, "seconds"), arguments.minutes * 60
    step = (at[SHORT] - at[4]) / (SHORT - 4)
    busy = (at[SHORT] - at[4]) / (wall[SHORT] - wall[4])  # CPU seconds in a second of the clock
    first = max(0.0, wall[1] * busy - step)  # a clustering before the first step
    steps = max(SHORT, round((budget - first) / step))
    while True:
        out = folder / f"{method}-{steps}"
        settings = ("--steps", str(steps), "--probe.every", "1000", "--schedule.warmup-epochs", "0.2")
        summary = train(method, arguments, out, *settings)
        at = logged(out, "cpu_seconds")
        spent = at[steps] - at[1] + first + step
        if spent <= OVER * budget:
            break
        steps = round(steps * budget / spent)
    keep = ("steps", "seconds", "cpu_seconds", "views_per_second", "final_loss", "pixels", "health", "why")
    knn, accuracy = logged(out, "knn"), logged(out, "validation").get(steps, {}).get("accuracy")
    return {
        **{name: summary[name] for name in keep}, "trained_seconds": round(spent, 1),
        "untrained": knn[0]["top1"], "trained": knn[steps]["top1"], "whole_bank": summary["holdout"]["top1"],
        "day": date.today().isoformat(), **({} if accuracy is None else {"own_task": round(accuracy, 4)}),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="pictures, one folder a class")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--recipe", default="cifar10-cpu")
    parser.add_argument("--holdout", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1)))
    arguments = parser.parse_args()
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"methods": {}}
    stored |= {
        "what": f"hold-out k-NN, {BANK} training pictures or all, {arguments.minutes:g} CPU minutes, {arguments.recipe}",
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {arguments.jobs} runs at a time",
    }
    names = [name for name in arguments.methods.split(",") if name not in stored["methods"]]
    RESULTS.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(arguments.jobs) as pool:
        for name, found in pool.map(lambda n: (n, run(n, arguments, Path(temporary))), names):
            stored["methods"][name] = found
            RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
            print(name, found["untrained"], found["trained"], found["health"], file=sys.stderr, flush=True)
    print(
        "| method | day | steps | untrained | trained | bank of all | own task | training | CPU in all | verdict |",
        "|---|" + "---|" * 9,
        sep="\n",
    )
    for name, found in sorted(stored["methods"].items(), key=lambda item: -item[1]["trained"]):
        accuracies = [f"{found[key]:.1%}" for key in ("untrained", "trained", "whole_bank")]
        task = f"{found['own_task']:.0%}" if "own_task" in found else ""
        times = [f"{found[key] / 60:.1f} min" for key in ("trained_seconds", "cpu_seconds")]
        cells = [name, found["day"], found["steps"], *accuracies, task, *times, found["health"]]
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
