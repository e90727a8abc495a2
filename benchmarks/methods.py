"""Every method at one equal budget on a folder of pictures: python benchmarks/methods.py FOLDER [--minutes M] [--methods a,b].

Each runs its recipe `cifar10-cpu` with one thread for M CPU minutes of training (as many at a time as there are cores), with
the same hold-out part. A method whose result is stored already is not run again. Writes results/cifar10-methods.json and
prints a table.
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
from pathlib import Path
from typing import Any

import torch

from selfsight.methods import METHODS

FEW, MANY = 4, 16  #: steps of the two runs whose difference is the time of a step
RESULTS = Path(__file__).parent / "results" / "cifar10-methods.json"


def train(method: str, arguments: argparse.Namespace, out: Path, *settings: str) -> tuple[dict[str, Any], float]:
    """One run in its own process: its summary, and the CPU seconds that it took in all."""
    command = [
        sys.executable, "-m", "selfsight", "pretrain", method, "--recipe", arguments.recipe, "--data", arguments.folder,
        "--threads", "1", "--epochs", "1000", "--max-minutes", "0", "--json", "--quiet", "--out", str(out), *settings,
    ]  # fmt: skip
    printed = out.with_suffix(".json")
    with printed.open("w") as file:
        child = subprocess.Popen(command, stdout=file)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{method} ended with {os.waitstatus_to_exitcode(status)}")
    return json.loads(printed.read_text()), usage.ru_utime + usage.ru_stime


def run(method: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """As many steps as fit into the budget by their CPU time, which two short runs find; and what came of them."""
    short = ("--fraction", "0.1", "--holdout", "0", "--probe.every", "-1")
    few, many = (train(method, arguments, folder / f"{method}-{n}", "--steps", str(n), *short)[1] for n in (FEW, MANY))
    steps = round(arguments.minutes * 60 * (MANY - FEW) / (many - few))
    settings = ("--steps", str(steps), "--holdout", str(arguments.holdout), "--probe.every", "0")
    summary, cpu = train(method, arguments, folder / method, *settings, "--schedule.warmup-epochs", "0.2")
    keep = ("steps", "seconds", "views_per_second", "final_loss", "untrained", "pixels", "holdout", "health", "why")
    return {**{name: summary[name] for name in keep}, "cpu_seconds": round(cpu, 1)}


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
        "what": f"k-NN of the hold-out part after {arguments.minutes:g} CPU minutes of training, recipe {arguments.recipe}",
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {arguments.jobs} runs at a time",
    }
    names = [name for name in arguments.methods.split(",") if name not in stored["methods"]]
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(arguments.jobs) as pool:
        for name, found in pool.map(lambda n: (n, run(n, arguments, Path(temporary))), names):
            stored["methods"][name] = found
            RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
            print(name, found["holdout"]["top1"], found["health"], file=sys.stderr, flush=True)
    print("| method | steps | untrained | hold-out k-NN | CPU minutes | verdict |\n|---|---|---|---|---|---|")
    for name, found in sorted(stored["methods"].items(), key=lambda item: -item[1]["holdout"]["top1"]):
        cpu = found["cpu_seconds"] / 60
        top, start = found["holdout"]["top1"], found["untrained"]
        print(f"| {name} | {found['steps']} | {start:.1%} | {top:.1%} | {cpu:.1f} | {found['health']} |")


if __name__ == "__main__":
    main()
