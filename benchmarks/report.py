"""How long the report of 10,000 pictures takes, and how large it is: python benchmarks/report.py.

Features of classes with noise (512 each) stand for an encoder's, so that what is timed is what the report adds to it: the map,
clusters, two probes, spectrum, galleries, and the page. One thread; others may use the machine, so CPU seconds count.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from selfsight.analysis.gather import Gathered, Rows
from selfsight.analysis.maps import Kind
from selfsight.analysis.summary import arrays_of, write
from selfsight.data.synthetic import CLASSES, labels, shapes
from selfsight.report import report
from speed import RESULTS, machine

KINDS: tuple[Kind, ...] = ("tsne", "pca")


def gathered(count: int, width: int) -> Gathered:
    """Features (count, width) of the ten shapes, a bank of half as many, and their pictures."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(len(CLASSES), width, generator=g)

    def rows(first: int, amount: int, part: str) -> Rows:
        pixels, kinds = shapes(amount, 32, first=first), labels(amount)
        x = centres[kinds] + 1.5 * torch.randn(amount, width, generator=g)
        return Rows(x, kinds, pixels.permute(0, 2, 3, 1).numpy(), None, part, amount, np.arange(amount))

    names = list(CLASSES)
    return Gathered(rows(0, count, "test"), rows(count, count // 2, "train"), names, "run", "shapes", 0, {"step": 1000})


def measure(found: Gathered, kind: Kind, folder: Path) -> dict[str, Any]:
    """Seconds of the arrays and of the page, and bytes of both files."""
    run = folder / kind
    run.mkdir()
    (run / "run.yaml").write_text(yaml.safe_dump({"method": {"name": "simclr"}, "data": "shapes", "steps": 1000}))
    lines = [{"step": i, "epoch": i / 100, "loss": 5 / i, "lr": 0.1, "views_per_second": 1000} for i in range(1, 1001)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    began, spent = time.perf_counter(), time.process_time()
    arrays = arrays_of(found, kind)
    write(run / "figures" / "analysis.npz", arrays)
    middle = time.perf_counter()
    page = report([run], folder / f"{kind}.html")
    done = time.perf_counter()
    return {
        "map": kind, "pictures": len(found.asked.features), "on_the_map": len(arrays["rows"]),
        "seconds_analysis": round(middle - began, 2), "seconds_page": round(done - middle, 2),
        "seconds": round(done - began, 2), "cpu_seconds": round(time.process_time() - spent, 2),
        "page_mb": round(page.stat().st_size / 1e6, 2),
        "analysis_mb": round((run / "figures" / "analysis.npz").stat().st_size / 1e6, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512, help="features of a picture")
    parser.add_argument("--out", default=str(RESULTS / "report.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts = machine() | {"load_before": round(os.getloadavg()[0], 2)}  # others may use the machine
    found = gathered(args.pictures, args.width)
    with tempfile.TemporaryDirectory() as folder:
        measure(gathered(200, 32), "pca", Path(folder))  # imports
        (Path(folder) / "pca").rename(Path(folder) / "first")
        rows = [measure(found, kind, Path(folder)) for kind in KINDS]
    result = {"machine": facts, "width": args.width, "rows": rows}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
