"""Work on files of pictures, beside plain loops: python benchmarks/data.py [NAME ...] [FOLDER].

FOLDER holds pictures, in any tree; without one, drawn pictures are written as JPEG files first. Wall time is what a user
waits; CPU time counts what others on the machine do not disturb.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from speed import RESULTS, machine, paired, pictures

FEW = 5_000  #: pictures of the comparison with a loop
TARGET = 60.0  #: seconds for 50,000 small JPEG files on two cores


def doctor(folder: Path) -> dict[str, Any]:
    """`selfsight check` of a folder; and of some of its files, beside a loop that only decodes them, with Pillow."""
    from selfsight.data.files import from_folder
    from selfsight.data.spans import Spans
    from selfsight.doctor import check

    paths = [Path(span.path) for span in Spans.of(from_folder(folder).train.paths or [])]
    wall, cpu, found = timed(lambda: check(folder))
    some = paths[:: max(1, len(paths) // FEW)][:FEW]

    def loop() -> None:
        for path in some:
            with Image.open(path) as picture:
                picture.convert("RGB").load()

    with tempfile.TemporaryDirectory() as place:
        listed = Path(place) / "some.txt"
        listed.write_text("".join(f"{path.absolute()}\n" for path in some))
        ours, theirs, ratios = paired(lambda: check(listed), loop, rounds=3)
        _, our_cpu, _ = timed(lambda: check(listed))
        _, their_cpu, _ = timed(loop)
    return {
        "pictures": len(paths), "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1),
        "seconds_for_50000": round(wall * 50_000 / len(paths), 1), "target": TARGET,
        "found": {kind: finding.count for kind, finding in found.findings.items()},
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "beside_a_loop": {
            "pictures": len(some), "seconds": round(ours, 2), "seconds_of_the_loop": round(theirs, 2),
            "times_faster": round(statistics.median(ratios), 2), "cpu_times_of_the_loop": round(our_cpu / their_cpu, 2),
        },
    }  # fmt: skip


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall and CPU seconds, all threads counted, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def drawn(folder: Path, count: int = 10_000) -> None:
    """Pictures of `shapes` as JPEG files, a thousand a folder."""
    from torchvision.transforms.functional import to_pil_image

    for i, picture in enumerate(pictures(count)):
        file = folder / f"{i // 1000}" / f"{i}.jpg"
        file.parent.mkdir(exist_ok=True)
        to_pil_image(picture).save(file)


BENCHMARKS = {"doctor": doctor}


def main() -> None:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    names = [word for word in sys.argv[1:] if word in BENCHMARKS] or list(BENCHMARKS)
    given = [Path(word) for word in sys.argv[1:] if word not in BENCHMARKS]
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ["SELFSIGHT_HOME"] = home
        folder = given[0] if given else Path(home) / "drawn"
        if not given:
            folder.mkdir()
            drawn(folder)
        for name in names:
            found = {**BENCHMARKS[name](folder), "machine": machine()}
            (RESULTS / f"data-{name}.json").write_text(json.dumps(found, indent=2) + "\n")
            print(name, json.dumps(found, indent=2), flush=True)


if __name__ == "__main__":
    main()
